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
 *
 * The elements live in the page's light DOM, since the vendors' fields and buttons do; what they look like by default
 * stands in a cascade layer, so that whatever the page says wins. docs/front-end.md describes them for front ends.
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
  paid: 'Paid. Thank you!',
  pending: 'Your payment is being confirmed. You do not have to do anything.',
  canceled: 'Nothing was paid, and you have not been charged. Choose how to pay whenever you like.',
  loading: 'Loading the payment form…',
  returned: 'Finding out what became of your payment…',
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

/**
 * Call the API. `base` is the address below which it lies, empty for the page's own origin; another origin gets the
 * buyer's cookie as well, if it lists this page's. Resolves to the JSON answer; throws ApiProblem for everything else.
 */
export async function request(method, path, body, base = '') {
  const answer = await send(method, base + path, body);
  if (answer.status === 204) return null;
  const value = await answer.json().catch(() => null);
  if (answer.ok && value !== null) return value;
  if (value === null) console.warn(`paidonce: ${base || location.origin} has no such API. Is api-base right?`);
  throw new ApiProblem({
    code: value?.code ?? 'unreadable',
    status: answer.status,
    message: value?.detail ?? TEXT.unreadable,
    retryAfter: value?.retry_after ?? null,
  });
}

let tokenOf = null;

/**
 * For front ends on foreign domains, where no cookie of the shop arrives: `getToken` gives, or promises, the bearer token
 * that each call to the API carries from now on. Call it before there is an element on the page.
 */
export function authorizeBy(getToken) {
  tokenOf = getToken;
}

async function bearer() {
  return { authorization: `Bearer ${await tokenOf()}` };
}

async function send(method, address, body) {
  const isOurs = new URL(address, location.href).origin === location.origin;
  // Without a body no type: then a browser need not ask another origin for leave first.
  const type = body === undefined ? {} : { 'content-type': 'application/json' };
  try {
    return await fetch(address, {
      method,
      headers: { accept: 'application/json', ...type, ...(isOurs ? forgeryToken() : {}), ...(tokenOf ? await bearer() : {}) },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: tokenOf ? 'omit' : isOurs ? 'same-origin' : 'include',
      redirect: 'error',
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    });
  } catch {
    throw new ApiProblem({ code: 'network', status: 0, message: TEXT.network });
  }
}

