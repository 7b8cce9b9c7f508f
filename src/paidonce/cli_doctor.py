"""`paidonce doctor`: looks at everything that payments need, tells how it is, and ends with 1 if something is red."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.markup import escape

from paidonce import db, guard
from paidonce.assembly import learn_secrets, store_of
from paidonce.config import Settings, load_settings, read_environment
from paidonce.doctor import Finding, Health, Limits, Patient, as_lines, examine, worst
from paidonce.doctor import as_json as doctor_report
from paidonce.doctor.patient import DateWatch
from paidonce.errors import ConfigError
from paidonce.gateways.registry import configure_all
from paidonce.gateways.transport import AiohttpTransport
from paidonce.ports import Clock, SystemClock
from paidonce.store import SqlStore

_COLOURS = {Health.GREEN: "green", Health.YELLOW: "yellow", Health.RED: "bold red"}


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Look at the demo in the data folder instead.")] = False,
    data: Annotated[Path, typer.Option(envvar="PAIDONCE_DATA", help="The demo's data folder.")] = Path("var"),
    port: Annotated[int | None, typer.Option(min=1, max=65534, help="The demo's port (default: PORT or 8000).")] = None,
) -> None:
    """Look at settings, database, worker, gateways, webhooks and TLS; say what is wrong and how to mend it.

    It changes nothing and moves no money. Exit code 0: nothing is red; 1: something is; 2: the settings can't be read.
    """
    # Calls are logged for the shop's operator; here each has a finding of its own.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        environment: Mapping[str, str] = _of_the_demo(data, port) if demo else read_environment()
        settings = load_settings(environment)
        learn_secrets(settings, environment)
        findings = asyncio.run(_examine(settings, environment, as_json=as_json))
    except ConfigError as error:
        if not as_json:
            raise
        show_json([Finding("settings", Health.RED, problem) for problem in error.problems])
        raise typer.Exit(2) from None
    if as_json:
        show_json(findings)
    else:
        show_sum(findings)
    if worst(findings) is Health.RED:
        raise typer.Exit(1)


async def _examine(settings: Settings, environment: Mapping[str, str], *, as_json: bool) -> list[Finding]:
    async with AsyncExitStack() as stack:
        patient = open_patient(settings, environment, stack)
        return await listen(patient, as_json=as_json)


def open_patient(
    settings: Settings,
    environment: Mapping[str, str],
    stack: AsyncExitStack,
    *,
    clock: Clock | None = None,
    limits: Limits | None = None,
) -> Patient:
    """The shop of these settings; what is opened for it is closed by `stack`. Raises `ConfigError`."""
    clock = clock or SystemClock()
    transport = AiohttpTransport(clock)
    stack.push_async_callback(transport.close)
    dates = DateWatch(transport, clock)
    gateways = configure_all(environment, dates, clock)
    for gateway in gateways.values():
        stack.push_async_callback(gateway.aclose)
    file = guard.sqlite_file(settings)
    hosted = not isinstance(store_of(settings), SqlStore)
    return Patient(
        settings=settings,
        environment=environment,
        gateways=gateways,
        dates=dates,
        transport=transport,
        clock=clock,
        open_database=lambda: db.connect(settings.database_url.get_secret_value()),
        file=file,
        hosted=hosted,
        refused=guard.problems(settings, environment, gateways, file=file, hosted=hosted),
        limits=limits or Limits(),
    )


async def listen(patient: Patient, *, as_json: bool = False) -> list[Finding]:
    """Every finding, told as soon as it is there unless all of them are wanted as JSON."""
    found = []
    with _progress(as_json=as_json) as tell:
        async for finding in examine(patient, tell=tell):
            found.append(finding)
            if not as_json:
                show(finding)
    return found


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Callable[[str], None]]:
    """Says to people at a terminal what is being looked at, and keeps out of what is piped."""
    err = Console(stderr=True)
    if not err.is_terminal:
        yield lambda _what: None
    elif as_json or Console().is_terminal:
        with err.status("Looking …") as status:
            yield lambda what: status.update(f"Looking at {what} …")
    else:
        # A moving line would take what is printed meanwhile to itself, and out of the pipe.
        yield lambda what: err.print(f"Looking at {what} …", style="dim")


def show(finding: Finding) -> None:
    """One finding, on one or two lines."""
    console, word = Console(), finding.health.value
    for line in as_lines(finding):
        text = escape(line)
        if line.startswith(word):
            text = f"[{_COLOURS[finding.health]}]{word}[/]{escape(line.removeprefix(word))}"
        console.print(text, soft_wrap=True, highlight=False)


def show_sum(findings: list[Finding]) -> None:
    """How many of each there are."""
    counts = [f"{sum(one.health is health for one in findings)} {health.value}" for health in Health]
    Console().print(f"\n{', '.join(counts)}.", highlight=False)


def show_json(findings: list[Finding]) -> None:
    """All of it for programs."""
    text = json.dumps(doctor_report(findings), indent=2, ensure_ascii=False)
    Console().print(text, soft_wrap=True, highlight=False, markup=False)


def _of_the_demo(data: Path, port: int | None) -> Mapping[str, str]:
    """The settings of the demo in the folder `data`. Raises `ConfigError` if there is none."""
    from paidonce import serving
    from paidonce.demo.folder import DataFolder, demo_environment
    from paidonce.gateways.registry import providers

    folder = DataFolder(data)
    if not (data / "secret-key").exists():
        raise ConfigError([f"There is no demo in {data}. Start one (paidonce demo), or name its folder by --data"])
    own = read_environment()
    port = port or load_settings(own, built_in_shop=False).port
    address = f"http://{serving.LOOPBACK}"
    return demo_environment(
        own, folder, providers(own), port=port, shop_url=f"{address}:{port}", sandbox_url=f"{address}:{port + 1}"
    ).values
