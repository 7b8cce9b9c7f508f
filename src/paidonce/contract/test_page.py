"""What every gateway puts before a buyer, and what must never leave the server."""

from __future__ import annotations

import io
import logging
import re
import traceback
from urllib.parse import urlsplit

import pytest
import structlog

from paidonce.contract.bench import PUBLIC_URL, Bench, Wire
from paidonce.contract.expect import equal, none_of, raises, some
from paidonce.contract.marks import needs
from paidonce.errors import GatewayError
from paidonce.gateways.base import HttpRequest, HttpResponse

pytestmark = pytest.mark.asyncio

DIRECTIVES = frozenset(
    {"script-src", "frame-src", "child-src", "connect-src", "img-src", "style-src", "font-src", "form-action"}
)
SOURCE = re.compile(r"https://(\*\.)?[a-z0-9.-]+(:\d+)?|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
# The page itself writes these.
OF_THE_PAGE = frozenset({"order", "return-url", "api-base"})


async def fail(wire: Wire, request: HttpRequest, deadline: float) -> HttpResponse:
    """An error page that repeats the request, as some proxies do."""
    await wire.inner.send(request, deadline_seconds=deadline)
    echo = repr(dict(request.headers)).encode() + request.body
    return HttpResponse(502, {"content-type": "text/html"}, echo)


@needs("secrets", "twin")
async def test_no_secret_is_written_anywhere(
    bench: Bench, everything_logged: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys and client values are in no log, output, address, repr or traceback, whatever the gateway answers."""
    opened, _ = await bench.paid()
    await bench.gateway.reopen(opened.snapshot.ref)
    other = await bench.open(2)
    if bench.has("decline"):
        await bench.decline(other)
    second = await bench.complete(other, key="capture-2")
    bench.wire.fault = fail
    caught = await raises(
        GatewayError, "`reopen` behind a proxy's error page", bench.gateway.reopen(opened.snapshot.ref)
    )
    structlog.get_logger("probe").info("structlog is heard")
    logging.getLogger("probe").debug("logging is heard")
    captured = capsys.readouterr()
    places = {
        "the log": everything_logged.getvalue(),
        "standard output": captured.out,
        "standard error": captured.err,
        "repr(opened)": repr(opened),
        "repr(snapshot)": repr(second),
        "repr(gateway)": repr(bench.gateway),
        "repr(requests)": repr(bench.wire.sent),
        "a traceback": "".join(traceback.format_exception(caught)),
        # Addresses end up in other people's logs.
        "an address": "\n".join(request.url for request in bench.wire.sent),
    }
    secrets = [*bench.secrets(opened), *bench.secrets(other)]
    some("secrets to look for", secrets)
    assert "structlog is heard" in places["the log"]
    assert "logging is heard" in places["the log"]
    told = {place for place, text in places.items() for secret in secrets if secret in text}
    none_of("place that tells a secret", told)


async def test_the_browser_gets_words_and_nothing_that_only_the_server_may_know(bench: Bench) -> None:
    """Client values and attributes are texts, and hold no secret setting."""
    opened = await bench.open()
    component = bench.gateway.component()
    attributes = {**component.attributes, **bench.gateway.attributes(bench.amount)}
    keys = [v for k, v in bench.case.environment.items() if k.endswith(("_SECRET", "_KEY")) and "PUBLISHABLE" not in k]
    handed_out = {**opened.client, **attributes}
    some("client values in the answer of `create`", opened.client)
    none_of("value that is no text", [name for name, value in handed_out.items() if not isinstance(value, str)])
    leaked = [name for name, value in handed_out.items() if any(key in value for key in keys)]
    none_of("client value or attribute with a secret", leaked)


async def test_the_component_exists_and_defines_its_element(bench: Bench) -> None:
    """The component's module defines the element, extends `PaymentElement`, names the gateway, and needs no `eval`."""
    component = bench.gateway.component()
    module = component.assets / component.module
    inside = module.resolve().is_relative_to(component.assets.resolve())
    assert inside, f"the module {component.module!r} lies outside of the assets."
    source = module.read_text(encoding="utf-8").replace('"', "'")
    name = component.element
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", name), f"{name!r} is no name of a custom element."
    assert re.search(rf"customElements\.define\(\s*'{name}'", source), f"the module does not define <{name}>."
    assert re.search(r"from '[./]*(/assets)?/paidonce\.js'", source), "the module does not import paidonce.js."
    assert "extends PaymentElement" in source, "the module's element does not extend PaymentElement."
    assert f"'{bench.gateway.name}'" in source, f"the module does not name the gateway {bench.gateway.name!r}."
    # The page's policy forbids both, and a component that needs them would only work in development.
    words = [word for word in ("innerHTML", "eval(", "document.write", "new Function") if word in source]
    none_of("word that the page's policy forbids", words)


async def test_the_attributes_are_names_that_html_knows(bench: Bench) -> None:
    """Attributes are in lower case with hyphens, each once, and none that the page writes itself."""
    names = [*bench.gateway.component().attributes, *bench.gateway.attributes(bench.amount)]
    none_of("odd attribute name", [name for name in names if not re.fullmatch(r"[a-z]+(-[a-z]+)*", name)])
    equal("the number of different attributes", len(set(names)), len(names))
    none_of("attribute that the page writes itself", OF_THE_PAGE & set(names))


async def test_the_pages_policy_is_opened_for_named_origins_only(bench: Bench) -> None:
    """The component's policy names known directives and whole origins: https, or this machine."""
    for directive, sources in bench.gateway.component().csp.items():
        assert directive in DIRECTIVES, f"{directive!r} is none of {sorted(DIRECTIVES)}."
        some(f"sources of {directive}", sources)
        none_of(f"source of {directive} that is no origin", [one for one in sources if not SOURCE.fullmatch(one)])


async def test_every_source_of_scripts_is_explained(bench: Bench) -> None:
    """`Component.scripts` says of each source of scripts what it is on the page for; the shop has to answer for it."""
    component = bench.gateway.component()
    origins = {f"{urlsplit(one).scheme}://{urlsplit(one).netloc}" for one in component.scripts}
    none_of("unexplained source of scripts", set(component.csp.get("script-src", ())) - origins)
    none_of("script without a word why", [one for one, why in component.scripts.items() if not why.strip()])


async def test_in_the_sandbox_the_page_loads_nothing_from_elsewhere(bench: Bench) -> None:
    """With the sandbox's settings the page loads from the sandbox alone."""
    component = bench.gateway.component()
    allowed = {source for sources in component.csp.values() for source in sources}
    none_of("source elsewhere in the page's policy", allowed - {PUBLIC_URL})
    addresses = [value for value in component.attributes.values() if "://" in value]
    elsewhere = [one for one in addresses if f"{urlsplit(one).scheme}://{urlsplit(one).netloc}" != PUBLIC_URL]
    none_of("address elsewhere among the attributes", elsewhere)


@needs("twin")
async def test_every_page_of_the_twin_says_that_it_is_the_sandbox(bench: Bench) -> None:
    """Every page of the twin holds the words "offline sandbox", and no address of it makes it fall over."""
    opened = await bench.open()
    addresses = [value for value in opened.client.values() if value.startswith("http")]
    paths = ["/", "/nothing-here", *(urlsplit(url).path.removeprefix(f"/{bench.gateway.name}") for url in addresses)]
    answers = {path: bench.browse(HttpRequest("GET", path)) for path in paths}
    pages = {path: one for path, one in answers.items() if "text/html" in one.headers.get("content-type", "")}
    silent = [path for path, one in pages.items() if "offline sandbox" not in one.body.decode().lower()]
    none_of("page without the words", silent)
    none_of("page that falls over", [path for path, one in answers.items() if one.status >= 500])
