/*
 * <bank-transfer-payment>: shows the shop's account, the amount and the reference, each with a button that copies it.
 * The account is asked for when the buyer chooses this way, so that looking at the pay page starts no payment. Nothing
 * here moves money: the buyer does that at the bank, and the shop's staff enter it when it has arrived.
 */
import { PaymentElement } from '../../paidonce.js';

const TEXT = {
  choose: 'Pay by bank transfer',
  opening: 'Asking for the account…',
  promising: 'Telling the shop…',
  promise: 'I will transfer the money',
  waiting: 'You have told us that you transfer the money. Please do so before the day above: your goods are kept until then.',
  copied: (what) => `${what} copied.`,
  notCopied: 'Your browser did not allow copying. Please select the text and copy it.',
};

// What the buyer's bank asks for, in the order in which it asks. What the shop left out is not shown.
const FIELDS = [
  ['holder', 'Recipient'],
  ['iban', 'IBAN'],
  ['bic', 'BIC'],
  ['bank', 'Bank'],
  ['amount', 'Amount'],
  ['reference', 'Reference'],
];

// A constructed sheet needs no exception in the page's Content-Security-Policy.
const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
@layer paidonce {
  bank-transfer-payment { display: block; }
  bank-transfer-payment .transfer { margin: 0 0 1rem; padding: 0; }
  bank-transfer-payment .transfer > div { padding: .5rem 0;
    border-bottom: 1px solid color-mix(in srgb, currentcolor 18%, transparent); }
  bank-transfer-payment .transfer dt { font-size: .875rem; }
  bank-transfer-payment .transfer dd { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .75rem;
    justify-content: space-between; margin: 0; }
  bank-transfer-payment .transfer dd > span { font-weight: 600; overflow-wrap: anywhere; user-select: all;
    font-variant-numeric: tabular-nums; }
  bank-transfer-payment .payment-body > button { width: 100%; }
}`);

class BankTransferPayment extends PaymentElement {
  get gateway() {
    return 'bank_transfer';
  }

  connectedCallback() {
    if (!document.adoptedStyleSheets.includes(SHEET)) document.adoptedStyleSheets.push(SHEET);
    super.connectedCallback();
  }

  async mount() {
    const days = this.getAttribute('days');
    const hint = paragraph(`You transfer the money yourself, within ${days} days. Your order goes out once it has arrived.`);
    this.body.replaceChildren(hint, button(TEXT.choose, 'button-primary', () => this.#open()));
  }

  async #open() {
    this.setBusy(true, TEXT.opening);
    try {
      const { client } = await this.start();
      this.#show(client);
      this.setBusy(false);
      this.querySelector('dl').focus();
    } catch (error) {
      this.fail(error);
    }
  }

  #show(client) {
    const list = document.createElement('dl');
    list.className = 'transfer';
    list.tabIndex = -1;
    list.setAttribute('aria-label', 'Where to transfer the money');
    const shown = FIELDS.filter(([name]) => client[name]);
    list.append(...shown.map(([name, label]) => this.#row(name, label, client)));
    const parts = [paragraph(`Please transfer the money by ${day(client.until)}, with exactly this reference.`), list];
    if (client.received) parts.push(paragraph(`${client.received} have arrived so far.`));
    parts.push(client.promised ? paragraph(TEXT.waiting) : button(TEXT.promise, 'button-primary', () => this.#promise()));
    this.body.replaceChildren(...parts);
  }

  #row(name, label, client) {
    const row = document.createElement('div');
    const term = document.createElement('dt');
    const value = document.createElement('dd');
    const text = document.createElement('span');
    term.textContent = label;
    text.textContent = name === 'amount' ? `${client.amount} ${client.currency}` : client[name];
    const copy = button('Copy', 'button-quiet', () => this.#copy(label, client[name]));
    copy.setAttribute('aria-label', `Copy: ${label}`);
    value.append(text, copy);
    row.append(term, value);
    return row;
  }

  async #copy(label, text) {
    try {
      // Banks' forms want the IBAN as it is read, and take it without its spaces as well.
      await navigator.clipboard.writeText(text);
      this.say(TEXT.copied(label));
    } catch {
      this.say(TEXT.notCopied);
    }
  }

  async #promise() {
    this.setBusy(true, TEXT.promising);
    try {
      this.finish(await this.complete());
    } catch (error) {
      this.fail(error);
    }
  }
}

function button(text, kind, onClick) {
  const made = document.createElement('button');
  made.type = 'button';
  made.className = `button ${kind}`;
  made.textContent = text;
  made.addEventListener('click', onClick);
  return made;
}

function paragraph(text) {
  const made = document.createElement('p');
  made.textContent = text;
  return made;
}

function day(isoDate) {
  const language = document.documentElement.lang || undefined;
  return new Date(`${isoDate}T00:00:00Z`).toLocaleDateString(language, { dateStyle: 'long', timeZone: 'UTC' });
}

customElements.define('bank-transfer-payment', BankTransferPayment);
