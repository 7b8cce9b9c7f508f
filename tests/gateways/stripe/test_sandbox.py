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
    error = refused(api("GET", "/v1/refunds"), 404)
    assert "Unrecognized request URL" in error["message"]


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
    account = stripe.Account.construct_from(read(api("GET", "/v1/account")), "sk_test_sandbox")
    assert account.charges_enabled is True
