"""The offline twin of Stripe: the calls that our client makes, the test cards, Stripe.js and its pages."""

from paidonce.gateways.stripe.sandbox.core import StripeSandbox

__all__ = ["StripeSandbox"]
