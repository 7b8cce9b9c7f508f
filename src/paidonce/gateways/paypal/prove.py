"""What buyers, banks and PayPal's website do at the twin: for `paidonce prove`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from paidonce.gateways.base import HttpResponse, SandboxCore
from paidonce.gateways.paypal.sandbox import PayPalSandbox
from paidonce.ports import Microseconds

Json = dict[str, Any]

_FUNDING = {
    "pays": "balance",
    "is declined": "declined",
    "pays by slow bank debit": "pending",
}
_COLLECTIONS = {"order": "orders", "refund": "refunds", "dispute": "disputes"}


def cast(twin: SandboxCore) -> PayPalCast:
    """The people around the twin."""
    assert isinstance(twin, PayPalSandbox)
    return PayPalCast(twin)


class PayPalCast:
    """Implements `prove.cast.Cast`."""

    calls = ("create", "reopen", "fetch", "authorize", "capture", "void", "refund", "read_webhook")
    key_header = "paypal-request-id"
    keyless = ("/oauth2/token", "/void")
    currencies = ("EUR", "HUF", "JPY")
    lies = ("amount", "currency", "account", "ids")
    ways = tuple(_FUNDING)

    def __init__(self, twin: PayPalSandbox) -> None:
        self._twin = twin

    def agree(self, client: Mapping[str, str], way: str, *, now: Microseconds) -> str:
        """Approve the order on PayPal's page."""
        order = client["order_id"]
        self._twin.approve(order, now=now, funding=_FUNDING[way])
        return f"{order} {self._twin.look('orders')[order]['status']}"

    def happenings(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """What could be asked of the twin's controls now."""
        found: list[tuple[str, Mapping[str, str]]] = [("revoke_tokens", {})]
        for number, order in enumerate(self._twin.look("orders").values()):
            found += _around_order(f"#{number}", order)
        for number, refund in enumerate(self._twin.look("refunds").values()):
            name = f"#{number}"
            if refund["status"] == "PENDING":
                found.append(("finish_refund", {"refund": name}))
            if refund["status"] in ("PENDING", "COMPLETED"):
                found.append(("fail_refund", {"refund": name}))
        for number, dispute in enumerate(self._twin.look("disputes").values()):
            found += _around_dispute(f"#{number}", dispute)
        return found

    def decisions(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Slow payments, refunds and disputes get their end, in more than one way."""
        ends = {"clear_pending", "finish_refund", "close_dispute"}
        return [("pend_refunds", {"on": "false"}), *(one for one in self.happenings() if one[0] in ends)]

    def lie(self, answer: HttpResponse, about: str) -> HttpResponse:
        """The answer with an order that says something else."""
        said = json.loads(answer.body) if answer.body else {}
        if not said.get("purchase_units"):
            return answer
        for unit in said["purchase_units"]:
            _lie_in(unit, about)
        return HttpResponse(answer.status, answer.headers, json.dumps(said).encode())

    def live(self) -> Mapping[str, str]:
        """Money that is reserved. An approval alone moves nothing, since only our capture does."""
        orders = self._twin.look("orders").values()
        return {
            order["unit"]["custom_id"]: "is reserved"
            for order in orders
            if order["authorization"] is not None and order["authorization"]["status"] in ("CREATED", "PENDING")
        }

    def refunds_of_ours(self) -> Sequence[str]:
        """From their `custom_id`."""
        told = [refund["custom_id"] for refund in self._twin.look("refunds").values()]
        return [one for one in told if one is not None]

    def ids(self, param: str) -> Sequence[str]:
        """The ids that a control's parameter may take, oldest first."""
        kind = _COLLECTIONS.get(param)
        return () if kind is None else list(self._twin.look(kind))

    def happen(self, control: str, params: Mapping[str, str], *, now: Microseconds) -> str:
        """Ask the twin's control."""
        try:
            told = self._twin.control(control, params, now=now)
        except ValueError as impossible:
            return f"impossible: {impossible}"
        return " ".join(told.values())


def _lie_in(unit: Json, about: str) -> None:
    match about:
        case "amount":
            unit["amount"] = {**unit["amount"], "value": "7777"}
        case "currency":
            unit["amount"] = {**unit["amount"], "currency_code": "USD"}
        case "account":
            unit["payee"] = {**unit.get("payee", {}), "merchant_id": "2222222222222"}
        case "ids":
            unit.update(custom_id="pay_of_another_shop", reference_id="ord_of_another_shop")


def _around_order(name: str, order: Json) -> list[tuple[str, Mapping[str, str]]]:
    found: list[tuple[str, Mapping[str, str]]] = []
    if order["status"] == "APPROVED":
        found.append(("reverse_approval", {"order": name}))
    held = order["capture"] or order["authorization"]
    if held is None:
        return found
    if held["status"] == "PENDING":
        found += [("clear_pending", {"order": name, "status": status}) for status in ("COMPLETED", "DECLINED")]
    if order["authorization"] is not None and order["capture"] is None and held["status"] in ("CREATED", "PENDING"):
        found.append(("expire_authorization", {"order": name}))
    if order["capture"] is not None and held["status"] != "PENDING":
        found += [("dashboard_refund", {"order": name}), ("dashboard_refund", {"order": name, "amount": "1.00"})]
        found += [("open_dispute", {"order": name, "stage": stage}) for stage in ("INQUIRY", "CHARGEBACK")]
        found += [("pend_refunds", {"on": on}) for on in ("true", "false")]
    return found


def _around_dispute(name: str, dispute: Json) -> list[tuple[str, Mapping[str, str]]]:
    if dispute["status"] == "RESOLVED":
        return []
    closes: list[tuple[str, Mapping[str, str]]] = [
        ("close_dispute", {"dispute": name, "outcome": outcome}) for outcome in ("won", "lost")
    ]
    inquiry = dispute["stage"] == "INQUIRY"
    return [*closes, *([("escalate_dispute", {"dispute": name})] if inquiry else [])]
