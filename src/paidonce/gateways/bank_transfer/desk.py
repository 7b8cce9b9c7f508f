"""What staff see of a transfer and may enter about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from paidonce.errors import ChangedMeanwhile, InvalidRequest
from paidonce.gateways.bank_transfer import ledger
from paidonce.gateways.bank_transfer.ledger import SentBack, Transfer
from paidonce.gateways.bank_transfer.settings import in_groups
from paidonce.gateways.base import RefundProgress, StaffAction, StaffParam, StaffSheet
from paidonce.money import LARGEST_MINOR, Money
from paidonce.ports import SECOND, Microseconds

NAMES = frozenset({ledger.RECEIVED, ledger.MISTAKEN, ledger.SENT_BACK, ledger.REFUND_SENT, ledger.REFUND_FAILED})
_REMARK_HINT = "What tells this booking from others on the statement: the bank's number of it, or its date."
_AMOUNT_HINT = "As it stands on the bank statement."


def sheet(transfer: Transfer, *, now: Microseconds) -> StaffSheet:
    """The sheet as it is at `now`."""
    return StaffSheet(
        seen=transfer.seen,
        facts=tuple(_facts(transfer, now)),
        to_do=" ".join(_to_do(transfer, now)) or None,
        actions=tuple(_actions(transfer, now)),
    )


def check(transfer: Transfer, name: str, params: Mapping[str, str | int], *, seen: int, now: Microseconds) -> None:
    """Raise `ChangedMeanwhile` or `InvalidRequest` unless this may be entered on the sheet that was looked at."""
    if seen != transfer.seen:
        raise ChangedMeanwhile
    offered = list(_actions(transfer, now))
    named = [one for one in offered if one.name == name]
    action = next((one for one in named if one.given.items() <= params.items()), None)
    if action is None:
        raise InvalidRequest(_not_offered(name, offered, named))
    action.check(params)
    if name == ledger.RECEIVED:
        _refuse_the_same_again(transfer, params)
        _refuse_absurd_sums(transfer, int(params["amount"]))
    surplus = transfer.surplus(now)
    if name == ledger.SENT_BACK and surplus is not None and int(params["amount"]) > surplus.minor:
        raise InvalidRequest(f"amount: only {surplus} of the buyer's money is there beyond what was due.")


def in_words(transfer: Transfer, name: str, params: Mapping[str, str | int]) -> str:
    """The sentence for the history."""
    currency = transfer.asked.amount.currency
    amount = params.get("amount")
    money = Money(amount, currency) if type(amount) is int else None
    remark = f" ({params['remark']})" if "remark" in params else ""
    return {
        ledger.RECEIVED: f"{money} arrived on the account{remark}.",
        ledger.MISTAKEN: f"The money entered by note {params.get('receipt')} was a mistake: it has not arrived.",
        ledger.SENT_BACK: f"{money} beyond what was due were sent back to the buyer.",
        ledger.REFUND_SENT: f"The refund {params.get('refund')} was sent by hand.",
        ledger.REFUND_FAILED: f"The refund {params.get('refund')} did not reach the buyer: {params.get('reason')}.",
    }[name]


def _not_offered(name: str, offered: list[StaffAction], named: list[StaffAction]) -> str:
    if named:
        missing = ", ".join(sorted({field for one in named for field in one.given}))
        return f"{missing}: say which one is meant, as the list of what can be entered gives it."
    return f"{name!r} can't be entered for this payment now. What can: {', '.join(sorted({o.name for o in offered}))}."


def _refuse_the_same_again(transfer: Transfer, params: Mapping[str, str | int]) -> None:
    """Two people who read the same statement must not enter its money twice."""
    before = [one for one in transfer.receipts if not one.mistaken and one.remark == params.get("remark", "")]
    if before:
        one = before[0]
        raise InvalidRequest(
            f"remark: {Money(one.minor, transfer.asked.amount.currency)} with this remark was entered on {_at(one.at)} "
            f"by {one.by}. If this is another transfer, write the bank's number of it or its date."
        )


def _refuse_absurd_sums(transfer: Transfer, minor: int) -> None:
    """Notes stay for ever, so what can't be added up must not get there."""
    if transfer.there.minor + minor > LARGEST_MINOR:
        largest = Money(LARGEST_MINOR, transfer.asked.amount.currency)
        raise InvalidRequest(f"amount: together with what is there that is more than {largest}. Was it mistyped?")


