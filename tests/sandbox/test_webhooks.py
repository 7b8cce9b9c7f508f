"""The twins' webhooks on their way to a real web server: at once, late, doubled, tried again, and after a restart."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from paidonce import serving
from paidonce.demo.servers import sandbox_process
from paidonce.errors import ConfigError
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.registry import providers
from paidonce.sandbox import Dials, Fault, Rule, SandboxApp, WebhookQueue, create_sandbox_app
from paidonce.sandbox.app import TICK_SECONDS
from paidonce.sandbox.webhooks import BACKOFF_SECONDS, Courier, loopback_url
from sandbox.twin import PROVIDERS, PUBLIC_URL, Shop, TillCore, VirtualClock, running_app, running_shop, until


@asynccontextmanager
async def selling(shop: Shop, state_file: Path | None = None) -> AsyncIterator[tuple[SandboxApp, str]]:
    """The sandbox as a real server that tells `shop`."""
    app = create_sandbox_app(PUBLIC_URL, providers=PROVIDERS, state_file=state_file, shop_url=shop.url + "/")
    async with running_app(app) as url:
        yield app, url


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with running_shop(Shop()) as running:
        yield running


@pytest.fixture
async def buyer() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def pay(buyer: aiohttp.ClientSession, url: str, times: int = 1) -> None:
    for _ in range(times):
        async with buyer.post(url + "/till/v1/pay") as answer:
            assert answer.status == 200


def states(app: SandboxApp) -> list[tuple[str, str, int]]:
    return [(one.id, one.state, one.tries) for one in app.queue.log]


async def test_what_happens_is_told_once_in_order(shop: Shop, buyer: aiohttp.ClientSession) -> None:
    async with selling(shop) as (app, url):
        await pay(buyer, url, 3)
        await until(lambda: len(shop.got) == 3 and len(app.queue) == 0)
        assert shop.ids == ["evt_1", "evt_2", "evt_3"]
        assert {event["path"] for event in shop.got} == {"/webhooks/till"}
        assert shop.headers[0]["x-sig"] == "s"
        assert states(app) == [(f"evt_{number}", "delivered", 1) for number in (1, 2, 3)]
        assert [delivery.status for delivery in app.queue.log] == [200] * 3
    assert len(shop.got) == 3


async def test_time_brings_news_without_any_request(shop: Shop, buyer: aiohttp.ClientSession) -> None:
    async with selling(shop) as (_, url):
        async with buyer.post(url + "/_control/till/remind", json={"seconds": "1"}) as answer:
            assert answer.status == 200
        assert shop.got == []
        await until(lambda: shop.ids == ["evt_1"])
    assert shop.got[0]["type"] == "reminder"


async def test_what_a_shop_refuses_is_sent_again(shop: Shop, buyer: aiohttp.ClientSession) -> None:
    shop.refuse = 1
    async with selling(shop) as (app, url):
        await pay(buyer, url)
        await until(lambda: shop.ids == ["evt_1"])
        await until(lambda: states(app) == [("evt_1", "delivered", 2)])
    assert shop.refused == 1


async def test_doubled_ones_arrive_at_the_same_time(shop: Shop, buyer: aiohttp.ClientSession) -> None:
    async with selling(shop) as (app, url):
        app.dials.add(Rule(Fault.WEBHOOK_DUPLICATE, copies=3))
        await pay(buyer, url)
        await until(lambda: shop.ids == ["evt_1"] * 3)
    assert shop.most_at_once == 3


async def test_dropped_and_switched_off_ones_never_come(shop: Shop, buyer: aiohttp.ClientSession) -> None:
    async with selling(shop) as (app, url):
        app.dials.add(Rule(Fault.WEBHOOK_DROP, next=1))
        await pay(buyer, url)
        app.dials.webhooks = False
        await pay(buyer, url)
        app.dials.webhooks = True
        await pay(buyer, url)
        await until(lambda: len(app.queue) == 0 and bool(shop.got))
        assert states(app) == [("evt_1", "dropped", 0), ("evt_2", "switched off", 0), ("evt_3", "delivered", 1)]
    assert shop.ids == ["evt_3"]


async def test_an_early_one_is_there_before_the_answer(shop: Shop, buyer: aiohttp.ClientSession) -> None:
    async with selling(shop) as (app, url):
        app.dials.add(Rule(Fault.WEBHOOK_EARLY))
        await pay(buyer, url)
        assert shop.ids == ["evt_1"]
        await pay(buyer, url)
        assert shop.ids == ["evt_1", "evt_2"]
        await asyncio.sleep(TICK_SECONDS * 1.2)
    assert shop.ids == ["evt_1", "evt_2"]


async def test_the_answer_that_is_lost_had_its_webhook(shop: Shop, buyer: aiohttp.ClientSession) -> None:
    async with selling(shop) as (app, url):
        app.dials.add(Rule(Fault.LOSE_ANSWER))
        with pytest.raises(aiohttp.ClientError):
            await pay(buyer, url)
        await until(lambda: shop.ids == ["evt_1"])


async def test_a_restart_goes_on_where_it_was(buyer: aiohttp.ClientSession, tmp_path: Path) -> None:
    state_file = tmp_path / "sandbox.json"
    async with running_shop(Shop()) as closed:
        pass
    async with selling(closed, state_file) as (app, url):
        await pay(buyer, url, 2)
        await until(lambda: all(tries for _, _, tries in states(app)))
        assert {state for _, state, _ in states(app)} == {"waiting"}
    saved = json.loads(state_file.read_text())
    assert len(saved["webhooks"]) == 2
    # The twin has given them away: it alone would not tell them again.
    assert json.loads(saved["cores"]["till"])["webhooks"] == []
    async with running_shop(Shop()) as shop:
        async with selling(shop, state_file) as (app, url):
            await until(lambda: sorted(shop.ids) == ["evt_1", "evt_2"])
            await until(lambda: json.loads(state_file.read_text())["webhooks"] == [])
        async with selling(shop, state_file) as (app, url):
            await pay(buyer, url)
            await until(lambda: len(shop.got) == 3)
        assert sorted(shop.ids) == ["evt_1", "evt_2", "evt_3"]


async def test_without_a_shop_nobody_is_told_and_nothing_piles_up(
    shop: Shop, buyer: aiohttp.ClientSession, tmp_path: Path
) -> None:
    state_file = tmp_path / "sandbox.json"
    app = create_sandbox_app(PUBLIC_URL, providers=PROVIDERS, state_file=state_file)
    async with running_app(app) as url:
        await pay(buyer, url, 2)
        assert states(app) == [("evt_1", "no shop", 0), ("evt_2", "no shop", 0)]
    saved = json.loads(state_file.read_text())
    assert saved["webhooks"] == []
    assert json.loads(saved["cores"]["till"])["webhooks"] == []
    async with selling(shop, state_file) as (app, url):
        await pay(buyer, url)
        await until(lambda: bool(shop.got))
    assert shop.ids == ["evt_3"]


async def test_tries_end(shop: Shop) -> None:
    class Nobody:
        """Refuses every request."""

        def __init__(self) -> None:
            self.sent = 0

        async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
            self.sent += 1
            return HttpResponse(503, {}, b"")

    core, clock, nobody = TillCore("till"), VirtualClock(), Nobody()
    core.handle(HttpRequest("POST", "/v1/pay"), now=0)
    queue = WebhookQueue(Dials())
    courier = Courier(queue, nobody, clock, shop.url)
    (parcel,) = queue.collect({"till": core}, clock.now())
    waits = []
    while len(queue):
        due = queue.next_due()
        assert due is not None
        waits.append((due - clock.now()) // 1_000_000)
        clock.time = due
        assert queue.due(clock.now() - 1) == []
        await courier.deliver(parcel)
    assert waits == [0, *BACKOFF_SECONDS]
    assert nobody.sent == 1 + len(BACKOFF_SECONDS)
    assert (parcel.delivery.state, parcel.delivery.status) == ("given up", 503)
    assert shop.got == []


def test_the_command_refuses_a_shop_elsewhere_in_plain_words() -> None:
    with serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.") as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "paidonce", "sandbox", "--port", port, "--shop-url", "http://shop.example"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "--shop-url: 'http://shop.example'" in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_the_demos_sandbox_tells_the_demos_shop(shop: Shop, buyer: aiohttp.ClientSession, tmp_path: Path) -> None:
    listener = serving.bind(serving.LOOPBACK, 0, fix="A free port was asked for.")
    url = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
    with sandbox_process(listener, url, tmp_path / "sandbox.json", shop.url):
        async with buyer.get(url + "/_control/state") as answer:
            state = await answer.json()
    assert state["webhooks"]["shop_url"] == shop.url
    assert set(state["controls"]) == {one.name for one in providers({}) if one.sandbox(url) is not None}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://localhost:8000",
        "https://127.8.9.1",
        "http://[::1]:8000",
        "http://127.0.0.1:8000/below/",
    ],
)
def test_shops_on_this_machine(url: str) -> None:
    assert loopback_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://127.0.0.1",
        "http://shop.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1@evil.example",
        "http://me@127.0.0.1",
        "http://10.0.0.1",
        "http://0.0.0.0:8000",
        "http://169.254.169.254",
        "http://localhost.evil.example",
        "http://127.0.0.1:99999",
        "http://127.0.0.1?x=1",
        "http://127.0.0.1#x",
        "http://[::1",
        "http://127.0.0.1:80\r\nx",
    ],
)
def test_shops_elsewhere_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--shop-url"):
        loopback_url(url)
    if url:
        with pytest.raises(ConfigError, match="--shop-url"):
            create_sandbox_app(PUBLIC_URL, providers=PROVIDERS, shop_url=url)
