"""The control page and its API: for a person with forms, for programs with JSON, and for no other site."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from paidonce.gateways.base import HttpResponse
from paidonce.sandbox import Fault, SandboxApp, create_sandbox_app
from sandbox.twin import PROVIDERS, PUBLIC_URL, TillCore, VirtualClock

HOST = "127.0.0.1:9000"
FORM = "application/x-www-form-urlencoded"


class Desk:
    """The app, asked as its server would ask it."""

    def __init__(self, **more: Any) -> None:
        self.app: SandboxApp = create_sandbox_app(PUBLIC_URL, providers=PROVIDERS, clock=VirtualClock(), **more)
        core = self.app.cores["till"]
        assert isinstance(core, TillCore)
        self.core = core

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json_body: object = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        root_path: str = "",
        body: bytes = b"",
    ) -> HttpResponse:
        sent: list[Any] = []
        kind = {}
        if form is not None:
            body, kind = urlencode(form).encode(), {"content-type": FORM}
        elif json_body is not None:
            body, kind = json.dumps(json_body).encode(), {"content-type": "application/json"}
        given = {"host": HOST, **kind, **(headers or {})}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "root_path": root_path,
        }
        await self.app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return HttpResponse(sent[0]["status"], answered, sent[1]["body"])

    async def page(self, path: str = "/_control", **more: Any) -> str:
        answer = await self.ask("GET", path, **more)
        assert answer.status == 200
        return answer.body.decode()

    def rules(self) -> list[dict[str, Any]]:
        rules: Any = self.app.dials.state()["rules"]
        return list(rules)

    async def pay(self) -> None:
        assert (await self.ask("POST", "/till/v1/pay")).status == 200


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ── For programs ──────────


async def test_dials_are_turned_and_read(desk: Desk) -> None:
    rule = {"fault": "429", "next": 2, "path": "/v1/pay"}
    turned = await desk.ask("POST", "/_control/dials", json_body={"seed": 9, "rules": [rule]})
    assert turned.status == 200
    assert json.loads(turned.body)["rules"] == [{**rule, "left": 2, "seen": 0, "struck": 0}]
    assert (await desk.ask("POST", "/till/v1/pay")).status == 429
    state = json.loads((await desk.ask("GET", "/_control/state")).body)
    assert state["dials"]["seed"] == 9
    assert state["dials"]["rules"] == [{**rule, "left": 1, "seen": 1, "struck": 1}]
    assert state["dials"]["struck"] == {"429": 1}
    assert (await desk.ask("POST", "/_control/dials", json_body={"clear": True})).status == 200
    assert (await desk.ask("POST", "/till/v1/pay")).status == 200
    assert desk.core.state["pays"] == 1


async def test_state_tells_controls_and_webhooks_without_bodies(desk: Desk) -> None:
    await desk.pay()
    answer = await desk.ask("GET", "/_control/state")
    state = json.loads(answer.body)
    assert [control["name"] for control in state["controls"]["till"]] == ["refund", "remind"]
    assert state["controls"]["till"][0]["params"]["charge"] == "its id"
    (delivery,) = state["webhooks"]["deliveries"]
    assert (delivery["id"], delivery["type"], delivery["state"]) == ("evt_1", "pay.done", "no shop")
    assert state["webhooks"]["shop_url"] is None
    assert b"canary" not in answer.body


async def test_a_control_is_carried_out(desk: Desk) -> None:
    await desk.pay()
    done = await desk.ask("POST", "/_control/till/refund", json_body={"charge": "ch_1", "amount": 200})
    assert (done.status, json.loads(done.body)) == (200, {"result": {"refund": "re_ch_1"}})
    books = json.loads((await desk.ask("GET", "/_control/books")).body)
    assert [(entry["gateway"], entry["object"], entry["kind"], entry["minor"]) for entry in books] == [
        ("till", "ch_1", "capture", 500),
        ("till", "re_ch_1", "refund", -200),
    ]
    assert set(books[0]) == {"gateway", "object", "kind", "minor", "currency", "payment_id"}


@pytest.mark.parametrize(
    ("path", "sent", "status", "words"),
    [
        ("/till/refund", {"charge": "ch_9"}, 422, "no such <charge>"),
        ("/till/refund", {"charge": "ch_1", "note": "x"}, 422, "unknown: note"),
        ("/till/refund", {"charge": ["ch_1"]}, 422, "charge has to be a text"),
        ("/till/refund", {"charge": "ch_1", "amount": True}, 422, "amount has to be a text"),
        ("/till/explode", {}, 404, "no control 'explode'"),
        ("/nobody/refund", {}, 404, "no such"),
        ("/till", {}, 404, "no such"),
        ("/dials", {"rules": [{"fault": "x"}]}, 422, "fault is one of"),
        ("/dials", [], 422, "JSON object"),
    ],
)
async def test_wrong_input_is_explained_and_does_nothing(
    path: str, sent: object, status: int, words: str, desk: Desk
) -> None:
    await desk.pay()
    before = desk.core.dump(), desk.app.dials.state()
    answer = await desk.ask("POST", "/_control" + path, json_body=sent)
    assert answer.status == status
    assert words in json.loads(answer.body)["error"]
    assert (desk.core.dump(), desk.app.dials.state()) == before


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 422),
        ("application/json", b"\xff", 422),
        ("application/json", b"[" * 100_000, 422),
        (FORM, b"\xff", 422),
        ("text/plain", b'{"clear": true}', 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
    ],
)
async def test_bodies_that_cant_be_read(kind: str, body: bytes, status: int, desk: Desk) -> None:
    desk.app.dials.turn({"rules": [{"fault": "409"}]})
    answer = await desk.ask("POST", "/_control/dials", body=body, headers={"content-type": kind})
    assert answer.status == status
    assert len(desk.rules()) == 1


async def test_other_methods_and_places(desk: Desk) -> None:
    assert (await desk.ask("DELETE", "/_control/dials")).status == 405
    assert (await desk.ask("GET", "/_control/nothing")).status == 404
    assert (await desk.ask("GET", "/_controls")).status == 404
    assert (await desk.ask("HEAD", "/_control")).body == b""


async def test_what_was_done_outlives_a_restart(tmp_path: Any) -> None:
    desk = Desk(state_file=tmp_path / "sandbox.json")
    await desk.pay()
    await desk.ask("POST", "/_control/till/refund", json_body={"charge": "ch_1"})
    again = Desk(state_file=tmp_path / "sandbox.json")
    assert [entry.kind for entry in again.core.books()] == ["capture", "refund"]
    # Dials are for the moment: a restart begins in good health.
    assert again.app.dials.state()["rules"] == []


# ── For no other site ──────────


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9000", "127.0.0.1.evil.example", "10.0.0.1", "", "[::1"]
)
@pytest.mark.parametrize("path", ["/_control", "/_control/state", "/_control/books"])
async def test_a_name_from_elsewhere_reads_nothing(host: str, path: str, desk: Desk) -> None:
    answer = await desk.ask("GET", path, headers={"host": host})
    assert answer.status == 403
    assert b"till" not in answer.body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:9000"])
async def test_loopback_names_are_fine(host: str, desk: Desk) -> None:
    assert (await desk.ask("GET", "/_control", headers={"host": host})).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": f"http://{HOST}"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "null"},
        {"origin": "http://[::1"},
    ],
)
@pytest.mark.parametrize("path", ["/_control/dials", "/_control/till/refund"])
async def test_other_sites_change_nothing(headers: dict[str, str], path: str, desk: Desk) -> None:
    await desk.pay()
    before = desk.core.dump(), desk.app.dials.state()
    for sent in ({"form": {"charge": "ch_1", "seed": "1"}}, {"json_body": {"charge": "ch_1"}}):
        answer = await desk.ask("POST", path, headers=headers, **sent)  # type: ignore[arg-type]
        assert answer.status == 403
    assert (desk.core.dump(), desk.app.dials.state()) == before


@pytest.mark.parametrize(
    "headers", [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": f"http://{HOST}"}]
)
async def test_its_own_page_and_programs_may(headers: dict[str, str], desk: Desk) -> None:
    answer = await desk.ask("POST", "/_control/dials", headers=headers, json_body={"seed": 4})
    assert answer.status == 200
    assert desk.app.dials.seed == 4


# ── For a person ──────────


async def test_the_page_has_no_script_and_a_strict_policy(desk: Desk) -> None:
    answer = await desk.ask("GET", "/_control")
    page = answer.body.decode()
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "<script" not in page
    assert not re.search(r"\son\w+=|\sstyle=", page)


async def test_every_field_has_a_label_of_its_own(desk: Desk) -> None:
    page = await desk.page()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'<label for="([^"]+)"', page)) == set(ids)
    assert len(re.findall(r'<(?:input(?! type="hidden"| type="checkbox")|select)', page)) == len(ids)


async def test_forms_turn_dials_and_lead_back(desk: Desk) -> None:
    form = {"fault": "lose_answer", "next": "3", "every": "", "gateway": "till", "path": "", "pages": "on"}
    answer = await desk.ask("POST", "/_control/dials", form=form)
    assert (answer.status, answer.headers["location"]) == (303, "/_control")
    page = await desk.page()
    assert "The dials are turned." in page
    assert "gateway till, next 3, pages True" in page
    assert "The dials are turned." not in await desk.page()
    await desk.ask("POST", "/_control/dials", form={"webhooks": "off"})
    assert not desk.app.dials.webhooks
    await desk.ask("POST", "/_control/dials", form={"seed": "12"})
    assert desk.app.dials.seed == 12
    assert len(desk.rules()) == 1
    await desk.ask("POST", "/_control/dials", form={"clear": "on"})
    assert "Nothing goes wrong right now." in await desk.page()
    assert desk.app.dials.webhooks


@pytest.mark.parametrize("fault", Fault)
async def test_every_fault_can_be_chosen_as_the_form_sends_it(fault: Fault, desk: Desk) -> None:
    page = await desk.page()
    assert f'<option value="{fault}">' in page
    # The page fills in how often; all else is left empty by somebody who only picks a fault.
    names = ("gateway", "next", "every", "probability", "seconds", "copies", "method", "path", "event")
    form = {"fault": str(fault), **dict.fromkeys(names, ""), "next": "1"}
    assert (await desk.ask("POST", "/_control/dials", form=form)).status == 303
    assert desk.rules() == [{"fault": fault.value, "next": 1, "left": 1, "seen": 0, "struck": 0}]


async def test_a_form_carries_out_a_control_and_shows_what_came_of_it(desk: Desk) -> None:
    await desk.pay()
    answer = await desk.ask("POST", "/_control/till/refund", form={"charge": "ch_1", "amount": ""})
    assert answer.status == 303
    page = await desk.page()
    assert "<code>re_ch_1</code>" in page
    assert "-5.00 EUR" in page
    assert "Balance: 0.00 EUR." in page


async def test_a_wrong_form_is_explained_on_the_page(desk: Desk) -> None:
    answer = await desk.ask("POST", "/_control/till/refund", form={"charge": "<b>"})
    page = answer.body.decode()
    assert answer.status == 422
    assert "Nothing was done:" in page
    assert "no such &lt;charge&gt;" in page
    assert desk.core.books() == ()


async def test_what_others_wrote_is_shown_as_text(desk: Desk) -> None:
    await desk.pay()
    await desk.ask("POST", "/_control/dials", form={"fault": "409", "path": "<script>x</script>"})
    page = await desk.page()
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "pay_&lt;1&gt;" in page
    assert "Gives &lt;some&gt; back." in page


async def test_the_page_works_below_another_apps_mount(desk: Desk) -> None:
    page = await desk.page("/sandbox/_control", root_path="/sandbox")
    targets = set(re.findall(r'action="([^"]+)"', page))
    assert targets
    assert all(target.startswith("/sandbox/_control/") for target in targets)
    done = await desk.ask("POST", "/sandbox/_control/dials", form={"seed": "1"}, root_path="/sandbox")
    assert done.headers["location"] == "/sandbox/_control"
