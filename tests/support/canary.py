"""Marked secrets, and a search that knows them again in every writing in which they could leave."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

# Between the digits of a card number, as people, forms and addresses write it.
_BETWEEN_DIGITS = re.compile(r"(?<=\d)(?:[ +\u00a0-]|%20)(?=\d)")
# Long enough that nothing else in an answer is like it.
SHORTEST = 10


def writings(secret: str) -> Iterator[str]:
    """`secret` as texts may hold it: plain, in addresses, forms, JSON, HTML, hexadecimal digits and base64."""
    yield from (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret))
    yield from (json.dumps(secret)[1:-1], json.dumps(json.dumps(secret))[3:-3], repr(secret)[1:-1])
    yield secret.encode().hex()
    for before in range(3):
        # What encodes it alone, whatever stands before and behind it in the same encoded text.
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode()
        bits = 8 * before, 8 * (before + len(secret.encode()))
        inner = encoded[-(-bits[0] // 6) : bits[1] // 6]
        yield from (inner, inner.replace("+", "-").replace("/", "_"))


@dataclass
class Marks:
    """The secrets of one run by what they are."""

    _secrets: dict[str, set[str]] = field(default_factory=dict)

    def add(self, what: str, *secrets: str, halves: bool = True) -> None:
        """Look for `secrets` from now on, and for the `halves` of each that is long enough."""
        for secret in secrets:
            assert len(secret) >= SHORTEST, f"the mark of the {what} is too short to be found for sure"
            half = len(secret) // 2
            parts = [secret] if not halves or half < 2 * SHORTEST else [secret, secret[:half], secret[half:]]
            self._secrets.setdefault(what, set()).update(text for part in parts for text in writings(part))

    def kinds(self) -> set[str]:
        """What there are secrets of."""
        return set(self._secrets)

    def found(self, text: str, *, but: Iterable[str] = ()) -> set[str]:
        """What of them is in `text`, apart from the kinds in `but`."""
        joined = _BETWEEN_DIGITS.sub("", text)
        allowed = set(but)
        return {
            what
            for what, secrets in self._secrets.items()
            if what not in allowed and any(secret in text or secret in joined for secret in secrets)
        }
