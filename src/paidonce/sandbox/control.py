"""What `/_control` does: the dials, the twins' controls, and their books, for a person and for programs alike.

The sandbox runs on a developer's machine, where any site that is open in the browser could call it. So it listens to
its own pages and to programs only, and only under a loopback name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from urllib.parse import parse_qsl, urlsplit

from paidonce.gateways.base import HttpRequest, HttpResponse, SandboxCore
from paidonce.sandbox import page
from paidonce.sandbox.dials import Dials
from paidonce.sandbox.mounts import json_answer
from paidonce.sandbox.webhooks import WebhookQueue

ROOT = "/_control"
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_FORM = "application/x-www-form-urlencoded"


class _Refused(Exception):
    """A request that is not carried out: the status and the words for it."""

    def __init__(self, status: int, words: str) -> None:
        self.status = status
        self.words = words


class ControlDesk:
    """Answers everything below `/_control`."""

    def __init__(
        self, cores: Mapping[str, SandboxCore], dials: Dials, queue: WebhookQueue, shop_url: str | None
    ) -> None:
        self._cores = cores
        self._dials = dials
        self._queue = queue
        self._shop_url = shop_url
        # What the last form has done, for the page that the browser is led back to.
        self._notice: tuple[str, Mapping[str, str]] | None = None

    def answer(self, request: HttpRequest, *, now: int, mount: str) -> HttpResponse:
        """Answer `request`, whose URL begins with `/_control`, for an app that is itself mounted at `mount`."""
        by_form = _kind(request) == _FORM
        try:
            _check_sender(request)
            path = request.url.partition("?")[0]
            if request.method in ("GET", "HEAD"):
                return self._read(path, mount)
            if request.method != "POST":
                raise _Refused(405, "only GET and POST are known here")
            said, result = self._write(path, _sent(request), now, by_form=by_form)
        except _Refused as refused:
            if by_form and refused.status == 422:
                return self._page(mount, status=422, problem=refused.words)
            return json_answer(refused.status, {"error": refused.words})
        if not by_form:
            return json_answer(200, result)
        self._notice = said
        return HttpResponse(303, {"location": mount + ROOT, "cache-control": "no-store"}, b"")

    def _read(self, path: str, mount: str) -> HttpResponse:
        if path == ROOT:
            notice, self._notice = self._notice, None
            return self._page(mount, notice=notice)
        if path == ROOT + "/state":
            return json_answer(200, self._state())
        if path == ROOT + "/books":
            return json_answer(200, self._books())
        raise _Refused(404, "there is nothing here; GET /_control shows what there is")

    def _write(
        self, path: str, sent: Mapping[str, object], now: int, *, by_form: bool
    ) -> tuple[tuple[str, Mapping[str, str]], object]:
        """What to tell a person, and what to tell a program."""
        parts = path.removeprefix(ROOT + "/").split("/")
        try:
            if parts == ["dials"]:
                self._dials.turn(_dials_form(sent) if by_form else sent)
                return ("The dials are turned.", {}), self._dials.state()
            if len(parts) == 2 and parts[0] in self._cores:
                result = self._control(parts[0], parts[1], sent, now)
                return (f"Done at {parts[0]}: {parts[1]}.", result), {"result": dict(result)}
        except ValueError as error:
            raise _Refused(422, str(error)) from error
        raise _Refused(404, "no such dials or gateway; GET /_control shows what there is")

    def _control(self, gateway: str, name: str, sent: Mapping[str, object], now: int) -> Mapping[str, str]:
        core = self._cores[gateway]
        known = {control.name: control for control in core.controls}
        if name not in known:
            raise _Refused(404, f"{gateway} has no control {name!r}; it has {', '.join(known) or 'none'}")
        params = {key: _param(key, value) for key, value in sent.items() if value not in (None, "")}
        unknown = sorted(params.keys() - known[name].params.keys())
        if unknown:
            raise ValueError(
                f"unknown: {', '.join(unknown)}. {name} takes {', '.join(known[name].params) or 'nothing'}"
            )
        return core.control(name, params, now=now)

    def _state(self) -> dict[str, object]:
        controls = {
            name: [
                {"name": control.name, "summary": control.summary, "params": dict(control.params)}
                for control in core.controls
            ]
            for name, core in self._cores.items()
        }
        deliveries = [delivery.describe() for delivery in self._queue.log]
        webhooks = {"shop_url": self._shop_url, "waiting": len(self._queue), "deliveries": deliveries}
        return {"dials": self._dials.state(), "webhooks": webhooks, "controls": controls}

    def _books(self) -> list[dict[str, object]]:
        return [{"gateway": name, **asdict(entry)} for name, core in self._cores.items() for entry in core.books()]

    def _page(
        self,
        mount: str,
        *,
        status: int = 200,
        notice: tuple[str, Mapping[str, str]] | None = None,
        problem: str | None = None,
    ) -> HttpResponse:
        shown = page.Shown(
            address=mount + ROOT,
            dials=self._dials.state(),
            cores=self._cores,
            shop_url=self._shop_url,
            waiting=len(self._queue),
            deliveries=tuple(reversed(self._queue.log)),
            notice=notice,
            problem=problem,
        )
        return page.control(shown, status=status)


def _check_sender(request: HttpRequest) -> None:
    """Refuse names that another machine may have given this one, and what other sites make a browser send."""
    host = request.headers.get("host", "")
    if _name_of(f"//{host}") not in _LOOPBACK_NAMES:
        raise _Refused(403, "the control page answers on this machine only, by the name 127.0.0.1 or localhost")
    if request.method in ("GET", "HEAD"):
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    fine = site in ("same-origin", "none") if site is not None else origin is None or _netloc(origin) == host
    if not fine:
        raise _Refused(403, "this request came from another site and was refused")


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _kind(request: HttpRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _sent(request: HttpRequest) -> Mapping[str, object]:
    """The body as an object of names and values."""
    kind = _kind(request)
    try:
        if kind == _FORM:
            return dict(parse_qsl(request.body.decode("utf-8"), keep_blank_values=True, max_num_fields=100))
        if kind == "application/json" or not request.body:
            sent = json.loads(request.body or b"{}")
            if isinstance(sent, dict):
                return sent
            raise _Refused(422, "the body has to be a JSON object")
    except (ValueError, RecursionError):
        raise _Refused(422, "the body can't be read") from None
    raise _Refused(415, f"send application/json or {_FORM}")


def _param(name: str, value: object) -> str:
    """Parameters are texts; a whole number is taken as its digits."""
    if isinstance(value, str) or type(value) is int:
        return str(value)
    raise ValueError(f"{name} has to be a text")


def _dials_form(sent: Mapping[str, object]) -> dict[str, object]:
    """The page's forms as what the API takes: one with a rule in it, others with a seed, webhooks or clear."""
    settings = {name: sent[name] for name in ("clear", "seed", "webhooks") if sent.get(name)}
    rule = {name: value for name, value in sent.items() if name not in ("clear", "seed", "webhooks")}
    return settings | ({"rules": [rule]} if rule else {})