/** The token that the page's own framework demands of its forms, if the page says one; no other origin gets to see it. */
function forgeryToken() {
  const said = document.querySelector('[data-csrf-token]');
  return said ? { [said.dataset.csrfHeader ?? 'X-CSRF-Token']: said.dataset.csrfToken } : {};
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

/** What a completed attempt means for the page: 'paid', 'pending', 'declined', or 'canceled' by who turned back. */
function outcomeOf(result) {
  if (result.order_status === 'paid') return 'paid';
  // Money that arrived for an order which is not paid by it goes back: nobody is thanked for it, or asked to pay again.
  if (result.status === 'captured') return 'pending';
  if (result.recoverable || result.status === 'failed') return 'declined';
  // A buyer who has gone to pay elsewhere (a transfer, say) has done his part: his order is pending.
  if (result.status === 'awaiting_buyer' && result.order_status === 'pending') return 'pending';
  return ['awaiting_buyer', 'canceled'].includes(result.status) ? 'canceled' : 'pending';
}

const TONES = { paid: 'success', pending: 'info', declined: 'error', canceled: 'info' };

/** Whether nothing more is to be paid, so that the form stays shut. Who pays elsewhere may still choose another way. */
function isOver(outcome, result) {
  return outcome === 'paid' || (outcome === 'pending' && result.status !== 'awaiting_buyer');
}

// ── Coming back from a redirect ──────────

const PAYMENT = 'payment=';
const ID = /^[a-z]{2,8}_[0-9a-z]{10,40}$/;

// At once, before other scripts of the page read the address: gateways put client secrets there.
let returned = takeReturn();

/** The payment that a redirect brought back; it and whatever the gateway added behind it leave the address bar. */
function takeReturn() {
  const address = new URL(location.href);
  const parts = address.search.slice(1).split('&');
  // By the id and not by the name alone: the page may have a parameter `payment` of its own before it.
  const at = parts.findIndex((part) => part.startsWith(PAYMENT) && ID.test(part.slice(PAYMENT.length)));
  if (at < 0) return null;
  address.search = parts.slice(0, at).join('&');
  // A return address has no fragment, so one that is there now is the gateway's as well.
  address.hash = '';
  history.replaceState(history.state, '', address);
  return parts[at].slice(PAYMENT.length);
}

/**
 * The page's own address as a gateway's redirect may use it. The server wants `payment` at the end of the query; another
 * parameter of that name is left out, so that whoever reads the address finds one payment in it.
 */
function thisPage() {
  const { origin, pathname, search } = location;
  const kept = search.slice(1).split('&').filter((part) => part !== '' && !/^payment(=|$)/.test(part));
  const before = kept.map((part) => `${part}&`).join('');
  const safe = `${origin}${pathname}?${before}`.replace(/[{}|^`\\]/g, encodeURIComponent);
  return `${safe}${PAYMENT}{payment}`;
}

const lookedUp = new Map();

/** The returned payment, asked once however many elements want to know whether it is theirs. */
function lookUp(id, base) {
  const key = `${base} ${id}`;
  if (!lookedUp.has(key)) {
    const asked = request('GET', `/api/payments/${id}`, undefined, base);
    // A failure is not kept: the buyer may sign in and come back to it.
    asked.catch(() => lookedUp.delete(key));
    lookedUp.set(key, asked);
  }
  return lookedUp.get(key);
}

// ── Looks ──────────

// A constructed sheet needs no exception in the page's Content-Security-Policy.
const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
@layer paidonce {
  .payment-body, .payment-message { font-family: var(--paidonce-font, inherit); color: var(--paidonce-text, inherit); }
  .payment-body { min-height: var(--paidonce-form-height, 6.5rem); }
  .payment-body .button { box-sizing: border-box; min-height: 46px; padding: .55rem 1.35rem; cursor: pointer;
    border: 1px solid transparent; border-radius: var(--paidonce-radius, 8px); font: inherit; font-weight: 600;
    background: var(--paidonce-surface, light-dark(#eef0ef, #262d2a)); color: inherit; }
  .payment-body .button-primary { background: var(--paidonce-accent, light-dark(#1d5c47, #84d3b1));
    color: var(--paidonce-on-accent, light-dark(#fff, #0b1d15)); }
  .payment-body .button-quiet { border-color: currentcolor; background: transparent; }
  .payment-body .button[aria-disabled=true] { opacity: .55; cursor: default; }
  .payment-body :focus-visible, .payment-message :focus-visible {
    outline: 3px solid var(--paidonce-focus, light-dark(#1a5fb4, #8ab8ff)); outline-offset: 3px; }
  .payment-message { min-height: var(--paidonce-message-height, 4.5rem); margin-top: .75rem; }
  .payment-message p { display: flex; gap: .65rem; margin: 0; border-radius: var(--paidonce-radius, 8px); }
  .payment-message p:not(:empty) { padding: .7rem .9rem;
    background: var(--paidonce-surface, light-dark(#eef0ef, #262d2a)); }
  .payment-message [role=alert]:not(:empty) { background: var(--paidonce-danger-surface, light-dark(#fcebe8, #3a1c19));
    color: var(--paidonce-danger, light-dark(#9c2419, #ffb0a6)); }
  .payment-message[data-tone=success] [role=status]:not(:empty) {
    background: var(--paidonce-success-surface, light-dark(#e4efe9, #1d342a));
    color: var(--paidonce-success, light-dark(#154534, #84d3b1)); }
  [aria-busy=true] > .payment-message [role=status]:not(:empty)::before { content: ""; flex: none; width: 1.1em;
    height: 1.1em; margin-top: .2em; border: 2px solid currentcolor; border-right-color: transparent;
    border-radius: 50%; animation: paidonce-turn .8s linear infinite; }
  .payment-body iframe { color-scheme: light; }
  /* The vendors' forms are made for light pages; on a dark one they get a light ground unless the page gives another. */
  @media (prefers-color-scheme: dark) {
    .payment-body iframe { border-radius: 4px; background: var(--paidonce-field, #fff);
      box-shadow: 0 0 0 8px var(--paidonce-field, #fff); }
  }
  [locked] > .payment-body, [done] > .payment-body { opacity: .55; }
  @keyframes paidonce-turn { to { transform: rotate(1turn); } }
  @media (prefers-reduced-motion: reduce) {
    [aria-busy=true] > .payment-message [role=status]::before { animation: none; }
  }
}`);

/** While one of `elements()` inside `container` pays, the others wait, so that nobody pays in two ways at once. */
export function oneAtATime(container, elements) {
  container.addEventListener('busy', (event) => {
    const working = event.target;
    const isPaying = event.detail.busy && !event.detail.loading;
    for (const other of elements()) {
      if (other !== working) other.toggleAttribute('locked', isPaying);
    }
  });
}

export class PaymentElement extends HTMLElement {
  #busy = false;
  #loading = false;
  #label = null;
  #done = false;
  #mounts = 0;
  paymentId = null;
  /** The answer to the shop's own challenge (a CAPTCHA, say), set by the page after the error `challenge_needed`. */
  challenge = null;

  /** The name on the wire; each subclass answers its own. */
  get gateway() {
    throw new Error('a payment component has to say its gateway');
  }

  /** The id of the order that this page pays. */
  get order() {
    return this.getAttribute('order');
  }

  // Frameworks that find a property set it instead of the attribute.
  set order(id) {
    this.setAttribute('order', id);
  }

  /** The address below which the API lies; empty for the page's own origin. */
  get apiBase() {
    return (this.getAttribute('api-base') ?? '').replace(/\/+$/, '');
  }

  /** Where a subclass puts its fields and buttons. The fallback markup of the server is replaced at the first use. */
  get body() {
    this.#build();
    return this.querySelector(':scope > .payment-body');
  }

  /** The absolute address that a redirect comes back to, with the payment's id filled in. */
  returnUrl(paymentId = this.paymentId) {
    return this.#returnUrl.replaceAll('{payment}', encodeURIComponent(paymentId));
  }

  // This very page, unless the attribute names another one.
  get #returnUrl() {
    return this.getAttribute('return-url') ?? thisPage();
  }

  connectedCallback() {
    if (!document.adoptedStyleSheets.includes(SHEET)) document.adoptedStyleSheets.push(SHEET);
    this.#build();
    if (this.order) this.reload();
  }

  static observedAttributes = ['order', 'api-base'];

  attributeChangedCallback(_name, before, now) {
    // Frameworks may insert an element first and tell it its order afterwards, or hand it another one.
    if (before !== now && this.#built && this.isConnected && this.order) this.reload();
  }

  /** Begin anew: finish the payment that a redirect brought back, if it is this element's, else show the form. */
  async reload() {
    // A vendor's frame that was taken out of the page is dead, so a re-inserted element starts from nothing as well.
    this.body.replaceChildren();
    this.#loading = false;
    this.#shut(false);
    this.paymentId = null;
    const turn = this.#nextMount();
    const ended = await this.#concludeReturn(turn);
    const isStill = turn === this.#mounts && this.isConnected;
    if (isStill && !this.#done && ended !== 'failed') await this.#tryMount(ended ? null : TEXT.loading);
  }

  /** Load the vendor's script and fill `this.body`. Called once, and again if the buyer asks to after a failure. */
  async mount() {}

  /** Open (or find again) this order's payment; resolves to {id, gateway, status, client}. Throws ApiProblem. */
  async start() {
    const path = `/api/orders/${encodeURIComponent(this.order)}/payments`;
    // The page may know only the element around; an answer is good for one start.
    const asked = this.challenge ? this : this.closest('payment-methods');
    const challenge = asked?.challenge ? { challenge: asked.challenge } : {};
    if (asked) asked.challenge = null;
    const payment = await this.call('POST', path, { gateway: this.gateway, return_url: this.#returnUrl, ...challenge });
    this.paymentId = payment.id;
    return payment;
  }

  /** Call the API that this element belongs to. Throws ApiProblem. */
  call(method, path, body) {
    return request(method, path, body, this.apiBase);
  }

  /** Let the shop ask the gateway what became of the payment. Safe to repeat, so lost answers are asked for again. */
  async complete(paymentId = this.paymentId) {
    const path = `/api/payments/${encodeURIComponent(paymentId)}/complete`;
    for (const delay of COMPLETE_RETRY_DELAYS_MS) {
      try {
        return await this.call('POST', path, {});
      } catch (error) {
        if (!worthRepeating(error)) throw error;
        await pause(Math.max(delay, 1000 * (error.retryAfter ?? 0)));
      }
    }
    return this.call('POST', path, {});
  }

  /** The buyer turned back: end this attempt. The order and the basket stay as they are. */
  async cancelPayment(paymentId = this.paymentId) {
    if (!paymentId) return null;
    return this.call('POST', `/api/payments/${encodeURIComponent(paymentId)}/cancel`, {});
  }

  /**
   * Show what `complete` answered and tell the page by an event: paid, pending, declined or canceled. Its detail is the
   * answer with the ids. Once it is over the form stays shut, so that nobody pays a second time.
   */
  finish(result) {
    const outcome = outcomeOf(result);
    this.#shut(isOver(outcome, result));
    this.setBusy(false);
    this.say(result.message || TEXT[outcome], TONES[outcome]);
    this.#tell(outcome, { payment: this.paymentId, gateway: this.gateway, order: this.order, ...result });
    return outcome;
  }

  /** The buyer turned back without paying: say so and tell the page by a `canceled` event. The payment stays open. */
  turnedBack(message = TEXT.canceled) {
    this.setBusy(false);
    this.say(message, 'info');
    this.#tell('canceled', { payment: this.paymentId, gateway: this.gateway, order: this.order, message });
  }

  /**
   * Show an error and tell the page by an `error` event with {code, message}. Like the platform's own error events it
   * does not bubble, or it would reach window.onerror and whoever collects a page's crashes there.
   */
  fail(error) {
    const known = error instanceof ApiProblem;
    const detail = { code: known ? error.code : 'unexpected', message: known ? error.message : TEXT.unexpected };
    if (!known) console.warn('paidonce: the payment form failed:', error);
    this.setBusy(false);
    this.say(detail.message, 'error');
    this.#tell('error', detail, { bubbles: false });
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
    for (const button of this.#buttons()) this.#disable(button, on || this.#done);
    if (on && label) this.say(label, 'info');
    else if (!on && this.#label === this.#polite.textContent) this.say('', 'info');
    this.#label = on ? label : null;
    this.#tell('busy', { busy: on || this.#done, loading: this.#loading });
  }

  get busy() {
    return this.#busy;
  }

  /** Append a vendor's script once. Rejects with a readable ApiProblem if it is blocked or takes too long. */
  loadScript(url) {
    if (!scripts.has(url)) scripts.set(url, appendScript(url));
    return scripts.get(url);
  }

  /**
   * What the page set one of the theming properties to, as CSS has it in the end (`rgb(…)` for a colour); null if it
   * left it alone. For vendors' forms, which can't see the page's properties.
   */
  themed(name, property = 'color') {
    if (!getComputedStyle(this).getPropertyValue(name).trim()) return null;
    const probe = document.createElement('span');
    probe.style.setProperty(property, `var(${name})`);
    this.body.append(probe);
    const value = getComputedStyle(probe).getPropertyValue(property);
    probe.remove();
    return value;
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
    if (!this.#busy && !this.#done && !this.hasAttribute('locked')) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  // An element may hold others, which look after their own.
  #buttons() {
    return [...this.querySelectorAll('button')].filter((button) => button.closest('[aria-busy]') === this);
  }

  #disable(button, on) {
    if (on) button.setAttribute('aria-disabled', 'true');
    else button.removeAttribute('aria-disabled');
  }

  #nextMount() {
    this.#mounts += 1;
    return this.#mounts;
  }

  async #tryMount(label) {
    const turn = this.#nextMount();
    this.#loading = true;
    this.setBusy(true, label);
    try {
      await this.mount();
      if (turn === this.#mounts && this.#label === label) this.setBusy(false);
    } catch (error) {
      // What became of a form that was taken out of the page meanwhile is of no interest.
      if (turn === this.#mounts) this.#failToLoad(error);
    } finally {
      if (turn === this.#mounts) this.#loading = false;
    }
  }

  #failToLoad(error) {
    this.fail(error);
    this.#offerRetry();
  }

  /** Finish the payment that a redirect brought back to this page, if it is this element's. Resolves to its outcome. */
  async #concludeReturn(turn) {
    if (returned === null) return null;
    try {
      const payment = await lookUp(returned, this.apiBase);
      const isMine = payment.order_id === this.order && [payment.gateway, null].includes(this.gateway);
      if (!isMine || returned !== payment.id || turn !== this.#mounts) return null;
      this.setBusy(true, TEXT.returned);
      this.paymentId = returned;
      const result = await this.complete();
      returned = null;
      return this.finish({ ...result, gateway: payment.gateway });
    } catch (error) {
      // Nobody's payment, or not this buyer's: nothing to finish, here or in another element.
      if (error.status === 404) {
        returned = null;
        return null;
      }
      // Not the form: whoever may have paid is not asked to pay, but may ask again what became of it.
      this.#failToLoad(error);
      return 'failed';
    }
  }

  #shut(on) {
    this.#done = on;
    this.toggleAttribute('done', on);
  }

  #tell(name, detail, { bubbles = true } = {}) {
    this.dispatchEvent(new CustomEvent(name, { bubbles, composed: bubbles, detail }));
  }

  #offerRetry() {
    const again = document.createElement('button');
    again.type = 'button';
    again.className = 'button button-quiet';
    again.textContent = 'Try loading it again';
    again.addEventListener('click', () => {
      this.reload();
    });
    this.body.replaceChildren(again);
  }
}
