// Tells the shop's page what the buyer did, then closes the pop-up. Only the page at the named origin can read it.
const { news, order, payer, opener: origin } = document.currentScript.dataset;
if (window.opener && origin) {
  window.opener.postMessage({ paypalSandbox: news, orderId: order, payerId: payer }, origin);
  window.close();
}
