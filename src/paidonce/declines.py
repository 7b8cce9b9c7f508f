"""What a buyer reads when a payment is declined: what happened to the money, and what to do next."""

from __future__ import annotations

from paidonce.gateways.base import DeclineCode

_NOT_CHARGED = "You have not been charged."
_ANOTHER_WAY = "Try another card or another way to pay."

# No sentence tells more than the buyer's bank would: "stolen" or "fraud" never appears here.
_SENTENCES: dict[DeclineCode, str] = {
    DeclineCode.INSUFFICIENT_FUNDS: f"Your card was declined for insufficient funds. {_NOT_CHARGED} {_ANOTHER_WAY}",
    DeclineCode.CARD_DECLINED: (
        f"Your bank declined the card. {_NOT_CHARGED} Try another card or another way to pay, or ask your bank why."
    ),
    DeclineCode.CARD_EXPIRED: (
        f"This card has expired. {_NOT_CHARGED} Check the expiry date, or use another card or another way to pay."
    ),
    DeclineCode.WRONG_NUMBER: (
        f"The card number is not right. {_NOT_CHARGED} Check the number and try again, or use another card."
    ),
    DeclineCode.WRONG_CVC: (
        f"The card's security code is not right. {_NOT_CHARGED} Check the three or four digits and try again."
    ),
    DeclineCode.AUTHENTICATION_FAILED: (
        f"Your bank could not confirm that it was you. {_NOT_CHARGED} Try again, or use another way to pay."
    ),
    DeclineCode.LIMIT_EXCEEDED: (
        f"This payment is over a limit of your card or account. {_NOT_CHARGED} {_ANOTHER_WAY}"
    ),
    DeclineCode.INSTRUMENT_DECLINED: (
        f"The card or bank account you chose was declined. {_NOT_CHARGED} Try again and choose another one."
    ),
    DeclineCode.APPROVAL_NEEDED: (
        f"The payment still needs your approval. {_NOT_CHARGED} Start the payment again and approve it."
    ),
    DeclineCode.PROCESSING_ERROR: (
        f"The payment service could not process this payment. {_NOT_CHARGED} "
        "Try again in a moment, or use another way to pay."
    ),
    DeclineCode.REFUSED: f"This payment was refused. {_NOT_CHARGED} Please use another way to pay.",
}


def buyer_sentence(code: DeclineCode) -> str:
    """The sentence for `code`: what happened to the money, then what to do next. Never the gateway's own words."""
    return _SENTENCES[code]
