"""What HTTP and JSON let through and we don't, checked before anything reads it.

Two readers of one document must not see two documents: of a key that is there twice one program takes the first value
and another the last, NaN is no number to most, and a document may be nested deeper than a reader can go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from starlette.types import Scope

from paidonce.errors import InvalidRequest
from paidonce.web.problems import HeadTooLarge, TwoLengths

# Browsers and gateways need a few kilobytes and a few dozen headers. What the server itself allows depends on how the
# head was cut into packets.
LARGEST_HEAD_BYTES = 32 * 1024
MOST_HEADERS = 100

# The deepest body that any of our requests needs has three levels.
DEEPEST = 32
# It matches at every quotation mark, to the end of the body if need be; else such a body would take for ever.
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
# Both kinds of brackets as one, and nothing else: whether they fit each other is for the parser to say.
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Only an escape can make half a character (\\ud800), since none is valid UTF-8.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_UNREADABLE = "The body is not readable JSON. Send one JSON object in UTF-8."


def check_head(scope: Scope) -> None:
    """Refuse a head of a size that nobody needs, and one that says twice how long its body is.

    Raises `HeadTooLarge`, `TwoLengths`.
    """
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
        raise TwoLengths
    size = len(scope["path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) for name, value in scope["headers"])
    if size > LARGEST_HEAD_BYTES or len(scope["headers"]) > MOST_HEADERS:
        raise HeadTooLarge


def check_json(body: bytes) -> None:
    """Refuse what is no JSON (RFC 8259; no body is fine), an object that has a key twice, and deep nesting.

    Raises `errors.InvalidRequest`. It quotes nothing of the body.
    """
    if not body:
        return
    _check_depth(body)
    try:
        # As json.loads, which would make a decoder for each body.
        read = _DECODER.decode(body.decode("utf-8"))
        if _SURROGATE.search(body):
            # Half a character is no text: it can neither be stored nor sent.
            json.dumps(read, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise InvalidRequest(_UNREADABLE) from None


def check_query(query: bytes) -> None:
    """Refuse parameters behind an address of the API, none of which takes any. Raises `errors.InvalidRequest`."""
    if query:
        raise InvalidRequest("This address takes no parameters; leave out the question mark and what follows it.")


def _check_depth(body: bytes) -> None:
    """Look at the brackets outside of texts, so that no parser has to go down first.

    The innermost pairs are taken out, level by level, each by one search: counting brackets one by one takes twenty
    times as long as the parser.
    """
    left = _TEXT.sub(b"", body).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(DEEPEST):
        if b"[]" not in left:
            break
        left = left.replace(b"[]", b"")
    # Without pairs what is left is no JSON, and not deep either unless it opens again and again.
    if b"[]" in left or left.count(b"[") > DEEPEST:
        raise InvalidRequest(f"The body is nested deeper than {DEEPEST} levels.")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidRequest("An object in the body has a key twice; send each once.")
    return found


def _no_number(_word: str) -> NoReturn:
    raise InvalidRequest("NaN and Infinity are no numbers in JSON; leave them out.")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)
