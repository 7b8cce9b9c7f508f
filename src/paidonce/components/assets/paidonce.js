/*
 * The base of every payment component: <stripe-payment>, <paypal-payment>, and the ones others add.
 *
 * A gateway's component extends PaymentElement and overrides two things: `gateway` (its name on the wire) and
 * `async mount()` (load the vendor's script, fill `this.body`). The rest is shared: talking to the shop, saying what
 * happened to eyes and screen readers, staying busy without a layout jump.
 *
 *   class ExamplePayment extends PaymentElement {
 *     get gateway() { return 'example'; }
 *     async mount() { await this.loadScript(this.getAttribute('script-url')); this.body.append(…); }
 *   }
 *   customElements.define('example-payment', ExamplePayment);
 *
 * The browser sends ids only. Amounts and states come from the server, which asks the gateway.
 */

const SCRIPT_TIMEOUT_MS = 20_000;
const REQUEST_TIMEOUT_MS = 40_000;
// How long to wait before `complete` is repeated: it is safe to repeat, and giving up would leave the buyer guessing.
const COMPLETE_RETRY_DELAYS_MS = [500, 1500, 4000];

const TEXT = {
  network: 'We could not reach the shop. Check your connection, then try again. You are never charged twice.',
  unreadable: 'The shop gave an answer that we could not read. Please try again; you are never charged twice.',
  script: 'This payment form could not be loaded. Check your connection or content blocker, then try again, or use the other way to pay.',
  unexpected: 'Something went wrong in this payment form. Please try again; you are never charged twice.',
  paid: 'Paid. Taking you to your order…',
  pending: 'Your payment is being confirmed. Taking you to your order…',
  declined: 'The payment did not go through, and you have not been charged. Please try again or pay another way.',
};

