// The whole front end. It talks to the shop's API from another origin; the shop lists this page's origin in
// PAIDONCE_ALLOWED_ORIGINS, and the browser sends the buyer's cookie along because of `credentials: 'include'`.

const SHOP = new URL(document.querySelector('#payments').src).origin;
const $ = (id) => document.getElementById(id);

$('here').textContent = location.host;
$('shop').textContent = new URL(SHOP).host;

async function api(method, path, body) {
  const answer = await fetch(SHOP + path, {
    method,
    credentials: 'include',
    headers: body && { 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  const value = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.detail), { code: value.code });
  return value;
}

// Amounts come in minor units, of which a currency may have a hundred, a thousand, or none.
function price(minor, currency) {
  const format = new Intl.NumberFormat('en', { style: 'currency', currency });
  return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
}

function show(section) {
  for (const one of document.querySelectorAll('main > section')) one.hidden = one.id !== section;
}

// The order stands in the address, so that a reload, and the way back from a bank, find it again.
async function start() {
  $('trouble').textContent = '';
  const order = new URLSearchParams(location.search).get('order');
  await (order ? checkOut(order) : choose());
}

async function choose() {
  await api('GET', '/api/orders'); // Raises not_signed_in before anything is chosen.
  const products = await api('GET', '/api/products');
  $('products').replaceChildren(...products.map(productItem));
  show('choose');
}

function productItem(product) {
  const picture = new Image(96, 96);
  picture.crossOrigin = 'anonymous'; // The shop lends its pictures to listed front ends only.
  picture.src = SHOP + product.image;
  picture.alt = '';
  const name = document.createElement('b');
  name.textContent = product.name;
  const button = document.createElement('button');
  button.textContent = `Buy for ${price(product.price, product.currency)}`;
  button.setAttribute('aria-label', `Buy ${product.name} for ${price(product.price, product.currency)}`);
  button.addEventListener('click', () => attempt(() => buy(product.sku)));
  const item = document.createElement('li');
  item.append(picture, name, button);
  return item;
}

async function buy(sku) {
  const order = await api('POST', '/api/orders', { lines: [{ sku, quantity: 1 }] });
  history.pushState(null, '', `?order=${order.id}`);
  await checkOut(order.id);
}

async function checkOut(id) {
  const order = await api('GET', `/api/orders/${id}`);
  $('total').textContent = price(order.total, order.currency);
  $('what').textContent = `${order.lines.map((line) => line.name).join(', ')} · order ${order.number}`;
  $('done').textContent = '';
  const methods = document.createElement('payment-methods');
  methods.setAttribute('order', id);
  methods.setAttribute('api-base', SHOP);
  methods.addEventListener('paid', () => { $('done').textContent = `Order ${order.number} is paid.`; });
  // The element has said why: the money takes its time, or it came too late and goes back.
  methods.addEventListener('pending', () => { $('done').textContent = `Order ${order.number} is not paid yet.`; });
  methods.addEventListener('error', ({ detail }) => { if (detail.code === 'not_signed_in') show('sign-in'); });
  $('checkout').replaceChildren(methods);
  show('pay');
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    if (error.code === 'not_signed_in') show('sign-in');
    else $('trouble').textContent = error.message;
  }
}

document.querySelector('#sign-in form').addEventListener('submit', (event) => {
  event.preventDefault();
  attempt(async () => {
    await api('POST', '/api/session', Object.fromEntries(new FormData(event.target)));
    await start();
  });
});
addEventListener('popstate', () => attempt(start));
attempt(start);
