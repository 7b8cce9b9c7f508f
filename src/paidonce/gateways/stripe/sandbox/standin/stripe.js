/*
 * The offline stand-in for Stripe.js: the same calls, the same refusals, no Stripe. Card data is typed into a frame of
 * the gateway's origin and goes from there to the gateway; the shop's page never sees it.
 */
(() => {
  'use strict';

  const PRODUCTION = 'https://js.stripe.com';
  const FRAME_TIMEOUT_MS = 15_000;
  // Roughly the form's own height, so that the page does not jump when the frame arrives.
  const FRAME_HEIGHT_PX = 284;

  // The addresses follow from where this file was loaded: Stripe's own, or <twin>/js/v3.
  const source = new URL(document.currentScript.src);
  const isProduction = source.origin === PRODUCTION;
  const BASE = isProduction ? PRODUCTION : source.origin + source.pathname.replace(/\/js\/v3\/?$/, '');
  const API = isProduction ? 'https://api.stripe.com' : BASE;

  class IntegrationError extends Error {
    constructor(message) {
      super(message);
      this.name = 'IntegrationError';
    }
  }

  function check(condition, message) {
    if (!condition) throw new IntegrationError(message);
  }

  const isObject = (value) => typeof value === 'object' && value !== null;

  function isAbsoluteUrl(value) {
    try {
      return ['http:', 'https:'].includes(new URL(value).protocol);
    } catch {
      return false;
    }
  }

  function intentId(clientSecret) {
    const match = /^(pi_\w+)_secret_\w+$/.exec(typeof clientSecret === 'string' ? clientSecret : '');
    // The original repeats the value in this message; here it stays out, since consoles and logs would keep it.
    check(match, 'Invalid value for clientSecret: it has the form ${id}_secret_${secret}.');
    return match[1];
  }

  /** The card frame, and questions to it over a private channel. */
  class Frame {
    #channel = new MessageChannel();
    #waiting = new Map();
    #asked = 0;

    constructor(publishableKey, onEvent) {
      this.iframe = document.createElement('iframe');
      this.iframe.title = 'Secure payment input frame';
      this.iframe.src = `${BASE}/frame/card`;
      Object.assign(this.iframe.style, { border: '0', width: '100%', display: 'block' });
      this.iframe.style.minHeight = `${FRAME_HEIGHT_PX}px`;
      this.iframe.style.height = `${FRAME_HEIGHT_PX}px`;
      const late = setTimeout(() => onEvent('loaderror', { message: 'The payment form did not load.' }), FRAME_TIMEOUT_MS);
      this.#channel.port1.onmessage = ({ data }) => {
        if (data.event) clearTimeout(late);
        if (data.event) this.#heard(data, onEvent);
        else this.#answered(data);
      };
      this.iframe.addEventListener('load', () => {
        const hello = { type: 'stripe-standin', publishableKey };
        this.iframe.contentWindow.postMessage(hello, new URL(BASE).origin, [this.#channel.port2]);
      }, { once: true });
    }

    /** Ask the frame to do something; resolves to its answer. */
    ask(action, details = {}) {
      this.#asked += 1;
      const id = this.#asked;
      return new Promise((resolve) => {
        this.#waiting.set(id, resolve);
        this.#channel.port1.postMessage({ id, action, details });
      });
    }

    #heard({ event, detail }, onEvent) {
      if (event === 'height') this.iframe.style.height = `${Math.max(FRAME_HEIGHT_PX, detail.height)}px`;
      else onEvent(event, detail);
    }

    #answered({ id, answer }) {
      this.#waiting.get(id)?.(answer);
      this.#waiting.delete(id);
    }
  }

  /** The `payment` element. */
  class PaymentElement {
    #listeners = new Map();
    #frame = null;
    #key;
    isReady = false;

    constructor(publishableKey) {
      this.#key = publishableKey;
    }

    get frame() {
      check(this.#frame && this.isReady, 'The Payment Element is not mounted, or not ready yet.');
      return this.#frame;
    }

    on(event, listener) {
      const known = ['ready', 'change', 'loaderror', 'focus', 'blur', 'escape', 'loaderstart'];
      check(known.includes(event), `"${event}" is not an event of this element.`);
      this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
      return this;
    }

    mount(place) {
      const target = typeof place === 'string' ? document.querySelector(place) : place;
      check(target instanceof Element, 'The selector or element to mount into does not exist in the page.');
      check(this.#frame === null, 'This element is already mounted.');
      this.#frame = new Frame(this.#key, (event, detail) => this.#tell(event, detail));
      target.replaceChildren(this.#frame.iframe);
    }

    unmount() {
      this.#frame?.iframe.remove();
      this.#frame = null;
      this.isReady = false;
    }

    destroy() {
      this.unmount();
      this.#listeners.clear();
    }

    update() {}

    focus() {
      this.frame.ask('focus');
    }

    #tell(event, detail) {
      if (event === 'ready') this.isReady = true;
      const extra = event === 'loaderror' ? { error: detail } : (detail ?? {});
      for (const listener of this.#listeners.get(event) ?? []) listener({ elementType: 'payment', ...extra });
    }
  }

  /** A group of elements for a payment of a given amount: the deferred flow. */
  class Elements {
    #key;
    #element = null;
    submitted = false;

    constructor(publishableKey, options) {
      this.#key = publishableKey;
      this.options = checkedOptions(options);
    }

    create(type) {
      check(type === 'payment', `The offline sandbox has the payment element only, not "${type}".`);
      check(this.#element === null, 'Can only create one Element of type payment.');
      this.#element = new PaymentElement(this.#key);
      return this.#element;
    }

    getElement(type) {
      return type === 'payment' ? this.#element : null;
    }

    update(changes) {
      this.options = checkedOptions({ ...this.options, ...changes });
      this.submitted = false;
    }

    /** Validate what was typed. Resolves to {error} or {selectedPaymentMethod}. */
    async submit() {
      check(this.#element, 'elements.submit() needs a mounted Payment Element.');
      const answer = await this.#element.frame.ask('validate');
      this.submitted = !answer.error;
      return answer;
    }

    /** The frame, for a confirmation. One submit serves one confirmation, as the buyer may type again in between. */
    takeFrame() {
      check(this.#element, 'confirmPayment() needs a mounted Payment Element.');
      check(
        this.submitted,
        'elements.submit() must be called before stripe.confirmPayment(). Call it as soon as the customer presses pay, before any asynchronous work.',
      );
      this.submitted = false;
      return this.#element.frame;
    }
  }

  function checkedOptions(options) {
    check(isObject(options), 'elements() needs options: {mode, amount, currency}.');
    const { mode, amount, currency, captureMethod = 'automatic' } = options;
    check(mode === 'payment', 'Invalid value for elements(): mode should be "payment" (all that the offline sandbox has).');
    check(Number.isInteger(amount) && amount > 0, 'Invalid value for elements(): amount should be a positive integer of minor units.');
    check(/^[a-z]{3}$/.test(currency), 'Invalid value for elements(): currency should be a three-letter code in lower case.');
    check(['automatic', 'automatic_async', 'manual'].includes(captureMethod), 'Invalid value for elements(): captureMethod.');
    return { ...options, captureMethod };
  }

  function checkSameIntent(intent, { amount, currency, captureMethod }) {
    const differs = (name, theirs, ours) =>
      check(theirs === ours, `The ${name} of the PaymentIntent (${theirs}) does not match the ${name} given to elements() (${ours}).`);
    differs('amount', intent.amount, amount);
    differs('currency', intent.currency, currency);
    differs('capture method', intent.capture_method === 'manual', captureMethod === 'manual');
  }

  const never = () => new Promise(() => {});

  function leaveFor(address) {
    window.location.assign(address);
    return never();
  }

  function returnAddress(returnUrl, intent, clientSecret) {
    const address = new URL(returnUrl);
    address.searchParams.set('payment_intent', intent.id);
    address.searchParams.set('payment_intent_client_secret', clientSecret);
    address.searchParams.set('redirect_status', intent.status === 'processing' ? 'pending' : 'succeeded');
    return address.href;
  }

  class StripeStandIn {
    #key;
    _apiVersion = 'offline sandbox';

    constructor(publishableKey) {
      this.#key = publishableKey;
    }

    elements(options) {
      return new Elements(this.#key, options);
    }

    /** Confirm with what was typed. Resolves to {paymentIntent} or {error}; never resolves if the page is left. */
    async confirmPayment(options) {
      check(isObject(options) && options.elements instanceof Elements, 'stripe.confirmPayment() needs {elements}.');
      const { elements, clientSecret, confirmParams, redirect = 'always' } = options;
      check(['always', 'if_required'].includes(redirect), 'Invalid value for redirect: it is "always" or "if_required".');
      const returnUrl = confirmParams?.return_url;
      check(isAbsoluteUrl(returnUrl), 'stripe.confirmPayment() needs confirmParams.return_url, an absolute address.');
      const id = intentId(clientSecret);
      const frame = elements.takeFrame();
      const found = await frame.ask('retrieve', { id, clientSecret });
      if (found.error) return found;
      checkSameIntent(found.paymentIntent, elements.options);
      const answer = await frame.ask('confirm', { id, clientSecret, returnUrl });
      return this.#concluded(answer, { redirect, returnUrl, clientSecret });
    }

    /** The intent as the browser may see it. Resolves to {paymentIntent} or {error}. */
    async retrievePaymentIntent(clientSecret) {
      const address = new URL(`${API}/v1/payment_intents/${intentId(clientSecret)}`);
      address.searchParams.set('client_secret', clientSecret);
      try {
        const answer = await fetch(address, { headers: { authorization: `Bearer ${this.#key}` }, credentials: 'omit' });
        const value = await answer.json();
        return answer.ok ? { paymentIntent: value } : { error: value.error };
      } catch {
        return { error: { type: 'api_connection_error', message: 'The payment provider could not be reached.' } };
      }
    }

    #concluded(answer, { redirect, returnUrl, clientSecret }) {
      if (answer.error) return answer;
      const intent = answer.paymentIntent;
      if (intent.status === 'requires_action') {
        const token = intent.next_action.redirect_to_url.url.split('/').pop();
        return leaveFor(`${BASE}/3ds/${token}`);
      }
      return redirect === 'always' ? leaveFor(returnAddress(returnUrl, intent, clientSecret)) : answer;
    }
  }

  window.Stripe = function Stripe(publishableKey) {
    check(typeof publishableKey === 'string' && publishableKey !== '', 'Missing value for Stripe(): apiKey should be a string.');
    check(!/^(sk|rk)_/.test(publishableKey), 'You should not use your secret key with Stripe.js. Use the publishable key.');
    check(!publishableKey.startsWith('pk_live_'), 'This is the offline sandbox of Stripe: it refuses live keys. Load the script from js.stripe.com instead.');
    check(publishableKey.startsWith('pk_test_'), 'Invalid value for Stripe(): apiKey should begin with pk_test_.');
    return new StripeStandIn(publishableKey);
  };
  window.Stripe.version = 'offline sandbox';
})();
