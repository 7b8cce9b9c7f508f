"""What dashboards, banks and time do at the twin, to be done from outside by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from paidonce.gateways.base import Control
from paidonce.gateways.controls import given
from paidonce.gateways.stripe.sandbox.disputes import Disputes
from paidonce.gateways.stripe.sandbox.endpoints import Endpoints
from paidonce.gateways.stripe.sandbox.intents import CANCELABLE, Intents
from paidonce.gateways.stripe.sandbox.refunds import Refunds
from paidonce.gateways.stripe.sandbox.replies import SandboxError
from paidonce.gateways.stripe.sandbox.store import Record, Store

_INTENT = "the payment's id at Stripe (pi_…)"
_REFUND = "the refund's id (re_…)"
_DISPUTE = "the dispute's id (du_…)"
_AMOUNT = "optional; in Stripe's minor units; without it, all that is left"
_YES = frozenset({"true", "yes", "1", "on"})
_NO = frozenset({"false", "no", "0", "off", ""})

CONTROLS: tuple[Control, ...] = (
    Control(
        "resolve_processing",
        "The bank decides on a slow payment.",
        {"ref": _INTENT, "outcome": "succeeded or failed"},
    ),
    Control("dashboard_refund", "Staff refund at Stripe's dashboard.", {"ref": _INTENT, "amount": _AMOUNT}),
    Control("pend_next_refund", "The next refund waits instead of succeeding at once.", {}),
    Control("finish_refund", "A pending refund succeeds.", {"refund": _REFUND}),
    Control("fail_refund", "A refund fails, also after it had succeeded.", {"refund": _REFUND}),
    Control(
        "open_dispute",
        "The buyer's bank disputes the payment.",
        {"ref": _INTENT, "amount": _AMOUNT, "inquiry": "optional; true for an inquiry, which takes no money yet"},
    ),
    Control("escalate_dispute", "An inquiry becomes a dispute, and the money is taken.", {"dispute": _DISPUTE}),
    Control("close_dispute", "The bank decides the dispute.", {"dispute": _DISPUTE, "outcome": "won or lost"}),
    Control("expire_authorization", "The bank lets the reserved money go.", {"ref": _INTENT}),
    Control("cancel", "Staff cancel the payment at Stripe's dashboard.", {"ref": _INTENT}),
    Control(
        "unsubscribe",
        "Somebody takes an event off the webhook endpoint's list; the list shows it, and the twin delivers it still.",
        {"event": "the event's type, such as charge.refunded"},
    ),
    Control("disable_endpoint", "Somebody switches the webhook endpoint off; that is shown as well.", {}),
    Control("remove_endpoint", "Somebody deletes the webhook endpoint; that is shown as well.", {}),
    Control("question_account", "Stripe wants papers of the merchant first; the account shows it.", {}),
)

Result = Mapping[str, str]
_OPTIONAL = frozenset({"amount", "inquiry"})


class Controls:
    """Carries out one of `CONTROLS`."""

    def __init__(
        self, store: Store, intents: Intents, refunds: Refunds, disputes: Disputes, endpoints: Endpoints
    ) -> None:
        self._store = store
        self._endpoints = endpoints
        self._intents = intents
        self._refunds = refunds
        self._disputes = disputes
        self._actions: dict[str, Callable[[Mapping[str, str], int], Result]] = {
            "resolve_processing": self._resolve_processing,
            "dashboard_refund": self._dashboard_refund,
            "pend_next_refund": self._pend_next_refund,
            "finish_refund": self._finish_refund,
            "fail_refund": self._fail_refund,
            "open_dispute": self._open_dispute,
            "escalate_dispute": self._escalate_dispute,
            "close_dispute": self._close_dispute,
            "expire_authorization": self._expire_authorization,
            "cancel": self._cancel,
            "unsubscribe": self._unsubscribe,
            "disable_endpoint": self._disable_endpoint,
            "remove_endpoint": self._remove_endpoint,
            "question_account": self._question_account,
        }

    def run(self, name: str, params: Mapping[str, str], now: int) -> Result:
        """Do it, and tell the object's id and state. Raises `ValueError` naming what is wrong; nothing changed then."""
        wanted = given(CONTROLS, name, params, optional=_OPTIONAL)
        try:
            return self._actions[name](wanted, now)
        except SandboxError as error:
            raise ValueError(str(error)) from None

    def _resolve_processing(self, params: Mapping[str, str], now: int) -> Result:
        record = self._intent(params)
        self._intents.resolve(record, params["outcome"], now)
        return _told("ref", record)

    def _dashboard_refund(self, params: Mapping[str, str], now: int) -> Result:
        return _told("refund", self._refunds.make(self._charge(params), _amount(params), now))

    def _pend_next_refund(self, _: Mapping[str, str], __: int) -> Result:
        self._store.state["next_refund_pends"] = True
        return {"next_refund": "pending"}

    def _finish_refund(self, params: Mapping[str, str], now: int) -> Result:
        return _told("refund", self._refunds.finish(params["refund"], now))

    def _fail_refund(self, params: Mapping[str, str], now: int) -> Result:
        return _told("refund", self._refunds.fail(params["refund"], now))

    def _open_dispute(self, params: Mapping[str, str], now: int) -> Result:
        inquiry = _truth(params.get("inquiry", ""))
        return _told("dispute", self._disputes.open(self._charge(params), _amount(params), now, inquiry=inquiry))

    def _escalate_dispute(self, params: Mapping[str, str], now: int) -> Result:
        return _told("dispute", self._disputes.escalate(params["dispute"], now))

    def _close_dispute(self, params: Mapping[str, str], now: int) -> Result:
        return _told("dispute", self._disputes.close(params["dispute"], params["outcome"], now))

    def _expire_authorization(self, params: Mapping[str, str], now: int) -> Result:
        record = self._intent(params)
        self._intents.expire(record, now)
        return _told("ref", record)

    def _cancel(self, params: Mapping[str, str], now: int) -> Result:
        record = self._intent(params)
        if record["object"]["status"] not in CANCELABLE:
            raise ValueError(f"the intent is {record['object']['status']} and can't be canceled")
        self._intents.end(record, now, reason="requested_by_customer")
        return _told("ref", record)

    def _unsubscribe(self, params: Mapping[str, str], _: int) -> Result:
        return {"endpoint": self._endpoints.unsubscribe(params["event"])["url"], "without": params["event"]}

    def _disable_endpoint(self, _: Mapping[str, str], __: int) -> Result:
        return {"endpoint": self._endpoints.disable()["url"], "status": "disabled"}

    def _remove_endpoint(self, _: Mapping[str, str], __: int) -> Result:
        return {"endpoint": self._endpoints.remove()["url"], "status": "deleted"}

    def _question_account(self, _: Mapping[str, str], __: int) -> Result:
        self._store.state["charges_enabled"] = False
        return {"charges_enabled": "false"}

    def _intent(self, params: Mapping[str, str]) -> Record:
        ref = params["ref"]
        record = self._store.find(ref) if ref.startswith("pi_") else None
        if record is None:
            raise ValueError(f"there is no payment intent {ref!r}")
        return record

    def _charge(self, params: Mapping[str, str]) -> Record:
        intent = self._intent(params)["object"]
        charge = self._store.find(intent["latest_charge"] or "")
        if charge is None or not charge["object"]["captured"]:
            raise ValueError(f"the intent is {intent['status']}: nothing was captured")
        return charge


def _told(kind: str, record: Record) -> Result:
    return {kind: record["object"]["id"], "status": record["object"]["status"]}


def _amount(params: Mapping[str, str]) -> int | None:
    text = params.get("amount")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError(f"amount must be a whole number of minor units, not {text!r}")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError(f"inquiry must be true or false, not {text!r}")
    return text.lower() in _YES
