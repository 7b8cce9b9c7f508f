"""Every decline has its own sentence, and each says what happened to the money and what to do next."""

from __future__ import annotations

import pytest

from paidonce.declines import buyer_sentence
from paidonce.gateways.base import DeclineCode


@pytest.mark.parametrize("code", DeclineCode)
def test_each_code_tells_the_buyer_about_the_money_and_the_next_step(code: DeclineCode) -> None:
    sentence = buyer_sentence(code)
    what_happened, next_step = sentence.split(" You have not been charged. ")
    assert what_happened.endswith(".")
    assert next_step.endswith(".")
    # Codes are for operators, and a bank's suspicion is for nobody's eyes.
    assert "_" not in sentence
    assert not [word for word in ("fraud", "stolen", "lost", "gateway", "error code") if word in sentence.lower()]


def test_no_two_codes_read_the_same() -> None:
    assert len({buyer_sentence(code) for code in DeclineCode}) == len(DeclineCode)
