"""Templates: what every page shares, and how amounts, times and states are worded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from babel.dates import format_datetime
from babel.numbers import format_currency
from markupsafe import Markup
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response

from paidonce.errors import Problem
from paidonce.money import Money, iso_exponent, to_decimal_string
from paidonce.ports import Microseconds
from paidonce.states import OrderStatus, PaymentStatus, RefundStatus
from paidonce.store import OrderLine
from paidonce.web import auth, basket, models, security
from paidonce.web.accounts import User
from paidonce.web.integrity import Integrity
from paidonce.web.shop import Shop, shop_of

COMPONENTS = Path(__file__).parent.parent / "components"

_FLASH = "paidonce_flash"
_FLASH_SECONDS = 60
_LOCALE = "en"

ORDER_WORDS = {
    OrderStatus.OPEN: "Waiting for payment",
    OrderStatus.PENDING: "Payment being confirmed",
    OrderStatus.PAID: "Paid",
    OrderStatus.CANCELED: "Canceled",
    OrderStatus.EXPIRED: "Expired",
}
PAYMENT_WORDS = {
    PaymentStatus.CREATED: "Not finished",
    PaymentStatus.AWAITING_BUYER: "Not finished",
    PaymentStatus.PROCESSING: "Being confirmed",
    PaymentStatus.AUTHORIZED: "Reserved",
    PaymentStatus.CAPTURED: "Paid",
    PaymentStatus.FAILED: "Did not go through",
    PaymentStatus.CANCELED: "Canceled",
    PaymentStatus.HELD: "Being checked by the shop",
}


REFUND_WORDS = {RefundStatus.PARTIAL: "Partly refunded", RefundStatus.FULL: "Refunded"}
# A refund and a dispute, as staff read their states.
REFUND_STATE_WORDS = {
    "recorded": "Not confirmed yet",
    "pending": "Under way",
    "succeeded": "Refunded",
    "failed": "Failed",
}
DISPUTE_WORDS = {"open": "Disputed", "won": "Dispute won", "lost": "Dispute lost"}


@lru_cache(maxsize=1)
def templates() -> jinja2.Environment:
    """The one template environment: escaping is on, and an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(COMPONENTS / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"money": money, "moment": moment, "clock": clock, "major": major, "line_total": line_total}
    environment.globals |= {
        "order_words": ORDER_WORDS,
        "payment_words": PAYMENT_WORDS,
        "refund_words": REFUND_WORDS,
        "refund_state_words": REFUND_STATE_WORDS,
        "dispute_words": DISPUTE_WORDS,
        "attributes": html_attributes,
    }
    return environment


def money(amount: Money) -> str:
    """An amount as people write it: €19.99, ¥1,200."""
    exact = Decimal(to_decimal_string(amount.minor, iso_exponent(amount.currency)))
    return format_currency(exact, amount.currency, locale=_LOCALE)


def major(amount: Money) -> str:
    """An amount as a form takes it: 19.99."""
    return to_decimal_string(amount.minor, iso_exponent(amount.currency))


def line_total(line: OrderLine) -> Money:
    """Unit price times quantity."""
    return Money(line.unit_price.minor * line.quantity, line.unit_price.currency)


def moment(when: Microseconds) -> str:
    """A point in time as people write it, in UTC, since the server does not know where the buyer is."""
    return format_datetime(models.moment_of(when), "d MMMM y, HH:mm 'UTC'", locale=_LOCALE)


def clock(when: Microseconds) -> str:
    """A point in time to the second, in UTC, for people who compare it with a log."""
    return format_datetime(models.moment_of(when), "d MMM HH:mm:ss", locale=_LOCALE)


def day(when: Microseconds) -> str:
    """The day of a point in time, in UTC."""
    return format_datetime(models.moment_of(when), "d MMMM y", locale=_LOCALE)


def html_attributes(values: Mapping[str, str]) -> Markup:
    """`values` as attributes of an element, escaped."""
    return Markup(" ").join(Markup('{}="{}"').format(name, value) for name, value in values.items())


def page(
    connection: HTTPConnection, template: str, *, user: User | None, status: int = 200, **values: Any
) -> HTMLResponse:
    """The page, with a one-time message if one is waiting."""
    shop = shop_of(connection)
    flash = _waiting_flash(connection, shop)
    text = shop.templates.get_template(template).render(
        shop_name=shop.settings.shop_name,
        demo=shop.settings.demo,
        path=connection.url.path,
        user=user,
        basket_count=basket.count(basket.read(connection)),
        flash=flash,
        assets=_assets(connection, shop),
        **values,
    )
    response = HTMLResponse(text, status)
    if flash is not None:
        auth.drop_cookie(shop, response, _FLASH)
    return response


def go_to(path: str) -> RedirectResponse:
    """See-other to a path of this shop. The answer names a path only, so it can't lead anywhere else."""
    assert is_local(path), "a redirect must stay in the shop"
    return RedirectResponse(path, 303)


def is_local(path: str) -> bool:
    """Whether `path` leads to this shop and nowhere else: `//evil`, `/\\evil` and control characters don't."""
    return path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()


def flash(shop: Shop, response: Response, message: str, tone: str = "info") -> None:
    """Show `message` on the next page, once. It is signed, so that nobody puts words into the shop's mouth."""
    text = shop.sign("flash", {"message": message[:600], "tone": tone})
    auth.set_cookie(shop, response, _FLASH, text, max_age=_FLASH_SECONDS)


def error_page(
    connection: HTTPConnection, problem: Problem, *, incident: str | None, headers: Mapping[str, str]
) -> Response:
    """An error as a page in the shop's look. It asks the database for nothing: that may be what failed."""
    shop = shop_of(connection)
    text = shop.templates.get_template("error.html").render(
        shop_name=shop.settings.shop_name,
        demo=shop.settings.demo,
        path=connection.url.path,
        user=None,
        basket_count=basket.count(basket.read(connection)),
        flash=None,
        assets=_assets(connection, shop),
        problem=problem,
        incident=incident,
        is_error=True,
    )
    return HTMLResponse(text, problem.status, headers=dict(headers))


@dataclass(frozen=True, slots=True)
class Assets:
    """What a template writes to load a file of ours: its integrity hash, and for scripts this answer's nonce."""

    integrity: Integrity
    nonce: str

    def scripts(self, *paths: str) -> Markup:
        """The modules at `paths`."""
        return self.integrity.scripts(paths, nonce=self.nonce)

    def stylesheet(self, path: str) -> Markup:
        """The style sheet at `path`."""
        return self.integrity.stylesheet(path)


def _assets(connection: HTTPConnection, shop: Shop) -> Assets:
    return Assets(shop.integrity, security.new_nonce(connection.scope))


def _waiting_flash(connection: HTTPConnection, shop: Shop) -> Mapping[str, str] | None:
    kept = connection.cookies.get(_FLASH)
    value = shop.unsign("flash", kept) if kept and len(kept) < 4000 else None
    return value if isinstance(value, dict) and {"message", "tone"} <= value.keys() else None