def _facts(transfer: Transfer, now: Microseconds) -> Iterator[tuple[str, str]]:
    asked, currency = transfer.asked, transfer.asked.amount.currency
    yield "Reference", transfer.ref
    yield "To the account", in_groups(asked.iban)
    yield "Due", f"{asked.amount} by {_day(asked.due_at)}"
    for one in transfer.receipts:
        mistaken = ", a mistake: it has not arrived" if one.mistaken else ""
        remark = f" ({one.remark})" if one.remark else ""
        yield f"Note {one.number}", f"{Money(one.minor, currency)}{remark}, entered {_at(one.at)} by {one.by}{mistaken}"
    if transfer.returned_minor:
        yield "Sent back", f"{Money(transfer.returned_minor, currency)} beyond what was due"
    if transfer.receipts and not transfer.captured and not transfer.is_over(now):
        missing = asked.amount - transfer.there
        yield "Still missing", str(missing)
    surplus = transfer.surplus(now)
    if surplus is not None and surplus.minor > 0:
        yield "Not for this order", f"{surplus} of the buyer's money"


def _to_do(transfer: Transfer, now: Microseconds) -> Iterator[str]:
    surplus = transfer.surplus(now)
    if surplus is not None and surplus.minor > 0:
        yield f"Send {surplus} back to the buyer, who has paid too much or too late, and enter it here."
    for refund in _in_state(transfer, RefundProgress.PENDING):
        amount = Money(refund.minor, transfer.asked.amount.currency)
        yield f"Send the refund of {amount} ({refund.refund_id}) to the buyer's account, and enter it here."


def _actions(transfer: Transfer, now: Microseconds) -> Iterator[StaffAction]:
    yield _receive(transfer, now)
    for receipt in transfer.receipts:
        # What has paid the order, or was sent back on the strength of it, has gone: that was no mistake.
        if not receipt.mistaken and receipt.minor <= transfer.unused_minor:
            amount = Money(receipt.minor, transfer.asked.amount.currency)
            yield StaffAction(
                ledger.MISTAKEN,
                f"Note {receipt.number} was a mistake",
                f"{amount} has not arrived after all, or belongs to another order.",
                given={"receipt": str(receipt.number)},
            )
    surplus = transfer.surplus(now)
    if surplus is not None and surplus.minor > 0:
        yield StaffAction(
            ledger.SENT_BACK,
            "The surplus was sent back",
            f"Up to {surplus} is the buyer's, and you have sent it back from your account.",
            (StaffParam("amount", "Amount", "amount", hint="What you have sent back."),),
        )
    for refund in transfer.refunds.values():
        yield from _about_refund(transfer, refund)


def _receive(transfer: Transfer, now: Microseconds) -> StaffAction:
    due = transfer.asked.amount
    if transfer.captured:
        summary = f"{due} is there already: whatever comes on top has to be sent back to the buyer."
    elif transfer.is_over(now):
        summary = "The buyer is not asked for it any more: it can't pay the order by itself and goes back."
    else:
        summary = f"The order is paid as soon as {due} is there. Enter exactly what stands on the bank statement."
    known = bool(transfer.receipts)
    return StaffAction(
        ledger.RECEIVED,
        "More money has arrived" if known else "The money has arrived",
        summary,
        (
            StaffParam("amount", "Amount received", "amount", hint=_AMOUNT_HINT),
            StaffParam(
                "remark", "The bank's number or date of this booking", "text", required=known, hint=_REMARK_HINT
            ),
        ),
    )


def _about_refund(transfer: Transfer, refund: SentBack) -> Iterator[StaffAction]:
    amount = Money(refund.minor, transfer.asked.amount.currency)
    given = {"refund": refund.refund_id}
    reason = StaffParam("reason", "Why", "text", hint="What the bank says, or what is missing.")
    if refund.progress is RefundProgress.PENDING:
        summary = f"You have transferred {amount} to the buyer's account."
        yield StaffAction(ledger.REFUND_SENT, f"The refund of {amount} was sent", summary, given=given)
        summary = f"The {amount} are still with you, and the refund counts as failed."
        yield StaffAction(
            ledger.REFUND_FAILED, f"The refund of {amount} can't be sent", summary, (reason,), given=given
        )
    elif refund.progress is RefundProgress.SUCCEEDED:
        summary = f"The bank has given the {amount} back to you, so the refund counts as failed."
        yield StaffAction(ledger.REFUND_FAILED, f"The refund of {amount} came back", summary, (reason,), given=given)


def _in_state(transfer: Transfer, progress: RefundProgress) -> Iterator[SentBack]:
    return (one for one in transfer.refunds.values() if one.progress is progress)


def _day(moment: Microseconds) -> str:
    return datetime.fromtimestamp(moment // SECOND, UTC).date().isoformat()


def _at(moment: Microseconds) -> str:
    return datetime.fromtimestamp(moment // SECOND, UTC).strftime("%Y-%m-%d %H:%M UTC")
