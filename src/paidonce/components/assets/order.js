// A payment that is being confirmed: ask the shop, which asks the gateway, until there is an answer.

import { request } from '/assets/paidonce.js';

const box = document.querySelector('[data-under-way]');
const note = box.querySelector('[data-note]');
const PAUSES_MS = [1000, 2000, 3000, 5000, 8000, 12_000];
// A bank that needs days is not asked every few seconds for ever.
const LONGEST_MS = 'slow' in box.dataset ? 60_000 : 20_000;

let asked = 0;

async function ask() {
  const result = await request('POST', `/api/payments/${encodeURIComponent(box.dataset.underWay)}/complete`, {});
  return result.order_status === 'paid' || result.status !== box.dataset.status;
}

async function poll() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PAUSES_MS[asked] ?? LONGEST_MS));
    asked += 1;
    try {
      if (await ask()) return location.reload();
      note.textContent = `Checked ${asked === 1 ? 'once' : `${asked} times`}. You can leave this page; nothing is lost.`;
    } catch {
      note.textContent = 'The shop could not be reached just now. We keep trying.';
    }
  }
}

poll();
