"""What becomes of captured money at PayPal: refunds and disputes, read and made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import structlog

from paidonce.errors import OutcomeUnknown
from paidonce.gateways.base import DisputeSnapshot, RefundSnapshot, keepable
from paidonce.gateways.paypal import disputes, wire
from paidonce.gateways.paypal.client import Answer, NotPermitted, PayPalClient
from paidonce.money import Money

log = structlog.get_logger("paidonce.gateways.paypal")

# Fifty disputes a page: more pages than these are no list of one payment's disputes.
_MOST_PAGES = 20

Json = Mapping[str, Any]
T = TypeVar("T")


class Aftersales:
    """Reads and makes refunds, and reads disputes. Raises only `errors.GatewayError`s."""

    def __init__(self, client: PayPalClient) -> None:
        self._client = client
        self._told_about_permission = False

    async def refund(self, capture_ref: str, *, key: str, amount: Money, refund_id: str) -> RefundSnapshot:
        """Give `amount` of a capture back under `key`."""
        body = {"amount": wire.money_to_wire(amount), "custom_id": refund_id}
        path = f"/v2/payments/captures/{quote(capture_ref, safe='')}/refund"
        answer = await self._client.post(path, body, request_id=key)
        try:
            made = wire.refund(answer.body, payment_id=None, request_id=answer.debug_id)
        except wire.Unreadable:
            # It was carried out; only its description was incomplete.
            made = await self._read_again(answer)
        return replace(made, refund_id=refund_id)

    async def _read_again(self, made: Answer) -> RefundSnapshot:
        ref = keepable(made.body.get("id"))
        if ref is None:
            raise OutcomeUnknown("PayPal's answer to a refund can't be read", request_id=made.debug_id)
        answer = await self._client.get(_refund_path(ref))
        return _readable(answer, lambda: wire.refund(answer.body, payment_id=None, request_id=answer.debug_id))

    async def refunds(self, order: Json, payment_id: str | None) -> tuple[RefundSnapshot, ...] | None:
        """All refunds of an order's captures, oldest first; None if PayPal says that there are some and lists none."""
        if wire.hides_refunds(order):
            return None
        listed = wire.payments(order, "refunds")
        found = [await self._refund(item, payment_id) for item in sorted(listed, key=_made_at)]
        return tuple(found)

    async def _refund(self, item: Json, payment_id: str | None) -> RefundSnapshot:
        answer = Answer(200, item, None)
        ref = keepable(item.get("id"))
        if "custom_id" not in item and ref is not None:
            # Orders don't always repeat our id, without which the refund would look like the dashboard's.
            answer = await self._client.get(_refund_path(ref))
        return _readable(answer, lambda: wire.refund(answer.body, payment_id=payment_id, request_id=answer.debug_id))

    async def disputes(self, capture_refs: Sequence[str]) -> tuple[DisputeSnapshot, ...] | None:
        """All disputes of these captures, oldest first; None if the app may not read disputes."""
        found: list[DisputeSnapshot] = []
        try:
            for capture_ref in capture_refs:
                found += [await self._dispute(item) for item in await self._listed(capture_ref)]
        except NotPermitted as error:
            self._tell_about_permission(error)
            return None
        self._told_about_permission = False
        return tuple(found)

    async def _listed(self, capture_ref: str) -> list[Json]:
        found: list[Json] = []
        token: str | None = None
        for _ in range(_MOST_PAGES):
            answer = await self._client.get(disputes.list_path(capture_ref, token))
            items, token = _readable(answer, partial(disputes.page, answer.body))
            found += items
            if token is None:
                return list(reversed(found))
        raise OutcomeUnknown("PayPal's list of a payment's disputes does not end")

    async def _dispute(self, item: Json) -> DisputeSnapshot:
        answer = Answer(200, item, None)
        if disputes.needs_detail(item):
            ref = _readable(answer, lambda: disputes.identifier(item))
            answer = await self._client.get(disputes.path(ref))
        return _readable(answer, lambda: disputes.snapshot(answer.body))

    def _tell_about_permission(self, error: NotPermitted) -> None:
        if self._told_about_permission:
            return
        self._told_about_permission = True
        log.warning(
            "disputes_not_permitted",
            gateway="paypal",
            request_id=error.request_id,
            fix="turn on 'Customer disputes' for the app at developer.paypal.com, or disputes stay unseen here",
        )


def _readable(answer: Answer, read: Callable[[], T]) -> T:
    try:
        return read()
    except wire.Unreadable as error:
        raise OutcomeUnknown(f"PayPal's answer can't be read: {error}", request_id=answer.debug_id) from error


def _refund_path(ref: str) -> str:
    return "/v2/payments/refunds/" + quote(ref, safe="")


def _made_at(item: Json) -> str:
    made = item.get("create_time")
    return made if isinstance(made, str) else ""
