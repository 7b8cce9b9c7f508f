"""The offline twin keeps Stripe's rules: keys, idempotency, money, states, test cards, envelopes, pages."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import stripe

from paidonce.gateways.base import HttpRequest, HttpResponse
from paidonce.gateways.stripe.sandbox import StripeSandbox
from paidonce.gateways.stripe.sandbox.replies import SandboxError, decode_form

from .conftest import RETURN_URL, Api, ManualClock

INTENTS = "/v1/payment_intents"
ORDER = {"amount": "1999", "currency": "eur"}


def read(response: HttpResponse) -> dict[str, Any]:
    value = json.loads(response.body)
    assert isinstance(value, dict)
    return value


def refused(response: HttpResponse, status: int, code: str | None = None) -> dict[str, Any]:
    assert response.status == status
    assert response.headers["request-id"].startswith("req_")
    error = read(response)["error"]
    assert isinstance(error, dict)
    assert {"type", "message"} <= set(error)
    assert code is None or error["code"] == code
    return error


def card(number: str, **changes: str) -> dict[str, str]:
    fields = {"number": number, "exp_month": "12", "exp_year": "34", "cvc": "123", **changes}
    data = {f"payment_method_data[card][{name}]": value for name, value in fields.items()}
    return {"payment_method_data[type]": "card", "return_url": RETURN_URL, **data}


@pytest.fixture
def intent(api: Api) -> dict[str, Any]:
    return read(api("POST", INTENTS, ORDER))


def confirm(api: Api, intent: dict[str, Any], number: str, **changes: str) -> HttpResponse:
    """As Stripe.js does it: with the publishable key and the client secret."""
    form = {**card(number, **changes), "client_secret": intent["client_secret"]}
    return api("POST", f"{INTENTS}/{intent['id']}/confirm", form, key="pk_test_sandbox")


# Keys


@pytest.mark.parametrize("key", ["sk_live_canary", "rk_live_canary", "pk_live_canary"])
def test_live_keys_are_refused_with_a_clear_word(api: Api, key: str) -> None:
    error = refused(api("POST", INTENTS, ORDER, key=key), 401)
    assert "offline twin" in error["message"]
    assert "refuses live keys" in error["message"]
    assert "canary" not in str(error)
    assert json.loads(api.core.dump())["intents"] == {}


@pytest.mark.parametrize("key", ["", "sk_test_other", "whsec_sandbox", "sk_test_", "sandbox"])
def test_unknown_keys_are_refused(api: Api, key: str) -> None:
    error = refused(api("POST", INTENTS, ORDER, key=key), 401)
    assert error["type"] == "invalid_request_error"
    assert json.loads(api.core.dump())["intents"] == {}


def test_basic_authentication_works_as_well(api: Api) -> None:
    assert api("GET", "/v1/account", key="", authorization="Basic c2tfdGVzdF9zYW5kYm94Og==").status == 200
    refused(api("GET", "/v1/account", key="", authorization="Basic %%%"), 401)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/account"),
        ("GET", INTENTS),
        ("POST", INTENTS),
        ("POST", f"{INTENTS}/pi_1/cancel"),
        ("GET", "/v1/charges/ch_1"),
    ],
)
def test_a_publishable_key_reaches_little(api: Api, method: str, path: str) -> None:
    refused(api(method, path, ORDER if path == INTENTS else {}, key="pk_test_sandbox"), 403, "secret_key_required")
    assert json.loads(api.core.dump())["intents"] == {}


def test_a_browser_needs_the_client_secret_and_sees_no_metadata(api: Api) -> None:
    intent = read(api("POST", INTENTS, {**ORDER, "metadata[order_id]": "ord_1"}))
    path = f"{INTENTS}/{intent['id']}"
    refused(api("GET", path, key="pk_test_sandbox"), 400, "parameter_missing")
    wrong = {"client_secret": intent["id"] + "_secret_wrong"}
    refused(api("GET", path, wrong, key="pk_test_sandbox"), 400)
    refused(api("POST", f"{path}/confirm", {**card("4242424242424242"), **wrong}, key="pk_test_sandbox"), 400)
    seen = read(api("GET", path, {"client_secret": intent["client_secret"]}, key="pk_test_sandbox"))
    assert seen["status"] == "requires_payment_method"
    assert "metadata" not in seen


def test_accounts_do_not_see_each_other(api: Api, intent: dict[str, Any]) -> None:
    other = "sk_test_sandbox2"
    assert read(api("GET", "/v1/account"))["id"] != read(api("GET", "/v1/account", key=other))["id"]
    refused(api("GET", f"{INTENTS}/{intent['id']}", key=other), 404, "resource_missing")
    refused(api("POST", f"{INTENTS}/{intent['id']}/cancel", key=other), 404, "resource_missing")
    assert read(api("GET", INTENTS, key=other))["data"] == []
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["status"] == "requires_payment_method"


# Idempotency


def test_a_key_replays_the_result_of_the_same_parameters(api: Api) -> None:
    first = api("POST", INTENTS, ORDER, idempotency_key="k")
    second = api("POST", INTENTS, ORDER, idempotency_key="k")
    assert first.body == second.body
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["original-request"] == first.headers["request-id"] != second.headers["request-id"]
    assert len(json.loads(api.core.dump())["intents"]) == 1


def test_a_replay_shows_the_old_result_even_if_the_object_moved_on(api: Api) -> None:
    intent = read(api("POST", INTENTS, ORDER, idempotency_key="k"))
    confirm(api, intent, "4242424242424242")
    assert read(api("POST", INTENTS, ORDER, idempotency_key="k"))["status"] == "requires_payment_method"
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["status"] == "succeeded"


@pytest.mark.parametrize("other", [{"amount": "2000", "currency": "eur"}, {**ORDER, "metadata[a]": "b"}])
def test_a_key_with_other_parameters_is_an_idempotency_error(api: Api, other: dict[str, str]) -> None:
    api("POST", INTENTS, ORDER, idempotency_key="k")
    error = refused(api("POST", INTENTS, other, idempotency_key="k"), 400)
    assert error["type"] == "idempotency_error"
    assert len(json.loads(api.core.dump())["intents"]) == 1


def test_a_key_on_another_path_is_an_idempotency_error(api: Api, intent: dict[str, Any]) -> None:
    api("POST", INTENTS, ORDER, idempotency_key="k")
    error = refused(api("POST", f"{INTENTS}/{intent['id']}/cancel", idempotency_key="k"), 400)
    assert error["type"] == "idempotency_error"


def test_a_key_is_forgotten_after_a_day(api: Api, clock: ManualClock) -> None:
    first = read(api("POST", INTENTS, ORDER, idempotency_key="k"))
    clock.advance(24 * 3600 - 1)
    assert read(api("POST", INTENTS, ORDER, idempotency_key="k"))["id"] == first["id"]
    clock.advance(1)
    assert read(api("POST", INTENTS, ORDER, idempotency_key="k"))["id"] != first["id"]


def test_declines_are_stored_and_refused_parameters_are_not(api: Api, intent: dict[str, Any]) -> None:
    path = f"{INTENTS}/{intent['id']}/confirm"
    form = {"payment_method": "pm_card_visa_chargeDeclined", "return_url": RETURN_URL}
    first = api("POST", path, form, idempotency_key="decline")
    second = api("POST", path, form, idempotency_key="decline")
    assert (first.status, second.status, second.body) == (402, 402, first.body)
    assert len(json.loads(api.core.dump())["charges"]) == 1
    refused(api("POST", INTENTS, {"amount": "1"}, idempotency_key="bad"), 400)
    assert api("POST", INTENTS, ORDER, idempotency_key="bad").status == 200


@pytest.mark.parametrize(("fault", "intents"), [("500_before", 0), ("500_after", 1)])
def test_server_errors_are_stored_whether_or_not_it_happened(api: Api, fault: str, intents: int) -> None:
    api.core.plan(fault)
    first = api("POST", INTENTS, ORDER, idempotency_key="k")
    second = api("POST", INTENTS, ORDER, idempotency_key="k")
    assert (first.status, second.status, second.headers["idempotent-replayed"]) == (500, 500, "true")
    assert len(json.loads(api.core.dump())["intents"]) == intents


@pytest.mark.parametrize(("fault", "status"), [("409", 409), ("429", 429)])
def test_conflicts_and_rate_limits_are_not_stored(api: Api, fault: str, status: int) -> None:
    api.core.plan(fault)
    refused(api("POST", INTENTS, ORDER, idempotency_key="k"), status)
    assert api("POST", INTENTS, ORDER, idempotency_key="k").status == 200


def test_unknown_faults_are_a_mistake_in_the_test(core: StripeSandbox) -> None:
    with pytest.raises(ValueError, match="unknown faults"):
        core.plan("502")


def test_keys_belong_to_an_account(api: Api) -> None:
    mine = read(api("POST", INTENTS, ORDER, idempotency_key="k"))
    theirs = read(api("POST", INTENTS, ORDER, idempotency_key="k", key="sk_test_sandbox2"))
    assert mine["id"] != theirs["id"]


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_keys_have_a_length(api: Api, key: str) -> None:
    refused(api("POST", INTENTS, ORDER, idempotency_key=key), 400)


# Money


@pytest.mark.parametrize(
    ("amount", "currency", "code"),
    [
        ("49", "eur", "amount_too_small"),
        ("29", "gbp", "amount_too_small"),
        ("49", "jpy", "amount_too_small"),
        ("17499", "huf", "amount_too_small"),
        ("100000000", "eur", "amount_too_large"),
        ("0", "eur", "parameter_invalid_integer"),
        ("-5", "eur", "parameter_invalid_integer"),
        ("19.99", "eur", "parameter_invalid_integer"),
        ("1e3", "eur", "parameter_invalid_integer"),
        ("1234", "kwd", None),
        ("1050", "ugx", None),
        ("1050", "isk", None),
        ("1000", "euro", None),
    ],
)
def test_amounts_are_checked(api: Api, amount: str, currency: str, code: str | None) -> None:
    refused(api("POST", INTENTS, {"amount": amount, "currency": currency}), 400, code)
    assert json.loads(api.core.dump())["intents"] == {}


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("50", "eur"), ("30", "gbp"), ("50", "jpy"), ("1230", "kwd"), ("50000", "ugx"), ("17501", "huf")],
)
def test_amounts_that_stripe_takes(api: Api, amount: str, currency: str) -> None:
    assert read(api("POST", INTENTS, {"amount": amount, "currency": currency.upper()}))["currency"] == currency


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"currency": "eur"}, "parameter_missing"),
        ({"amount": "1999"}, "parameter_missing"),
        ({**ORDER, "colour": "red"}, "parameter_unknown"),
        ({**ORDER, "capture_method": "later"}, None),
        ({**ORDER, "metadata": "x"}, None),
        ({**ORDER, "metadata[a]": "b" * 501}, None),
    ],
)
def test_parameters_are_checked(api: Api, form: dict[str, str], code: str | None) -> None:
    refused(api("POST", INTENTS, form), 400, code)
    assert json.loads(api.core.dump())["intents"] == {}


# States and cards


@pytest.mark.parametrize(
    "number", ["4242424242424242", "4242 4242 4242 4242", "5555555555554444", "4000000000000259", "4000000000005126"]
)
def test_cards_that_pay(api: Api, intent: dict[str, Any], number: str) -> None:
    answer = read(confirm(api, intent, number))
    assert answer["status"] == "succeeded"
    paid = read(api("GET", f"{INTENTS}/{intent['id']}", {"expand[]": "latest_charge"}))
    assert paid["amount_received"] == 1999
    charge = paid["latest_charge"]
    assert (charge["status"], charge["captured"], charge["amount_captured"]) == ("succeeded", True, 1999)
    assert read(api("GET", f"/v1/charges/{charge['id']}")) == charge


@pytest.mark.parametrize(
    ("number", "code", "decline_code"),
    [
        ("4000000000009995", "card_declined", "insufficient_funds"),
        ("4000000000000002", "card_declined", "generic_decline"),
        ("4000000000009987", "card_declined", "lost_card"),
        ("4000000000000069", "expired_card", None),
        ("4000000000000127", "incorrect_cvc", None),
        ("4000000000000119", "processing_error", None),
        ("4111111111111111", "card_declined", "test_mode_live_card"),
    ],
)
def test_declines_leave_the_intent_open(
    api: Api, intent: dict[str, Any], number: str, code: str, decline_code: str | None
) -> None:
    error = refused(confirm(api, intent, number), 402, code)
    assert (error["type"], error.get("decline_code")) == ("card_error", decline_code)
    assert error["payment_intent"]["status"] == "requires_payment_method"
    after = read(api("GET", f"{INTENTS}/{intent['id']}"))
    assert after["last_payment_error"]["code"] == code
    assert (after["amount_received"], after["status"]) == (0, "requires_payment_method")
    assert read(api("GET", f"/v1/charges/{error['charge']}"))["paid"] is False
    assert read(confirm(api, intent, "4242424242424242"))["last_payment_error"] is None


@pytest.mark.parametrize(
    ("number", "changes", "code"),
    [
        ("4242424242424241", {}, "incorrect_number"),
        ("42", {}, "incorrect_number"),
        ("4242424242424242", {"exp_month": "13"}, "invalid_expiry_month"),
        ("4242424242424242", {"exp_year": "20"}, "invalid_expiry_year"),
        ("4242424242424242", {"exp_year": "2020"}, "invalid_expiry_year"),
        ("4242424242424242", {"cvc": "12"}, "invalid_cvc"),
    ],
)
def test_mistyped_cards_are_no_attempt(
    api: Api, intent: dict[str, Any], number: str, changes: dict[str, str], code: str
) -> None:
    error = refused(confirm(api, intent, number, **changes), 402, code)
    assert "payment_intent" not in error
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["last_payment_error"] is None
    assert json.loads(api.core.dump())["charges"] == {}


def test_a_real_cards_number_is_not_kept(api: Api, intent: dict[str, Any]) -> None:
    confirm(api, intent, "4111111111111111")
    assert "4111111111111111" not in api.core.dump()


def test_a_return_address_is_required(api: Api, intent: dict[str, Any]) -> None:
    path = f"{INTENTS}/{intent['id']}/confirm"
    refused(api("POST", path, {"payment_method": "pm_card_visa"}), 400, "parameter_missing")
    refused(api("POST", path, {"payment_method": "pm_card_visa", "return_url": "javascript:1"}), 400, "url_invalid")
    assert json.loads(api.core.dump())["charges"] == {}


def test_without_a_payment_method_nothing_is_confirmed(api: Api, intent: dict[str, Any]) -> None:
    path = f"{INTENTS}/{intent['id']}/confirm"
    refused(api("POST", path, {"return_url": RETURN_URL}), 400, "payment_intent_unexpected_state")
    refused(api("POST", path, {"return_url": RETURN_URL, "payment_method": "pm_of_nobody"}), 400, "resource_missing")
    assert json.loads(api.core.dump())["charges"] == {}


@pytest.mark.parametrize("end", ["succeeded", "canceled"])
def test_ended_intents_stay_as_they_are(api: Api, intent: dict[str, Any], end: str) -> None:
    path = f"{INTENTS}/{intent['id']}"
    if end == "succeeded":
        confirm(api, intent, "4242424242424242")
    else:
        api("POST", f"{path}/cancel", {"cancellation_reason": "abandoned"})
    before = read(api("GET", path))
    assert before["status"] == end
    for action in ("cancel", "capture"):
        error = refused(api("POST", f"{path}/{action}"), 400, "payment_intent_unexpected_state")
        assert error["payment_intent"]["status"] == end
    refused(confirm(api, intent, "4242424242424242"), 400, "payment_intent_unexpected_state")
    assert read(api("GET", path)) == before


def test_the_list_is_newest_first_and_has_pages(api: Api) -> None:
    ids = [read(api("POST", INTENTS, ORDER))["id"] for _ in range(3)][::-1]
    first = read(api("GET", INTENTS, {"limit": "2"}))
    assert ([item["id"] for item in first["data"]], first["has_more"]) == (ids[:2], True)
    rest = read(api("GET", INTENTS, {"starting_after": ids[1]}))
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (ids[2:], False)
    refused(api("GET", INTENTS, {"limit": "0"}), 400)


def test_unknown_addresses_of_the_api(api: Api) -> None:
    error = refused(api("GET", "/v1/payouts"), 404)
    assert "Unrecognized request URL" in error["message"]


# Refunds, disputes, balance

REFUNDS, DISPUTES = "/v1/refunds", "/v1/disputes"


@pytest.fixture
def paid(api: Api, intent: dict[str, Any]) -> dict[str, Any]:
    confirm(api, intent, "4242424242424242")
    return read(api("GET", f"{INTENTS}/{intent['id']}"))


def charge_of(api: Api, intent: dict[str, Any]) -> dict[str, Any]:
    return read(api("GET", f"/v1/charges/{intent['latest_charge']}"))


def control(api: Api, name: str, **params: str) -> dict[str, str]:
    return dict(api.core.control(name, params, now=api.clock.now()))


@pytest.mark.parametrize("by", ["payment_intent", "charge"])
def test_a_refund_names_its_payment_and_counts_on_the_charge(api: Api, paid: dict[str, Any], by: str) -> None:
    form = {by: paid["id" if by == "payment_intent" else "latest_charge"], "metadata[refund_id]": "ref_1"}
    refund = read(api("POST", REFUNDS, {**form, "amount": "500"}))
    assert (refund["status"], refund["amount"], refund["metadata"]) == ("succeeded", 500, {"refund_id": "ref_1"})
    assert (refund["payment_intent"], refund["charge"]) == (paid["id"], paid["latest_charge"])
    assert read(api("GET", f"{REFUNDS}/{refund['id']}")) == refund
    charge = charge_of(api, paid)
    assert (charge["amount_refunded"], charge["refunded"]) == (500, False)
    rest = read(api("POST", REFUNDS, form))
    assert rest["amount"] == 1499
    charge = charge_of(api, paid)
    assert (charge["amount_refunded"], charge["refunded"]) == (1999, True)
    assert read(api("GET", f"{INTENTS}/{paid['id']}"))["status"] == "succeeded"
    control(api, "fail_refund", refund=rest["id"])
    charge = charge_of(api, paid)
    assert (charge["amount_refunded"], charge["refunded"]) == (500, False)


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({}, 400, "parameter_missing"),
        ({"payment_intent": "pi_of_nobody"}, 404, "resource_missing"),
        ({"charge": "ch_of_nobody"}, 404, "resource_missing"),
        ({"payment_intent": "{id}", "amount": "0"}, 400, "parameter_invalid_integer"),
        ({"payment_intent": "{id}", "amount": "-1"}, 400, "parameter_invalid_integer"),
        ({"payment_intent": "{id}", "amount": "1.5"}, 400, "parameter_invalid_integer"),
        ({"payment_intent": "{id}", "amount": "2000"}, 400, None),
        ({"payment_intent": "{id}", "reason": "boredom"}, 400, None),
        ({"payment_intent": "{id}", "metadata": "x"}, 400, None),
        ({"payment_intent": "{id}", "colour": "red"}, 400, "parameter_unknown"),
        ({"payment_intent": "{id}", "expand[]": "colour"}, 400, None),
    ],
)
def test_refused_refunds_move_nothing(
    api: Api, paid: dict[str, Any], form: dict[str, str], status: int, code: str | None
) -> None:
    filled = {name: value.format(id=paid["id"]) for name, value in form.items()}
    before = charge_of(api, paid)
    refused(api("POST", REFUNDS, filled, idempotency_key="r"), status, code)
    assert charge_of(api, paid) == before
    assert read(api("GET", REFUNDS))["data"] == []


def test_refund_amounts_keep_the_currencys_steps(api: Api) -> None:
    form = {"amount": "50000", "currency": "isk", "confirm": "true", "payment_method": "pm_card_visa"}
    intent = read(api("POST", INTENTS, {**form, "return_url": RETURN_URL}))
    refused(api("POST", REFUNDS, {"payment_intent": intent["id"], "amount": "150"}), 400)
    assert read(api("POST", REFUNDS, {"payment_intent": intent["id"], "amount": "100"}))["amount"] == 100


def test_a_key_refunds_once_and_remembers_a_refusal(api: Api, paid: dict[str, Any]) -> None:
    form = {"payment_intent": paid["id"], "amount": "1999"}
    first, again = (api("POST", REFUNDS, form, idempotency_key="r1") for _ in range(2))
    assert first.body == again.body
    assert charge_of(api, paid)["amount_refunded"] == 1999
    for _ in range(2):
        answer = api("POST", REFUNDS, form, idempotency_key="r2")
        refused(answer, 400, "charge_already_refunded")
    assert answer.headers["idempotent-replayed"] == "true"


def test_refunds_and_disputes_belong_to_an_account(api: Api, paid: dict[str, Any]) -> None:
    refund = read(api("POST", REFUNDS, {"payment_intent": paid["id"], "amount": "1"}))
    dispute = control(api, "open_dispute", ref=paid["id"])["dispute"]
    other = "sk_test_sandbox2"
    for path in (f"{REFUNDS}/{refund['id']}", f"{DISPUTES}/{dispute}"):
        assert api("GET", path).status == 200
        refused(api("GET", path, key=other), 404, "resource_missing")
        refused(api("GET", path, key="pk_test_sandbox"), 403, "secret_key_required")
    refused(api("POST", REFUNDS, {"payment_intent": paid["id"]}, key=other), 404, "resource_missing")
    refused(api("POST", REFUNDS, {"payment_intent": paid["id"]}, key="pk_test_sandbox"), 403, "secret_key_required")
    assert read(api("GET", REFUNDS, key=other))["data"] == []
    assert read(api("GET", DISPUTES, key=other))["data"] == []


def test_lists_filter_by_payment_and_have_pages(api: Api, paid: dict[str, Any]) -> None:
    other = read(api("POST", INTENTS, ORDER))
    confirm(api, other, "4242424242424242")
    form = {"payment_intent": paid["id"], "amount": "1"}
    mine = [read(api("POST", REFUNDS, form))["id"] for _ in range(3)][::-1]
    theirs = read(api("POST", REFUNDS, {"payment_intent": other["id"], "amount": "1"}))["id"]
    for form in ({"payment_intent": paid["id"]}, {"charge": paid["latest_charge"]}):
        assert [item["id"] for item in read(api("GET", REFUNDS, form))["data"]] == mine
        first = read(api("GET", REFUNDS, {**form, "limit": "2"}))
        assert ([item["id"] for item in first["data"]], first["has_more"]) == (mine[:2], True)
        rest = read(api("GET", REFUNDS, {**form, "starting_after": mine[1]}))
        assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (mine[2:], False)
    assert [item["id"] for item in read(api("GET", REFUNDS))["data"]] == [theirs, *mine]
    refused(api("GET", REFUNDS, {"payment_intent": "pi_of_nobody"}), 404, "resource_missing")
    refused(api("GET", REFUNDS, {"starting_after": "re_of_nobody"}), 404, "resource_missing")
    refused(api("GET", DISPUTES, {"colour": "red"}), 400, "parameter_unknown")
    dispute = control(api, "open_dispute", ref=paid["id"])["dispute"]
    assert [item["id"] for item in read(api("GET", DISPUTES, {"payment_intent": paid["id"]}))["data"]] == [dispute]
    assert read(api("GET", DISPUTES, {"payment_intent": other["id"]}))["data"] == []


def test_every_movement_of_the_balance_is_there(api: Api, paid: dict[str, Any]) -> None:
    refund = read(api("POST", REFUNDS, {"payment_intent": paid["id"], "amount": "500"}))
    control(api, "fail_refund", refund=refund["id"])
    dispute = control(api, "open_dispute", ref=paid["id"])["dispute"]
    control(api, "close_dispute", dispute=dispute, outcome="won")
    movements = read(api("GET", "/v1/balance_transactions"))["data"][::-1]
    assert [(item["type"], item["amount"], item["fee"], item["net"]) for item in movements] == [
        ("charge", 1999, 55, 1944),
        ("refund", -500, 0, -500),
        ("refund_failure", 500, 0, 500),
        ("adjustment", -1999, 0, -1999),
        ("adjustment", 1999, 0, 1999),
    ]
    sources = [paid["latest_charge"], refund["id"], refund["id"], dispute, dispute]
    assert [item["source"] for item in movements] == sources
    assert sum(item["net"] for item in movements) == sum(entry.minor for entry in api.core.books())
    found = read(api("GET", "/v1/balance_transactions", {"source": refund["id"]}))["data"]
    assert [item["id"] for item in found] == [movements[2]["id"], movements[1]["id"]]
    assert read(api("GET", f"/v1/balance_transactions/{movements[0]['id']}")) == movements[0]
    assert read(api("GET", f"{DISPUTES}/{dispute}"))["balance_transactions"] == movements[3:]


@pytest.mark.parametrize("form", [{"expand[]": "latest_charge.balance_transaction"}, {"expand[0]": "latest_charge"}])
def test_expansion_goes_as_deep_as_it_is_asked_to(api: Api, paid: dict[str, Any], form: dict[str, str]) -> None:
    charge = read(api("GET", f"{INTENTS}/{paid['id']}", form))["latest_charge"]
    assert charge["id"] == paid["latest_charge"]
    movement = charge["balance_transaction"]
    if "expand[]" in form:
        assert (movement["amount"], movement["fee"]) == (1999, 55)
    else:
        assert movement.startswith("txn_")
    listed = read(api("GET", INTENTS, {"expand[]": "data.latest_charge"}))["data"]
    assert listed[0]["latest_charge"]["object"] == "charge"
    # What was shown expanded is kept plain.
    assert read(api("GET", f"{INTENTS}/{paid['id']}"))["latest_charge"] == paid["latest_charge"]


@pytest.mark.parametrize("path", ["colour", "latest_charge.colour", "data.latest_charge", "latest_charge.id", "", "."])
def test_what_cannot_be_expanded_is_refused_before_anything_happens(
    api: Api, intent: dict[str, Any], path: str
) -> None:
    form = {"payment_method": "pm_card_visa", "return_url": RETURN_URL, "expand[]": path}
    refused(api("POST", f"{INTENTS}/{intent['id']}/confirm", form), 400)
    refused(api("GET", f"{INTENTS}/{intent['id']}", {"expand[]": path}), 400)
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["status"] == "requires_payment_method"


def test_the_twins_own_slow_card_can_be_typed_in(api: Api, intent: dict[str, Any]) -> None:
    assert read(confirm(api, intent, "4000 0000 0000 7007"))["status"] == "processing"
    charge = charge_of(api, read(api("GET", f"{INTENTS}/{intent['id']}")))
    assert (charge["status"], charge["paid"], charge["captured"]) == ("pending", False, False)
    assert api.core.books() == ()


# 3-D Secure


def ask(api: Api, number: str = "4000002500003155") -> tuple[dict[str, Any], str]:
    intent = read(api("POST", INTENTS, ORDER))
    answer = read(confirm(api, intent, number))
    assert answer["status"] == "requires_action"
    url = answer["next_action"]["redirect_to_url"]["url"]
    assert url.startswith("http://127.0.0.1:9000/stripe/3ds/")
    return intent, urlsplit(url).path.removeprefix("/stripe")


def reply(api: Api, path: str, answer: str) -> HttpResponse:
    return api("POST", path, {"answer": answer}, key="")


def back(response: HttpResponse) -> dict[str, str]:
    assert response.status == 303
    assert response.headers["referrer-policy"] == "no-referrer"
    location = urlsplit(response.headers["location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == RETURN_URL.partition("?")[0]
    return {name: values[0] for name, values in parse_qs(location.query).items()}


@pytest.mark.parametrize(
    ("answer", "redirect_status", "status"),
    [("authorize", "succeeded", "succeeded"), ("fail", "failed", "requires_payment_method")],
)
def test_the_buyers_answer_decides(api: Api, answer: str, redirect_status: str, status: str) -> None:
    intent, path = ask(api)
    page = api("GET", path, key="")
    assert page.status == 200
    assert b"Offline sandbox" in page.body
    assert intent["client_secret"].encode() not in page.body
    assert back(reply(api, path, answer)) == {
        "payment": "pay_1",
        "payment_intent": intent["id"],
        "payment_intent_client_secret": intent["client_secret"],
        "redirect_status": redirect_status,
    }
    after = read(api("GET", f"{INTENTS}/{intent['id']}"))
    assert after["status"] == status
    if answer == "fail":
        assert after["last_payment_error"]["code"] == "payment_intent_authentication_failure"
        assert json.loads(api.core.dump())["charges"] == {}


def test_a_page_is_answered_once(api: Api) -> None:
    intent, path = ask(api)
    reply(api, path, "fail")
    assert reply(api, path, "authorize").status == 410
    assert api("GET", path, key="").status == 410
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["status"] == "requires_payment_method"


def test_no_answer_is_no_answer(api: Api) -> None:
    intent, path = ask(api)
    assert reply(api, path, "perhaps").status == 200
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["status"] == "requires_action"


def test_a_canceled_intent_closes_its_page(api: Api) -> None:
    intent, path = ask(api)
    api("POST", f"{INTENTS}/{intent['id']}/cancel")
    assert reply(api, path, "authorize").status == 410
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["status"] == "canceled"
    assert json.loads(api.core.dump())["charges"] == {}


def test_two_pages_of_one_intent_pay_once(api: Api) -> None:
    intent, first = ask(api)
    second = urlsplit(read(confirm(api, intent, "4000002500003155"))["next_action"]["redirect_to_url"]["url"]).path
    assert reply(api, second.removeprefix("/stripe"), "authorize").status == 303
    assert reply(api, first, "authorize").status == 410
    assert len(json.loads(api.core.dump())["charges"]) == 1


def test_paying_with_another_card_closes_the_page(api: Api) -> None:
    intent, path = ask(api)
    assert read(confirm(api, intent, "4242424242424242"))["status"] == "succeeded"
    assert reply(api, path, "authorize").status == 410
    assert len(json.loads(api.core.dump())["charges"]) == 1


def test_authorized_without_money_is_a_decline(api: Api) -> None:
    intent, path = ask(api, "4000008260003178")
    assert back(reply(api, path, "authorize"))["redirect_status"] == "failed"
    after = read(api("GET", f"{INTENTS}/{intent['id']}"))
    assert (after["status"], after["last_payment_error"]["decline_code"]) == (
        "requires_payment_method",
        "insufficient_funds",
    )


# Pages


@pytest.mark.parametrize("path", ["/js/v3", "/v3/", "/v3", "/basil/stripe.js", "/dahlia/stripe.js"])
def test_the_script_is_served_at_every_address_of_the_original(api: Api, path: str) -> None:
    response = api("GET", path, key="")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/javascript")
    assert b"offline stand-in" in response.body


def test_pages_are_marked_and_strict(api: Api) -> None:
    _, three_d_secure = ask(api)
    for path in ("/frame/card", three_d_secure, "/nothing/here", "/3ds/tds_0"):
        page = api("GET", path, key="")
        text = page.body.decode()
        csp = page.headers["content-security-policy"]
        assert re.search("offline sandbox", text, re.IGNORECASE)
        assert "unsafe" not in csp
        assert "default-src 'none'" in csp
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_the_three_d_secure_page_may_not_be_framed_and_returns_to_the_shop_only(api: Api) -> None:
    csp = api("GET", ask(api)[1], key="").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in csp
    assert "form-action 'self' https://shop.example;" in csp


def test_browsers_may_call_from_another_origin_with_a_publishable_key_only(api: Api, intent: dict[str, Any]) -> None:
    preflight = api.core.handle(HttpRequest("OPTIONS", f"{INTENTS}/pi_1/confirm"), now=0)
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, "*")
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    secret = {"client_secret": intent["client_secret"]}
    path = f"{INTENTS}/{intent['id']}"
    assert api("GET", path, secret, key="pk_test_sandbox").headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in api("GET", path).headers


# State, forms, the SDK


def test_the_state_survives_a_restart(api: Api, core: StripeSandbox, clock: ManualClock) -> None:
    intent, path = ask(api)
    created = api("POST", INTENTS, ORDER, idempotency_key="k")
    later = StripeSandbox("http://127.0.0.1:9000/stripe")
    later.load(core.dump())
    again = Api(later, clock)
    assert again("POST", INTENTS, ORDER, idempotency_key="k").body == created.body
    assert reply(again, path, "authorize").status == 303
    assert read(again("GET", f"{INTENTS}/{intent['id']}"))["status"] == "succeeded"
    # The first twin is not touched by what the second does.
    assert read(api("GET", f"{INTENTS}/{intent['id']}"))["status"] == "requires_action"


def test_the_same_calls_at_the_same_time_repeat_exactly(clock: ManualClock) -> None:
    twins = [StripeSandbox("http://127.0.0.1:9000/stripe") for _ in range(2)]
    for twin in twins:
        intent = read(Api(twin, clock)("POST", INTENTS, ORDER))
        confirm(Api(twin, clock), intent, "4242424242424242")
    assert twins[0].dump() == twins[1].dump()


def test_forms_nest() -> None:
    text = urlencode([("a[b]", "1"), ("a[c][d]", "2"), ("e[]", "3"), ("e[]", "4"), ("f[g][]", "5"), ("h", "")])
    assert decode_form(text) == {"a": {"b": "1", "c": {"d": "2"}}, "e": ["3", "4"], "f": {"g": ["5"]}, "h": ""}
    assert decode_form("") == {}


@pytest.mark.parametrize(
    "text",
    ["a[b]=1&a=2&a[c]=3", "a=1&a[b]=2", "a[b=1", "[a]=1", "a=1&a[]=2", "a" + "[b]" * 20 + "=1", "no-equals", "a=%ff"],
)
def test_crooked_forms_are_refused_or_read_as_the_last_word(text: str) -> None:
    with pytest.raises(SandboxError) as caught:
        decode_form(text)
    assert caught.value.status == 400


def test_a_body_that_is_not_text_is_refused(core: StripeSandbox) -> None:
    request = HttpRequest("POST", INTENTS, {"Authorization": "Bearer sk_test_sandbox"}, b"\xff\xfe")
    assert core.handle(request, now=0).status == 400


def test_objects_load_in_the_official_package(api: Api, intent: dict[str, Any]) -> None:
    confirm(api, intent, "4000000000009995")
    declined = stripe.PaymentIntent.construct_from(read(api("GET", f"{INTENTS}/{intent['id']}")), "sk_test_sandbox")
    assert declined.last_payment_error is not None
    assert declined.last_payment_error.decline_code == "insufficient_funds"
    confirm(api, intent, "4242424242424242")
    form = {"expand[]": "latest_charge"}
    paid = stripe.PaymentIntent.construct_from(read(api("GET", f"{INTENTS}/{intent['id']}", form)), "sk_test_sandbox")
    assert (paid.status, paid.amount_received, paid.currency) == ("succeeded", 1999, "eur")
    assert isinstance(paid.latest_charge, stripe.Charge)
    assert paid.latest_charge.captured is True
    form = {"payment_intent": paid.id, "amount": "500"}
    refund = stripe.Refund.construct_from(read(api("POST", REFUNDS, form)), "sk_test_sandbox")
    assert (refund.status, refund.amount, refund.payment_intent) == ("succeeded", 500, paid.id)
    control(api, "open_dispute", ref=paid.id)
    disputes: stripe.ListObject[stripe.Dispute] = stripe.ListObject.construct_from(
        read(api("GET", DISPUTES)), "sk_test_sandbox"
    )
    assert isinstance(disputes.data[0], stripe.Dispute)
    assert isinstance(disputes.data[0].balance_transactions[0], stripe.BalanceTransaction)
    for request in api.core.take_webhooks(now=api.clock.now()):
        secret = "whsec_offline_sandbox_only"
        header = request.headers["stripe-signature"]
        assert stripe.WebhookSignature.verify_header(request.body, header, secret)
        event = stripe.Event.construct_from(json.loads(request.body), "sk_test_sandbox")
        assert event.type.partition(".")[0] in {"payment_intent", "charge", "refund"}
    account = stripe.Account.construct_from(read(api("GET", "/v1/account")), "sk_test_sandbox")
    assert account.charges_enabled is True
