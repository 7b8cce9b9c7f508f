"""Other projects that take a shop to a paid order, each in an environment of its own, against the same fake gateway.

A peer is a small Django shop around the project's own code: it makes an order, starts the payment by the project's
Stripe provider, completes it, hears the webhook, and lowers the stock once. It has nobody sign in and bounds nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import shops
from bench.child import Broken, end
from bench.gateway import WEBHOOK_SECRET
from bench.measure import Contestant

_HERE = Path(__file__).parent
ENVIRONMENTS = _HERE.parent.parent / ".make" / "bench-peers"
# As many as a worker of such shops commonly has.
_THREADS = 16


class NotHere(Exception):
    """A peer that can't be installed on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """How a peer is installed. `module` is its folder here."""

    name: str
    module: str
    requirements: tuple[str, ...]
    least_python: tuple[int, int] = (3, 11)


PEERS = (
    Peer("django-payments", "django_payments", ("django-payments==4.1.0", "stripe>=12,<13", "django>=5.2,<6")),
    # Its Stripe plugin has no release for an older Python.
    Peer("getpaid", "getpaid", ("django-getpaid>=3.2", "python-getpaid-stripe>=0.2"), least_python=(3, 12)),
)
_ALL = ("gunicorn>=23", "psycopg[binary]>=3.2")


def install(peer: Peer) -> Path:
    """The peer's Python, with all that it needs. Safe to repeat. Raises `NotHere`."""
    if sys.version_info[:2] < peer.least_python:
        wanted = ".".join(map(str, peer.least_python))
        raise NotHere(f"it needs Python {wanted} or newer, and this is {sys.version_info[0]}.{sys.version_info[1]}")
    if not (_HERE / peer.module).is_dir():
        raise NotHere("there is no recipe for it yet")
    folder = ENVIRONMENTS / peer.name
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join((*peer.requirements, *_ALL))
    if done.exists() and done.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *peer.requirements, *_ALL]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - names of our own.
    if told.returncode:
        raise NotHere((told.stderr.strip().splitlines() or ["pip failed"])[-1])
    done.write_text(wanted)
    return python


def contestant(peer: Peer) -> Contestant:
    """The peer, ready to be measured. Raises `NotHere`."""
    python = install(peer)
    return Contestant(
        open=lambda place, _: _serve(peer, python, place),
        books="(SELECT count(*) FROM shop_order WHERE paid), (SELECT CAST(-sum(stock) AS BIGINT) FROM shop_product),"
        " (SELECT count(*) FROM shop_line), 0, 0",
        tables=(),
        prepare=lambda url: _prepare(peer, python, url),
    )


def _environment(peer: Peer, url: str, gateway: int = 0) -> dict[str, str]:
    return {
        **os.environ,
        "BENCH_DATABASE_URL": url,
        "BENCH_GATEWAY": f"http://127.0.0.1:{gateway}",
        "BENCH_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PYTHONPATH": str(_HERE / peer.module),
        "DJANGO_SETTINGS_MODULE": "shop.settings",
    }


def _prepare(peer: Peer, python: Path, url: str) -> None:
    command = [str(python), "-m", "shop.prepare"]
    told = subprocess.run(command, env=_environment(peer, url), capture_output=True, text=True, check=False)  # noqa: S603 - our own words.
    if told.returncode:
        raise Broken(f"{peer.name} makes no tables: {told.stderr.strip().splitlines()[-1]}")


@contextmanager
def _serve(peer: Peer, python: Path, place: shops.Place) -> Iterator[shops.Shop]:
    """The peer's shop by gunicorn with threads, which is how most of such shops run."""
    port = shops.free_port()
    command = [
        *shops.UNDER_US,
        str(python),
        "-m",
        "gunicorn",
        "shop.wsgi",
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "1",
    ]
    command += ["--threads", f"{_THREADS}", "--keep-alive", "60", "--log-level", "warning"]
    environment = _environment(peer, place.database, place.gateway)
    with place.log.open("a") as log:
        process = subprocess.Popen(  # noqa: S603 - likewise.
            command, env=environment, stdout=log, stderr=log, text=True
        )
    try:
        shops.wait_until_ready(port)
        yield shops.Shop([port], [process.pid])
    finally:
        process.terminate()
        end(process)
