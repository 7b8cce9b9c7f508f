// <mollie-payment order return-url label>: one button that opens the payment and leads to Mollie's checkout.
//
// Mollie sends the buyer back to the shop's return address, where the server asks Mollie and says what happened. Nothing
// is loaded from elsewhere, and the checkout's address is kept nowhere.
import { PaymentElement } from '../../paidonce.js';

const TEXT = {
  button: 'Continue to Mollie',
  hint: 'You choose how to pay at Mollie and come back here afterwards.',
  leaving: 'Taking you to Mollie…',
  checking: 'Checking your payment…',
};

// A constructed sheet needs no exception in the page's Content-Security-Policy.
const sheet = new CSSStyleSheet();
sheet.replaceSync('.mollie-area { display: grid; gap: .5rem; } .mollie-area p { margin: 0; }');
document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];

class MolliePayment extends PaymentElement {
  get gateway() {
    return 'mollie';
  }

  async mount() {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'button button-primary button-wide';
    button.textContent = TEXT.button;
    button.addEventListener('click', () => this.#pay());
    const hint = document.createElement('p');
    hint.className = 'muted small';
    hint.textContent = TEXT.hint;
    const area = document.createElement('div');
    area.className = 'mollie-area';
    area.append(button, hint);
    this.body.replaceChildren(area);
  }

  connectedCallback() {
    super.connectedCallback();
    addEventListener('pageshow', this.#shownAgain);
  }

  disconnectedCallback() {
    removeEventListener('pageshow', this.#shownAgain);
  }

  async #pay() {
    this.setBusy(true, TEXT.leaving);
    try {
      const payment = await this.start();
      if (payment.client?.checkout_url) {
        location.assign(payment.client.checkout_url);
        return;
      }
      // There is nothing left to pay at Mollie, so only the shop can say how it stands.
      this.setBusy(true, TEXT.checking);
      this.finish(await this.complete());
    } catch (error) {
      this.fail(error);
    }
  }

  // The browser's Back button brings this page out of its cache as it was left: busy.
  #shownAgain = (event) => {
    if (event.persisted) this.setBusy(false);
  };
}

customElements.define('mollie-payment', MolliePayment);
