"""`run()`: an action of the core, driven to its end on the calling thread, without an event loop.

The core awaits its ports and nothing else, and here none of them suspends: the database runs on Django's connection,
the transport and the clock block the thread. So one `send` runs an action whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class CalledOnTheEventLoop(AssertionError):
    """`run()` was called by a coroutine, whose event loop it would block: a bug in the caller."""

    def __init__(self) -> None:
        super().__init__(
            "paidonce was called on an event loop, which it would block, database and gateways included. Call it from"
            " a plain view, or through asgiref.sync.sync_to_async"
        )


class Suspended(AssertionError):
    """Something that an action awaits needs an event loop: a gateway, a store, or a port that was put in."""

    def __init__(self, awaited: str) -> None:
        super().__init__(
            f"an action of paidonce awaited {awaited}, and there is no event loop here. A store uses Django's ORM"
            " without await, and a gateway awaits its transport and its clock alone"
        )


def run(action: Coroutine[Any, Any, T]) -> T:
    """What `action` returns. Raises what it raises, `CalledOnTheEventLoop` or `Suspended`."""
    if _on_an_event_loop():
        action.close()
        raise CalledOnTheEventLoop
    try:
        awaited = action.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    except RuntimeError as error:
        # asyncio's own functions ask for the loop before they suspend.
        if str(error) == "no running event loop":
            raise Suspended("the event loop") from error
        raise
    action.close()
    raise Suspended(type(awaited).__name__)


def _on_an_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
