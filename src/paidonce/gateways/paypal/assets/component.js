// <paypal-payment order client-id script-url currency>: PayPal's button, its pop-up, and what follows.
//
// The browser only starts things. Whether money moved is what the server says after it asked PayPal.
import { ApiProblem, PaymentElement } from '../../paidonce.js';

const TEXT = {
  canceled: 'You closed PayPal. Nothing was charged and your order is still here.',
  ineligible: 'PayPal can’t be used for this order. Please choose another way to pay.',
  unavailable: 'PayPal could not be loaded. Nothing was charged. Please try again, or choose another way to pay.',
  blocked: 'Your browser blocked PayPal’s window. Nothing was charged. Please choose “Continue in this tab instead”.',
  unsettled: 'PayPal could not finish. Please try again; you will not be charged twice.',
};

// A constructed sheet needs no exception in the page's Content-Security-Policy.
const sheet = new CSSStyleSheet();
sheet.replaceSync(`
  .paypal-area { display: grid; gap: .5rem; min-height: 6.25rem; align-content: start; }
  .paypal-skeleton { min-height: 3rem; border-radius: 1.5rem; background: #e7eaee; }
  .paypal-area [hidden] { display: none; }
  .paypal-here { min-height: 2.75rem; padding: .25rem .5rem; font: inherit; color: inherit; background: none; border: 0;
    text-decoration: underline; cursor: pointer; }
  .paypal-here[aria-disabled=true] { cursor: not-allowed; }`);
document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];

function problem(code, error) {
  // Our server's problems are written for buyers; the SDK's errors are written for developers.
  if (error instanceof ApiProblem) return error;
  console.warn('paidonce: PayPal reported:', error);
  return new ApiProblem({ code: `paypal_${code}`, status: 0, message: TEXT[code] });
}

class PayPalPayment extends PaymentElement {
  #session;
  #open = false;

  get gateway() {
    return 'paypal';
  }

  connectedCallback() {
    super.connectedCallback();
    addEventListener('pageshow', this.#shownAgain);
  }

  disconnectedCallback() {
    removeEventListener('pageshow', this.#shownAgain);
  }

  async mount() {
    this.#open = false;
    const area = document.createElement('div');
    area.className = 'paypal-area';
    const skeleton = document.createElement('div');
    skeleton.className = 'paypal-skeleton';
    skeleton.setAttribute('aria-hidden', 'true');
    area.append(skeleton);
    this.body.replaceChildren(area);
    await this.loadScript(this.getAttribute('script-url'));
    const eligible = await this.#prepare();
    skeleton.remove();
    if (!eligible) {
      this.say(TEXT.ineligible, 'info');
      return;
    }
    area.append(...this.#buttons());
    // A task of its own, since the element is still busy with this mount.
    if (this.#session.hasReturned?.()) setTimeout(() => this.#resume());
  }

  async #prepare() {
    try {
      const sdk = await window.paypal.createInstance({
        clientId: this.getAttribute('client-id'),
        components: ['paypal-payments'],
        pageType: 'checkout',
      });
      const methods = await sdk.findEligibleMethods({ currencyCode: this.getAttribute('currency') });
      if (!methods.isEligible('paypal')) return false;
      this.#session = sdk.createPayPalOneTimePaymentSession({
        onApprove: () => this.#approved(),
        onCancel: () => this.#canceled(),
        onError: (error) => this.#failed(error),
      });
      return true;
    } catch (error) {
      throw problem('unavailable', error);
    }
  }

  #buttons() {
    const button = document.createElement('paypal-button');
    button.setAttribute('type', 'pay');
    button.addEventListener('click', () => this.#begin('auto'));
    const here = document.createElement('button');
    here.type = 'button';
    here.className = 'paypal-here';
    here.textContent = 'Continue in this tab instead';
    here.addEventListener('click', () => this.#begin('redirect'));
    return [button, here];
  }

  // Nothing is awaited before session.start: the browser opens a pop-up only within the buyer's click.
  async #begin(presentationMode) {
    if (this.#open) return;
    this.#open = true;
    const order = this.start().then((payment) => ({ orderId: payment.client.order_id }));
    // Its refusal is read below; without this the browser reports it as unhandled as well.
    order.catch(() => {});
    try {
      const started = this.#session.start({ presentationMode }, order);
      this.setBusy(true, presentationMode === 'redirect' ? 'Taking you to PayPal…' : 'Waiting for PayPal…');
      await started;
    } catch (error) {
      // What the shop said about the order explains more than what the SDK makes of it.
      this.#failed(await order.then(() => error, (cause) => cause));
    }
  }

  async #resume() {
    this.#open = true;
    this.setBusy(true, 'Finishing your PayPal payment…');
    try {
      await this.#session.resume();
    } catch (error) {
      this.#failed(error);
    }
  }

  async #approved() {
    this.setBusy(true, 'Confirming your payment…');
    try {
      // After a redirect the page is new and knows no payment; starting again gives the one that is open.
      if (!this.paymentId) await this.start();
      const result = await this.complete();
      this.#open = false;
      // A decline leaves the same PayPal order open, so a fresh click lets the buyer choose another funding source.
      this.finish(result);
    } catch (error) {
      this.#failed(error);
    }
  }

  #canceled() {
    this.#open = false;
    this.turnedBack(TEXT.canceled);
  }

  // The SDK may report one failure twice, by onError and by start().
  #failed(error) {
    if (!this.#open) return;
    this.#open = false;
    this.fail(problem(error?.isRecoverable ? 'blocked' : 'unsettled', error));
  }

  // The browser's Back button brings this page out of its cache as it was left: busy.
  #shownAgain = (event) => {
    if (!event.persisted || !this.#open) return;
    this.#canceled();
  };
}

customElements.define('paypal-payment', PayPalPayment);
