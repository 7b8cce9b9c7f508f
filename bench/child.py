"""Processes of a measurement. Each tells in one line of JSON that it is ready, and ends with its parent's pipe."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.http11 import Handler, Server

_END_SECONDS = 20
_SILENCE_SECONDS = 900


class Broken(RuntimeError):
    """A process of the measurement did not do its part; nothing that it took part in counts."""


class Child:
    """A process of ours that takes and gives lines of JSON."""

    def __init__(self, process: subprocess.Popen[str], what: str) -> None:
        self._process = process
        self._what = what
        self.pid = process.pid

    def ask(self, **words: Any) -> Any:
        """Say something and wait for the answer. Raises `Broken`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        """Its next line. Raises `Broken`, also if it says nothing for too long."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _SILENCE_SECONDS)[0]:
            raise Broken(f"{self._what} says nothing for {_SILENCE_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise Broken(f"{self._what} has ended; what it said stands above")
        return json.loads(line)


@contextmanager
def child(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run `python -m module` until the block ends."""
    with subprocess.Popen(  # noqa: S603 - our own module, no shell.
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=None if environment is None else dict(environment),
    ) as process:
        try:
            yield Child(process, module)
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a process by its pipe, and at last by force."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def tell(**words: Any) -> None:
    """Say one line to the parent."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def end_with_parent() -> threading.Event:
    """End this process when its standard input closes. What is returned is set by the parent's first word."""
    spoken = threading.Event()

    def watch() -> None:
        while os.read(0, 4096):
            spoken.set()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    return spoken


async def serve(handler: Handler) -> None:
    """Serve on a free port of loopback, tell which, and go on for ever."""
    make: Callable[[], Server] = lambda: Server(handler)  # noqa: E731 - one line, for asyncio.
    listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, backlog=16384)
    tell(port=listener.sockets[0].getsockname()[1])
    await listener.serve_forever()
