"""The offline twin of PayPal: orders, payments, disputes, signed webhooks, and the approval page."""

from paidonce.gateways.paypal.sandbox.core import TOKEN_SECONDS, WEBHOOK_ID, PayPalSandbox
from paidonce.gateways.paypal.sandbox.shapes import MERCHANT_ID, PAYER_ID
from paidonce.gateways.paypal.sandbox.state import REQUEST_ID_SECONDS

__all__ = ["MERCHANT_ID", "PAYER_ID", "REQUEST_ID_SECONDS", "TOKEN_SECONDS", "WEBHOOK_ID", "PayPalSandbox"]
