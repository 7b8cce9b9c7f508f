// Takes the buyer on to the page that the template named, once nothing is left to do here.
for (const ways of document.querySelectorAll('payment-methods[data-next]')) {
  for (const name of ['paid', 'pending']) ways.addEventListener(name, () => location.assign(ways.dataset.next));
}
