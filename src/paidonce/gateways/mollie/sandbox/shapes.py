"""How the offline Mollie shows what it remembers, as its API documents do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paidonce.gateways.mollie import wire
from paidonce.gateways.mollie.sandbox.state import PROFILE_ID, State
from paidonce.money import Money

Json = dict[str, Any]

_DAY_ENDS = frozenset({"canceled", "expired", "failed", "paid"})


def money(payment: Json, minor: int) -> dict[str, str]:
    """`minor` units of the payment's currency as Mollie writes amounts."""
    return wire.money_to_wire(Money(minor, payment["currency"]))


def captured(state: State, payment: Json) -> int:
    """What was captured of a payment by now."""
    if not payment["manual"]:
        return int(payment["minor"]) if payment["status"] == "paid" else 0
    return sum(one["minor"] for one in state.of("captures", payment) if one["status"] == "succeeded")


def charged_back(state: State, payment: Json) -> int:
    """What banks hold of a payment right now."""
    return sum(one["minor"] for one in state.of("chargebacks", payment) if one["reversed_at"] is None)


def refunded(state: State, payment: Json) -> int:
    """What went back or is on its way."""
    gone = ("failed", "canceled")
    return sum(one["minor"] for one in state.of("refunds", payment) if one["status"] not in gone)


def remaining(state: State, payment: Json) -> int:
    """What can still be refunded."""
    return captured(state, payment) - refunded(state, payment) - charged_back(state, payment)


class Shapes:
    """Shows payments and what belongs to them. `base_url` is where browsers reach the twin."""

    def __init__(self, state: State, base_url: str) -> None:
        self._state = state
        self._base_url = base_url

    def checkout_url(self, payment: Json) -> str:
        """Where the buyer pays."""
        return f"{self._base_url}/checkout/select-method/{payment['id'].removeprefix('tr_')}"

    def profile(self) -> Json:
        """https://docs.mollie.com/reference/get-current-profile"""
        named = {"resource": "profile", "id": PROFILE_ID, "name": "Offline sandbox"}
        return {**named, "mode": "test", "status": self._state.profile_status}

    def methods(self, currency: str) -> Json:
        """https://docs.mollie.com/reference/list-methods: those that are switched on and take the currency."""
        fit = [one for one in self._state.methods if one != "banktransfer" or currency == "EUR"]
        items = [{"resource": "method", "id": one, "description": one, "status": "activated"} for one in fit]
        return {"count": len(items), "_embedded": {"methods": items}}

    def payment(self, payment: Json) -> Json:
        """https://docs.mollie.com/reference/get-payment"""
        shown: Json = {
            "resource": "payment",
            "id": payment["id"],
            "mode": "test",
            "createdAt": payment["created_at"],
            "amount": money(payment, payment["minor"]),
            "description": payment["description"],
            "method": payment["method"],
            "metadata": payment["metadata"],
            "status": payment["status"],
            "profileId": PROFILE_ID,
            "sequenceType": "oneoff",
            "redirectUrl": payment["redirect_url"],
            "cancelUrl": payment["cancel_url"],
            "_links": {"self": self._link(f"/v2/payments/{payment['id']}")},
        }
        if payment["webhook_url"] is not None:
            shown["webhookUrl"] = payment["webhook_url"]
        if payment["status"] not in _DAY_ENDS:
            shown["isCancelable"] = is_cancelable(payment)
        if payment["status"] == "open":
            shown["expiresAt"] = payment["expires_at"]
            shown["_links"]["checkout"] = {"href": self.checkout_url(payment), "type": "text/html"}
        return shown | self._of_money(payment)

    def _of_money(self, payment: Json) -> Json:
        shown: Json = {}
        if payment["manual"]:
            shown["captureMode"] = "manual"
            shown["amountCaptured"] = money(payment, captured(self._state, payment))
        if captured(self._state, payment):
            shown["amountRefunded"] = money(payment, refunded(self._state, payment))
            shown["amountRemaining"] = money(payment, max(0, remaining(self._state, payment)))
            shown["settlementAmount"] = money(payment, captured(self._state, payment))
        if gone := charged_back(self._state, payment):
            shown["amountChargedBack"] = money(payment, gone)
        if payment["failure_reason"] is not None:
            shown["details"] = {"failureReason": payment["failure_reason"]}
        return shown

    def capture(self, payment: Json, one: Json) -> Json:
        """https://docs.mollie.com/reference/get-capture"""
        return {
            "resource": "capture",
            "id": one["id"],
            "mode": "test",
            "amount": money(payment, one["minor"]),
            "status": one["status"],
            "paymentId": payment["id"],
            "createdAt": one["created_at"],
            "_links": {"self": self._link(f"/v2/payments/{payment['id']}/captures/{one['id']}")},
        }

    def refund(self, payment: Json, one: Json) -> Json:
        """https://docs.mollie.com/reference/get-refund"""
        return {
            "resource": "refund",
            "id": one["id"],
            "mode": "test",
            "description": one["description"],
            "amount": money(payment, one["minor"]),
            "settlementAmount": money(payment, -one["minor"]),
            "metadata": one["metadata"],
            "status": one["status"],
            "paymentId": payment["id"],
            "createdAt": one["created_at"],
            "_links": {"self": self._link(f"/v2/payments/{payment['id']}/refunds/{one['id']}")},
        }

    def chargeback(self, payment: Json, one: Json) -> Json:
        """https://docs.mollie.com/reference/get-chargeback"""
        shown: Json = {
            "resource": "chargeback",
            "id": one["id"],
            "amount": money(payment, one["minor"]),
            "settlementAmount": money(payment, -one["minor"]),
            "reason": {"code": one["reason"], "description": "Told by the buyer's bank"},
            "paymentId": payment["id"],
            "createdAt": one["created_at"],
            "_links": {"self": self._link(f"/v2/payments/{payment['id']}/chargebacks/{one['id']}")},
        }
        if one["reversed_at"] is not None:
            shown["reversedAt"] = one["reversed_at"]
        return shown

    def page(self, path: str, kind: str, items: Sequence[Json], limit: int) -> Json:
        """One page of a list, newest first; `items` begin where the page does."""
        links: Json = {"self": self._link(f"{path}?limit={limit}"), "previous": None, "next": None}
        if len(items) > limit:
            links["next"] = self._link(f"{path}?from={items[limit]['id']}&limit={limit}")
        shown = list(items[:limit])
        return {"count": len(shown), "_embedded": {kind: shown}, "_links": links}

    def _link(self, path: str) -> Json:
        return {"href": self._base_url + path, "type": "application/hal+json"}


def is_cancelable(payment: Json) -> bool:
    """Of open payments only bank transfers can be canceled, as Mollie's staff say, and reserved money can be let go."""
    waits_for_transfer = payment["status"] == "open" and payment["method"] == "banktransfer"
    return bool(payment["status"] == "authorized" or waits_for_transfer)
