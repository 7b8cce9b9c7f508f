"""`:name` parameters, the same in every statement, for drivers that number theirs (`$1`) and for those that don't.

Not meant as a parameter: text in quotes, comments, and PostgreSQL's `::casts`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from paidonce.ports import Params

_TOKEN = re.compile(
    r"""
      '(?:[^']|'')*'            # a string
    | "(?:[^"]|"")*"            # a quoted name
    | --[^\n]*                  # a comment to the end of the line
    | /\*.*?\*/                 # a comment in between
    | ::                        # a cast
    | :(?P<name>[A-Za-z_]\w*)   # a parameter
    """,
    re.VERBOSE | re.DOTALL,
)


_NUMBER = re.compile(r"\$([0-9]+)")
_WORD = re.compile(r"\w+")
_WRITES = re.compile(r"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+(?P<table>\w+)", re.IGNORECASE)


class MissingParameter(LookupError):
    """A statement names parameters that its mapping does not hold: a bug in the caller."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement in numbered form: `$1` stands for `names[0]`."""

    numbered: str
    names: tuple[str, ...]


@lru_cache(maxsize=1024)
def parse(sql: str) -> Statement:
    """`sql` with each `:name` as `$n`; a name used twice keeps one number. Cached, since statements are constants."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match["name"]
        return match[0] if name is None else f"${names.setdefault(name, len(names) + 1)}"

    return Statement(_TOKEN.sub(number, sql), tuple(names))


@lru_cache(maxsize=1024)
def pyformat(sql: str) -> str:
    """`sql` with each `:name` as `%(name)s`, and with `%` doubled, for drivers that format their statements."""

    def write(match: re.Match[str]) -> str:
        name = match["name"]
        return match[0] if name is None else f"%({name})s"

    return _TOKEN.sub(write, sql.replace("%", "%%"))


@lru_cache(maxsize=1024)
def chain(statements: tuple[str, ...]) -> str:
    """Several statements that write, in numbered form as one; the numbers of each go on where the last one's ended."""
    texts, used = [], 0
    for sql in statements:
        texts.append(_numbered_from(used, parse(sql).numbered).strip("; \n"))
        used += len(parse(sql).names)
    *first, last = texts
    before = ", ".join(f"w{place} AS ({text})" for place, text in enumerate(first))
    return f"WITH {before} {last}" if before else last


@lru_cache(maxsize=1024)
def is_apart(sql: str, tables: frozenset[str]) -> bool:
    """Whether a statement writes without reading or writing one of `tables`."""
    if _WRITES.match(sql) is None:
        return False
    return not tables & {word.lower() for word in _WORD.findall(sql)}


def _numbered_from(used: int, text: str) -> str:
    return _NUMBER.sub(lambda match: f"${int(match[1]) + used}", text)


@lru_cache(maxsize=1024)
def written_table(sql: str) -> str:
    """The table that a statement writes to. Raises `ValueError` for one that does not begin by naming it."""
    found = _WRITES.match(sql)
    if found is None:
        raise ValueError(f"not an INSERT, UPDATE or DELETE: {sql.strip()}")
    return found["table"].lower()


def named(sql: str, params: Params | None) -> dict[str, Any]:
    """The values that `sql` names, and no others. Raises `MissingParameter`."""
    given = params or {}
    try:
        return {name: given[name] for name in parse(sql).names}
    except KeyError:
        raise _missing(sql, given) from None


def numbered(sql: str, params: Params | None) -> tuple[Any, ...]:
    """The values of `sql` in the order of its numbers. Raises `MissingParameter`."""
    given = params or {}
    try:
        return tuple([given[name] for name in parse(sql).names])
    except KeyError:
        raise _missing(sql, given) from None


def _missing(sql: str, given: Params) -> MissingParameter:
    missing = _list(name for name in parse(sql).names if name not in given)
    return MissingParameter(f"no value for {missing}; given: {_list(given) or 'nothing'}; in: {sql.strip()}")


def locking(sql: str, *, skip_locked: bool = False) -> str:
    """`sql`, a SELECT, with PostgreSQL's row locks; `skip_locked` leaves out rows that somebody else has locked."""
    return sql.rstrip("; \n") + (" FOR UPDATE SKIP LOCKED" if skip_locked else " FOR UPDATE")


def _list(names: Iterable[str]) -> str:
    return ", ".join(f":{name}" for name in names)
