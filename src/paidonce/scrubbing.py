"""Hides secrets in whatever is about to be written down: the log's lines, tracebacks, entries of the audit log.

The scrubber knows secrets in three ways: by the name of the key that holds them, by their look, and by heart. The
gateways tell how theirs look and which settings hold them (`learn`), so that nothing here knows a gateway's name.
Every pattern costs time in proportion to the text, since whoever sends us something may choose what is logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "[hidden]"

# A key with one of these words in it never shows its value. Ids of payments and requests are not secrets.
_SECRET_KEY = re.compile(
    r"authori[sz]ation|secret|passw|passphrase|token|cookie|api_?key|private_?key|credential|session|signature"
    r"|card|cvc|cvv|\bpan\b|database_?url",
    re.IGNORECASE,
)
_NAME = r"(?:passw(?:or)?d|passphrase|secret|token|cookie|authori[sz]ation|api[_-]?key|session|signature|cvc|cvv)"
# Where a word begins: behind no letter or digit, unless those are the end of an escape, as in a quoted line break.
_ESCAPE = r"(?<=\\[nrt])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4})|(?<=%[0-9A-Fa-f]{2})"
_START = rf"(?:(?<![A-Za-z0-9])|{_ESCAPE})"
# The same for what may hold dashes and underscores itself.
_URL_SAFE_START = rf"(?:(?<![A-Za-z0-9_-])|{_ESCAPE})"
# What each of them can't be without, in small letters, stands before it: most texts are spared the pattern by that.
_SECRET_VALUES = (
    ("whsec_", re.compile(r"whsec_[A-Za-z0-9+/=_-]+")),
    ("bearer", re.compile(_START + r"Bearer\s{1,4}[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)),
    ("basic", re.compile(_START + r"Basic\s{1,4}[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)),
    # JSON Web Tokens, and what argon2 makes of a password.
    ("eyj", re.compile(_URL_SAFE_START + r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?")),
    ("$argon2", re.compile(r"\$argon2(?:id|i|d)\$[A-Za-z0-9+/=,$]+")),
    ("-----begin ", re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----END).)*+", re.DOTALL)),
)
# 256 bits as the sign-in makes them. No word of a language and no name in code mixes capitals at this length.
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{43}")
_TOKEN = re.compile(
    _URL_SAFE_START + r"(?=[^A-Z]{0,42}[A-Z])(?=[^a-z]{0,42}[a-z])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])",
)
# Each of the names below holds one of these.
_NAME_WORDS = (
    *("pass", "secret", "token", "cookie", "authori", "session", "signature", "cvc", "cvv"),
    *("apikey", "api_key", "api-key"),
)
# A name and what follows it: quoted in any way (JSON inside JSON, too), in a form or an assignment, in a header. The
# name stays, so that a reader sees what was hidden. A quotation without an end is hidden to the end of the text.
_NAMED_VALUES = (
    re.compile(
        rf"({_NAME}[a-z0-9_.\]-]{{0,20}}(?:\\{{0,7}}[\"'])?\s{{0,4}}(?:=>|=|:|(?<=[\"']),)\s{{0,4}}[\[(]?b?)"
        r"(?P<quote>\\{0,7}[\"'])(?:(?!(?<!\\)(?P=quote)).)*+",
        re.IGNORECASE | re.DOTALL,
    ),
    re.compile(
        rf"({_NAME}[a-z0-9_.\]-]{{0,20}}\s{{0,4}}(?:=|%3D)\s{{0,4}})(?!\[hidden)[^\s\"'&,;}})\]\\]+", re.IGNORECASE
    ),
    # A number is not quoted; its name is.
    re.compile(rf"({_NAME}[a-z0-9_.\]-]{{0,20}}\\{{0,7}}[\"']\s{{0,4}}[:,]\s{{0,4}})-?[0-9][0-9.]*", re.IGNORECASE),
    re.compile(r"((?:cookie|authori[sz]ation|signature|api-key)\s{0,4}:\s{0,4})[^\r\n]+", re.IGNORECASE),
    re.compile(
        r"((?:password|client_secret|access_token|refresh_token)\s{0,4}:\s{0,4})(?!\[hidden)[^\s\"'&,;})\]\\]+",
        re.IGNORECASE,
    ),
)
# Its scheme, who and where, the path, and the rest, which is hidden.
_URL = re.compile(_START + r"([a-z][a-z0-9+.-]{0,30}://)([^\s\"'<>/?#]*)([^\s\"'<>?#]*)([^\s\"'<>]*)", re.IGNORECASE)
# Before an @ that comes late: a slash, ? or # in a password ends what an address calls its host. Digits are a port.
_USER_AND_HALF_A_PASSWORD = re.compile(r"[^:\[]*:(?![0-9]*$).*")
# Digits in groups, as people and forms write card numbers. Ids, whose digits touch letters, are none; but a letter in
# front may be the end of an escape.
_DIGITS = re.compile(rf"(?:(?<![0-9A-Za-z_])|{_ESCAPE})[0-9](?:(?:[ +\u00a0\u2009-]|%20)?[0-9])*(?![0-9A-Za-z_])")
_GROUP = re.compile(r"%20|[0-9]+")
_CARD_DIGITS = range(13, 20)
_DEEPEST = 6
# Shorter ones would hide ordinary words wherever they occur.
_SHORTEST_VALUE = 8
# Nothing that one of the patterns or shapes hides consists of fewer letters and digits alone.
_SHORTEST_SECRET = 8
# The pipeline's own entries, taken out before a line is written.
_OF_THE_PIPELINE = frozenset({"_record", "_from_structlog", "_logger", "_name"})


class _Known:
    """What this process was told of its own secrets: values, and how those of its gateways look."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        # Each as it looks anywhere, which is found out soon, and as it looks where a word begins.
        self._shapes: dict[str, tuple[re.Pattern[str], re.Pattern[str]]] = {}
        self._by_heart: re.Pattern[str] | None = None

    def add(self, values: Iterable[str], shapes: Iterable[str]) -> None:
        for shape in shapes:
            self._shapes.setdefault(shape, (re.compile(shape), re.compile(_START + shape)))
        wanted = {form for value in values if len(value) >= _SHORTEST_VALUE for form in _written(value)}
        if not wanted <= self._values:
            self._values |= wanted
            # The longest first: a key may begin like another one.
            ordered = sorted(self._values, key=lambda value: (-len(value), value))
            self._by_heart = re.compile("|".join(map(re.escape, ordered)))

    def hide(self, text: str) -> str:
        if self._by_heart is not None:
            text = self._by_heart.sub(HIDDEN, text)
        for anywhere, shape in self._shapes.values():
            if anywhere.search(text):
                text = shape.sub(HIDDEN, text)
        return text


