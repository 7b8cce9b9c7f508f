"""The shop with offline gateways beside it: `examples/own_shop/run`."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from paidonce import serving
from paidonce.demo.servers import sandbox_process
from paidonce.errors import ConfigError
from paidonce.logs import configure_logging
from paidonce.sandbox.app import sandbox_environment

from .app import add_product, add_user, create_app, make_tables

COFFEES = (
    ("YIRG-250", "Yirgacheffe", "Jasmine, bergamot, a little honey.", "#b4773a", 1450, 40),
    ("HUIL-250", "Huila", "Red apple and caramel. For every morning.", "#8a4b2d", 1290, 60),
    ("NYER-250", "Nyeri", "Blackcurrant, bright as a bell.", "#6b2d3c", 1590, 25),
    ("CERR-250", "Cerrado", "Hazelnut and milk chocolate.", "#5c4630", 990, 80),
    ("MAND-250", "Mandheling", "Cedar, tobacco, dark sugar.", "#3b4a3a", 1390, 30),
    ("GESH-250", "Gesha, Lot 12", "Four bags are all there is.", "#c98a5b", 3900, 4),
)


def main() -> None:
    """Make what is missing, then serve until Ctrl-C."""
    configure_logging(level="warning")
    port = int(os.environ.get("PORT", "8100"))
    data = Path(os.environ.get("DATA", "var/own-shop"))
    data.mkdir(parents=True, exist_ok=True)
    fix = "Choose another with PORT=…"
    with (
        serving.bind(serving.LOOPBACK, port, fix=fix) as shop,
        serving.bind(serving.LOOPBACK, port + 1, fix=fix) as twins,
    ):
        url, sandbox_url = f"http://{serving.LOOPBACK}:{port}", f"http://{serving.LOOPBACK}:{port + 1}"
        environment = {
            **sandbox_environment(sandbox_url),
            "DATABASE_URL": os.environ.get("DATABASE_URL", f"sqlite:///{data / 'shop.db'}"),
            "PAIDONCE_PUBLIC_URL": url,
        }
        app = create_app(environment)
        asyncio.run(make_tables(app))
        for sku, name, notes, colour, cents, bags in COFFEES:
            add_product(app.state.engine, sku, name, cents, bags, notes=notes, colour=colour)
        add_user(app.state.engine, "buyer@example.com", "Bo Buyer", "buyer-password")
        add_user(app.state.engine, "staff@example.com", "Sam Staff", "staff-password", is_staff=True)
        with sandbox_process(twins, sandbox_url, data / "gateways.json", url):
            say(f"The shop is open: {url}   (Ctrl-C closes it)")
            say("Sign in as buyer@example.com with buyer-password, or as staff@example.com with staff-password.")
            say(f"What dashboards and banks do there: {sandbox_url}/_control")
            with suppress(KeyboardInterrupt):
                serving.server(app).run(sockets=[shop])


def say(text: str) -> None:
    """A line for the person at the terminal."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(str(error))
