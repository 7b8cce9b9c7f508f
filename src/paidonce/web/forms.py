"""What pages with plain HTML forms share: reading a form, and answering with a redirect and a one-time message."""

from __future__ import annotations

from urllib.parse import parse_qs, quote

from fastapi import Request
from starlette.responses import RedirectResponse

from paidonce.errors import InvalidRequest
from paidonce.money import Money, MoneyError, from_decimal_string, iso_exponent
from paidonce.web import views
from paidonce.web.shop import Shop


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a plain HTML form; the first value of each. Raises `errors.InvalidRequest`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise InvalidRequest("Send this form as application/x-www-form-urlencoded.")
    try:
        fields = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise InvalidRequest("This form could not be read.") from None
    first = {name: values[0] for name, values in fields.items()}
    if any("\x00" in text for text in first.values()):
        # PostgreSQL takes no text with it.
        raise InvalidRequest("Leave out the character NUL (U+0000).")
    return first


def read_amount(text: str, currency: str) -> int | None:
    """Minor units of an amount as people write it, such as 19.99; None for an empty field.

    Raises `errors.InvalidRequest` for anything that is not exactly an amount of `currency`, so that nothing is rounded.
    """
    text = text.strip()
    if not text:
        return None
    try:
        minor = from_decimal_string(text, iso_exponent(currency))
        Money(minor, currency)
    except MoneyError:
        minor = 0
    if minor < 1:
        example = "1200" if iso_exponent(currency) == 0 else f"19.{'9' * iso_exponent(currency)}"
        raise InvalidRequest(f"Write the amount in {currency} with digits and a point, such as {example}.")
    return minor


def to_sign_in(target: str) -> RedirectResponse:
    """To the sign-in page, and from there on to `target`, a path of this shop."""
    return views.go_to("/sign-in?next=" + quote(target, safe=""))


def told(shop: Shop, path: str, message: str, tone: str) -> RedirectResponse:
    """To `path`, where `message` is shown once."""
    response = views.go_to(path)
    views.flash(shop, response, message, tone)
    return response
