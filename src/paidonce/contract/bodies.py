"""Bodies that are no event of any gateway, whoever signed them."""

from __future__ import annotations

MEBIBYTE = 1024 * 1024

BODIES = {
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"evt_1"',
    "an empty object": b"{}",
    "half an object": b'{"id": "evt_1", "type"',
    "not utf-8": b'\xff\xfe{"id":"\x80"}',
    "utf-16": '{"id": "evt_1"}'.encode("utf-16"),
    "deeply nested": b"[" * 100_000,
    "a huge number": b'{"id": "evt_1", "created": ' + b"9" * 10_000 + b"}",
    "wrong types": b'{"id": [], "type": {}, "object": 1, "created": true, "live": 0, "livemode": "false"}',
    "1 MiB of garbage": bytes(range(256)) * (MEBIBYTE // 256),
}
