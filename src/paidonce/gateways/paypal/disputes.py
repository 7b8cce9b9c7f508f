"""PayPal's disputes and our values: a pure mapping, no call in it.

Source: PayPal's Customer Disputes v1 reference and OpenAPI file. Its words stay open: an unknown one is OPEN.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from paidonce.gateways.base import DisputeProgress, DisputeSnapshot, keepable
from paidonce.gateways.paypal.wire import Unreadable, money_from_wire

Json = Mapping[str, Any]

LIST_PATH = "/v1/customer/disputes"
PAGE_SIZE = 50
_RESOLVED = "RESOLVED"
_INQUIRY = "INQUIRY"
_LOST = frozenset({"RESOLVED_BUYER_FAVOUR", "ACCEPTED"})
_WON = frozenset({"RESOLVED_SELLER_FAVOUR", "RESOLVED_WITH_PAYOUT", "CANCELED_BY_BUYER", "DENIED", "NONE"})
_IDENTIFIER = re.compile(r"[A-Za-z0-9-]{1,255}")
_PAGE_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{1,255}")


def list_path(capture_ref: str, page_token: str | None = None) -> str:
    """Where the disputes of a capture are listed, latest first."""
    query = {"disputed_transaction_id": capture_ref, "page_size": str(PAGE_SIZE)}
    if page_token is not None:
        query["next_page_token"] = page_token
    return f"{LIST_PATH}?{urlencode(query)}"


def path(dispute_id: str) -> str:
    """Where one dispute is read whole."""
    return f"{LIST_PATH}/{quote(dispute_id, safe='')}"


def page(listed: Json) -> tuple[tuple[Json, ...], str | None]:
    """The disputes of one page, and the token of the next. Raises `Unreadable`."""
    return items(listed), next_page(listed)


def items(listed: Json) -> tuple[Json, ...]:
    """The disputes of one page. Raises `Unreadable`, since a page that can't be read must not look like no dispute."""
    found = listed.get("items", [])
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise Unreadable("the list of disputes has no items")
    return tuple(found)


def next_page(listed: Json) -> str | None:
    """The token of the page after this one. Only the token is taken from PayPal's link, never its address."""
    links = listed.get("links")
    for link in links if isinstance(links, Sequence) and not isinstance(links, str) else ():
        if isinstance(link, Mapping) and link.get("rel") == "next" and isinstance(link.get("href"), str):
            return _token(link["href"])
    return None


def _token(address: str) -> str:
    try:
        tokens = parse_qs(urlsplit(address).query).get("next_page_token", [])
    except ValueError:
        tokens = []
    # A space is a plus sign that the link's writer left bare.
    token = tokens[0].replace(" ", "+") if len(tokens) == 1 else ""
    if not _PAGE_TOKEN.fullmatch(token):
        raise Unreadable("the link to the next page of disputes can't be read")
    return token


def identifier(data: Json) -> str:
    """The dispute's id. Raises `Unreadable`."""
    found = data.get("dispute_id")
    if not isinstance(found, str) or not _IDENTIFIER.fullmatch(found):
        raise Unreadable("dispute_id is missing")
    return found


def needs_detail(listed: Json) -> bool:
    """Whether the list says too little: who won is told by the whole dispute alone."""
    complete = all(listed.get(name) for name in ("status", "dispute_amount", "dispute_life_cycle_stage"))
    return not complete or listed.get("status") == _RESOLVED


def progress(status: object, outcome: object) -> DisputeProgress:
    """What the dispute's status and its outcome's code say together."""
    if status != _RESOLVED:
        return DisputeProgress.OPEN
    if str(outcome) in _LOST:
        return DisputeProgress.LOST
    return DisputeProgress.WON if str(outcome) in _WON else DisputeProgress.OPEN


def outcome_of(data: Json) -> Json:
    """The dispute's outcome, empty as long as there is none."""
    found = data.get("dispute_outcome")
    return found if isinstance(found, Mapping) else {}


def snapshot(data: Json) -> DisputeSnapshot:
    """What a dispute says. Raises `Unreadable` if it lacks an id, a status or an amount."""
    ref, status = identifier(data), keepable(data.get("status"))
    if status is None:
        raise Unreadable("the dispute has no status")
    outcome = outcome_of(data)
    code, refunded = keepable(outcome.get("outcome_code")), outcome.get("amount_refunded")
    told = progress(status, code)
    amount = money_from_wire(data.get("dispute_amount"))
    if told is DisputeProgress.LOST and refunded is not None:
        # The buyer may have got back less than was disputed.
        amount = money_from_wire(refunded)
    return DisputeSnapshot(
        ref=ref,
        progress=told,
        amount=amount,
        withdrawn=_withdrawn(told, data.get("dispute_life_cycle_stage")),
        reason=keepable(data.get("reason")),
        raw_status="/".join([status, *([code] if code else [])]),
    )


def _withdrawn(told: DisputeProgress, stage: object) -> bool:
    if told is DisputeProgress.OPEN:
        # In an inquiry buyer and seller still talk; from the next stage on PayPal holds the money.
        return isinstance(stage, str) and stage != _INQUIRY
    return told is DisputeProgress.LOST
