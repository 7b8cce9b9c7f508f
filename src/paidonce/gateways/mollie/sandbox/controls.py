"""What Mollie's dashboard, banks and time do at the twin, to be done from outside by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paidonce.gateways.base import Control
from paidonce.gateways.controls import given
from paidonce.gateways.mollie.sandbox import shapes
from paidonce.gateways.mollie.sandbox.payments import Payments, amount_of
from paidonce.gateways.mollie.sandbox.replies import Refused
from paidonce.gateways.mollie.sandbox.state import State
from paidonce.ports import Microseconds

Json = dict[str, Any]
Result = Mapping[str, str]
Action = Callable[[Mapping[str, str], Microseconds], Result]

_PAYMENT = "the payment's id (tr_…)"
_REFUND = "the refund's id (re_…)"
_AMOUNT = "optional; a decimal amount such as 5.00; without it, all that is left"
_OPTIONAL = frozenset({"amount", "status"})
_YES = frozenset({"true", "yes", "1", "on"})
_NO = frozenset({"false", "no", "0", "off"})

CONTROLS: tuple[Control, ...] = (
    Control(
        "clear_pending",
        "The money of a bank transfer arrives, or never does.",
        {"payment": _PAYMENT, "status": "optional; paid (else) or expired"},
    ),
    Control("expire", "An open payment expires, or reserved money is let go.", {"payment": _PAYMENT}),
    Control("dashboard_cancel", "Staff cancel at Mollie's dashboard what can be canceled.", {"payment": _PAYMENT}),
    Control("dashboard_refund", "Staff refund at Mollie's dashboard.", {"payment": _PAYMENT, "amount": _AMOUNT}),
    Control("pend_refunds", "From now on, refunds wait, as most do at Mollie.", {"on": "true or false"}),
    Control("finish_refund", "A pending refund goes out.", {"refund": _REFUND}),
    Control(
        "fail_refund",
        "A refund fails, also after it went out, or staff cancel one that waits.",
        {"refund": _REFUND, "status": "optional; failed (else) or canceled"},
    ),
    Control("pend_captures", "From now on, captures wait instead of succeeding at once.", {"on": "true or false"}),
    Control(
        "keep_rests",
        "From now on a partial capture leaves the rest reserved, as methods do that take several captures.",
        {"on": "true or false"},
    ),
    Control("finish_capture", "A pending capture succeeds.", {"payment": _PAYMENT}),
    Control("fail_capture", "A pending capture fails; the money stays reserved.", {"payment": _PAYMENT}),
    Control(
        "open_dispute",
        "The buyer's bank takes the money back: a chargeback.",
        {"payment": _PAYMENT, "amount": _AMOUNT},
    ),
    Control(
        "reverse_dispute",
        "The bank gives a chargeback's money back to the merchant.",
        {"chargeback": "the chargeback's id (chb_…)"},
    ),
    Control("block_profile", "Mollie takes the profile's right to payments away; the profile shows it.", {}),
    Control("switch_methods_off", "Somebody switches every payment method of the profile off; the list shows it.", {}),
)


class Controls:
    """Carries out one of `CONTROLS`."""

    def __init__(self, state: State, payments: Payments) -> None:
        self._state = state
        self._payments = payments
        self._actions: dict[str, Action] = {
            "clear_pending": self._clear_pending,
            "expire": self._expire,
            "dashboard_cancel": self._dashboard_cancel,
            "dashboard_refund": self._dashboard_refund,
            "pend_refunds": self._pend_refunds,
            "finish_refund": self._finish_refund,
            "fail_refund": self._fail_refund,
            "pend_captures": self._pend_captures,
            "keep_rests": self._keep_rests,
            "finish_capture": self._finish_capture,
            "fail_capture": self._fail_capture,
            "open_dispute": self._open_dispute,
            "reverse_dispute": self._reverse_dispute,
            "block_profile": self._block_profile,
            "switch_methods_off": self._switch_methods_off,
        }

    def run(self, name: str, params: Mapping[str, str], now: Microseconds) -> Result:
        """Do it, and tell the object's id and state. Raises `ValueError` naming what is wrong; nothing changed then."""
        wanted = given(CONTROLS, name, params, optional=_OPTIONAL)
        try:
            return self._actions[name](wanted, now)
        except Refused as refused:
            raise ValueError(f"Mollie refuses this: {refused.detail}") from None

    def _clear_pending(self, params: Mapping[str, str], now: Microseconds) -> Result:
        payment, status = self._payment(params, now), params.get("status", "paid")
        _require(status in ("paid", "expired"), "status is paid or expired")
        _require(payment["status"] == "open" and payment["method"] == "banktransfer", "no bank transfer is expected")
        if status == "paid":
            self._payments.pay(payment)
        else:
            self._payments.end(payment, "expired")
        return _told(payment)

    def _expire(self, params: Mapping[str, str], now: Microseconds) -> Result:
        payment = self._payment(params, now)
        _require(payment["status"] in ("open", "authorized"), f"the payment is {payment['status']}")
        payment["ends"] = now
        self._payments.age(payment, now)
        _require(payment["status"] not in ("open", "authorized"), "a capture of the payment waits")
        return _told(payment)

    def _dashboard_cancel(self, params: Mapping[str, str], now: Microseconds) -> Result:
        payment = self._payment(params, now)
        if payment["status"] == "authorized":
            self._payments.release(payment)
        else:
            self._payments.cancel(payment)
        return _told(payment)

    def _dashboard_refund(self, params: Mapping[str, str], now: Microseconds) -> Result:
        payment = self._payment(params, now)
        return _told(self._payments.refund(payment, _amount(params, payment), now))

    def _pend_refunds(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del now
        self._state.pend_refunds = _switch(params)
        return {"on": str(self._state.pend_refunds).lower()}

    def _finish_refund(self, params: Mapping[str, str], now: Microseconds) -> Result:
        refund = _find(self._state.refunds, params, "refund")
        _require(refund["status"] == "pending", f"the refund is {refund['status']}")
        self._payments.finish_refund(self._payments.get(refund["payment"], now), refund)
        return _told(refund)

    def _fail_refund(self, params: Mapping[str, str], now: Microseconds) -> Result:
        refund, status = _find(self._state.refunds, params, "refund"), params.get("status", "failed")
        _require(status in ("failed", "canceled"), "status is failed or canceled")
        possible = ("pending",) if status == "canceled" else ("pending", "refunded")
        _require(refund["status"] in possible, f"the refund is {refund['status']}")
        self._payments.fail_refund(self._payments.get(refund["payment"], now), refund, status)
        return _told(refund)

    def _pend_captures(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del now
        self._state.pend_captures = _switch(params)
        return {"on": str(self._state.pend_captures).lower()}

    def _keep_rests(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del now
        self._state.keep_rests = _switch(params)
        return {"on": str(self._state.keep_rests).lower()}

    def _finish_capture(self, params: Mapping[str, str], now: Microseconds) -> Result:
        payment = self._payment(params, now)
        self._payments.finish_capture(payment, self._waiting_capture(payment))
        return _told(payment)

    def _fail_capture(self, params: Mapping[str, str], now: Microseconds) -> Result:
        payment = self._payment(params, now)
        self._payments.fail_capture(self._waiting_capture(payment))
        return _told(payment)

    def _waiting_capture(self, payment: Json) -> Json:
        waiting = [one for one in self._state.of("captures", payment) if one["status"] == "pending"]
        _require(bool(waiting), "no capture of this payment waits")
        return waiting[0]

    def _open_dispute(self, params: Mapping[str, str], now: Microseconds) -> Result:
        payment = self._payment(params, now)
        amount = _amount(params, payment)
        minor = amount_of(amount, payment)[1] if amount else shapes.remaining(self._state, payment)
        chargeback = self._payments.charge_back(payment, minor, now)
        return {"chargeback": chargeback["id"], "status": "charged back"}

    def _reverse_dispute(self, params: Mapping[str, str], now: Microseconds) -> Result:
        chargeback = _find(self._state.chargebacks, params, "chargeback")
        _require(chargeback["reversed_at"] is None, "the chargeback is reversed already")
        self._payments.reverse(self._payments.get(chargeback["payment"], now), chargeback, now)
        return {"chargeback": chargeback["id"], "status": "reversed"}

    def _block_profile(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del params, now
        self._state.profile_status = "blocked"
        return {"profile": "blocked"}

    def _switch_methods_off(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del params, now
        self._state.methods = []
        return {"methods": "none"}

    def _payment(self, params: Mapping[str, str], now: Microseconds) -> Json:
        return self._payments.get(params["payment"], now)


def _require(possible: bool, why: str) -> None:
    if not possible:
        raise ValueError(why)


def _find(records: Mapping[str, Json], params: Mapping[str, str], name: str) -> Json:
    if params[name] not in records:
        raise ValueError(f"there is no {name} {params[name]!r}")
    return records[params[name]]


def _amount(params: Mapping[str, str], payment: Json) -> Json:
    if "amount" not in params:
        return {}
    return {"amount": {"currency": payment["currency"], "value": params["amount"]}}


def _switch(params: Mapping[str, str]) -> bool:
    word = params["on"].lower()
    if word not in _YES | _NO:
        raise ValueError(f"on is true or false, not {params['on']!r}")
    return word in _YES


def _told(item: Json) -> Result:
    return {"id": item["id"], "status": item["status"]}
