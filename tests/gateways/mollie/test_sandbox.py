"""The rules of the offline twin: it must not be kinder than Mollie."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paidonce.contract.bench import Bench
from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.mollie.sandbox import KEY_SECONDS, OPEN_SECONDS, RESERVED_SECONDS, MollieSandbox
from paidonce.gateways.mollie.settings import SANDBOX_KEY

BODY: dict[str, Any] = {
    "amount": {"currency": "EUR", "value": "10.00"},
    "description": "Order 1",
    "redirectUrl": "https://shop.example/return",
    "cancelUrl": "https://shop.example/pay",
    "webhookUrl": "https://shop.example/webhooks/mollie",
    "metadata": {"payment_id": "pay_1", "order_id": "ord_1"},
}
NOW = 1_800_000_000_000_000


def call(
    twin: MollieSandbox,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = None,
    bearer: str = SANDBOX_KEY,
    now: int = NOW,
) -> HttpResponse:
    headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
    if key is not None:
        headers["idempotency-key"] = key
    return twin.handle(HttpRequest(method, path, headers, b"" if body is None else json.dumps(body).encode()), now=now)


@pytest.fixture
def twin() -> MollieSandbox:
    return MollieSandbox("http://127.0.0.1:9000/mollie")


def made(twin: MollieSandbox, *, now: int = NOW, **changes: Any) -> str:
    answer = call(twin, "POST", "/v2/payments", BODY | changes, now=now)
    assert answer.status == 201, answer.body
    return str(json.loads(answer.body)["id"])


def status(twin: MollieSandbox, ref: str, *, now: int = NOW) -> str:
    return str(json.loads(call(twin, "GET", f"/v2/payments/{ref}", now=now).body)["status"])


@pytest.mark.parametrize("bearer", ["", "live_" + "x" * 30, "test_" + "x" * 30, SANDBOX_KEY + "x"])
def test_real_keys_have_no_business_here(twin: MollieSandbox, bearer: str) -> None:
    answer = call(twin, "POST", "/v2/payments", BODY, bearer=bearer, key="k")
    assert answer.status == 401
    assert not twin.look("payments")
    # What was not let in is not remembered under its key either.
    assert call(twin, "POST", "/v2/payments", BODY, key="k").status == 201


def test_a_key_repeats_its_answer_for_an_hour_and_then_is_new(twin: MollieSandbox) -> None:
    first = call(twin, "POST", "/v2/payments", BODY, key="k")
    again = call(twin, "POST", "/v2/payments", BODY, key="k", now=NOW + (KEY_SECONDS - 1) * 1_000_000)
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert len(twin.look("payments")) == 1
    later = call(twin, "POST", "/v2/payments", BODY, key="k", now=NOW + KEY_SECONDS * 1_000_000)
    assert later.body != first.body
    assert len(twin.look("payments")) == 2


def test_a_key_for_another_request_is_a_bad_request(twin: MollieSandbox) -> None:
    call(twin, "POST", "/v2/payments", BODY, key="k")
    assert call(twin, "POST", "/v2/payments", {**BODY, "description": "x"}, key="k").status == 400
    ref = next(iter(twin.look("payments")))
    assert call(twin, "POST", f"/v2/payments/{ref}/refunds", BODY, key="k").status == 400
    assert len(twin.look("payments")) == 1


def test_a_refusal_is_repeated_under_its_key(twin: MollieSandbox) -> None:
    ref = made(twin)
    refund = {"amount": BODY["amount"]}
    assert call(twin, "POST", f"/v2/payments/{ref}/refunds", refund, key="k").status == 422
    twin.choose(ref, "card", now=NOW)
    assert call(twin, "POST", f"/v2/payments/{ref}/refunds", refund, key="k").status == 422
    assert call(twin, "POST", f"/v2/payments/{ref}/refunds", refund, key="k2").status == 201


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": {"currency": "EUR", "value": "10"}},
        {"amount": {"currency": "EUR", "value": "10.0"}},
        {"amount": {"currency": "EUR", "value": "10.000"}},
        {"amount": {"currency": "EUR", "value": 10}},
        {"amount": {"currency": "EUR", "value": "0.00"}},
        {"amount": {"currency": "EUR", "value": "-1.00"}},
        {"amount": {"currency": "JPY", "value": "10.00"}},
        {"amount": {"currency": "XTS", "value": "10.00"}},
        {"amount": None},
        {"redirectUrl": None},
        {"redirectUrl": "shop.example"},
        {"webhookUrl": "ftp://shop.example"},
        {"description": ""},
        {"description": "x" * 256},
        {"captureMode": "manual"},
        {"captureMode": "later"},
    ],
)
def test_what_mollie_refuses_makes_no_payment(twin: MollieSandbox, changes: dict[str, Any]) -> None:
    answer = call(twin, "POST", "/v2/payments", BODY | changes)
    assert answer.status == 422
    told = json.loads(answer.body)
    assert told["status"] == 422
    assert told["field"]
    assert not twin.look("payments")


@pytest.mark.parametrize("body", [b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object_is_a_bad_request(twin: MollieSandbox, body: bytes) -> None:
    headers = {"authorization": f"Bearer {SANDBOX_KEY}", "content-type": "application/json"}
    assert twin.handle(HttpRequest("POST", "/v2/payments", headers, body), now=NOW).status == 400


def test_of_open_payments_only_bank_transfers_can_be_canceled(twin: MollieSandbox) -> None:
    for choice, possible in ((None, False), ("declined", False), ("banktransfer", True)):
        ref = made(twin)
        if choice is not None:
            twin.choose(ref, choice, now=NOW)
        shown = json.loads(call(twin, "GET", f"/v2/payments/{ref}").body)
        assert shown["isCancelable"] is possible
        assert call(twin, "DELETE", f"/v2/payments/{ref}").status == (200 if possible else 422)
        assert status(twin, ref) == ("canceled" if possible else "open")


@pytest.mark.parametrize("choice", ["card", "failing", "cancel"])
def test_what_has_ended_stays_ended(twin: MollieSandbox, choice: str) -> None:
    ref = made(twin)
    twin.choose(ref, choice, now=NOW)
    ended, books = status(twin, ref), twin.books()
    for other in ("card", "failing", "cancel", "banktransfer"):
        with pytest.raises(ValueError, match="any more"):
            twin.choose(ref, other, now=NOW)
    assert call(twin, "DELETE", f"/v2/payments/{ref}").status == 422
    assert status(twin, ref, now=NOW + 10**15) == ended
    assert twin.books() == books


def test_reserved_money_lapses_by_itself(twin: MollieSandbox) -> None:
    ref = made(twin, captureMode="manual", method="creditcard")
    twin.choose(ref, "card", now=NOW)
    assert status(twin, ref, now=NOW + OPEN_SECONDS * 1_000_000) == "authorized"
    late = NOW + RESERVED_SECONDS * 1_000_000
    assert call(twin, "POST", f"/v2/payments/{ref}/captures", {}, now=late).status == 422
    assert status(twin, ref, now=late) == "expired"
    assert twin.books() == ()


def test_while_a_capture_waits_nothing_else_ends_the_payment_and_its_failure_moves_nothing(
    twin: MollieSandbox,
) -> None:
    ref = made(twin, captureMode="manual", method="creditcard")
    twin.choose(ref, "card", now=NOW)
    twin.take_webhooks(now=NOW)
    twin.control("pend_captures", {"on": "true"}, now=NOW)
    assert call(twin, "POST", f"/v2/payments/{ref}/captures", {}).status == 201
    assert call(twin, "DELETE", f"/v2/payments/{ref}").status == 422
    assert call(twin, "POST", f"/v2/payments/{ref}/release-authorization").status == 422
    twin.control("fail_capture", {"payment": ref}, now=NOW)
    (capture,) = json.loads(call(twin, "GET", f"/v2/payments/{ref}/captures").body)["_embedded"]["captures"]
    assert (capture["status"], status(twin, ref)) == ("failed", "authorized")
    assert twin.take_webhooks(now=NOW) == [], "the payment's own state is as before"
    assert call(twin, "POST", f"/v2/payments/{ref}/release-authorization").status == 202
    assert status(twin, ref) == "canceled"
    assert twin.books() == ()


def test_webhooks_are_a_form_with_an_id_and_come_for_news_only(twin: MollieSandbox) -> None:
    ref = made(twin)
    assert twin.take_webhooks(now=NOW) == []
    twin.choose(ref, "banktransfer", now=NOW)
    assert twin.take_webhooks(now=NOW) == [], "Mollie tells nothing of an open payment"
    twin.control("clear_pending", {"payment": ref}, now=NOW)
    twin.control("dashboard_refund", {"payment": ref, "amount": "1.00"}, now=NOW)
    chargeback = twin.control("open_dispute", {"payment": ref, "amount": "2.00"}, now=NOW)
    twin.control("reverse_dispute", {"chargeback": chargeback["chargeback"]}, now=NOW)
    told = twin.take_webhooks(now=NOW)
    assert [(one.url, one.body) for one in told] == [("/webhooks/mollie", f"id={ref}".encode())] * 4
    assert {tuple(one.headers) for one in told} == {("content-type",)}
    assert twin.take_webhooks(now=NOW) == []


def test_without_an_address_nothing_is_told(twin: MollieSandbox) -> None:
    ref = made(twin, webhookUrl=None)
    twin.choose(ref, "card", now=NOW)
    assert twin.take_webhooks(now=NOW) == []


def test_an_expiry_is_told_though_nobody_asks(twin: MollieSandbox) -> None:
    ref = made(twin)
    told = twin.take_webhooks(now=NOW + OPEN_SECONDS * 1_000_000)
    assert [one.body for one in told] == [f"id={ref}".encode()]


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("nothing", {}),
        ("expire", {}),
        ("expire", {"payment": "tr_unknown"}),
        ("clear_pending", {"payment": "#"}),
        ("dashboard_refund", {"payment": "#"}),
        ("dashboard_cancel", {"payment": "#"}),
        ("open_dispute", {"payment": "#", "amount": "1"}),
        ("finish_capture", {"payment": "#"}),
        ("fail_capture", {"payment": "#"}),
        ("finish_refund", {"refund": "re_unknown"}),
        ("reverse_dispute", {"chargeback": "chb_unknown"}),
        ("pend_refunds", {"on": "perhaps"}),
        ("expire", {"payment": "#", "more": "x"}),
    ],
)
def test_a_control_that_can_not_be_carried_out_says_why_and_changes_nothing(
    twin: MollieSandbox, name: str, params: dict[str, str]
) -> None:
    ref = made(twin)
    before = twin.dump()
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        twin.control(name, {key: ref if value == "#" else value for key, value in params.items()}, now=NOW)
    assert twin.dump() == before


def test_a_decline_leads_back_to_the_choice_on_the_same_payment(bench: Bench) -> None:
    twin = MollieSandbox("http://127.0.0.1:9000/mollie")
    ref = made(twin)
    path = f"/checkout/select-method/{ref.removeprefix('tr_')}"
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = twin.handle(HttpRequest("POST", path, form, b"choice=declined"), now=NOW)
    assert (answer.status, answer.headers["location"]) == (303, f"http://127.0.0.1:9000/mollie{path}")
    page = twin.handle(HttpRequest("GET", path), now=NOW)
    assert b"declined" in page.body
    assert status(twin, ref) == "open"
    assert twin.books() == ()


def test_looking_at_a_page_changes_nothing(twin: MollieSandbox) -> None:
    ref = made(twin)
    before = twin.dump()
    page = twin.handle(HttpRequest("GET", f"/checkout/select-method/{ref.removeprefix('tr_')}"), now=NOW)
    assert page.status == 200
    assert b"10.00 EUR" in page.body
    assert twin.dump() == before


def test_an_order_number_is_text_and_no_markup(twin: MollieSandbox) -> None:
    ref = made(twin, description="<script>alert(1)</script>")
    page = twin.handle(HttpRequest("GET", f"/checkout/select-method/{ref.removeprefix('tr_')}"), now=NOW)
    assert b"<script" not in page.body


def test_a_state_of_an_older_version_is_read(twin: MollieSandbox) -> None:
    made(twin)
    saved = json.loads(twin.dump())
    del saved["keep_rests"]
    later = MollieSandbox("http://127.0.0.1:9000/mollie")
    later.load(json.dumps(saved))
    assert later.dump() == twin.dump()
