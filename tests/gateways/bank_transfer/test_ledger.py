"""What notes add up to, and what references look like: pure rules, tried with all orders and odd values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paidonce.contract.bench import VirtualClock
from paidonce.contract.notebook import Notebook
from paidonce.errors import GatewayMisconfigured, GatewayRefused, InvalidRequest, WebhookRefused
from paidonce.gateways.bank_transfer import desk, ledger, provider
from paidonce.gateways.bank_transfer.gateway import GRACE_DAYS, BankTransferGateway
from paidonce.gateways.bank_transfer.ledger import Transfer, add_up
from paidonce.gateways.base import CaptureMethod, CreateRequest, Note, Progress
from paidonce.money import Money

DAY = 24 * 3600
DUE = 1000


def note(number: int, kind: str, **value: Any) -> Note:
    return Note(number, "R-1", kind, json.dumps(value), "", f"key-{number}", "usr_a", number)


def asked() -> Note:
    return note(
        1,
        ledger.ASKED,
        payment="pay_1",
        order="ord_1",
        amount=DUE,
        currency="EUR",
        iban="XX",
        holder="H",
        bic="",
        bank="",
        live=False,
        due_at=50,
        closes_at=100,
    )


def told(*entries: tuple[str, dict[str, Any]]) -> Transfer:
    notes = [asked(), *(note(number, kind, **value) for number, (kind, value) in enumerate(entries, 2))]
    found = add_up(notes)
    assert found is not None
    return found


ENTRIES: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.tuples(st.just(ledger.RECEIVED), st.fixed_dictionaries({"amount": st.integers(1, 1500)})),
    st.tuples(st.just(ledger.MISTAKEN), st.fixed_dictionaries({"receipt": st.integers(2, 9).map(str)})),
    st.tuples(st.just(ledger.SENT_BACK), st.fixed_dictionaries({"amount": st.integers(1, 1500)})),
    st.tuples(st.just(ledger.CLOSED), st.just({})),
    st.tuples(st.just(ledger.PROMISED), st.just({})),
)


SENT_BACK_AND_MISTAKEN = [
    (ledger.RECEIVED, {"amount": 700}),
    (ledger.SENT_BACK, {"amount": 700}),
    (ledger.MISTAKEN, {"receipt": "2"}),
]


@example(SENT_BACK_AND_MISTAKEN, 200)
@given(st.lists(ENTRIES, max_size=8), st.sampled_from([10, 200]))
def test_whatever_staff_may_enter_no_money_is_lost_or_made(tries: list[tuple[str, dict[str, Any]]], now: int) -> None:
    """Only entries that the desk takes are written; then each cent is captured, missing, or told as a surplus."""
    transfer, entries = told(), []
    for kind, value in tries:
        if kind in desk.NAMES and not _takes(transfer, kind, value, now):
            continue
        was = transfer
        entries.append((kind, value))
        transfer = told(*entries)
        assert transfer.captured or not was.captured, "what was captured stays so"
    came = sum(value["amount"] for kind, value in entries if kind == ledger.RECEIVED)
    wrong = sum(one.minor for one in transfer.receipts if one.mistaken)
    back = sum(value["amount"] for kind, value in entries if kind == ledger.SENT_BACK)
    assert transfer.there.minor == came - wrong - back >= 0
    surplus = transfer.surplus(now)
    if transfer.captured:
        assert surplus == Money(came - wrong - back - DUE, "EUR")
        assert surplus.minor >= 0, "what has paid the order is not sent back as a surplus"
    elif transfer.is_over(now):
        assert surplus == transfer.there
    else:
        assert surplus is None
        assert transfer.there.minor < DUE


def _takes(transfer: Transfer, kind: str, value: dict[str, Any], now: int) -> bool:
    if kind == ledger.RECEIVED:
        value["remark"] = f"booking {transfer.seen}"
    try:
        desk.check(transfer, kind, value, seen=transfer.seen, now=now)
    except InvalidRequest:
        return False
    return True


# ── The gateway on a notebook ──────────


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def notebook(clock: VirtualClock) -> Notebook:
    return Notebook(clock)


@pytest.fixture
def gateway(clock: VirtualClock, notebook: Notebook) -> BankTransferGateway:
    made = provider.configure(provider.sandbox_environment(""), None, clock)  # type: ignore[arg-type]
    assert made is not None
    made.use_notes(notebook)
    return made


def request(number: str = "PO-1", *, key: str = "key_1", payment: str = "pay_1", **more: Any) -> CreateRequest:
    values = {"amount": Money(DUE, "EUR"), "return_url": "", "cancel_url": "", **more}
    return CreateRequest(payment, "ord_1", number, idempotency_key=key, **values)


@pytest.mark.parametrize("number", ["PO-1", "po 2024/07 №5", "ä" * 40, "", "---", "X" * 60])
async def test_a_reference_is_short_and_made_of_what_banks_carry(gateway: BankTransferGateway, number: str) -> None:
    ref = (await gateway.create(request(number))).client["reference"]
    assert len(ref) <= 35
    assert ref == ref.upper()
    assert ref.isascii()
    assert all(character.isalnum() or character == "-" for character in ref)
    assert not ref.startswith("-")


async def test_orders_whose_numbers_look_alike_have_references_of_their_own(
    gateway: BankTransferGateway, notebook: Notebook
) -> None:
    """Hundreds of payments of the same number: three characters alone could not tell them apart."""
    seen: dict[str, str] = {}
    for number in range(400):
        made = await gateway.create(request(key=f"key_{number}", payment=f"pay_{number}"))
        assert made.snapshot.payment_id == f"pay_{number}"
        seen[made.snapshot.ref] = f"pay_{number}"
    assert len(seen) == 400
    for number in range(400):
        again = await gateway.create(request(key=f"key_{number}", payment=f"pay_{number}"))
        assert seen[again.snapshot.ref] == f"pay_{number}"
    assert notebook.written == 400


async def test_a_transfer_ends_some_days_after_the_day_that_the_buyer_was_told(
    gateway: BankTransferGateway, clock: VirtualClock
) -> None:
    ref = (await gateway.create(request())).snapshot.ref
    await gateway.promise(ref)
    await clock.sleep((14 + GRACE_DAYS) * DAY - 1)
    assert (await gateway.fetch(ref)).progress is Progress.AWAITING_BUYER
    await clock.sleep(1)
    late = await gateway.fetch(ref)
    assert (late.progress, late.awaited_until, late.captured) == (Progress.CANCELED, None, None)


async def test_nothing_that_moves_money_elsewhere_moves_any_here(
    gateway: BankTransferGateway, notebook: Notebook
) -> None:
    ref = (await gateway.create(request())).snapshot.ref
    taken = await gateway.capture(ref, idempotency_key="key_2", amount=Money(DUE, "EUR"))
    assert (taken.progress, taken.captured) == (Progress.AWAITING_BUYER, None)
    with pytest.raises(GatewayRefused):
        await gateway.authorize(ref, idempotency_key="key_3")
    with pytest.raises(GatewayRefused):
        await gateway.refund(ref, ref, idempotency_key="key_4", amount=Money(1, "EUR"), refund_id="ref_1")
    with pytest.raises(GatewayRefused):
        await gateway.create(request("PO-2", key="key_5", capture_method=CaptureMethod.MANUAL))
    with pytest.raises(GatewayRefused):
        await gateway.create(request("PO-2", key="key_5", amount=Money(DUE, "USD")))
    with pytest.raises(WebhookRefused):
        await gateway.read_webhook({}, b"{}")
    assert notebook.written == 1


async def test_an_object_that_nobody_wrote_about_is_for_an_operator(
    gateway: BankTransferGateway, notebook: Notebook
) -> None:
    for call in (gateway.fetch, gateway.reopen, gateway.void, gateway.promise, gateway.staff_sheet):
        with pytest.raises(GatewayMisconfigured):
            await call("PO-unknown")
    assert notebook.written == 0
