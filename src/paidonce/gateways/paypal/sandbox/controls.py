"""What PayPal's dashboard, banks, buyers and time do at the twin, to be done from outside by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paidonce.gateways.base import Control
from paidonce.gateways.controls import given
from paidonce.gateways.paypal.sandbox import units
from paidonce.gateways.paypal.sandbox.disputes import STAGES, Disputes
from paidonce.gateways.paypal.sandbox.endpoints import Endpoints
from paidonce.gateways.paypal.sandbox.orders import Orders
from paidonce.gateways.paypal.sandbox.payments import Payments
from paidonce.gateways.paypal.sandbox.replies import Refused
from paidonce.gateways.paypal.sandbox.shapes import currency
from paidonce.gateways.paypal.sandbox.state import State
from paidonce.ports import Microseconds

Json = dict[str, Any]
Result = Mapping[str, str]

_ORDER = "the payment's id at PayPal (the order's)"
_REFUND = "the refund's id at PayPal"
_DISPUTE = "the dispute's id (PP-D-…)"
_AMOUNT = "optional; a decimal amount such as 5.00; without it, all that is left"
_STAGE = "optional; CHARGEBACK (else), or INQUIRY, which takes no money yet"
_OPTIONAL = frozenset({"amount", "stage", "status"})
_YES = frozenset({"true", "yes", "1", "on"})
_NO = frozenset({"false", "no", "0", "off"})

CONTROLS: tuple[Control, ...] = (
    Control(
        "clear_pending",
        "The bank decides on a pending payment.",
        {"order": _ORDER, "status": "optional; COMPLETED (else) or DECLINED"},
    ),
    Control("dashboard_refund", "Staff refund at PayPal's website.", {"order": _ORDER, "amount": _AMOUNT}),
    Control("pend_refunds", "From now on, refunds wait instead of succeeding at once.", {"on": "true or false"}),
    Control(
        "finish_refund", "A pending refund ends.", {"refund": _REFUND, "status": "optional; COMPLETED (else) or FAILED"}
    ),
    Control("fail_refund", "A refund fails, also after it had succeeded.", {"refund": _REFUND}),
    Control(
        "open_dispute",
        "The buyer opens a case.",
        {
            "order": _ORDER,
            "amount": _AMOUNT,
            "stage": _STAGE,
        },
    ),
    Control("escalate_dispute", "An inquiry becomes a claim, and the money is taken.", {"dispute": _DISPUTE}),
    Control("close_dispute", "PayPal decides the case.", {"dispute": _DISPUTE, "outcome": "won or lost"}),
    Control("expire_authorization", "The reserved money is let go.", {"order": _ORDER}),
    Control("reverse_approval", "PayPal takes an unused approval back.", {"order": _ORDER}),
    Control("revoke_tokens", "PayPal forgets every access token.", {}),
    Control(
        "unsubscribe",
        "Somebody takes an event off the webhook's list; the list shows it, and the twin delivers it still.",
        {"event": "the event's type, such as PAYMENT.CAPTURE.REFUNDED"},
    ),
    Control("remove_endpoint", "Somebody deletes the webhook; that is shown as well.", {}),
)


class Controls:
    """Carries out one of `CONTROLS`."""

    def __init__(
        self, state: State, orders: Orders, payments: Payments, disputes: Disputes, endpoints: Endpoints
    ) -> None:
        self._state = state
        self._endpoints = endpoints
        self._orders = orders
        self._payments = payments
        self._disputes = disputes
        self._actions: dict[str, Callable[[Mapping[str, str], Microseconds], Result]] = {
            "clear_pending": self._clear_pending,
            "dashboard_refund": self._dashboard_refund,
            "pend_refunds": self._pend_refunds,
            "finish_refund": self._finish_refund,
            "fail_refund": self._fail_refund,
            "open_dispute": self._open_dispute,
            "escalate_dispute": self._escalate_dispute,
            "close_dispute": self._close_dispute,
            "expire_authorization": self._expire_authorization,
            "reverse_approval": self._reverse_approval,
            "revoke_tokens": self._revoke_tokens,
            "unsubscribe": self._unsubscribe,
            "remove_endpoint": self._remove_endpoint,
        }

    def run(self, name: str, params: Mapping[str, str], now: Microseconds) -> Result:
        """Do it, and tell the object's id and state. Raises `ValueError` naming what is wrong; nothing changed then."""
        wanted = given(CONTROLS, name, params, optional=_OPTIONAL)
        try:
            return self._actions[name](wanted, now)
        except Refused as refused:
            about = f" ({refused.field})" if refused.field else ""
            raise ValueError(f"PayPal refuses this: {refused.issue}{about}") from None

    def _clear_pending(self, params: Mapping[str, str], now: Microseconds) -> Result:
        order = self._order(params, now)
        self._orders.clear_pending(order, _choice(params, "status", ("COMPLETED", "DECLINED")), now)
        held = order["capture"] or order["authorization"]
        return {"order": order["id"], "status": held["status"]}

    def _dashboard_refund(self, params: Mapping[str, str], now: Microseconds) -> Result:
        order = self._order(params, now)
        amount = _amount(params, order)
        amount = self._payments.left(order) if amount is None else amount
        # PayPal repeats the payment's own text on a refund that has none.
        refund = self._payments.refund(order, amount, now, custom_id=None)
        return {"refund": refund["id"], "status": refund["status"]}

    def _pend_refunds(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del now
        if (word := params["on"].lower()) not in _YES | _NO:
            raise ValueError(f"on must be true or false, not {params['on']!r}")
        self._state.pend_refunds = word in _YES
        return {"refunds": "PENDING" if self._state.pend_refunds else "COMPLETED"}

    def _finish_refund(self, params: Mapping[str, str], now: Microseconds) -> Result:
        refund = self._payments.refund_of(params["refund"])
        self._payments.finish_refund(refund, _choice(params, "status", ("COMPLETED", "FAILED")), now)
        return {"refund": refund["id"], "status": refund["status"]}

    def _fail_refund(self, params: Mapping[str, str], now: Microseconds) -> Result:
        refund = self._payments.refund_of(params["refund"])
        self._payments.fail_refund(refund, now)
        return {"refund": refund["id"], "status": refund["status"]}

    def _open_dispute(self, params: Mapping[str, str], now: Microseconds) -> Result:
        order = self._order(params, now)
        stage = _choice({"stage": "CHARGEBACK", **params}, "stage", STAGES)
        dispute = self._disputes.open(order, _amount(params, order), stage, now)
        return _told(dispute)

    def _escalate_dispute(self, params: Mapping[str, str], now: Microseconds) -> Result:
        dispute = self._disputes.get(params["dispute"])
        self._disputes.escalate(dispute, now)
        return _told(dispute)

    def _close_dispute(self, params: Mapping[str, str], now: Microseconds) -> Result:
        dispute = self._disputes.get(params["dispute"])
        self._disputes.close(dispute, params["outcome"].lower(), now)
        return _told(dispute)

    def _expire_authorization(self, params: Mapping[str, str], now: Microseconds) -> Result:
        order = self._order(params, now)
        held = order["authorization"]
        if held is None or held["status"] not in ("CREATED", "PENDING"):
            raise ValueError("the order holds no reserved money")
        held["expires"] = now
        self._orders.release(order, now, expired=True)
        return {"order": order["id"], "status": held["status"]}

    def _reverse_approval(self, params: Mapping[str, str], now: Microseconds) -> Result:
        order = self._order(params, now)
        self._orders.reverse_approval(order, now)
        return {"order": order["id"], "status": order["status"]}

    def _revoke_tokens(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del params, now
        count = len(self._state.tokens)
        self._state.tokens = {}
        return {"revoked": str(count)}

    def _unsubscribe(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del now
        return {"webhook": self._endpoints.unsubscribe(params["event"])["url"], "without": params["event"]}

    def _remove_endpoint(self, params: Mapping[str, str], now: Microseconds) -> Result:
        del params, now
        return {"webhook": self._endpoints.remove()["url"], "status": "deleted"}

    def _order(self, params: Mapping[str, str], now: Microseconds) -> Json:
        return self._orders.get(params["order"], now)


def _told(dispute: Json) -> Result:
    return {"dispute": dispute["id"], "status": dispute["status"], "stage": dispute["stage"]}


def _choice(params: Mapping[str, str], name: str, words: tuple[str, ...]) -> str:
    """The word given, or the first one."""
    word = params.get(name, words[0]).upper()
    if word not in words:
        raise ValueError(f"{name} is {' or '.join(words)}, not {params[name]!r}")
    return word


def _amount(params: Mapping[str, str], order: Json) -> int | None:
    if "amount" not in params:
        return None
    return units.positive({"currency_code": currency(order), "value": params["amount"]}, "amount")
