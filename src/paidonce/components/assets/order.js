// A payment that is being confirmed: ask the shop, which asks the gateway, until there is an answer.

import { request } from '/assets/paidonce.js';

const box = document.querySelector('[data-under-way]');
const note = box.querySelector('[data-note]');
const PAUSES_MS = [1000, 2000, 3000, 5000, 8000, 12_000];
const LONGEST_MS = 20_000;
const UNDER_WAY = new Set(['processing', 'authorized']);

let asked = 0;

async function ask() {
  const result = await request('POST', `/api/payments/${encodeURIComponent(box.dataset.underWay)}/complete`, {});
  return result.order_status === 'paid' || !UNDER_WAY.has(result.status);
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
