"""What buyers, banks and Stripe's dashboard do at the twin: for `paidonce prove`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from paidonce.gateways.base import HttpRequest, HttpResponse, SandboxCore
from paidonce.gateways.stripe.sandbox import StripeSandbox
from paidonce.ports import Microseconds

Json = dict[str, Any]

_CARDS = {
    "pays": "pm_card_visa",
    "is declined": "pm_card_visa_chargeDeclined",
    "is asked by the bank": "pm_card_authenticationRequired",
    "pays by slow bank debit": "pm_usBankAccount_processing",
    "pays and will dispute": "pm_card_createDispute",
    "pays and will inquire": "pm_card_createDisputeInquiry",
    "pays with a card whose refunds fail": "pm_card_refundFail",
    "pays with a card whose refunds take days": "pm_card_pendingRefund",
}
_BANK_PAGE = {"passes the bank's page": b"answer=authorize", "fails the bank's page": b"answer=fail"}
_LIES: dict[str, Json] = {
    "amount": {"amount": 777_700, "amount_received": 777_700},
    "currency": {"currency": "usd"},
    "mode": {"livemode": True},
    "ids": {"metadata": {"payment_id": "pay_of_another_shop", "order_id": "ord_of_another_shop"}},
}
_LIVE = {
    "requires_payment_method": "can be confirmed",
    "requires_confirmation": "can be confirmed",
    "requires_action": "can be confirmed",
    "requires_capture": "is reserved",
}
_FORM = {"content-type": "application/x-www-form-urlencoded"}
_COLLECTIONS = {"ref": "intents", "refund": "refunds", "dispute": "disputes"}
_RETURN_URL = "http://127.0.0.1:8000/return"


def cast(twin: SandboxCore) -> StripeCast:
    """The people around the twin."""
    assert isinstance(twin, StripeSandbox)
    return StripeCast(twin)


class StripeCast:
    """Implements `prove.cast.Cast`."""

    calls = ("account", "create", "reopen", "fetch", "capture", "void", "refund")
    key_header = "idempotency-key"
    keyless = ("/cancel",)
    currencies = ("EUR", "HUF", "JPY", "ISK")
    lies = tuple(_LIES)
    ways = (*_CARDS, *_BANK_PAGE)

    def __init__(self, twin: StripeSandbox) -> None:
        self._twin = twin

    def agree(self, client: Mapping[str, str], way: str, *, now: Microseconds) -> str:
        """Confirm the intent with a card, or answer the bank's page."""
        ref = client["client_secret"].split("_secret_")[0]
        if way in _BANK_PAGE:
            return self._answer_the_bank(ref, _BANK_PAGE[way], now)
        form = {
            "client_secret": client["client_secret"],
            "payment_method": _CARDS[way],
            "return_url": _RETURN_URL,
        }
        headers = {**_FORM, "authorization": f"Bearer {client['publishable_key']}"}
        request = HttpRequest("POST", f"/v1/payment_intents/{ref}/confirm", headers, urlencode(form).encode())
        status = self._twin.handle(request, now=now).status
        return f"{ref} {self._records('intents')[ref]['object']['status']} (HTTP {status})"

    def _answer_the_bank(self, ref: str, answer: bytes, now: Microseconds) -> str:
        intent = self._records("intents")[ref]["object"]
        if intent["next_action"] is None:
            return f"{ref} has no page of a bank"
        path = "/" + urlsplit(intent["next_action"]["redirect_to_url"]["url"]).path.removeprefix("/stripe/")
        self._twin.handle(HttpRequest("POST", path, _FORM, answer), now=now)
        return f"{ref} {self._records('intents')[ref]['object']['status']}"

    def happenings(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """What could be asked of the twin's controls now."""
        found: list[tuple[str, Mapping[str, str]]] = []
        for number, record in enumerate(self._records("intents").values()):
            found += self._around_intent(f"#{number}", record["object"])
        for number, record in enumerate(self._records("refunds").values()):
            name = f"#{number}"
            if record["object"]["status"] == "pending":
                found.append(("finish_refund", {"refund": name}))
            if record["object"]["status"] in ("pending", "succeeded"):
                found.append(("fail_refund", {"refund": name}))
        for number, record in enumerate(self._records("disputes").values()):
            found += self._around_dispute(f"#{number}", record["object"])
        return found

    def _around_intent(self, name: str, intent: Json) -> list[tuple[str, Mapping[str, str]]]:
        match intent["status"]:
            case "processing":
                outcomes = ("succeeded", "failed")
                return [("resolve_processing", {"ref": name, "outcome": outcome}) for outcome in outcomes]
            case "requires_capture":
                return [("expire_authorization", {"ref": name}), ("cancel", {"ref": name})]
            case "succeeded":
                refunds = [{"ref": name}, {"ref": name, "amount": "100"}]
                disputes = [] if self._was_lost(intent) else [{"ref": name}, {"ref": name, "inquiry": "true"}]
                return [
                    *(("dashboard_refund", one) for one in refunds),
                    *(("open_dispute", one) for one in disputes),
                    ("pend_next_refund", {}),
                ]
            case "requires_payment_method" | "requires_action":
                return [("cancel", {"ref": name})]
        return []

    def _around_dispute(self, name: str, dispute: Json) -> list[tuple[str, Mapping[str, str]]]:
        if dispute["status"] in ("won", "lost", "warning_closed"):
            return []
        outcomes = ("won", "lost") if self._has_room(dispute) else ("won",)
        closes = [("close_dispute", {"dispute": name, "outcome": outcome}) for outcome in outcomes]
        inquiry = dispute["status"].startswith("warning") and self._has_room(dispute)
        return [*closes, *([("escalate_dispute", {"dispute": name})] if inquiry else [])]

    def _was_lost(self, intent: Json) -> bool:
        """No bank takes the same money twice."""
        disputes = (record["object"] for record in self._records("disputes").values())
        return any(one["payment_intent"] == intent["id"] and one["status"] == "lost" for one in disputes)

    def _has_room(self, dispute: Json) -> bool:
        """The bank takes no more than is left of the charge, also where an inquiry was answered by a refund."""
        charge = self._records("charges")[dispute["charge"]]["object"]
        released = charge["amount"] - charge["amount_captured"]
        refunded = charge["amount_refunded"] - released
        return bool(refunded + dispute["amount"] <= charge["amount_captured"])

    def decisions(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Slow payments, refunds and disputes get their end, in more than one way."""
        ends = {"resolve_processing", "finish_refund", "close_dispute"}
        return [one for one in self.happenings() if one[0] in ends]

    def lie(self, answer: HttpResponse, about: str) -> HttpResponse:
        """The answer with a payment intent that says something else."""
        said = json.loads(answer.body)
        if said.get("object") != "payment_intent":
            return answer
        return HttpResponse(answer.status, answer.headers, json.dumps({**said, **_LIES[about]}).encode())

    def live(self) -> Mapping[str, str]:
        """Intents that a browser can still confirm, and money that is reserved."""
        intents = [record["object"] for record in self._records("intents").values()]
        return {one["metadata"]["payment_id"]: _LIVE[one["status"]] for one in intents if one["status"] in _LIVE}

    def refunds_of_ours(self) -> Sequence[str]:
        """From their metadata."""
        told = [record["object"]["metadata"].get("refund_id") for record in self._records("refunds").values()]
        return [one for one in told if one is not None]

    def ids(self, param: str) -> Sequence[str]:
        """The ids that a control's parameter may take, oldest first."""
        kind = _COLLECTIONS.get(param)
        return () if kind is None else list(self._records(kind))

    def happen(self, control: str, params: Mapping[str, str], *, now: Microseconds) -> str:
        """Ask the twin's control."""
        try:
            told = self._twin.control(control, params, now=now)
        except ValueError as impossible:
            return f"impossible: {impossible}"
        return " ".join(told.values())

    def _records(self, kind: str) -> dict[str, Json]:
        return self._twin.look(kind)
