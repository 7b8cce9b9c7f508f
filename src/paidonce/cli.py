"""The command line. Whatever the user can mend is one clear sentence and exit code 2, never a traceback."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from paidonce import cli_audit, cli_doctor, cli_events, cli_new_gateway, cli_prove, cli_scripts, db
from paidonce._version import __version__
from paidonce.config import Settings, load_settings, read_environment
from paidonce.errors import ConfigError, PaidonceError
from paidonce.logs import configure_logging
from paidonce.scrubbing import scrub_text

if TYPE_CHECKING:
    from paidonce.explain import Explanation

app = typer.Typer(
    name="paidonce",
    help="Payments for shops: every order is paid exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out, err = Console(), Console(stderr=True)


def run() -> None:
    """The entry point: runs a command and turns errors into words."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            err.print(f"[bold red]paidonce:[/] {escape(problem)}", soft_wrap=True)
        raise SystemExit(2) from None
    except PaidonceError as error:
        err.print(f"[bold red]paidonce:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        # A bug, or one of the shop's own code. The traceback is for whoever mends it, and may quote anything.
        err.print(_without_secrets(error), soft_wrap=True, highlight=False, markup=False)
        raise SystemExit(1) from None


def _without_secrets(error: Exception) -> str:
    from paidonce.assembly import learn_secrets

    environment = read_environment()
    # Whatever is wrong with the settings must not become a second error, which nobody would scrub.
    with suppress(Exception):
        learn_secrets(load_settings(environment), environment)
    return scrub_text("".join(traceback.format_exception(error)))


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


@app.command()
def serve() -> None:
    """Serve the shop; its settings come from the environment and .env (see docs/configuration.md)."""
    _require_web()
    from paidonce import serving
    from paidonce.app import create_app

    environment = read_environment()
    settings = load_settings(environment)
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    shop = create_app(settings, environment=environment)
    # Reading the schema's version is no news, though Alembic tells at length.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    asyncio.run(_refuse_old_schema(settings.database_url.get_secret_value()))
    with serving.bind(settings.host, settings.port, fix="Choose another with PORT=…, or end what uses it.") as listener:
        out.print(f"The shop is open: {settings.origin}   (Ctrl-C closes it)")
        with suppress(KeyboardInterrupt):
            serving.spare_garbage_collector()
            serving.server(shop).run(sockets=[listener])
        out.print("The shop is closed.")


async def _refuse_old_schema(url: str) -> None:
    if await db.pending(url):
        raise ConfigError(["The database's schema is not this version's. Run: paidonce migrate"])


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Pay without a browser, show the books.")] = False,
    data: Annotated[
        Path | None, typer.Option(envvar="PAIDONCE_DATA", help="The data folder (default: var; fresh with --once).")
    ] = None,
    port: Annotated[int, typer.Option(envvar="PORT", min=1, max=65534, help="The shop's port.")] = 8000,
) -> None:
    """Open a shop with offline gateways beside it; no keys needed. Test keys in the environment are used instead."""
    _require_web()
    from paidonce.demo.folder import DataFolder
    from paidonce.demo.run import pay_once
    from paidonce.demo.run import serve as serve_demo

    environment = read_environment()
    if once:
        if not pay_once(environment, None if data is None else DataFolder(data), out):
            raise typer.Exit(1)
        return
    serve_demo(environment, DataFolder(data or Path("var")), port, out)


@app.command()
def sandbox(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8001,
    state_file: Annotated[Path | None, typer.Option(help="Where to keep the state between restarts.")] = None,
    public_url: Annotated[str, typer.Option(help="The address at which browsers reach it.")] = "",
    shop_url: Annotated[str, typer.Option(help="The shop on this machine that shall get the webhooks.")] = "",
    fd: Annotated[int, typer.Option(hidden=True)] = -1,
    end_with_stdin: Annotated[bool, typer.Option("--end-with-stdin", hidden=True)] = False,
) -> None:
    """Serve the gateways' offline twins: no money moves here."""
    _require_web()
    from paidonce import serving
    from paidonce.demo.servers import end_with_stdin as watch_parent
    from paidonce.sandbox.app import create_sandbox_app, sandbox_environment

    configure_logging(level="warning")
    fix = "Choose another with --port."
    listener = serving.bind(serving.LOOPBACK, port, fix=fix) if fd < 0 else socket.socket(fileno=fd)
    with listener:
        url = public_url.rstrip("/") or f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        running = serving.server(create_sandbox_app(url, state_file=state_file, shop_url=shop_url or None))
        if end_with_stdin:
            watch_parent(running)
        else:
            out.print(f"Offline gateways: {url}   (Ctrl-C ends them)")
            out.print(f"Faults, refunds, disputes, webhooks: {url}/_control", soft_wrap=True)
            out.print("A shop uses them with these settings:\n")
            for name, value in sandbox_environment(url).items():
                out.print(f"{name}={value}", soft_wrap=True, highlight=False, markup=False)
        with suppress(KeyboardInterrupt):
            running.run(sockets=[listener])
    if not end_with_stdin:
        out.print("The offline gateways have ended.")


