// What both elements on the page share: one at a time, and where to go when it is through.
const page = document.querySelector('[data-order]');

function toOrder() {
  location.assign(page.dataset.order);
}

for (const outcome of ['paid', 'pending']) page.addEventListener(outcome, toOrder);

// While one way to pay is at work the others wait, so that nobody pays in two ways at once.
page.addEventListener('busy', ({ target, detail }) => {
  for (const other of page.querySelectorAll('.payment')) {
    if (other !== target) other.toggleAttribute('locked', detail.busy && !detail.loading);
  }
});

// The browser's Back button may bring this page out of its cache after the order was paid: ask the server again.
addEventListener('pageshow', (event) => {
  if (event.persisted) location.reload();
});
