// The catalogue's "add" buttons without a page load. Without scripts the same forms work by a redirect.

const announcer = document.querySelector('#announce');
const badge = document.querySelector('#basket-count');

async function add(form) {
  const answer = await fetch(form.action, {
    method: 'POST',
    headers: { accept: 'application/json' },
    body: new URLSearchParams(new FormData(form)),
    credentials: 'same-origin',
  });
  if (!answer.ok) throw new Error(`the basket answered ${answer.status}`);
  const { count, message } = await answer.json();
  badge.textContent = String(count);
  badge.dataset.count = String(count);
  announcer.textContent = message;
}

for (const form of document.querySelectorAll('form[data-basket]')) {
  const button = form.querySelector('button');
  const label = button.querySelector('[data-label]');
  const initially = label.textContent;
  let restore = 0;
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (button.getAttribute('aria-disabled') === 'true') return;
    button.setAttribute('aria-disabled', 'true');
    try {
      await add(form);
      clearTimeout(restore);
      label.textContent = 'Added';
      restore = setTimeout(() => { label.textContent = initially; }, 1600);
    } catch {
      // The plain form reaches the same place and explains what is wrong.
      form.submit();
    } finally {
      button.removeAttribute('aria-disabled');
    }
  });
}
