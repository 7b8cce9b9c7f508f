"""Disputes of the twin: opened by the bank, taken from the balance, won or lost; and inquiries, which take nothing."""

from __future__ import annotations

from typing import Any

from paidonce.gateways.stripe.sandbox.events import Events
from paidonce.gateways.stripe.sandbox.ledger import Ledger
from paidonce.gateways.stripe.sandbox.store import Due, Record, Reply, Store

_ANSWER_WITHIN_SECONDS = 7 * 24 * 3600
_INQUIRIES = frozenset({"warning_needs_response", "warning_under_review"})
_OPEN = _INQUIRIES | {"needs_response", "under_review"}
_FORBIDDING = frozenset({"needs_response", "under_review", "lost"})
_OUTCOMES = ("won", "lost")
_EVIDENCE = dict.fromkeys(
    ("customer_communication", "customer_email_address", "product_description", "receipt", "uncategorized_text")
)


class Disputes:
    """Dispute objects, and what they do to their charge, the balance and the books."""

    def __init__(self, store: Store, ledger: Ledger, events: Events, due: Due) -> None:
        self._store = store
        self._ledger = ledger
        self._events = events
        due.register(dispute=self._open_by_fate, inquiry=self._ask_by_fate)

    def forbid_refunds(self, charge_id: str) -> bool:
        """Whether the charge is disputed or charged back, so that a refund would pay the buyer twice."""
        return any(item["status"] in _FORBIDDING for item in self._of(charge_id))

    def open(self, charge: Record, amount: int | None, now: int, *, inquiry: bool) -> Record:
        """The bank disputes `amount` of a charge, all that is not refunded if None. An inquiry takes no money.

        Raises `ValueError` if there is nothing to dispute.
        """
        item = charge["object"]
        if not item["captured"]:
            raise ValueError("nothing was captured, so nothing can be disputed")
        if any(one["status"] in _OPEN for one in self._of(item["id"])):
            raise ValueError(f"the charge {item['id']} is disputed already")
        released = item["amount"] - item["amount_captured"]
        amount = item["amount_captured"] - (item["amount_refunded"] - released) if amount is None else amount
        if not 1 <= amount <= item["amount_captured"]:
            raise ValueError(f"the amount must lie between 1 and {item['amount_captured']}, not {amount}")
        dispute = self._new(charge, amount, now, "warning_needs_response" if inquiry else "needs_response")
        item["disputed"] = True
        self._events.emit("charge.dispute.created", dispute, now)
        if not inquiry:
            self._withdraw(charge, dispute, now)
        return dispute

    def escalate(self, ref: str, now: int) -> Record:
        """An inquiry becomes a dispute, and the money is taken. Raises `ValueError` if it is no open inquiry."""
        dispute, charge = self._both(ref)
        if dispute["object"]["status"] not in _INQUIRIES:
            raise ValueError(f"the dispute {ref} is {dispute['object']['status']}, not an open inquiry")
        dispute["object"].update(status="needs_response", is_charge_refundable=False)
        self._events.emit("charge.dispute.updated", dispute, now)
        self._withdraw(charge, dispute, now)
        return dispute

    def close(self, ref: str, outcome: str, now: int) -> Record:
        """The bank decides. An inquiry that is won is closed; one that is lost becomes a dispute first.

        Raises `ValueError` for another outcome or a dispute that is decided already.
        """
        dispute, charge = self._both(ref)
        item = dispute["object"]
        if outcome not in _OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(_OUTCOMES)}, not {outcome!r}")
        if item["status"] not in _OPEN:
            raise ValueError(f"the dispute {ref} is {item['status']} already")
        if item["status"] in _INQUIRIES and outcome == "lost":
            self.escalate(ref, now)
        inquiry = item["status"] in _INQUIRIES
        item.update(status="warning_closed" if inquiry else outcome, is_charge_refundable=outcome == "won")
        if outcome == "lost":
            self._ledger.dispute_lost(charge, item)
        elif not inquiry:
            item["balance_transactions"].append(self._ledger.dispute_reinstated(charge, item, now))
        self._events.emit("charge.dispute.closed", dispute, now)
        if outcome == "won" and not inquiry:
            self._events.emit("charge.dispute.funds_reinstated", dispute, now)
        return dispute

    def _withdraw(self, charge: Record, dispute: Record, now: int) -> None:
        item = dispute["object"]
        item["balance_transactions"].append(self._ledger.dispute_withdrawn(charge, item, now))
        self._events.emit("charge.dispute.funds_withdrawn", dispute, now)

    def _open_by_fate(self, charge_id: str, now: int) -> None:
        self._by_fate(charge_id, now, inquiry=False)

    def _ask_by_fate(self, charge_id: str, now: int) -> None:
        self._by_fate(charge_id, now, inquiry=True)

    def _by_fate(self, charge_id: str, now: int, *, inquiry: bool) -> None:
        charge = self._store.find(charge_id)
        # Once refunded or disputed by hand, the card's fate is fulfilled.
        if charge is not None and not self._of(charge_id) and not charge["object"]["refunded"]:
            self.open(charge, None, now, inquiry=inquiry)

    def _new(self, charge: Record, amount: int, now: int, status: str) -> Record:
        item = charge["object"]
        inquiry = status in _INQUIRIES
        card = {"brand": "visa", "case_type": "inquiry" if inquiry else "chargeback", "network": "visa"}
        dispute: dict[str, Any] = {
            "id": self._store.new_id("du", now),
            "object": "dispute",
            "amount": amount,
            "balance_transactions": [],
            "charge": item["id"],
            "created": now // 1_000_000,
            "currency": item["currency"],
            "enhanced_eligibility_types": [],
            "evidence": {**_EVIDENCE, "enhanced_evidence": {}},
            "evidence_details": {
                "due_by": now // 1_000_000 + _ANSWER_WITHIN_SECONDS,
                "enhanced_eligibility": {},
                "has_evidence": False,
                "past_due": False,
                "submission_count": 0,
            },
            "is_charge_refundable": inquiry,
            "livemode": False,
            "metadata": {},
            "payment_intent": item["payment_intent"],
            "payment_method_details": {"card": {**card, "network_reason_code": "10.4"}, "type": "card"},
            "reason": "fraudulent",
            "status": status,
        }
        return self._store.add(dispute, charge["account"])

    def _of(self, charge_id: str) -> list[Reply]:
        return [record["object"] for record in self._store.records("du") if record["object"]["charge"] == charge_id]

    def _both(self, ref: str) -> tuple[Record, Record]:
        dispute = self._store.find(ref) if ref.startswith("du_") else None
        if dispute is None:
            raise ValueError(f"there is no dispute {ref!r}")
        charge = self._store.find(dispute["object"]["charge"])
        if charge is None:
            raise AssertionError("a dispute without its charge")
        return dispute, charge
