"""Everything that the offline Mollie remembers, as plain JSON."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from paidonce.gateways.base import HttpRequest
from paidonce.ports import SECOND, Microseconds

Json = dict[str, Any]

PROFILE_ID = "pfl_OfflineBox"
KEY_SECONDS = 3600
# https://docs.mollie.com/docs/status-change: minutes for most methods, twelve days (and more over a weekend) for a
# bank transfer; https://docs.mollie.com/docs/place-a-hold-for-a-payment: reserved money is kept for a week at least.
OPEN_SECONDS = 15 * 60
BANK_TRANSFER_SECONDS = 12 * 24 * 3600
RESERVED_SECONDS = 7 * 24 * 3600

_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz"


class State:
    """Payments with what happened to them, captures, refunds, chargebacks, keys, news and books."""

    def __init__(self) -> None:
        self.count = 0
        self.payments: dict[str, Json] = {}
        self.captures: dict[str, Json] = {}
        self.refunds: dict[str, Json] = {}
        self.chargebacks: dict[str, Json] = {}
        self.keys: dict[str, Json] = {}
        self.news: list[str] = []  # Payments whose webhook nobody has taken yet, oldest first.
        self.books: list[Json] = []
        self.pend_refunds = False
        self.pend_captures = False
        self.keep_rests = False
        self.profile_status = "verified"
        self.methods = ["creditcard", "banktransfer"]  # What the profile has switched on.

    def dump(self) -> str:
        """The whole state as JSON."""
        return json.dumps(vars(self), sort_keys=False)

    def load(self, text: str) -> None:
        """Replace the state by what `dump` gave, also by a version that knew less."""
        fresh = State()
        vars(fresh).update(json.loads(text))
        vars(self).update(vars(fresh))

    def new_id(self, prefix: str, now: Microseconds) -> str:
        """An id as Mollie has them. The time keeps a twin that lost its state from repeating old ids."""
        self.count += 1
        digest = hashlib.sha256(f"{prefix}:{self.count}:{now}".encode()).digest()
        return prefix + "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:14])

    def of(self, kind: str, payment: Json) -> list[Json]:
        """The `captures`, `refunds` or `chargebacks` of a payment, oldest first."""
        found: dict[str, Json] = vars(self)[kind]
        return [one for one in found.values() if one["payment"] == payment["id"]]

    def tell(self, payment: Json) -> None:
        """Let the shop hear that something about this payment has changed, if it gave an address for it."""
        if payment["webhook_url"] is not None:
            self.news.append(payment["id"])

    def take(self) -> list[HttpRequest]:
        """The webhooks that came up since the last call: one form with one id, signed by nobody."""
        news, self.news = self.news, []
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return [HttpRequest("POST", "/webhooks/mollie", headers, f"id={one}".encode()) for one in news]

    def book(self, payment: Json, entry_object: str, kind: str, minor: int) -> None:
        """Write down that the merchant's balance changed by `minor` units."""
        self.books.append({"payment": payment["id"], "object": entry_object, "kind": kind, "minor": minor})


def moment(now: Microseconds) -> str:
    """`now` as Mollie writes moments."""
    return datetime.fromtimestamp(now // SECOND, UTC).isoformat()
