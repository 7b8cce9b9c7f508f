"""How every gateway's client reaches the outside: one aiohttp session, one total deadline, one error policy.

What a failure means is decided here once, since money depends on it. A connection that never came to be means that
nothing left this machine (`GatewayBusy`); everything that fails later may have been carried out (`OutcomeUnknown`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paidonce._version import __version__
from paidonce.errors import GatewayBusy, GatewayError, GatewayMisconfigured, OutcomeUnknown
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.ports import Clock, assert_outside_transaction

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

# aiohttp's own limit of 100 caps a process at about 250 checkouts a second when a gateway takes 200 ms.
CONNECTION_LIMIT = 512
# Waiting for a free connection and opening one may take this long; past it nothing was sent, and the caller hears so.
CONNECT_SECONDS = 5.0
RETRY_PAUSE_SECONDS = 0.05
# Gateways answer with a few kilobytes. A larger body is no answer of theirs and must not fill the memory.
LARGEST_BODY_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024


class AiohttpTransport:
    """`base.Transport` over aiohttp, with one session per event loop, made at its first request.

    No redirects are followed, no proxy or credentials are read from the environment, no cookies are kept, and TLS
    certificates are verified. A status is never turned into an error: that is for the gateway's client to read.
    """

    def __init__(self, clock: Clock, *, largest_body_bytes: int = LARGEST_BODY_BYTES) -> None:
        self._clock = clock
        self._largest_body_bytes = largest_body_bytes
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """Send and read the whole answer within `deadline_seconds`, the retry and a slow drip of bytes included.

        Raises `GatewayBusy` if no connection came to be (after one retry), `GatewayMisconfigured` for an address that
        can't be used, and `OutcomeUnknown` for every later failure. None of them quotes headers, bodies or queries.
        """
        step = _step(request)
        assert_outside_transaction(step)
        outcome: HttpResponse | GatewayError
        try:
            async with asyncio.timeout(deadline_seconds):
                outcome = await self._attempt(request, step)
                if isinstance(outcome, GatewayBusy):
                    await self._clock.sleep(RETRY_PAUSE_SECONDS)
                    outcome = await self._attempt(request, step)
        except TimeoutError:
            outcome = OutcomeUnknown(f"{step}: no complete answer within {deadline_seconds:g} s")
        if isinstance(outcome, GatewayError):
            # Raised outside of any except block: aiohttp's errors quote whole URLs, and a log would print the chain.
            raise outcome
        return outcome

    async def close(self) -> None:
        """Close the sessions of all loops. A later `send` opens a new one."""
        sessions, self._sessions = self._sessions, {}
        for loop, session in sessions.items():
            if loop.is_running() and loop is not asyncio.get_running_loop():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(session.close(), loop))
            else:
                await session.close()

    async def _attempt(self, request: HttpRequest, step: str) -> HttpResponse | GatewayError:
        """One request on the wire; its failure as a value, so that nothing of aiohttp's error chains to ours."""
        import aiohttp

        url = _web_address(request.url)
        if url is None:
            return GatewayMisconfigured(f"{step}: this address can't be used")
        session = await self._session()
        try:
            sending = session.request(
                request.method,
                url,
                headers=request.headers,
                data=request.body or None,
                allow_redirects=False,
                skip_auto_headers=("Content-Type",),
            )
            async with sending as response:
                return await self._read(response, step)
        except (aiohttp.ClientError, OSError, EOFError, ValueError) as error:
            return _explain(error, step)

    async def _read(self, response: aiohttp.ClientResponse, step: str) -> HttpResponse | GatewayError:
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > self._largest_body_bytes:
                # Reading on to the end would be the very thing the limit is there to prevent.
                response.close()
                return OutcomeUnknown(f"{step}: the answer is larger than {self._largest_body_bytes} bytes")
        return HttpResponse(response.status, _lower_cased(response.headers), bytes(body))

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if loop in self._sessions:
            return self._sessions[loop]
        # Taken into the table before anything is awaited, so that parallel first calls share one session.
        session = self._sessions[loop] = _new_session()
        for dead in [loop for loop in self._sessions if loop.is_closed()]:
            await self._sessions.pop(dead).close()
        return session


def _new_session() -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTION_LIMIT, limit_per_host=CONNECTION_LIMIT),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"paidonce/{__version__}"},
        # The total deadline spans the retry as well and is therefore kept by `send`.
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
        trust_env=False,
    )


def _step(request: HttpRequest) -> str:
    """The request in words that may be logged: no user info, no query, no fragment."""
    try:
        parts = urlsplit(request.url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{request.method} an address that can't be read"
    return f"{request.method} {parts.hostname or ''}{port}{parts.path}"


def _web_address(text: str) -> URL | None:
    from yarl import URL

    try:
        # The client has encoded its query already; encoding it again would change what was meant.
        url = URL(text, encoded=True)
        return url if url.scheme in {"http", "https"} and url.host and url.port else None
    except ValueError:
        return None


def _explain(error: Exception, step: str) -> GatewayError:
    import aiohttp

    kind = type(error).__name__
    if isinstance(error, aiohttp.InvalidURL):
        return GatewayMisconfigured(f"{step}: this address can't be used")
    # ClientConnectorError holds refusals, DNS failures and TLS handshakes: no byte of the request was written.
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return GatewayBusy(f"{step}: could not connect ({kind})")
    return OutcomeUnknown(f"{step}: the connection failed before the answer was complete ({kind})")


def _lower_cased(headers: Mapping[str, str]) -> dict[str, str]:
    """The header names in lower case; repeated ones are joined by a comma, as RFC 9110 §5.3 allows."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined
