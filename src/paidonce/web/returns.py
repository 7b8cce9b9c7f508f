"""The address to which a gateway's redirect brings the buyer back, cleaned before anything else happens.

Gateways add values of their own behind the payment's id; Stripe's client secret is one. Whatever is shown at such an
address, an error of the database say, would leave the secret in the address bar and in the browser's history. So the
first answer is always a redirect to the same address without them.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.responses import Response

_RETURN = re.compile(r"/orders/[^/]+/return")
_PAYMENT = b"payment="


def cleaned(path: str, query: bytes) -> Response | None:
    """The redirect to the clean address, or None where nothing is to be cleaned.

    It is relative: the path stays, and of the query only the payment's id.
    """
    fields = query.split(b"&")
    if not _RETURN.fullmatch(path) or not query or (len(fields) == 1 and query.startswith(_PAYMENT)):
        return None
    kept = next((field for field in fields if field.startswith(_PAYMENT)), _PAYMENT)
    # As it was sent, save for what no header may hold.
    return Response(status_code=303, headers={"Location": f"?payment={quote(kept.removeprefix(_PAYMENT), safe='%')}"})
