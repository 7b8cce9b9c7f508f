"""Refunds of the twin: by the API, by the dashboard, pending ones, and those that fail later."""

from __future__ import annotations

from typing import Any

from paidonce.gateways.stripe.sandbox.amounts import check_step
from paidonce.gateways.stripe.sandbox.disputes import Disputes
from paidonce.gateways.stripe.sandbox.events import Events
from paidonce.gateways.stripe.sandbox.ledger import Ledger
from paidonce.gateways.stripe.sandbox.replies import Call, SandboxError, check_known, choice, integer, metadata, missing
from paidonce.gateways.stripe.sandbox.store import Due, Record, Reply, Store

_DAY_MICROSECONDS = 24 * 3600 * 1_000_000
_PARAMETERS = frozenset({"amount", "charge", "expand", "metadata", "payment_intent", "reason"})
_REASONS = ("", "duplicate", "fraudulent", "requested_by_customer")
_ENDED = frozenset({"failed", "canceled"})


class Refunds:
    """Refund objects, and what they do to their charge, the balance and the books."""

    def __init__(self, store: Store, ledger: Ledger, events: Events, due: Due, disputes: Disputes) -> None:
        self._store = store
        self._ledger = ledger
        self._events = events
        self._due = due
        self._disputes = disputes
        due.register(finish_refund=self._finish_if_pending, fail_refund=self._fail_if_possible)

    def create(self, call: Call) -> Reply:
        """POST /v1/refunds. Raises `SandboxError` for whatever Stripe refuses; nothing goes back then."""
        check_known(call.form, _PARAMETERS)
        reason = choice(call.form, "reason", _REASONS, "") or None
        ours = metadata(call.form)
        charge = self._charge(call)
        amount = integer(call.form, "amount") if "amount" in call.form else None
        return self.make(charge, amount, call.now, metadata=ours, reason=reason)["object"]  # type: ignore[no-any-return]

    def make(
        self,
        charge: Record,
        amount: int | None,
        now: int,
        *,
        metadata: dict[str, str] | None = None,
        reason: str | None = None,
    ) -> Record:
        """Give `amount` of a charge back, all that is left if it is None. Raises `SandboxError` as Stripe does."""
        amount = self._checked(charge, amount)
        refund = self._new(charge, amount, now, metadata=metadata or {}, reason=reason)
        fate = charge["fate"]
        pends = fate == "refund_pends" or self._store.state["next_refund_pends"]
        if pends:
            refund["object"].update(status="pending", pending_reason="processing")
        else:
            self._move(charge, refund, now)
        self._store.state["next_refund_pends"] = False
        self._count(charge)
        self._events.emit("refund.created", refund, now)
        self._events.emit("charge.refunded", charge, now)
        if fate == "refund_pends":
            self._due.add(now + _DAY_MICROSECONDS, "finish_refund", refund["object"]["id"])
        if fate == "refund_fails":
            self._due.add(now + _DAY_MICROSECONDS, "fail_refund", refund["object"]["id"])
        return refund

    def release(self, charge: Record, amount: int, now: int, *, reason: str | None) -> None:
        """Let go of reserved money. Stripe keeps that as a refund which moves nothing: a trap for whoever books it."""
        self._new(charge, amount, now, metadata={}, reason=reason)
        self._count(charge)

    def finish(self, ref: str, now: int) -> Record:
        """A pending refund succeeds. Raises `ValueError` if it is not pending."""
        refund, charge = self._both(ref)
        if refund["object"]["status"] != "pending":
            raise ValueError(f"the refund {ref} is {refund['object']['status']}, not pending")
        del refund["object"]["pending_reason"]
        self._move(charge, refund, now)
        self._events.emit("refund.updated", refund, now)
        return refund

    def fail(self, ref: str, now: int) -> Record:
        """A refund that succeeded or is pending fails. Raises `ValueError` if it has failed already."""
        refund, charge = self._both(ref)
        item = refund["object"]
        if item["status"] in _ENDED or _is_release(item):
            raise ValueError(f"the refund {ref} is {item['status']} and can't fail any more")
        if item["status"] == "succeeded":
            item["failure_balance_transaction"] = self._ledger.refund_failed(charge, item, now)
        item.pop("pending_reason", None)
        item.update(status="failed", failure_reason="lost_or_stolen_card")
        self._count(charge)
        self._events.emit("refund.updated", refund, now)
        self._events.emit("refund.failed", refund, now)
        return refund

    def left(self, charge: Record) -> int:
        """What of the captured money could still go back."""
        gone = [item for item in self._of(charge) if item["status"] not in _ENDED and not _is_release(item)]
        return int(charge["object"]["amount_captured"] - sum(item["amount"] for item in gone))

    def _finish_if_pending(self, ref: str, now: int) -> None:
        refund, _ = self._both(ref)
        if refund["object"]["status"] == "pending":
            self.finish(ref, now)

    def _fail_if_possible(self, ref: str, now: int) -> None:
        refund, _ = self._both(ref)
        if refund["object"]["status"] not in _ENDED:
            self.fail(ref, now)

    def _charge(self, call: Call) -> Record:
        if "charge" in call.form:
            return self._store.get(call, "ch", str(call.form["charge"]), param="charge")
        if "payment_intent" not in call.form:
            raise missing("charge")
        intent = self._store.get(call, "pi", str(call.form["payment_intent"]), param="payment_intent")["object"]
        charge = self._store.find(intent["latest_charge"] or "")
        if charge is None or charge["object"]["status"] != "succeeded":
            raise SandboxError(
                400, f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.", stored=True
            )
        return charge

    def _checked(self, charge: Record, amount: int | None) -> int:
        item = charge["object"]
        if not item["captured"]:
            raise SandboxError(
                400,
                "This uncaptured Charge was created by a PaymentIntent. You must cancel the PaymentIntent to reverse "
                "the authorization instead of refunding the Charge directly.",
                stored=True,
            )
        if self._disputes.forbid_refunds(item["id"]):
            message = f"Charge {item['id']} has been charged back; cannot issue a refund."
            raise SandboxError(400, message, code="charge_disputed", stored=True)
        left = self.left(charge)
        if left == 0:
            message = f"Charge {item['id']} has already been refunded."
            raise SandboxError(400, message, code="charge_already_refunded", stored=True)
        amount = left if amount is None else amount
        if amount < 1:
            raise SandboxError(400, "Invalid positive integer", code="parameter_invalid_integer", param="amount")
        check_step(amount, item["currency"])
        if amount > left:
            message = f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})"
            raise SandboxError(400, message, param="amount", stored=True)
        return amount

    def _new(self, charge: Record, amount: int, now: int, *, metadata: dict[str, str], reason: str | None) -> Record:
        item = charge["object"]
        refund: dict[str, Any] = {
            "id": self._store.new_id("re", now),
            "object": "refund",
            "amount": amount,
            "balance_transaction": None,
            "charge": item["id"],
            "created": now // 1_000_000,
            "currency": item["currency"],
            "metadata": metadata,
            "payment_intent": item["payment_intent"],
            "reason": reason,
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": "succeeded",
            "transfer_reversal": None,
        }
        return self._store.add(refund, charge["account"])

    def _move(self, charge: Record, refund: Record, now: int) -> None:
        refund["object"].update(
            status="succeeded", balance_transaction=self._ledger.refund(charge, refund["object"], now)
        )

    def _count(self, charge: Record) -> None:
        item = charge["object"]
        item["amount_refunded"] = sum(one["amount"] for one in self._of(charge) if one["status"] not in _ENDED)
        item["refunded"] = item["amount_refunded"] >= item["amount"]

    def _of(self, charge: Record) -> list[Reply]:
        ref = charge["object"]["id"]
        return [record["object"] for record in self._store.records("re") if record["object"]["charge"] == ref]

    def _both(self, ref: str) -> tuple[Record, Record]:
        refund = self._store.find(ref) if ref.startswith("re_") else None
        if refund is None:
            raise ValueError(f"there is no refund {ref!r}")
        charge = self._store.find(refund["object"]["charge"])
        if charge is None:
            raise AssertionError("a refund without its charge")
        return refund, charge


def _is_release(item: Reply) -> bool:
    return item["status"] == "succeeded" and item["balance_transaction"] is None
