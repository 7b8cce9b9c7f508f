"""`manage.py paidonce_explain ORDER`: an order's whole story."""

from __future__ import annotations

import json
from typing import Any

from paidonce import explain
from paidonce.contrib.django.commands import Command as Base
from paidonce.contrib.django.driver import run
from paidonce.contrib.django.runtime import runtime
from paidonce.errors import ConfigError
from paidonce.explain import Explanation


class Command(Base):
    """What `paidonce explain` tells, of the shop's own orders."""

    help = "Tell an order's story: what was asked, answered and settled, where the money is, what to do next."

    def add_arguments(self, parser: Any) -> None:
        """The order, and the form of the answer."""
        parser.add_argument("order", help="Its number or id, or the id of a payment, a refund or a gateway's object.")
        parser.add_argument("--json", action="store_true", help="For programs.")

    def work(self, **options: Any) -> None:
        """Tell it. Raises `ConfigError` for an order that is not here."""
        found = _explain(options["order"])
        if found is None:
            raise ConfigError([f"There is no order {options['order']!r} here. Give its number or its id."])
        self.stdout.write(json.dumps(explain.as_json(found), indent=2) if options["json"] else explain.as_text(found))


def _explain(text: str) -> Explanation | None:
    core = runtime().core
    order_id = run(core.db.read(explain.find_order, core.store, text))
    return None if order_id is None else run(core.db.read(explain.explain, core, order_id))
