"""What every gateway puts before a buyer, and what must never leave the server."""

from __future__ import annotations

import io
import logging
import re
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import structlog

from paidonce.errors import GatewayError
from paidonce.gateways.base import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from contract.conftest import Bench, Wire

DIRECTIVES = frozenset(
    {"script-src", "frame-src", "child-src", "connect-src", "img-src", "style-src", "font-src", "form-action"}
)
SOURCE = re.compile(r"https://(\*\.)?[a-z0-9.-]+(:\d+)?|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that structlog and the standard library's logging write, at every level."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    yield written
    structlog.reset_defaults()
    root.removeHandler(handler)
    root.setLevel(before)


async def fail(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """An error page that repeats the request, as some proxies do."""
    await wire.inner.send(request, deadline_seconds=deadline)
    echo = repr(dict(request.headers)).encode() + request.body
    return HttpResponse(502, {"content-type": "text/html"}, echo)


async def test_no_secret_is_written_anywhere(
    bench: Bench, log: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, _ = await bench.paid()
    await bench.gateway.reopen(opened.snapshot.ref)
    other = await bench.open(2)
    bench.decline(other)
    declined = await bench.complete(other, key="capture-2")
    bench.wire.fault = fail
    with pytest.raises(GatewayError) as caught:
        await bench.gateway.reopen(opened.snapshot.ref)
    structlog.get_logger("probe").info("structlog is heard")
    logging.getLogger("probe").debug("logging is heard")
    captured = capsys.readouterr()
    told = [
        *(log.getvalue(), captured.out, captured.err),
        *(repr(opened), repr(declined), repr(bench.gateway), repr(bench.wire.sent)),
        *traceback.format_exception(caught.value),
        # Addresses end up in other people's logs.
        *(request.url for request in bench.wire.sent),
    ]
    secrets = [*bench.secrets(opened), *bench.secrets(other)]
    assert secrets
    assert "structlog is heard" in log.getvalue()
    assert "logging is heard" in log.getvalue()
    assert not [secret for secret in secrets for text in told if secret in text]


async def test_the_browser_gets_words_and_nothing_that_only_the_server_may_know(bench: Bench) -> None:
    opened = await bench.open()
    component = bench.gateway.component()
    attributes = {**component.attributes, **bench.gateway.attributes(bench.amount)}
    keys = [v for k, v in bench.case.environment.items() if k.endswith(("_SECRET", "_KEY")) and "PUBLISHABLE" not in k]
    handed_out = [*opened.client.values(), *attributes.values()]
    assert opened.client
    assert all(isinstance(value, str) for value in handed_out)
    assert not [key for key in keys for value in handed_out if key in value]


def test_the_component_exists_and_defines_its_element(bench: Bench) -> None:
    component = bench.gateway.component()
    module = component.assets / component.module
    assert module.resolve().is_relative_to(component.assets.resolve())
    source = module.read_text(encoding="utf-8")
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", component.element)
    assert re.search(rf"customElements\.define\(\s*['\"]{component.element}['\"]", source)
    assert "'/assets/paidonce.js'" in source.replace('"', "'")
    assert "extends PaymentElement" in source
    assert f"'{bench.gateway.name}'" in source.replace('"', "'")
    # The page's policy forbids both, and a component that needs them would only work in development.
    assert not [word for word in ("innerHTML", "eval(", "document.write", "new Function") if word in source]


def test_the_attributes_are_names_that_html_knows(bench: Bench) -> None:
    names = [*bench.gateway.component().attributes, *bench.gateway.attributes(bench.amount)]
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
    assert len(set(names)) == len(names)
    # The page itself writes these two.
    assert not {"order", "return-url"} & set(names)


def test_the_pages_policy_is_opened_for_named_origins_only(bench: Bench) -> None:
    for directive, sources in bench.gateway.component().csp.items():
        assert directive in DIRECTIVES
        assert sources
        assert not [source for source in sources if not SOURCE.fullmatch(source)]


def test_in_the_sandbox_the_page_loads_nothing_from_elsewhere(bench: Bench, public_url: str) -> None:
    component = bench.gateway.component()
    allowed = {source for sources in component.csp.values() for source in sources}
    assert allowed <= {public_url}
    addresses = [value for value in component.attributes.values() if "://" in value]
    assert all(f"{urlsplit(value).scheme}://{urlsplit(value).netloc}" == public_url for value in addresses)


async def test_every_page_of_the_twin_says_that_it_is_the_sandbox(bench: Bench) -> None:
    opened = await bench.open()
    addresses = [value for value in opened.client.values() if value.startswith("http")]
    paths = ["/", "/nothing-here", *(urlsplit(url).path.removeprefix(f"/{bench.gateway.name}") for url in addresses)]
    answers = [bench.browse(HttpRequest("GET", path)) for path in paths]
    pages = [answer.body.decode() for answer in answers if "text/html" in answer.headers.get("content-type", "")]
    assert not [page for page in pages if "offline sandbox" not in page.lower()]
    assert all(answer.status < 500 for answer in answers)
