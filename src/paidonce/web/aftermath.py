"""What happened to a buyer's money after paying, in plain words: refunds, disputes, and money that comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paidonce.aftersales import Dispute, Refund
from paidonce.states import OrderStatus
from paidonce.store import OrderView
from paidonce.web import views
from paidonce.web.models import Attempt


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the buyer; `tone` is `success`, `warn` or `info`."""

    tone: str
    text: str


def notes(order: OrderView, attempts: list[Attempt]) -> list[Note]:
    """All there is to tell beside the order's state, in the order of the payments."""
    told = [*_charged_less(order)]
    for attempt in attempts:
        told += [note for dispute in attempt.disputes for note in _disputed(dispute)]
        if attempt.payment.owed_to_buyer:
            told += _does_not_count(order, attempt)
        told += [_refunded(refund, attempt) for refund in attempt.refunds]
    return told


def _charged_less(order: OrderView) -> Iterator[Note]:
    if order.status is OrderStatus.PAID and order.due != order.total:
        charged, ordered = views.money(order.due), views.money(order.total)
        yield Note("info", f"The shop charged {charged}, less than the {ordered} you ordered for. Nothing more is due.")


def _disputed(dispute: Dispute) -> Iterator[Note]:
    amount = views.money(dispute.amount)
    if dispute.state == "open":
        yield Note(
            "warn",
            f"You have disputed {amount} of this payment with your bank or payment service, which decides about it "
            "now. Until then we can't refund it.",
        )
    elif dispute.state == "lost":
        yield Note(
            "info", f"Your dispute over {amount} was decided in your favour. You get that money back from there."
        )
    else:
        yield Note("info", f"Your dispute over {amount} has ended; the payment stands.")


def _does_not_count(order: OrderView, attempt: Attempt) -> Iterator[Note]:
    """Money that found no order: it came twice, or for goods that were gone."""
    captured = attempt.payment.captured
    if captured is None:
        return
    why = "came in addition" if order.status is OrderStatus.PAID else "came too late"
    back = "; you get it back without doing anything." if attempt.payment.is_owed else "."
    yield Note("info", f"A payment of {views.money(captured)} {why} and does not count for this order{back}")


def _refunded(refund: Refund, attempt: Attempt) -> Note:
    amount = views.money(refund.amount)
    match refund.state:
        case "succeeded":
            day = views.day(attempt.changed_at[refund.id])
            text = f"{amount} was sent back to you on {day}. Your bank may need some days to show it."
            return Note("success", text)
        case "failed":
            return Note("warn", f"Sending {amount} back to you did not work. The shop takes care of it.")
        case _:
            return Note("info", f"{amount} is on its way back to you. This can take some days.")