/** An answer that is not a success, as the shop's problem document says it; `code` is stable, `message` is for buyers. */
export class ApiProblem extends Error {
  constructor({ code, status, message, retryAfter = null }) {
    super(message);
    this.name = 'ApiProblem';
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Call the shop's own API. Resolves to the JSON answer; throws ApiProblem for everything else. */
export async function request(method, path, body) {
  const answer = await send(method, path, body);
  if (answer.status === 204) return null;
  const value = await answer.json().catch(() => null);
  if (answer.ok && value !== null) return value;
  throw new ApiProblem({
    code: value?.code ?? 'unreadable',
    status: answer.status,
    message: value?.detail ?? TEXT.unreadable,
    retryAfter: value?.retry_after ?? null,
  });
}

async function send(method, path, body) {
  try {
    return await fetch(path, {
      method,
      headers: { accept: 'application/json', 'content-type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'same-origin',
      redirect: 'error',
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    });
  } catch {
    throw new ApiProblem({ code: 'network', status: 0, message: TEXT.network });
  }
}

const scripts = new Map();

function appendScript(url) {
  return new Promise((resolve, reject) => {
    const script = document.createElement('script');
    const stop = (error) => {
      clearTimeout(timer);
      script.onload = script.onerror = null;
      if (!error) return resolve();
      script.remove();
      scripts.delete(url);
      reject(error);
    };
    const failure = () => stop(new ApiProblem({ code: 'script_blocked', status: 0, message: TEXT.script }));
    const timer = setTimeout(failure, SCRIPT_TIMEOUT_MS);
    script.src = url;
    script.async = true;
    script.onload = () => stop(null);
    script.onerror = failure;
    document.head.append(script);
  });
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function worthRepeating(error) {
  return error instanceof ApiProblem && [0, 429, 502, 503, 504].includes(error.status);
}

/** What a completed attempt means for the page: 'paid', 'pending' or 'declined'. */
function outcomeOf(result) {
  if (result.order_status === 'paid' || result.status === 'captured') return 'paid';
  if (result.recoverable) return 'declined';
  return ['processing', 'authorized', 'held', 'created'].includes(result.status) ? 'pending' : 'declined';
}

export class PaymentElement extends HTMLElement {
  #busy = false;
  #loading = false;
  #label = null;
  paymentId = null;

  /** The name on the wire; each subclass answers its own. */
  get gateway() {
    throw new Error('a payment component has to say its gateway');
  }

  /** The id of the order that this page pays. */
  get order() {
    return this.getAttribute('order');
  }

  /** Where a subclass puts its fields and buttons. The fallback markup of the server is replaced at the first use. */
  get body() {
    this.#build();
    return this.querySelector(':scope > .payment-body');
  }

  /** The absolute address that a redirect comes back to, with the payment's id filled in. */
  returnUrl(paymentId = this.paymentId) {
    return this.getAttribute('return-url').replaceAll('{payment}', encodeURIComponent(paymentId));
  }

  connectedCallback() {
    if (this.#built) return;
    this.#build();
    this.#tryMount();
  }

  /** Load the vendor's script and fill `this.body`. Called once, and again if the buyer asks to after a failure. */
  async mount() {}

  /** Open (or find again) this order's payment; resolves to {id, gateway, status, client}. Throws ApiProblem. */
  async start() {
    const path = `/api/orders/${encodeURIComponent(this.order)}/payments`;
    const payment = await request('POST', path, { gateway: this.gateway });
    this.paymentId = payment.id;
    return payment;
  }

  /** Let the shop ask the gateway what became of the payment. Safe to repeat, so lost answers are asked for again. */
  async complete(paymentId = this.paymentId) {
    const path = `/api/payments/${encodeURIComponent(paymentId)}/complete`;
    for (const delay of COMPLETE_RETRY_DELAYS_MS) {
      try {
        return await request('POST', path, {});
      } catch (error) {
        if (!worthRepeating(error)) throw error;
        await pause(Math.max(delay, 1000 * (error.retryAfter ?? 0)));
      }
    }
    return request('POST', path, {});
  }

  /** The buyer turned back: end this attempt. The order and the basket stay as they are. */
  async cancelPayment(paymentId = this.paymentId) {
    if (!paymentId) return null;
    return request('POST', `/api/payments/${encodeURIComponent(paymentId)}/cancel`, {});
  }

  /** Show what `complete` answered and tell the page, by a bubbling event: paid, pending or declined. */
  finish(result) {
    const outcome = outcomeOf(result);
    const tones = { paid: 'success', pending: 'info', declined: 'error' };
    // On the way to the order page the form stays busy, so that nobody pays a second time meanwhile.
    if (outcome === 'declined') this.setBusy(false);
    else this.setBusy(true, TEXT[outcome]);
    this.say(result.message || TEXT[outcome], tones[outcome]);
    this.dispatchEvent(new CustomEvent(outcome, { bubbles: true, detail: result }));
    return outcome;
  }

  /** Show an error and tell the page by an `error` event with {code, message}. It does not bubble to the window. */
  fail(error) {
    const known = error instanceof ApiProblem;
    const detail = { code: known ? error.code : 'unexpected', message: known ? error.message : TEXT.unexpected };
    if (!known) console.warn('paidonce: the payment form failed:', error);
    this.setBusy(false);
    this.say(detail.message, 'error');
    this.dispatchEvent(new CustomEvent('error', { bubbles: false, detail }));
    return detail;
  }

  /** Write into the live region; tone is info, error or success. Errors interrupt and take the focus. */
  say(message, tone = 'info') {
    this.#build();
    const box = this.querySelector(':scope > .payment-message');
    const [polite, alert] = box.children;
    const isError = tone === 'error';
    box.dataset.tone = message ? tone : 'none';
    polite.textContent = isError ? '' : message;
    alert.textContent = isError ? message : '';
    if (isError && message) alert.focus({ preventScroll: false });
  }

  /** While busy, buttons keep the focus but do nothing, and `label` is announced beside a spinner. */
  setBusy(on, label = null) {
    this.#build();
    this.#busy = on;
    this.setAttribute('aria-busy', String(on));
    for (const button of this.querySelectorAll('button')) this.#disable(button, on);
    if (on && label) this.say(label, 'info');
    else if (!on && this.#label === this.#polite.textContent) this.say('', 'info');
    this.#label = on ? label : null;
    this.dispatchEvent(new CustomEvent('busy', { bubbles: true, detail: { busy: on, loading: this.#loading } }));
  }

  get busy() {
    return this.#busy;
  }

  /** Append a vendor's script once. Rejects with a readable ApiProblem if it is blocked or takes too long. */
  loadScript(url) {
    if (!scripts.has(url)) scripts.set(url, appendScript(url));
    return scripts.get(url);
  }

  get #polite() {
    return this.querySelector(':scope > .payment-message > [role=status]');
  }

  get #built() {
    return this.querySelector(':scope > .payment-body') !== null;
  }

  #build() {
    if (this.#built) return;
    const body = document.createElement('div');
    body.className = 'payment-body';
    const message = document.createElement('div');
    message.className = 'payment-message';
    message.dataset.tone = 'none';
    const polite = document.createElement('p');
    polite.setAttribute('role', 'status');
    const alert = document.createElement('p');
    alert.setAttribute('role', 'alert');
    alert.tabIndex = -1;
    message.append(polite, alert);
    this.replaceChildren(body, message);
    for (const type of ['click', 'submit']) this.addEventListener(type, (event) => this.#guard(event), true);
  }

  // A disabled button would lose the keyboard's focus, so busy buttons are marked and their events are swallowed.
  #guard(event) {
    if (!this.#busy && !this.hasAttribute('locked')) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  #disable(button, on) {
    if (on) button.setAttribute('aria-disabled', 'true');
    else button.removeAttribute('aria-disabled');
  }

  async #tryMount() {
    this.#loading = true;
    this.setBusy(true, 'Loading the payment form…');
    try {
      await this.mount();
      if (this.#label !== null) this.setBusy(false);
    } catch (error) {
      this.fail(error);
      this.#offerRetry();
    } finally {
      this.#loading = false;
    }
  }

  #offerRetry() {
    const again = document.createElement('button');
    again.type = 'button';
    again.className = 'button button-quiet';
    again.textContent = 'Try loading it again';
    again.addEventListener('click', () => {
      this.body.replaceChildren();
      this.#tryMount();
    });
    this.body.replaceChildren(again);
  }
}
