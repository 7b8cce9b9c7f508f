"""What buyers, banks and Mollie's dashboard do at the twin: for `paidonce prove`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from paidonce.gateways.base import HttpResponse, SandboxCore
from paidonce.gateways.mollie.sandbox import MollieSandbox
from paidonce.gateways.mollie.sandbox.shapes import is_cancelable
from paidonce.ports import Microseconds

Json = dict[str, Any]
Happenings = list[tuple[str, Mapping[str, str]]]

_CHOICES = {
    "pays": "card",
    "is declined": "failing",
    "is declined and chooses again": "declined",
    "sends it by bank transfer": "banktransfer",
    "turns back": "cancel",
}
_LIES: Mapping[str, Json] = {
    "amount": {"amount": {"currency": "EUR", "value": "7777.00"}},
    "currency": {"amount": {"currency": "USD", "value": "19.99"}},
    "account": {"profileId": "pfl_another"},
    "mode": {"mode": "live"},
    "ids": {"metadata": {"payment_id": "pay_of_another_shop", "order_id": "ord_of_another_shop"}},
}
_COLLECTIONS = {"payment": "payments", "refund": "refunds", "chargeback": "chargebacks"}
_LIVE = {"open": "can be confirmed", "authorized": "is reserved"}
_UNTIL_IT_EXPIRES = "can be confirmed until it expires"


def cast(twin: SandboxCore) -> MollieCast:
    """The people around the twin."""
    assert isinstance(twin, MollieSandbox)
    return MollieCast(twin)


class MollieCast:
    """Implements `prove.cast.Cast`."""

    calls = ("account", "create", "reopen", "fetch", "capture", "void", "refund")
    key_header = "idempotency-key"
    keyless = ("/release-authorization",)
    currencies = ("EUR", "HUF", "JPY", "ISK")
    lies = tuple(_LIES)
    ways = tuple(_CHOICES)
    joined = 1

    def __init__(self, twin: MollieSandbox) -> None:
        self._twin = twin

    def agree(self, client: Mapping[str, str], way: str, *, now: Microseconds) -> str:
        """Choose at the checkout; a tab that was told of none has nothing to choose."""
        link = client.get("checkout_url")
        if link is None:
            return "nothing is left to pay"
        ref = "tr_" + link.rsplit("/", 1)[1]
        try:
            self._twin.choose(ref, _CHOICES[way], now=now)
        except ValueError as impossible:
            return f"impossible: {impossible}"
        return f"{ref} {self._twin.look('payments')[ref]['status']}"

    def happenings(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """What could be asked of the twin's controls now."""
        found: Happenings = []
        for number, payment in enumerate(self._twin.look("payments").values()):
            found += _around_payment(f"#{number}", payment)
        for number, refund in enumerate(self._twin.look("refunds").values()):
            found += _around_refund(f"#{number}", refund)
        for number, chargeback in enumerate(self._twin.look("chargebacks").values()):
            if chargeback["reversed_at"] is None:
                found.append(("reverse_dispute", {"chargeback": f"#{number}"}))
        return found

    def decisions(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Transfers, captures and refunds get their end. A chargeback has one already."""
        switches: Happenings = [("pend_refunds", {"on": "false"}), ("pend_captures", {"on": "false"})]
        ends = {"clear_pending", "finish_capture", "finish_refund"}
        return [*switches, *(one for one in self.happenings() if one[0] in ends)]

    def lie(self, answer: HttpResponse, about: str) -> HttpResponse:
        """The answer with a payment that says something else."""
        said = json.loads(answer.body) if answer.body else {}
        if said.get("resource") != "payment":
            return answer
        return HttpResponse(answer.status, answer.headers, json.dumps({**said, **_LIES[about]}).encode())

    def live(self) -> Mapping[str, str]:
        """Payments that a browser can still pay, and money that is reserved."""
        payments = [one for one in self._twin.look("payments").values() if one["status"] in _LIVE]
        return {
            one["metadata"]["payment_id"]: _LIVE[one["status"]] if is_cancelable(one) else _UNTIL_IT_EXPIRES
            for one in payments
        }

    def refunds_of_ours(self) -> Sequence[str]:
        """From their metadata."""
        told = [(refund["metadata"] or {}).get("refund_id") for refund in self._twin.look("refunds").values()]
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


def _around_payment(name: str, payment: Json) -> Happenings:
    about = {"payment": name}
    match payment["status"]:
        case "open" if payment["method"] == "banktransfer":
            ends: Happenings = [("clear_pending", {**about, "status": status}) for status in ("paid", "expired")]
            return [*ends, ("dashboard_cancel", about)]
        case "open":
            return [("expire", about)]
        case "authorized":
            return [
                *(("expire", about), ("dashboard_cancel", about)),
                *(("finish_capture", about), ("fail_capture", about)),
                *(("pend_captures", {"on": on}) for on in ("true", "false")),
            ]
        case "paid":
            return [
                *(("dashboard_refund", one) for one in (about, {**about, "amount": "1.00"})),
                *(("open_dispute", one) for one in (about, {**about, "amount": "2.00"})),
                *(("pend_refunds", {"on": on}) for on in ("true", "false")),
            ]
    return []


def _around_refund(name: str, refund: Json) -> Happenings:
    about = {"refund": name}
    match refund["status"]:
        case "pending":
            return [("finish_refund", about), ("fail_refund", about), ("fail_refund", {**about, "status": "canceled"})]
        case "refunded":
            return [("fail_refund", about)]
    return []