_known = _Known()


@lru_cache(maxsize=1024)
def _of_key(key: str) -> tuple[str, bool]:
    """A key as it is written down, and whether its value is hidden. Kept, since nearly all keys stand in our code."""
    return scrub_text(key), _SECRET_KEY.search(key) is not None


def learn(*, values: Iterable[str] = (), shapes: Iterable[str] = ()) -> None:
    """Hide `values` (of at least 8 characters) and whatever fits `shapes` (regular expressions) from now on.

    It holds for the whole process, and repeating it is harmless. A shape is looked for where a word begins. It must
    cost time in proportion to the text: no repetition inside another one, and a fixed beginning.
    """
    _known.add(values, shapes)
    _of_key.cache_clear()


def scrub(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: hides secrets by the names of keys, by their look and by heart."""
    return {
        key if key in _OF_THE_PIPELINE else _of_key(key)[0]: _scrub_entry(key, value, 0) for key, value in event.items()
    }


def scrub_text(text: str) -> str:
    """`text` without secrets, card numbers, and the query strings of addresses."""
    if len(text) < _SHORTEST_SECRET and text.isalnum():
        return text
    if "://" in text:
        text = _URL.sub(_without_query, text)
    text = _known.hide(text)
    # Beyond ASCII a pattern without case finds signs that no lower() gives; there nothing is spared.
    small = text.lower() if text.isascii() else None
    for sign, pattern in _SECRET_VALUES:
        if small is None or sign in small:
            text = pattern.sub(HIDDEN, text)
    if _LONG_WORD.search(text):
        text = _TOKEN.sub(HIDDEN, text)
    if small is None or any([word in small for word in _NAME_WORDS]):
        for pattern in _NAMED_VALUES:
            text = pattern.sub(_keep_the_name, text)
    return _DIGITS.sub(_hide_cards, text) if _may_hold_card(text) else text


def _may_hold_card(text: str) -> bool:
    """Whether there are digits enough for a card number, wherever they stand."""
    data = text.encode("utf-8", "replace")
    return len(data) - len(data.translate(None, b"0123456789")) >= _CARD_DIGITS.start


def _keep_the_name(match: re.Match[str]) -> str:
    mark = match.groupdict().get("quote") or ""
    return f"{match[1]}{mark}{HIDDEN}"


def _written(value: str) -> Iterator[str]:
    """`value` as texts hold it: as it is, in an address, in a form, and as Python or JSON quote it."""
    yield from {value, quote(value, safe=""), quote(value), quote_plus(value), repr(value)[1:-1]}
    yield value.replace("\\", "\\\\").replace('"', '\\"')


def _scrub_entry(key: str, value: Any, depth: int) -> Any:
    if key in _OF_THE_PIPELINE or value is None or isinstance(value, bool):
        return value
    # Deeper keys are not ours, and what a client made up is not to fill the cache.
    hidden = _of_key(key)[1] if depth == 0 else _SECRET_KEY.search(key)
    return HIDDEN if hidden else _scrub_value(value, depth)


def _scrub_value(value: Any, depth: int) -> Any:
    cleaned: Any
    match value:
        case bool() | None:
            cleaned = value
        case int() | float():
            digits = repr(abs(value))
            short = len(digits) < _SHORTEST_SECRET
            cleaned = value if short or scrub_text(digits) == digits else HIDDEN
        case str():
            cleaned = scrub_text(value)
        case bytes():
            cleaned = f"[{len(value)} bytes]"
        case _ if depth >= _DEEPEST:
            cleaned = HIDDEN
        case Mapping():
            cleaned = {scrub_text(str(key)): _scrub_entry(str(key), item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            cleaned = [_scrub_value(item, depth + 1) for item in value]
        case _:
            cleaned = scrub_text(_shown(value))
    return cleaned


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # Whatever an object says of itself, a log line must not be what fails.
        return f"<{type(value).__name__}, which can't be shown: {type(error).__name__}>"


def _without_query(match: re.Match[str]) -> str:
    scheme, host, path, rest = match.groups()
    if "@" not in host and "@" in path + rest and _USER_AND_HALF_A_PASSWORD.fullmatch(host):
        where = f"{host}{path}{rest}".rpartition("@")[2].partition("?")[0]
        return f"{scheme}{HIDDEN}@{where}"
    user, mark, host = host.rpartition("@")
    host = f"{HIDDEN}{mark}{host}" if user else host
    return f"{scheme}{host}{path}?{HIDDEN}" if rest.startswith("?") and len(rest) > 1 else f"{scheme}{host}{path}"


def _hide_cards(match: re.Match[str]) -> str:
    """A run of digits without the card numbers in it, which may begin and end at any of its groups."""
    run = match[0]
    groups = [found for found in _GROUP.finditer(run) if found[0] != "%20"]
    kept, done = [], 0
    for place, first in enumerate(groups):
        end = _end_of_card(groups[place : place + _CARD_DIGITS.stop])
        if end is not None and end > done:
            # One that begins inside another is hidden with it.
            kept += [run[done : first.start()], HIDDEN] if first.start() >= done else []
            done = end
    return "".join([*kept, run[done:]])


def _end_of_card(groups: Iterable[re.Match[str]]) -> int | None:
    """Where the longest card number ends that begins with the first group; None if there is none."""
    digits, end = "", None
    for group in groups:
        digits += group[0]
        if len(digits) >= _CARD_DIGITS.stop:
            break
        if _looks_like_card(digits):
            end = group.end()
    return end


def _looks_like_card(digits: str) -> bool:
    """Luhn's check on 13 to 19 digits, and a first digit that payment cards have; times in microseconds have not."""
    if len(digits) not in _CARD_DIGITS or digits[0] not in "23456":
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 else 1)
        total += number - 9 if number > 9 else number
    return total % 10 == 0
