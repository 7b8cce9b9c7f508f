"""The test cards and test payment methods, as data (https://docs.stripe.com/testing)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from paidonce.gateways.stripe.sandbox.replies import Form, SandboxError

_DECLINED = "Your card was declined."


@dataclass(frozen=True, slots=True)
class Refusal:
    """How the issuer says no."""

    code: str
    message: str
    decline_code: str | None = None
    advice_code: str | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """What a payment with this card does.

    `fate` is what happens a day later: `dispute`, `inquiry`, `refund_fails` (a refund that had succeeded) or
    `refund_pends` (a refund that waits until then).
    """

    number: str
    brand: str = "visa"
    refusal: Refusal | None = None
    three_d_secure: bool = False
    processing: bool = False
    fate: str | None = None


_INSUFFICIENT = Refusal("card_declined", "Your card has insufficient funds.", "insufficient_funds", "try_again_later")
_GENERIC = Refusal("card_declined", _DECLINED, "generic_decline", "try_again_later")
_NOT_A_TEST_CARD = Refusal(
    "card_declined",
    "Your card was declined. Your request was in test mode, but used a non test card. "
    "For a list of valid test cards, visit: https://stripe.com/docs/testing.",
    "test_mode_live_card",
)

CARDS = {
    card.number: card
    for card in (
        Card("4242424242424242"),
        Card("5555555555554444", brand="mastercard"),
        Card("378282246310005", brand="amex"),
        Card("4000000000009995", refusal=_INSUFFICIENT),
        Card("4000000000000002", refusal=_GENERIC),
        Card("4000000000009987", refusal=Refusal("card_declined", _DECLINED, "lost_card", "do_not_try_again")),
        Card("4000000000009979", refusal=Refusal("card_declined", _DECLINED, "stolen_card", "do_not_try_again")),
        Card(
            "4000000000006975", refusal=Refusal("card_declined", _DECLINED, "card_velocity_exceeded", "try_again_later")
        ),
        Card("4000000000000069", refusal=Refusal("expired_card", "Your card has expired.", None, "do_not_try_again")),
        Card("4000000000000127", refusal=Refusal("incorrect_cvc", "Your card's security code is incorrect.")),
        Card(
            "4000000000000119",
            refusal=Refusal(
                "processing_error", "An error occurred while processing your card. Try again in a little bit."
            ),
        ),
        Card("4000002500003155", three_d_secure=True),
        Card("4000008260003178", three_d_secure=True, refusal=_INSUFFICIENT),
        Card("4000000000000259", fate="dispute"),
        Card("4000000000001976", fate="inquiry"),
        Card("4000000000005126", fate="refund_fails"),
        Card("4000000000007726", fate="refund_pends"),
        # Of the twin alone: Stripe's own slow payments are bank debits, which its card form can't take.
        Card("4000000000007007", processing=True),
    )
}

# For confirmations without a browser. The bank debit stays in `processing` for days, as real ones do.
TOKENS = {
    "pm_card_visa": CARDS["4242424242424242"],
    "pm_card_mastercard": CARDS["5555555555554444"],
    "pm_card_amex": CARDS["378282246310005"],
    "pm_card_visa_chargeDeclined": CARDS["4000000000000002"],
    "pm_card_visa_chargeDeclinedInsufficientFunds": CARDS["4000000000009995"],
    "pm_card_visa_chargeDeclinedLostCard": CARDS["4000000000009987"],
    "pm_card_visa_chargeDeclinedStolenCard": CARDS["4000000000009979"],
    "pm_card_visa_chargeDeclinedVelocityLimitExceeded": CARDS["4000000000006975"],
    "pm_card_chargeDeclinedExpiredCard": CARDS["4000000000000069"],
    "pm_card_chargeDeclinedIncorrectCvc": CARDS["4000000000000127"],
    "pm_card_chargeDeclinedProcessingError": CARDS["4000000000000119"],
    "pm_card_authenticationRequired": CARDS["4000002500003155"],
    "pm_card_createDispute": CARDS["4000000000000259"],
    "pm_card_createDisputeInquiry": CARDS["4000000000001976"],
    "pm_card_refundFail": CARDS["4000000000005126"],
    "pm_card_pendingRefund": CARDS["4000000000007726"],
    "pm_usBankAccount_processing": Card("000123456789", brand="us_bank_account", processing=True),
}


def card_from_data(data: Form, *, year: int, month: int) -> tuple[Card, int, int]:
    """The card typed into the form, with its expiry month and year.

    Raises `SandboxError` 402 for a number, date or security code that can't be right; nothing was attempted then.
    """
    number = re.sub(r"\s", "", str(data.get("number", "")))
    if not re.fullmatch(r"\d{12,19}", number, re.ASCII) or not _passes_luhn(number):
        raise _card_error("incorrect_number", "Your card number is incorrect.", "number")
    card = CARDS.get(number) or Card(number, refusal=_NOT_A_TEST_CARD)
    until = _expiry(data)
    if until < (year, month):
        raise _card_error("invalid_expiry_year", "Your card's expiration year is invalid.", "exp_year")
    digits = 4 if card.brand == "amex" else 3
    if not re.fullmatch(rf"\d{{{digits}}}", str(data.get("cvc", "")), re.ASCII):
        raise _card_error("invalid_cvc", "Your card's security code is invalid.", "cvc")
    return card, until[1], until[0]


def card_from_token(token: str) -> Card:
    """The card behind a test payment method such as `pm_card_visa`. Raises `SandboxError` for an unknown one."""
    if token not in TOKENS:
        raise SandboxError(400, f"No such PaymentMethod: '{token}'", code="resource_missing", param="payment_method")
    return TOKENS[token]


def _expiry(data: Form) -> tuple[int, int]:
    month, year = str(data.get("exp_month", "")), str(data.get("exp_year", ""))
    if not re.fullmatch(r"0?[1-9]|1[0-2]", month, re.ASCII):
        raise _card_error("invalid_expiry_month", "Your card's expiration month is invalid.", "exp_month")
    if not re.fullmatch(r"(20)?\d\d", year, re.ASCII):
        raise _card_error("invalid_expiry_year", "Your card's expiration year is invalid.", "exp_year")
    return 2000 + int(year) % 100, int(month)


def _card_error(code: str, message: str, param: str) -> SandboxError:
    return SandboxError(402, message, type="card_error", code=code, param=param)


def _passes_luhn(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