@app.command()
def worker() -> None:
    """Do what time demands, until ended: recovery, expiry, and telling your systems of events. Any number may run."""
    environment = read_environment()
    settings = load_settings(environment)
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    out.print("The worker runs.   (Ctrl-C ends it, at any moment)")
    with suppress(KeyboardInterrupt):
        asyncio.run(_work(settings, environment))
    out.print("The worker has ended.")


@app.command()
def recover(
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, and end: for cron.")] = False,
) -> None:
    """Do what is due now: settle payments that nobody came back for, send refunds, end what ran out."""
    if not once:
        raise ConfigError(["paidonce recover needs --once. To go on for ever, run: paidonce worker"])
    environment = read_environment()
    settings = load_settings(environment)
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    done = asyncio.run(_recover(settings, environment))
    out.print(f"Done: {done} pieces of work." if done else "Nothing was due.")


async def _work(settings: Settings, environment: Mapping[str, str]) -> None:
    from paidonce.app import open_worker

    async with open_worker(settings, environment) as opened:
        await opened.run()


async def _recover(settings: Settings, environment: Mapping[str, str]) -> int:
    from paidonce.app import open_worker

    async with open_worker(settings, environment) as opened:
        return await opened.run_once()


@app.command()
def explain(
    order: Annotated[str, typer.Argument(help="The order's number (PO-…) or its id (ord_…).")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell an order's story: what was intended, asked, answered and settled, where the money is, what to do next."""
    from paidonce import explain as explaining

    settings = load_settings()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    found = asyncio.run(_explain(settings, order))
    if found is None:
        raise ConfigError([f"There is no order {order!r} here. Give its number (PO-…) or its id (ord_…)."])
    text = json.dumps(explaining.as_json(found), indent=2) if as_json else explaining.as_text(found)
    out.print(text, soft_wrap=True, highlight=False, markup=False)


async def _explain(settings: Settings, text: str) -> Explanation | None:
    from paidonce import explain as explaining
    from paidonce.assembly import store_of
    from paidonce.core import Core
    from paidonce.gateways.registry import configure_all
    from paidonce.gateways.transport import AiohttpTransport
    from paidonce.ports import RandomIds, SystemClock

    clock = SystemClock()
    transport = AiohttpTransport(clock)
    database = await db.connect(settings.database_url.get_secret_value())
    try:
        if await db.pending(database):
            raise ConfigError(["The database's schema is not this version's. Run: paidonce migrate"])
        # None of them is asked; the advice depends on which there are.
        gateways = configure_all(read_environment(), transport, clock)
        core = Core(database, gateways, store_of(settings), clock, RandomIds(), settings.policy())
        order_id = await database.read(explaining.find_order, core.store, text)
        return None if order_id is None else await database.read(explaining.explain, core, order_id)
    finally:
        await database.close()
        await transport.close()


app.add_typer(cli_events.app, name="events")
app.command()(cli_audit.audit)
app.command()(cli_prove.prove)
app.command()(cli_doctor.doctor)
app.command()(cli_scripts.scripts)
app.command("new-gateway")(cli_new_gateway.new_gateway)


@app.command()
def migrate() -> None:
    """Bring the schema of PAIDONCE_DATABASE_URL up to date. Safe to repeat, and from several places at once."""
    from paidonce.assembly import migrate as bring_up_to_date

    asyncio.run(bring_up_to_date(load_settings()))
    out.print("The database's schema is up to date.")


def _require_web() -> None:
    missing = [name for name in ("fastapi", "uvicorn", "jinja2", "pwdlib") if find_spec(name) is None]
    if missing:
        raise ConfigError([f"This command needs {', '.join(missing)}. Install them with: pip install 'paidonce[all]'"])
