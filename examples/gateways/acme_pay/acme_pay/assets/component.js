/*
 * <acme-payment>: one button that opens the payment and leads to AcmePay's approval page. AcmePay sends the buyer back
 * to the shop's return address, where the server captures and says what happened.
 */
import { PaymentElement } from '../../paidonce.js';

class AcmePayment extends PaymentElement {
  get gateway() {
    return 'acme_pay';
  }

  async mount() {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'button button-primary button-wide';
    button.textContent = 'Pay with AcmePay';
    button.addEventListener('click', () => this.#pay());
    this.body.replaceChildren(button);
    // The browser's back button may restore this page as it was left, busy for ever.
    window.addEventListener('pageshow', (event) => event.persisted && this.setBusy(false));
  }

  async #pay() {
    this.setBusy(true, 'Taking you to AcmePay…');
    try {
      const payment = await this.start();
      window.location.assign(payment.client.approve_url);
    } catch (error) {
      this.fail(error);
    }
  }
}

customElements.define('acme-payment', AcmePayment);
