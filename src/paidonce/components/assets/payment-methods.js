/*
 * <payment-methods order api-base>: every way to pay an order, one below the other. It asks the API which there are, loads
 * each gateway's module from there and puts its element here, so a front end knows no key, no address and no gateway.
 *
 * The events of the elements bubble through it; their errors, which don't bubble, are dispatched here again.
 */
import { PaymentElement, oneAtATime } from './paidonce.js';

const TEXT = {
  none: 'This shop has no way to pay set up yet. Your order is kept; please come back later.',
  blocked: 'This way to pay could not be loaded. Check your connection or content blocker, then reload the page.',
};

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
@layer paidonce {
  payment-methods { display: block; }
  payment-methods > .payment-body { display: grid; gap: var(--paidonce-gap, 1rem); }
  payment-methods > .payment-message { min-height: 0; }
  .payment-way { padding: var(--paidonce-gap, 1rem); border: 1px solid var(--paidonce-border, light-dark(#d9dcda, #39423d));
    border-radius: var(--paidonce-radius, 8px); }
  .payment-title { margin: 0 0 .75rem; font-weight: 600; }
  .payment-unavailable { margin: 0; }
  payment-methods:has([done]) .payment-way:not(:has([done])), payment-methods [done] > .payment-body { display: none; }
}`);

class PaymentMethods extends PaymentElement {
  /** No gateway of its own: it finishes whatever payment of its order a redirect brings back. */
  get gateway() {
    return null;
  }

  constructor() {
    super();
    oneAtATime(this, () => this.querySelectorAll('.payment-way > [order]'));
  }

  connectedCallback() {
    if (!document.adoptedStyleSheets.includes(SHEET)) document.adoptedStyleSheets.push(SHEET);
    super.connectedCallback();
  }

  async mount() {
    const { methods } = await this.call('GET', `/api/orders/${encodeURIComponent(this.order)}/payment-methods`);
    this.body.replaceChildren(...methods.map((method) => this.#way(method)));
    if (methods.length === 0) this.say(TEXT.none, 'info');
  }

  #way(method) {
    const way = document.createElement('div');
    way.className = 'payment-way';
    way.dataset.gateway = method.gateway;
    way.setAttribute('role', 'group');
    way.setAttribute('aria-label', method.title);
    const title = document.createElement('p');
    title.className = 'payment-title';
    title.textContent = method.title;
    way.append(title, method.unavailable ? note(method.unavailable) : this.#element(method));
    return way;
  }

  #element(method) {
    const element = document.createElement(method.element);
    const ours = { 'api-base': this.getAttribute('api-base'), 'return-url': this.getAttribute('return-url') };
    for (const [name, value] of Object.entries({ ...method.attributes, ...ours })) {
      if (value !== null) element.setAttribute(name, value);
    }
    element.addEventListener('error', (event) => this.#pass(event));
    // Set before the module defines the element, which then finds everything in its place.
    this.#define(method).catch((error) => {
      console.warn(`paidonce: ${method.module} could not be loaded:`, error);
      element.replaceWith(note(TEXT.blocked));
    });
    return element;
  }

  async #define(method) {
    const home = new URL(this.apiBase || '/', location.href);
    const module = new URL(method.module, home);
    if (module.origin !== home.origin) throw new Error('a module of another origin than the API');
    await import(module.href);
    await customElements.whenDefined(method.element);
  }

  // A vendor's script or image inside the element has error events as well, without a detail.
  #pass(event) {
    if (event.target !== event.currentTarget || !event.detail?.code) return;
    this.dispatchEvent(new CustomEvent('error', { detail: event.detail }));
  }
}

function note(text) {
  const paragraph = document.createElement('p');
  paragraph.className = 'payment-unavailable';
  paragraph.textContent = text;
  return paragraph;
}

customElements.define('payment-methods', PaymentMethods);
