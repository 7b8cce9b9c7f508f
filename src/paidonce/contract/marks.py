"""How a test says what a gateway must have before it can be asked at all."""

from __future__ import annotations

import pytest


def needs(*abilities: str) -> pytest.MarkDecorator:
    """The test is left out, with the gateway's own reason, for a gateway that lacks one of `abilities`.

    Besides `hooks.ABILITIES` there are: `twin` (an offline counterpart with a wire to it, so that answers can be lost),
    `signed webhooks`, `unsigned webhooks`, `no webhooks`, `promise` and `desk` (the gateway is `PaidElsewhere`, or a
    `StaffDesk`).
    """
    return pytest.mark.gateway_needs(*abilities)
