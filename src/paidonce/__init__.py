"""Payments by Stripe and PayPal for Python stores: every order is paid exactly once.

What a shop needs is reachable from here, and loaded only when it is asked for: importing the package alone loads
neither a web framework nor a database driver nor a gateway's SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paidonce._version import __version__

if TYPE_CHECKING:
    from paidonce.app import create_app as create_app
    from paidonce.captures import capture as capture
    from paidonce.captures import release as release
    from paidonce.checkout import PaymentView as PaymentView
    from paidonce.checkout import Result as Result
    from paidonce.checkout import Started as Started
    from paidonce.checkout import cancel as cancel
    from paidonce.checkout import complete as complete
    from paidonce.checkout import start as start
    from paidonce.config import Settings as Settings
    from paidonce.config import load_settings as load_settings
    from paidonce.core import Actor as Actor
    from paidonce.core import Core as Core
    from paidonce.core import Policy as Policy
    from paidonce.db import connect as connect
    from paidonce.db import migrate as migrate
    from paidonce.errors import ConfigError as ConfigError
    from paidonce.errors import GatewayError as GatewayError
    from paidonce.errors import PaidonceError as PaidonceError
    from paidonce.errors import Problem as Problem
    from paidonce.gateways.base import Gateway as Gateway
    from paidonce.gateways.base import Snapshot as Snapshot
    from paidonce.hoststore import HostStore as HostStore
    from paidonce.hoststore import StockLine as StockLine
    from paidonce.money import Money as Money
    from paidonce.outbox import Event as Event
    from paidonce.refunds import refund as refund
    from paidonce.settlement import settle as settle
    from paidonce.states import OrderStatus as OrderStatus
    from paidonce.states import PaymentStatus as PaymentStatus
    from paidonce.states import RefundStatus as RefundStatus
    from paidonce.store import PayableOrder as PayableOrder
    from paidonce.store import SqlStore as SqlStore
    from paidonce.store import Store as Store
    from paidonce.web.mount import Payments as Payments

_HOME = {
    "app": ("create_app",),
    "captures": ("capture", "release"),
    "checkout": ("PaymentView", "Result", "Started", "cancel", "complete", "start"),
    "config": ("Settings", "load_settings"),
    "core": ("Actor", "Core", "Policy"),
    "db": ("connect", "migrate"),
    "errors": ("ConfigError", "GatewayError", "PaidonceError", "Problem"),
    "gateways.base": ("Gateway", "Snapshot"),
    "money": ("Money",),
    "outbox": ("Event",),
    "refunds": ("refund",),
    "settlement": ("settle",),
    "states": ("OrderStatus", "PaymentStatus", "RefundStatus"),
    "hoststore": ("HostStore", "StockLine"),
    "store": ("PayableOrder", "SqlStore", "Store"),
    "web.mount": ("Payments",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # noqa: PLE0604 - the names are data, so that they load lazily.


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
