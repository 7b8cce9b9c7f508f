/* The card frame: reads the card, checks it, and confirms at the gateway. Nothing typed here leaves for the shop's page. */
(() => {
  'use strict';

  const base = location.origin + location.pathname.replace(/\/frame\/card$/, '');
  const API = location.origin === 'https://js.stripe.com' ? 'https://api.stripe.com' : base;
  const UNREACHABLE = {
    type: 'api_connection_error',
    message: 'We are experiencing issues connecting to our payments provider. You have not been charged. Please check your internet connection and try again.',
  };

  const field = (name) => document.getElementById(name);
  const digits = (text) => text.replace(/\D/g, '');
  let port = null;
  let publishableKey = '';

  const tell = (event, detail = {}) => port?.postMessage({ event, detail });

  function passesLuhn(number) {
    const sum = [...number].reverse().reduce((total, digit, place) => {
      const value = Number(digit) * (1 + (place % 2));
      return total + (value > 9 ? value - 9 : value);
    }, 0);
    return sum % 10 === 0;
  }

  const isAmex = (number) => /^3[47]/.test(number);

  function numberProblem() {
    const number = digits(field('number').value);
    if (number.length < (isAmex(number) ? 15 : 16)) return ['incomplete_number', 'Your card number is incomplete.'];
    return passesLuhn(number) ? null : ['invalid_number', 'Your card number is invalid.'];
  }

  function expiryProblem() {
    const text = digits(field('expiry').value);
    const [month, year] = [Number(text.slice(0, 2)), 2000 + Number(text.slice(2))];
    if (text.length < 4 || month < 1 || month > 12) return ['incomplete_expiry', 'Your card’s expiration date is incomplete.'];
    const today = new Date();
    const isPast = year * 12 + month < today.getFullYear() * 12 + today.getMonth() + 1;
    return isPast ? ['invalid_expiry_year_past', 'Your card’s expiration date is in the past.'] : null;
  }

  function cvcProblem() {
    const wanted = isAmex(digits(field('number').value)) ? 4 : 3;
    const isComplete = digits(field('cvc').value).length === wanted;
    return isComplete ? null : ['incomplete_cvc', 'Your card’s security code is incomplete.'];
  }

  const PROBLEMS = { number: numberProblem, expiry: expiryProblem, cvc: cvcProblem };

  function show(name, problem) {
    field(`${name}-error`).textContent = problem ? problem[1] : '';
    if (problem) field(name).setAttribute('aria-invalid', 'true');
    else field(name).removeAttribute('aria-invalid');
  }

  /** Check every field, show what is wrong, and go to the first of them. */
  function validate() {
    const found = Object.entries(PROBLEMS).map(([name, problem]) => [name, problem()]);
    for (const [name, problem] of found) show(name, problem);
    const first = found.find(([, problem]) => problem);
    if (!first) return { selectedPaymentMethod: 'card' };
    field(first[0]).focus();
    return { error: { type: 'validation_error', code: first[1][0], message: first[1][1] } };
  }

  async function call(method, path, params) {
    const form = new URLSearchParams(params);
    const address = `${API}${path}${method === 'GET' ? `?${form}` : ''}`;
    try {
      const answer = await fetch(address, {
        method,
        headers: { authorization: `Bearer ${publishableKey}` },
        body: method === 'GET' ? undefined : form,
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
      });
      const value = await answer.json();
      return answer.ok ? { paymentIntent: value } : { error: value.error };
    } catch {
      return { error: UNREACHABLE };
    }
  }

  function confirm({ id, clientSecret, returnUrl }) {
    const expiry = digits(field('expiry').value);
    return call('POST', `/v1/payment_intents/${id}/confirm`, {
      client_secret: clientSecret,
      return_url: returnUrl,
      'payment_method_data[type]': 'card',
      'payment_method_data[card][number]': digits(field('number').value),
      'payment_method_data[card][exp_month]': expiry.slice(0, 2),
      'payment_method_data[card][exp_year]': expiry.slice(2),
      'payment_method_data[card][cvc]': digits(field('cvc').value),
    });
  }

  const ACTIONS = {
    validate,
    focus: () => field('number').focus(),
    retrieve: ({ id, clientSecret }) => call('GET', `/v1/payment_intents/${id}`, { client_secret: clientSecret }),
    confirm: async (details) => {
      const locked = (on) => document.querySelectorAll('input').forEach((input) => { input.readOnly = on; });
      locked(true);
      try {
        return await confirm(details);
      } finally {
        locked(false);
      }
    },
  };

  async function answer({ data }) {
    const result = (await ACTIONS[data.action]?.(data.details)) ?? {};
    port.postMessage({ id: data.id, answer: result });
  }

  function changed() {
    const complete = Object.values(PROBLEMS).every((problem) => problem() === null);
    tell('change', { complete, empty: field('number').value === '', collapsed: false, value: { type: 'card' } });
  }

  const FORMATS = {
    number: (text) => digits(text).slice(0, 19).replace(/(\d{4})(?=\d)/g, '$1 '),
    expiry: (text) => digits(text).slice(0, 4).replace(/^(\d\d)(?=\d)/, '$1 / '),
    cvc: (text) => digits(text).slice(0, 4),
  };

  function fill(number) {
    field('number').value = FORMATS.number(number);
    field('expiry').value = '12 / 34';
    field('cvc').value = '123';
    for (const name of Object.keys(PROBLEMS)) show(name, null);
    changed();
  }

  for (const [name, format] of Object.entries(FORMATS)) {
    field(name).addEventListener('input', () => {
      // Formatting in the middle of the text would move the cursor away from where the buyer types.
      if (field(name).selectionEnd === field(name).value.length) field(name).value = format(field(name).value);
      show(name, null);
      changed();
    });
    field(name).addEventListener('blur', () => {
      if (field(name).value) show(name, PROBLEMS[name]());
      tell('blur');
    });
    field(name).addEventListener('focus', () => tell('focus'));
  }
  for (const button of document.querySelectorAll('[data-card]')) {
    button.addEventListener('click', () => fill(button.dataset.card));
  }
  field('card').addEventListener('submit', (event) => event.preventDefault());

  window.addEventListener('message', async (event) => {
    if (event.source !== window.parent || event.data?.type !== 'stripe-standin' || port) return;
    [port] = event.ports;
    publishableKey = event.data.publishableKey;
    port.onmessage = answer;
    const session = await call('GET', '/v1/elements/sessions', { type: 'deferred_intent' });
    if (session.error) return tell('loaderror', session.error);
    const main = document.querySelector('main');
    new ResizeObserver(() => tell('height', { height: Math.ceil(main.getBoundingClientRect().height) })).observe(main);
    return tell('ready');
  });
})();
