"""Two servers on this machine: the shop in a thread or in front, and the sandbox in a process of its own.

The sandbox is a process so that calls between the two are as real as they can be. It ends with its parent, however that
ends: it watches a pipe that the operating system closes with it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paidonce import serving
from paidonce.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

_START_SECONDS = 30
_STOP_SECONDS = 5


@contextmanager
def in_thread(app: Any, listener: socket.socket) -> Iterator[None]:
    """Serve `app` in a thread with an event loop of its own, until the block ends."""
    shop = serving.server(app)
    thread = threading.Thread(target=shop.run, kwargs={"sockets": [listener]}, name="shop", daemon=True)
    thread.start()
    try:
        _wait(lambda: shop.started, still_there=thread.is_alive, what="The shop")
        yield
    finally:
        shop.should_exit = True
        thread.join(serving.GRACE_SECONDS + _STOP_SECONDS)


@contextmanager
def sandbox_process(listener: socket.socket, public_url: str, state_file: Path, shop_url: str) -> Iterator[None]:
    """Run `paidonce sandbox` on `listener`, until the block or this process ends. Its webhooks go to `shop_url`.

    Raises `ConfigError` if it can't.
    """
    command = [sys.executable, "-m", "paidonce", "sandbox", "--fd", str(listener.fileno())]
    command += ["--public-url", public_url, "--state-file", str(state_file), "--end-with-stdin"]
    command += ["--shop-url", shop_url]
    # A session of its own: Ctrl-C reaches the shop alone, which then ends the sandbox last.
    with subprocess.Popen(  # noqa: S603 - our own module, no shell.
        command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], start_new_session=True
    ) as process:
        # If the child dies, its port has to die as well, instead of taking connections that nobody answers.
        listener.close()
        try:
            _wait(lambda: _healthy(public_url), still_there=lambda: process.poll() is None, what="The offline sandbox")
            yield
        finally:
            _end(process)


def end_with_stdin(running: uvicorn.Server) -> None:
    """End `running`, and at last this process, when standard input closes: the parent is gone, whatever killed it."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        running.should_exit = True
        time.sleep(serving.GRACE_SECONDS + 1)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(serving.GRACE_SECONDS + _STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=1) as answer:  # noqa: S310 - our own http address.
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _wait(done: Callable[[], bool], *, still_there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not done():
        if not still_there() or time.monotonic() > deadline:
            raise ConfigError([f"{what} did not start; what it says stands above."])
        time.sleep(0.05)
