"""How an ASGI application is served here: one listening socket, and uvicorn with our own log."""

from __future__ import annotations

import gc
import socket
from typing import TYPE_CHECKING, Any

from paidonce.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

# How many new objects, and rounds of the younger generations, before the next look; Python's own are 700, 10, 10.
_GARBAGE = (20_000, 20, 20)
LOOPBACK = "127.0.0.1"
# Open connections of a browser must not keep a server from ending.
GRACE_SECONDS = 3


def bind(host: str, port: int, *, fix: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `ConfigError` with `fix` if the port can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError([f"Port {port} on {host} can't be used: {error.strerror}. {fix}"]) from error
    return listener


def spare_garbage_collector() -> None:
    """For a process that serves until its end: what is loaded by now stays, so nobody has to look through it again.

    Requests leave few cycles behind, so that looking for those less often costs little memory.
    """
    gc.freeze()
    gc.set_threshold(*_GARBAGE)


def server(app: Any) -> uvicorn.Server:
    """A uvicorn server without its own access log, which would write query strings, and with our logging left alone."""
    import uvicorn

    from paidonce.web.protocol import Protocol

    config = uvicorn.Config(
        app,
        http=Protocol,
        access_log=False,
        log_config=None,
        # Its start and end are told by whoever runs it.
        log_level="warning",
        server_header=False,
        # The application says itself which proxies it believes; by default uvicorn would believe any on this machine.
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)
