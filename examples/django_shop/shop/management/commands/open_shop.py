"""`manage.py open_shop`: everything at once, for trying the shop. In production each part is a process of its own."""

import asyncio
import os
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

from paidonce import serving
from paidonce.contrib.django.runtime import open_worker
from paidonce.demo.servers import sandbox_process
from paidonce.errors import PaidonceError
from paidonce.gateways.registry import providers
from shop.management.commands.stock_shelves import PASSWORD


class QuietHandler(WSGIRequestHandler):
    """Without a line per request, which would show the addresses that gateways send buyers back to."""

    def log_message(self, *_):
        pass


class Server(ThreadedWSGIServer):
    """Room for a rush of buyers."""

    request_queue_size = 128


class Command(BaseCommand):
    """Tables, goods, offline gateways, a worker, and the server."""

    help = "Open the shop with offline gateways beside it; keys in the environment are used instead."

    def handle(self, **_):
        try:
            self._open()
        except PaidonceError as error:
            raise CommandError(str(error)) from None

    def _open(self):
        call_command("migrate", verbosity=0)
        call_command("stock_shelves", easy_password=True)
        # A port of its own for the offline gateways; they go on running under the shop's webhooks.
        listener = serving.bind(serving.LOOPBACK, _port() + 1, fix="Choose another with PORT=….")
        offline = f"http://{serving.LOOPBACK}:{listener.getsockname()[1]}"
        os.environ |= _twins(offline)
        state = settings.DATA_DIR / "sandbox.json"
        with sandbox_process(listener, offline, state, settings.PUBLIC_URL):
            threading.Thread(target=lambda: asyncio.run(_work()), name="worker", daemon=True).start()
            server = Server((serving.LOOPBACK, _port()), QuietHandler)
            server.set_app(StaticFilesHandler(get_wsgi_application()))
            self.stdout.write(f"The shop is open: {settings.PUBLIC_URL}   (Ctrl-C closes it)")
            self.stdout.write(f"Sign in as buyer or staff, with {PASSWORD}. Staff see {settings.PUBLIC_URL}/admin/")
            self.stdout.write(
                f"Test card: 4242 4242 4242 4242, any date, any code. Offline gateways: {offline}/_control"
            )
            with suppress(KeyboardInterrupt):
                server.serve_forever()
        self.stdout.write("The shop is closed.")


def _port():
    return urlsplit(settings.PUBLIC_URL).port or 8200


def _twins(url):
    """The settings of the offline twin of each gateway that has no keys here."""
    twins = {}
    for provider in providers():
        if not any(os.environ.get(name) for name in provider.settings):
            twins |= provider.sandbox_environment(url)
    return twins


async def _work():
    async with open_worker() as worker:
        await worker.run()
