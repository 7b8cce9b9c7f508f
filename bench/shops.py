"""The contestants as processes: our own server as anybody serves it, and the floor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.child import Broken, child, end
from bench.gateway import WEBHOOK_SECRET
from bench.http11 import request

_START_SECONDS = 60
# What a server that does not watch our pipe is started by.
UNDER_US = (sys.executable, "-m", "bench.launch")


@dataclass(frozen=True, slots=True)
class Shop:
    """Running servers that share one database."""

    ports: list[int]
    pids: list[int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shop finds its database and its gateway."""

    database: str
    gateway: int
    log: Path


@contextmanager
def ours(place: Place, processes: int = 1) -> Iterator[Shop]:
    """`paidonce serve`, with its default settings where none is needed; as many of it as are wanted."""
    with ExitStack() as stack:
        started = [stack.enter_context(_serve(place, free_port())) for _ in range(processes)]
        for _, port in started:
            wait_until_ready(port)
        yield Shop([port for _, port in started], [process.pid for process, _ in started])


@contextmanager
def floor(place: Place, processes: int = 1) -> Iterator[Shop]:
    """The same work with nothing around it."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(child("bench.floor", place.database, str(place.gateway))) for _ in range(processes)
        ]
        yield Shop([one.hear()["port"] for one in started], [one.pid for one in started])


@contextmanager
def _serve(place: Place, port: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with place.log.open("a") as log:
        process = start(place, port, log.fileno())
    try:
        yield process, port
    finally:
        process.terminate()
        end(process)


def start(place: Place, port: int, log: int) -> subprocess.Popen[str]:
    """Begin to serve; it is not ready yet."""
    command = [*UNDER_US, sys.executable, "-m", "paidonce", "serve"]
    return subprocess.Popen(  # noqa: S603 - our own module, no shell.
        command, env=environment(place, port), stdout=log, stderr=log, text=True
    )


def environment(place: Place, port: int) -> dict[str, str]:
    """The settings of a shop at the fake gateway, behind a proxy that tells where its buyers are."""
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PAIDONCE_", "STRIPE_", "PAYPAL_"))
        },
        "PORT": str(port),
        "PAIDONCE_DATABASE_URL": place.database,
        "PAIDONCE_SECRET_KEY": "bench-Jk3vT9qLw2Zx8RmB5nC7dF1gH6sYpA4u",
        "PAIDONCE_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PAIDONCE_TRUSTED_PROXIES": "127.0.0.1",
        "STRIPE_SECRET_KEY": "sk_test_bench4eC39HqLyjWDarjtT1zdp7dc",
        "STRIPE_PUBLISHABLE_KEY": "pk_test_bench4eC39HqLyjWDarjtT1zdp7dc",
        "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "STRIPE_API_BASE": f"http://127.0.0.1:{place.gateway}",
    }


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(port: int) -> float:
    """Wait until the server says that it is ready; how many seconds that took. Raises `Broken`."""
    began = time.monotonic()
    while not _is_ready(port):
        if time.monotonic() - began > _START_SECONDS:
            raise Broken("the shop did not start; its log says why")
        time.sleep(0.005)
    return time.monotonic() - began


def _is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(request("GET", "/readyz", "Connection: close\r\n"))
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
