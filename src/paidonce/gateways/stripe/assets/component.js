/*
 * <stripe-payment>: Stripe's Payment Element in the deferred flow. Stripe.js is loaded from Stripe, the card is typed into
 * Stripe's frame, and the server makes the PaymentIntent only when the buyer presses pay. The client secret lives in one
 * local variable: never in an attribute, an address, a message or the console.
 */
import { ApiProblem, PaymentElement } from '../../paidonce.js';

const READY_TIMEOUT_MS = 20_000;

const TEXT = {
  unavailable: 'The card form could not be loaded. Check your connection or content blocker, then try again, or use the other way to pay.',
  paying: 'Paying… Please keep this page open.',
  changed: 'This page no longer matches your order. Please reload it, then pay. You have not been charged.',
  pay: 'Pay by card',
};

// Stripe's variables, and the properties of the page that they follow.
const APPEARANCE = [
  ['colorPrimary', '--paidonce-accent'],
  ['colorBackground', '--paidonce-field'],
  ['colorText', '--paidonce-text'],
  ['colorDanger', '--paidonce-danger'],
  ['borderRadius', '--paidonce-radius', 'border-top-left-radius'],
  ['fontFamily', '--paidonce-font', 'font-family'],
];

// A constructed sheet needs no exception in the page's Content-Security-Policy.
const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
  stripe-payment { display: block; }
  stripe-payment .stripe-fields { min-height: 284px; margin-bottom: 1rem; }
  @media (max-width: 480px) { stripe-payment .stripe-fields { min-height: 324px; } }
  stripe-payment .stripe-fields:has(> .stripe-skeleton) { display: grid; align-content: start; gap: 1rem; }
  stripe-payment .stripe-skeleton { height: 44px; margin-top: 1.5rem; border-radius: 6px; background: rgb(127 127 127 / 18%); }
  stripe-payment form button { width: 100%; }
`);

class StripePayment extends PaymentElement {
  #stripe = null;
  #elements = null;

  get gateway() {
    return 'stripe';
  }

  connectedCallback() {
    if (!document.adoptedStyleSheets.includes(SHEET)) document.adoptedStyleSheets.push(SHEET);
    super.connectedCallback();
    window.addEventListener('pageshow', this.#restored);
  }

  disconnectedCallback() {
    window.removeEventListener('pageshow', this.#restored);
  }

  async mount() {
    const fields = document.createElement('div');
    fields.className = 'stripe-fields';
    fields.append(...['', '', ''].map(skeleton));
    this.body.replaceChildren(this.#form(fields));
    await this.loadScript(this.getAttribute('script-url'));
    try {
      await this.#mountElement(fields);
    } catch {
      // Stripe's own words are for developers and may repeat a key or a secret.
      throw new ApiProblem({ code: 'script_failed', status: 0, message: TEXT.unavailable });
    }
  }

  #form(fields) {
    const form = document.createElement('form');
    form.noValidate = true;
    const button = document.createElement('button');
    button.type = 'submit';
    button.className = 'button button-primary';
    button.textContent = this.getAttribute('label') ?? TEXT.pay;
    form.append(fields, button);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#pay();
    });
    return form;
  }

  #mountElement(fields) {
    this.#stripe = window.Stripe(this.getAttribute('publishable-key'));
    this.#elements = this.#stripe.elements({
      mode: 'payment',
      amount: Number(this.getAttribute('amount')),
      currency: this.getAttribute('currency'),
      locale: document.documentElement.lang || 'auto',
      appearance: this.#appearance(),
    });
    const element = this.#elements.create('payment');
    return new Promise((resolve, reject) => {
      const late = setTimeout(reject, READY_TIMEOUT_MS);
      element.on('ready', () => resolve(clearTimeout(late)));
      element.on('loaderror', () => reject(clearTimeout(late)));
      element.mount(fields);
    });
  }

  // Stripe's frame can't see the page's properties, so it is told what they come to.
  #appearance() {
    const found = APPEARANCE.map(([name, property, css]) => [name, this.themed(property, css)]);
    return { variables: Object.fromEntries(found.filter(([, value]) => value !== null)) };
  }

  async #pay() {
    this.setBusy(true, TEXT.paying);
    try {
      // Before anything else: wallets open their own window, which needs the click still to count.
      const { error } = await this.#elements.submit();
      if (error) return this.#incomplete(error);
      const payment = await this.start();
      return await this.#conclude(payment.client?.client_secret ? await this.#confirm(payment) : {});
    } catch (error) {
      return this.fail(error);
    }
  }

  // The field itself shows and announces the message and has the focus, so the form only becomes usable again.
  #incomplete(error) {
    this.setBusy(false);
    if (error.type !== 'validation_error') this.say(error.message, 'error');
  }

  async #confirm(payment) {
    try {
      return await this.#stripe.confirmPayment({
        elements: this.#elements,
        clientSecret: payment.client.client_secret,
        confirmParams: { return_url: this.returnUrl(payment.id) },
        redirect: 'if_required',
      });
    } catch {
      // An IntegrationError, such as an amount that changed since the page was made. Its message may hold the secret.
      throw new ApiProblem({ code: 'order_changed', status: 0, message: TEXT.changed });
    }
  }

  // Whatever Stripe.js says, the shop asks Stripe itself; the browser's word only helps out where the shop has none.
  async #conclude({ error }) {
    const result = await this.complete();
    // Refused by Stripe.js itself, before anything became an attempt that the shop could see: the buyer tries again.
    const isRefused = error !== undefined && result.status === 'awaiting_buyer' && !result.recoverable;
    this.finish(isRefused ? { ...result, recoverable: true, message: error.message || result.message } : result);
  }

  // Coming back from 3-D Secure by the browser's back button: the page is as it was left, busy.
  #restored = (event) => {
    if (event.persisted) this.setBusy(false);
  };
}

function skeleton() {
  const bar = document.createElement('div');
  bar.className = 'stripe-skeleton';
  bar.setAttribute('aria-hidden', 'true');
  return bar;
}

customElements.define('stripe-payment', StripePayment);
