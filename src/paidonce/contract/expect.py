"""Assertions that tell what a gateway did in one line, for somebody who sees the suite for the first time."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from enum import Enum
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

_LONGEST = 240


def equal(what: str, got: object, wanted: object) -> None:
    """Assert that `got` is `wanted`; `what` names it: "the progress after `create`"."""
    assert got == wanted, f"{what} is {say(got)}; it must be {say(wanted)}."


def none_of(what: str, found: Iterable[object]) -> None:
    """Assert that there is nothing of the kind `what`."""
    listed = list(found)
    assert not listed, f"there must be no {what}; found: {say(listed)}."


def some(what: str, found: object) -> None:
    """Assert that there is `what`: not None, and not empty."""
    assert found, f"there must be {what}; found: {say(found)}."


async def raises(kind: type[E] | tuple[type[E], ...], what: str, call: Awaitable[object]) -> E:
    """The error of `kind` that `call` must end with; `what` names the call."""
    names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
    try:
        answer = await call
    except kind as error:
        return error
    except NotImplementedError:
        raise
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__} ({error}); it must raise {names}.") from error
    raise AssertionError(f"{what} answered {say(answer)}; it must raise {names}.")


def say(value: object) -> str:
    """A value in as few words as tell it apart."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple | list | set | frozenset):
        text = "[" + ", ".join(say(each) for each in value) + "]"
    else:
        text = str(value) if type(value).__str__ is not object.__str__ and not isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
