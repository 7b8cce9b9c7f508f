"""`python -m bench.floor DATABASE_URL GATEWAY_PORT`: the floor behind a bare HTTP server."""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
from typing import Any
from urllib.parse import quote

from bench.child import end_with_parent, serve
from bench.floor.books import Books, Captured, News, Started, text
from bench.gateway import WEBHOOK_SECRET
from bench.http11 import Pool, answer, header, request, target

_HEADERS = (
    "Authorization: Bearer sk_test_floor\r\nStripe-Version: 2026-08-26.dahlia\r\n"
    "Content-Type: application/x-www-form-urlencoded\r\n"
)


class Floor:
    """The four requests of a checkout."""

    def __init__(self, books: Books, gateway: Pool, account: str) -> None:
        self._books = books
        self._gateway = gateway
        self._account = account

    async def handle(self, head: bytes, body: bytes) -> bytes:
        """Answer one request."""
        parts = target(head)[1].decode().split("/")
        match parts[1:]:
            case ["api", "orders"]:
                return await self._order(body)
            case ["api", "orders", order, "payments"]:
                return await self._start(order)
            case ["api", "payments", payment, "complete"]:
                return await self._complete(payment)
            case ["webhooks", "stripe"]:
                return await self._hear(head, body)
        return answer(404, b"{}")

    async def _order(self, body: bytes) -> bytes:
        lines = json.loads(body)["lines"]
        order, total = await self._books.order([one["sku"] for one in lines], [one["quantity"] for one in lines])
        return answer(201, text(id=order, status="open", total=total, currency="EUR").encode())

    async def _start(self, order: str) -> bytes:
        started = Started(order, self._account)
        amount = await self._books.start(started)
        intent = await self._call(
            "POST",
            "/v1/payment_intents",
            f"Idempotency-Key: {started.key}\r\n",
            f"amount={amount}&currency=eur&automatic_payment_methods[enabled]=true&capture_method=automatic"
            f"&metadata[payment_id]={started.id}&metadata[order_id]={order}".encode(),
        )
        await self._books.opened(started, intent["id"])
        client = {"client_secret": intent["client_secret"]}
        return answer(201, text(id=started.id, gateway="stripe", status="awaiting_buyer", client=client).encode())

    async def _complete(self, payment: str) -> bytes:
        order, ref = await self._books.find(payment)
        expand = quote("expand[0]") + "=latest_charge.balance_transaction"
        intent = await self._call("GET", f"/v1/payment_intents/{ref}?{expand}")
        charge = intent["latest_charge"]
        if intent["status"] != "succeeded" or intent["metadata"]["payment_id"] != payment:
            return answer(202, b"{}")
        fee = charge["balance_transaction"]["fee"]
        await self._books.settle(Captured(payment, order, charge["id"], intent["amount_received"], fee))
        return answer(200, text(status="captured", order_status="paid", recoverable=False, message="").encode())

    async def _hear(self, head: bytes, body: bytes) -> bytes:
        stamp, _, signature = header(head, b"stripe-signature").partition(b",v1=")
        signed = hmac.new(WEBHOOK_SECRET.encode(), stamp[2:] + b"." + body, "sha256").hexdigest().encode()
        if not hmac.compare_digest(signed, signature):
            return answer(400, b"{}")
        event = json.loads(body)
        intent = event["data"]["object"]
        news = News(event["id"], event["type"], event["created"], intent["id"], intent["latest_charge"])
        return answer(200, text(outcome=await self._books.hear(news)).encode())

    async def _call(self, method: str, path: str, headers: str = "", body: bytes = b"") -> Any:
        status, told = await self._gateway.send(request(method, path, _HEADERS + headers, body))
        assert status == 200, told
        return json.loads(told)


async def _books(url: str) -> Books:
    if url.startswith("sqlite:///"):
        from bench.floor.sqlite import SqliteBooks

        return SqliteBooks(url.removeprefix("sqlite:///"))
    from bench.floor.postgres import PostgresBooks

    books = PostgresBooks(url)
    await books.connect()
    return books


async def main(url: str, gateway_port: int) -> None:
    """Serve until the parent ends."""
    gateway = Pool(gateway_port)
    _, told = await gateway.send(request("GET", "/v1/account", _HEADERS))
    await serve(Floor(await _books(url), gateway, json.loads(told)["id"]).handle)


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
