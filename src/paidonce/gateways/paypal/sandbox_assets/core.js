// Stand-in for PayPal's JS SDK v6, for the offline sandbox. It has the parts of the interface that a one-time payment
// uses, and refuses what the original refuses.
(() => {
  'use strict';

  // The pages live beside this script, wherever it is served: below the sandbox's mount, or at PayPal's own address.
  const base = new URL(document.currentScript.src).href.replace(/\/web-sdk\/v6\/core.*$/, '');
  const baseOrigin = new URL(base).origin;
  const MODES = ['auto', 'popup', 'modal', 'redirect', 'payment-handler'];
  const POLL_MS = 250;

  class PayPalError extends Error {
    constructor(code, message, isRecoverable = false) {
      super(message);
      this.name = 'PayPalError';
      this.code = code;
      this.isRecoverable = isRecoverable;
    }
  }

  async function eligibility(clientId, currencyCode) {
    const query = new URLSearchParams({ client_id: clientId, currency: currencyCode });
    const answer = await fetch(`${base}/web-sdk/v6/eligibility?${query}`, { credentials: 'omit' });
    return answer.json();
  }

  async function createInstance(options = {}) {
    const { clientId, clientToken, components } = options;
    if (typeof clientId !== 'string' || clientId === '' || clientToken !== undefined) {
      throw new PayPalError('INVALID_CLIENT_ID', 'createInstance needs clientId');
    }
    if (!Array.isArray(components) || components.length === 0) {
      throw new PayPalError('INVALID_COMPONENTS', 'createInstance needs a list of components');
    }
    if (!(await eligibility(clientId, 'USD')).known_client) {
      throw new PayPalError('INVALID_CLIENT_ID', 'this client id is unknown to the offline sandbox');
    }
    const instance = {
      async findEligibleMethods({ currencyCode = 'USD' } = {}) {
        const { paypal } = await eligibility(clientId, currencyCode);
        return { isEligible: (method) => method === 'paypal' && paypal, getDetails: () => undefined };
      },
      updateLocale() {},
    };
    if (components.includes('paypal-payments')) {
      instance.createPayPalOneTimePaymentSession = (callbacks) => new Session(callbacks);
    }
    return instance;
  }

  // PayPal comes back to return_url with token and PayerID in the query, or (app switch) with the news in the fragment.
  function returned() {
    const fragment = new URLSearchParams(location.hash.replace(/^#/, ''));
    const canceled = fragment.has('onCancel');
    const values = canceled || fragment.has('onApprove') ? fragment : new URLSearchParams(location.search);
    const orderId = values.get('token');
    const payerId = values.get('PayerID');
    return orderId && (canceled || payerId) ? { orderId, payerId, canceled } : null;
  }

  class Session {
    #callbacks;
    #stop = null;

    constructor(callbacks = {}) {
      if (typeof callbacks.onApprove !== 'function') {
        throw new PayPalError('INVALID_CALLBACK', 'onApprove must be a function');
      }
      this.#callbacks = callbacks;
    }

    async start(options, orderPromise) {
      const mode = options?.presentationMode;
      if (!MODES.includes(mode)) throw new PayPalError('INVALID_PRESENTATION_MODE', 'presentationMode is unknown');
      if (typeof orderPromise?.then !== 'function') {
        throw new PayPalError('INVALID_ORDER_PROMISE', 'start needs the promise of {orderId} itself, not awaited');
      }
      // Whoever awaits something first loses the click, and with it the right to open a window.
      if (!navigator.userActivation?.isActive) {
        orderPromise.then(null, () => {});
        throw new PayPalError('ERR_DEV_UNABLE_TO_OPEN_POPUP', 'start was not called from a click', true);
      }
      if (mode === 'redirect') return this.#redirect(orderPromise, options.autoRedirect?.enabled !== false);
      const popup = openWaiting();
      if (popup) return this.#popup(popup, orderPromise);
      if (mode === 'auto') return this.#redirect(orderPromise, true);
      orderPromise.then(null, () => {});
      throw new PayPalError('ERR_DEV_UNABLE_TO_OPEN_POPUP', 'the browser blocked the pop-up', true);
    }

    hasReturned() {
      return returned() !== null;
    }

    async resume() {
      const news = returned();
      if (!news) throw new PayPalError('NOT_RETURNED', 'resume was called, but the buyer does not come from PayPal');
      if (news.canceled) this.#callbacks.onCancel?.({ orderId: news.orderId });
      else await this.#approved(news);
    }

    cancel() {
      this.#stop?.('cancel');
    }

    destroy() {
      this.#stop?.('destroy');
    }

    async #redirect(orderPromise, automatic) {
      const redirectURL = `${base}/checkoutnow?${new URLSearchParams({ token: await orderIdOf(orderPromise) })}`;
      if (automatic) location.assign(redirectURL);
      return { redirectURL };
    }

    async #popup(popup, orderPromise) {
      const ended = this.#ending(popup);
      let orderId;
      try {
        orderId = await orderIdOf(orderPromise);
      } catch (error) {
        this.#stop('destroy');
        popup.close();
        throw error;
      }
      const query = new URLSearchParams({ token: orderId, opener: location.origin });
      if (!popup.closed) popup.location.replace(`${base}/checkoutnow?${query}`);
      const news = await ended;
      if (news.paypalSandbox === 'approve' && news.orderId === orderId) await this.#approved(news);
      else if (news.paypalSandbox === 'cancel') this.#callbacks.onCancel?.({ orderId });
    }

    // Resolves once: by the pop-up's message, by its closing, or by cancel() and destroy().
    #ending(popup) {
      return new Promise((resolve) => {
        const end = (news) => {
          clearInterval(poll);
          removeEventListener('message', listen);
          this.#stop = null;
          resolve(news);
        };
        const listen = (event) => {
          const ours = event.origin === baseOrigin && event.source === popup;
          if (ours && ['approve', 'cancel'].includes(event.data?.paypalSandbox)) end(event.data);
        };
        let seenClosed = 0;
        const poll = setInterval(() => {
          // The message may still be on its way when the window is gone, so one more round is waited for it.
          seenClosed = popup.closed ? seenClosed + 1 : 0;
          if (seenClosed > 1) end({ paypalSandbox: 'cancel' });
        }, POLL_MS);
        addEventListener('message', listen);
        this.#stop = (news) => {
          popup.close();
          end({ paypalSandbox: news });
        };
      });
    }

    async #approved({ orderId, payerId }) {
      try {
        await this.#callbacks.onApprove({ orderId, payerId });
      } catch (error) {
        if (!this.#callbacks.onError) throw error;
        this.#callbacks.onError(error);
      }
    }
  }

  // An empty window belongs to the shop's page until it goes to the approval page. Loading a page of ours into it first
  // would race with that: the browser may drop the second of two navigations that begin together.
  function openWaiting() {
    const popup = window.open('', '_blank', 'popup,width=480,height=720');
    if (!popup) return null;
    const page = popup.document;
    page.documentElement.lang = 'en';
    page.title = 'Opening PayPal (offline sandbox)';
    const text = page.createElement('p');
    text.setAttribute('role', 'status');
    text.textContent = 'Offline sandbox, not PayPal. One moment, the shop is preparing your order …';
    page.body.append(text);
    return popup;
  }

  async function orderIdOf(orderPromise) {
    const { orderId } = (await orderPromise) ?? {};
    if (typeof orderId !== 'string' || orderId === '') {
      throw new PayPalError('INVALID_ORDER_ID', 'the promise must resolve to {orderId}');
    }
    return orderId;
  }

  // Constructed style sheets need no 'unsafe-inline' in the shop's policy.
  const style = new CSSStyleSheet();
  style.replaceSync(`
    :host { display: block; } :host([hidden]) { display: none; }
    button { width: 100%; min-height: 3rem; padding: .5rem 1rem; font: 600 1rem/1.25 system-ui, sans-serif; color: #111;
      background: #ffc439; border: 2px solid #ffc439; border-radius: 1.5rem; cursor: pointer; }
    button:hover { background: #f2b72d; } button:disabled { color: #595959; background: #eee; cursor: not-allowed; }
    button:focus-visible { outline: 3px solid #003087; outline-offset: 2px; }`);

  class PayPalButton extends HTMLElement {
    static observedAttributes = ['disabled'];
    #button = document.createElement('button');

    constructor() {
      super();
      const root = this.attachShadow({ mode: 'open', delegatesFocus: true });
      root.adoptedStyleSheets = [style];
      this.#button.type = 'button';
      this.#button.textContent = 'Pay with PayPal (sandbox)';
      root.append(this.#button);
    }

    attributeChangedCallback() {
      this.#button.disabled = this.hasAttribute('disabled');
    }
  }
  if (!customElements.get('paypal-button')) customElements.define('paypal-button', PayPalButton);

  window.paypal = Object.freeze({ version: '6.0.0', createInstance });
})();
