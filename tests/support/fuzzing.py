"""Genuine inputs with mistakes in them, thrown at every parser of what others send. `scripts/fuzz.py` runs it.

A crash is any exception that the parser does not name in its documentation, and any input that is taken although it may
not be. Each input follows from a seed, its target and its number, so that it can be made again anywhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random
from typing import Any

# Between the parts of an input that is more than one text: the answers of a gateway, the headers and the body.
PART, HEAD = b"\n~~~\n", b"\n\n"

_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.){0,200}"|-?[0-9]+(?:\.[0-9]+)?|\b(?:true|false|null)\b|[A-Za-z0-9_.-]{3,80}')
_WORDS: tuple[bytes, ...] = (
    *(b"null", b"true", b"false", b"[]", b"{}", b'""', b"0", b"-0", b"-1", b"1.0", b"1e999", b"NaN", b"-Infinity"),
    *(b"1" + b"0" * 400, b"1" + b"0" * 5000, b"9223372036854775808", b'"9223372036854775808"', b'"1e5"', b'"0.1.2"'),
    *(b'"\\ud800"', b'"\\u0000"', b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b'"\xf0\x9f\x92\xb3"'),
    *(b'"' + b"a" * 5000 + b'"', b"[" * 2000, b'{"a":' * 2000, b"[" * 100_000),
    *(b'{"id":1,"id":2}', b'{"__proto__":{}}', b"[[],{}]", b'[{"id":null}]', b'"https://["', b'"https://"'),
    *(b"'; DROP TABLE orders;--", b"//evil.example", b"\\\\evil", b"%00", b"%2f%2fevil", b"\r\n", b"\t", b"=", b"&"),
    *(b"http://127.0.0.1/", b"https://paypal.com.evil/", b"http://[", b"{payment}", b"\xe2\x80\xae"),
    *(b"@", b"#", b"?", b":", b";", b"+", b" "),
    *(b'"EUR"', b'"XXX"', b'"eur"', b'"JPY"', b'"0.01"', b'"-1.00"', b'"1,00"', b'"\xd9\xa1"', b"999999999999999"),
    *(b'"0001-01-01T00:00:00Z"', b'"9999-12-31T23:59:60Z"', b'"2024-02-30T00:00:00Z"'),
    *(b'"2024-01-01T00:00:00.123456789Z"', b'"2024-01-01T00:00:00+99:99"'),
)


class Taken(AssertionError):
    """An input was taken that may not be: it says something else than what was signed, or leads elsewhere."""


@dataclass(frozen=True)
class Target:
    """A parser with genuine inputs. `feed` is True for what it takes and False for what it refuses as documented.

    Anything that `feed` raises is a crash. `weight`: how many inputs it gets in comparison with others.
    """

    name: str
    samples: tuple[bytes, ...]
    feed: Callable[[bytes], bool]
    weight: int = 1


@dataclass
class Crash:
    """An input that a parser did not stand."""

    target: str
    number: int
    error: str
    data: bytes


@dataclass
class Tally:
    """What became of the inputs of one target."""

    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0
    crashes: list[Crash] = field(default_factory=list)


def mutated(target: Target, seed: int, number: int) -> bytes:
    """The input with this number: a genuine one with one to four mistakes in it."""
    chance = Random(f"{seed}/{target.name}/{number}")
    data = chance.choice(target.samples)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        data = chance.choice(_MISTAKES)(chance, data, target.samples)
    return data


def _other_word(chance: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    """One value in place of another: it stays a document, so that this reaches what is behind its parser."""
    spans = [found.span() for found in _TOKEN.finditer(data)]
    if not spans:
        return data + chance.choice(_WORDS)
    begin, end = chance.choice(spans)
    word = data[slice(*chance.choice(spans))] if chance.random() < 0.3 else chance.choice(_WORDS)
    return data[:begin] + word + data[end:]


def _other_byte(chance: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]


def _other_bit(chance: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x00"
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def _surplus(chance: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(_WORDS) + data[place:]


def _gap(chance: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    begin = chance.randrange(len(data) + 1)
    return data[:begin] + data[begin + chance.randrange(1, 60) :]


def _repetition(chance: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    begin = chance.randrange(len(data) + 1)
    end = begin + chance.randrange(1, 200)
    return data[:end] + data[begin:end] * chance.choice((1, 1, 2, 20)) + data[end:]


def _cut(chance: Random, data: bytes, _samples: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _graft(chance: Random, data: bytes, samples: Sequence[bytes]) -> bytes:
    """The beginning of one genuine input with the end of another."""
    other = chance.choice(samples)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


_MISTAKES = (_other_word, _other_word, _other_word, _other_byte, _other_bit, _surplus, _gap, _repetition, _cut, _graft)


def run_one(target: Target, number: int, data: bytes, tally: Tally) -> None:
    """Feed one input and count what came of it."""
    tally.inputs += 1
    try:
        tally.taken += target.feed(data)
    except Exception as error:
        tally.crashes.append(Crash(target.name, number, f"{type(error).__name__}: {str(error)[:300]}", data))


def shares(targets: Sequence[Target], inputs: int) -> Iterator[tuple[Target, int]]:
    """How many of `inputs` each target gets, by its weight; at least one each."""
    whole = sum(target.weight for target in targets)
    for target in targets:
        yield target, max(1, -(-inputs * target.weight // whole))


def run(
    make: Callable[[], Sequence[Target]], *, inputs: int, seed: int, jobs: int = 1, chosen: Sequence[str] = ()
) -> Iterator[tuple[str, Tally]]:
    """Feed about `inputs` inputs in all, and give each target's tally as soon as a part of it is done."""
    if jobs == 1:
        for part in _parts(make(), inputs, chosen):
            yield _run_part(make, seed, *part)
        return
    with get_context("spawn").Pool(jobs) as pool:
        work = [(make, seed, *part) for part in _parts(make(), inputs, chosen)]
        yield from pool.imap_unordered(_run_packed, work)


_PART_SIZE = 5_000
_made: dict[Any, Sequence[Target]] = {}


def _parts(targets: Sequence[Target], inputs: int, chosen: Sequence[str]) -> list[tuple[str, int, int]]:
    wanted = [target for target in targets if not chosen or target.name in chosen]
    return [
        (target.name, begin, min(begin + _PART_SIZE, count))
        for target, count in shares(wanted, inputs)
        for begin in range(0, count, _PART_SIZE)
    ]


def _run_packed(work: tuple[Callable[[], Sequence[Target]], int, str, int, int]) -> tuple[str, Tally]:
    return _run_part(*work)


def _run_part(make: Callable[[], Sequence[Target]], seed: int, name: str, begin: int, end: int) -> tuple[str, Tally]:
    if make not in _made:
        _made[make] = make()
    target = next(one for one in _made[make] if one.name == name)
    tally, began = Tally(), time.perf_counter()
    for number in range(begin, end):
        run_one(target, number, mutated(target, seed, number), tally)
    tally.seconds = time.perf_counter() - began
    return name, tally
