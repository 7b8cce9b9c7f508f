"""The example shop as a process: a threaded WSGI server, and orders on standard input, one JSON line each.

Django is set up once per process, so each database gets a process of its own. What a test does to the shop beside HTTP
(the clock, recovery, a failure) comes by the pipe; the shop itself has no address for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import django

from paidonce.contrib.django import runtime as wiring
from paidonce.contrib.django.transport import BlockingClock
from paidonce.ports import SECOND, SystemClock


class Shift:
    """How far the shop's clock is ahead, in microseconds."""

    microseconds = 0


class ShiftedBlockingClock(BlockingClock):
    """The blocking clock, moved forward."""

    def now(self) -> int:
        return super().now() + Shift.microseconds


class ShiftedSystemClock(SystemClock):
    """The event loop's clock, moved forward."""

    def now(self) -> int:
        return super().now() + Shift.microseconds


def prepare(goods: list[dict[str, Any]], buyers: int) -> None:
    """All tables, the goods, the buyers and one member of staff."""
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from shop.models import Product

    call_command("migrate", verbosity=0)
    for one in goods:
        Product.objects.create(sku=one["sku"], name=one["name"], price_cents=one["price_minor"], stock=one["on_hand"])
    for number in range(buyers):
        User.objects.create_user(f"buyer{number}", password="test-password")
    User.objects.create_user("staff", password="test-password", is_staff=True)


def serve() -> int:
    """Serve on a free port, in a thread; the port."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    class Quiet(WSGIRequestHandler):  # type: ignore[misc]  # Django has no types.
        def log_message(self, *_: Any) -> None:
            """Tests read what is wrong, not what was asked."""

    class Server(ThreadedWSGIServer):  # type: ignore[misc]  # As above.
        request_queue_size = 256

    wiring.use(wiring.build(clock=ShiftedBlockingClock()))
    server = Server(("127.0.0.1", int(os.environ["SHOP_PORT"])), Quiet)
    server.set_app(StaticFilesHandler(get_wsgi_application()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_port)


async def _recover() -> int:
    async with wiring.open_worker(clock=ShiftedSystemClock()) as worker:
        return await worker.run_once()


def _orders() -> dict[str, Callable[..., Any]]:
    from shop.models import Order, Points, Product

    from contrib.django.failing import FailingStore

    def fail_next() -> None:
        FailingStore.fail_next = True

    def pass_seconds(seconds: int) -> None:
        Shift.microseconds += seconds * SECOND

    return {
        "prepare": prepare,
        "serve": serve,
        "on_hand": lambda sku: Product.objects.get(pk=sku).stock,
        "status": lambda order: str(Order.objects.get(pk=order).status),
        "paid": lambda: list(Order.objects.filter(status="paid").values_list("pk", flat=True)),
        "own_rows": lambda order: Points.objects.filter(order_id=order).count(),
        "fail_next": fail_next,
        "pass_seconds": pass_seconds,
        "recover": lambda: asyncio.run(_recover()),
    }


def main() -> None:
    """Carry out what comes, until the pipe closes."""
    # The pipe keeps the true output to itself; whatever else is printed must not get into the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    django.setup()
    known = _orders()
    for line in sys.stdin:
        name, params = json.loads(line)
        answers.write(json.dumps(known[name](**params)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
