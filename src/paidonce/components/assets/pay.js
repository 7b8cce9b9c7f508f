// What the payment components on one page share: one at a time, and where to go when they are done.

import { oneAtATime } from './paidonce.js';

const page = document.querySelector('[data-pay]');
const components = [...page.querySelectorAll('.payment')];

function toOrder() {
  location.assign(page.dataset.pay);
}

oneAtATime(page, () => components);

page.addEventListener('paid', toOrder);
page.addEventListener('pending', toOrder);

// An order that was paid, canceled or is being paid elsewhere is explained by its own page.
const ELSEWHERE = new Set(['already_paid', 'order_closed', 'payment_in_progress']);
page.addEventListener('error', (event) => {
  const code = event.detail?.code;
  if (ELSEWHERE.has(code)) setTimeout(toOrder, 2500);
  if (code === 'not_signed_in') location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
}, true);

// The browser's Back button may bring this page out of its cache after the order was paid: ask the server again.
addEventListener('pageshow', (event) => {
  if (event.persisted) location.reload();
});
