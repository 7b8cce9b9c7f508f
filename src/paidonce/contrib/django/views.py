"""The JSON API and the webhooks as Django views: the same addresses, answers and problem documents as docs/http-api.md.

Every handler: who asks → one action of the core → one model out. Ownership is checked by the core. The views commit by
themselves, so that `ATOMIC_REQUESTS` does not hold for them. Under ASGI Django runs them in a thread.
"""

from __future__ import annotations

import secrets
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from django.db import connections
from django.db.transaction import non_atomic_requests
from django.http import HttpResponse, JsonResponse, UnreadablePostError
from django.middleware.csrf import CsrfViewMiddleware
from django.templatetags.static import static
from django.views.decorators.csrf import csrf_exempt
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from paidonce import captures, checkout, desk, explain, inbox, recovery, refunds
from paidonce.contrib.django.driver import run
from paidonce.contrib.django.runtime import Runtime, runtime, webhooks_path
from paidonce.core import Actor, Core
from paidonce.errors import (
    CommitUnknown,
    DatabaseDown,
    DatabaseError,
    Forbidden,
    GatewayError,
    NotFound,
    NotSignedIn,
    Problem,
    WebhookRefused,
    WebhookUnverifiable,
)
from paidonce.leases import Lease
from paidonce.scrubbing import scrub_text
from paidonce.web import api, models, origins, problems, strict
from paidonce.web.edge import LARGEST_BODY_BYTES, LARGEST_WEBHOOK_BYTES
from paidonce.web.offers import Offer, offers, payable_order
from paidonce.web.webhooks import NotAccepted, NotVerifiable

M = TypeVar("M", bound=BaseModel)
View = Callable[..., HttpResponse]
Handler = Callable[..., HttpResponse]

log = structlog.get_logger("paidonce.requests")
webhook_log = structlog.get_logger("paidonce.webhooks")

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_FORGED = (
    "This request did not come from a page of this shop, or the page is old. Please reload it and try again; you have"
    " not been charged."
)


class LengthRequired(Problem):
    """The request does not say how long its body is, and under WSGI Django reads no more than was said."""

    code, status, title = "invalid_request", 411, "Say how long the request is"
    default_message = "Send the header Content-Length, 0 for no body, and not Transfer-Encoding: chunked."


class BodyIncomplete(Problem):
    """Less of the body is here than the request declares."""

    code, status, title = "invalid_request", 400, "Request incomplete"
    default_message = "The request did not arrive whole, and nothing was done; please send it again."


class _Context:
    """Who asks what of which core."""

    def __init__(self, request: Any, here: Runtime, actor: Actor, sent: bytes) -> None:
        self.request = request
        self.core: Core = here.core
        self.wiring = here.wiring
        self.actor = actor
        self._sent = sent

    @property
    def staff(self) -> Actor:
        """Raises `errors.Forbidden`."""
        self.actor.require_staff()
        return self.actor

    def body(self, model: type[M]) -> M | None:
        """What was sent, None for nothing. Raises `errors.InvalidRequest`."""
        if not self._sent or self._sent.strip() == b"null":
            return None
        return _valid(model, self._sent)

    def required(self, model: type[M]) -> M:
        """What was sent. Raises `errors.InvalidRequest`."""
        sent = self.body(model)
        return _valid(model, b"{}") if sent is None else sent

    def amount_in(self, model: type[M]) -> M | None:
        """What was sent about an amount, None for all of it. Raises `errors.InvalidRequest`.

        A part must never become everything because its body was lost on the way, so that nothing has to be said too.
        """
        if not self._sent and _is_wsgi(self.request) and not self.request.META.get("CONTENT_LENGTH"):
            raise LengthRequired
        return self.body(model)

    @property
    def request_key(self) -> str | None:
        """The client's own key. Raises `errors.InvalidRequest`."""
        return api.request_key(self.request.headers.get("Idempotency-Key"))


def _valid(model: type[M], raw: bytes) -> M:
    strict.check_json(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        # One way to word what is wrong with the input, whichever framework took it.
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        raise problems.to_problem(RequestValidationError(wrong)) from None


def _api(**handlers: Handler) -> View:
    """A view with one handler per method; whatever goes wrong becomes a problem document."""

    def view(request: Any, **ids: str) -> HttpResponse:
        try:
            handler = handlers.get("GET" if request.method == "HEAD" else request.method)
            if handler is None:
                return _refused(problems.MethodNotAllowed(), Allow=", ".join(sorted(handlers)))
            here = runtime()
            here.register_endpoints()
            actor = here.actor(request)
            if actor is None:
                raise NotSignedIn
            if actor.address is None:
                # The shop's own function may know better, behind a proxy.
                actor = replace(actor, address=request.META.get("REMOTE_ADDR"))
            # Before Django's own check, which reads forms, and would leave nothing of one to see.
            sent = _read_json(request)
            _refuse_forged(request)
            return handler(_Context(request, here, actor, sent), **_checked(ids))
        except Exception as error:
            return _problem(error)

    return _marked(view, methods=tuple(handlers))


def _marked(view: View, *, methods: tuple[str, ...]) -> View:
    # Django's own check answers with a page of its own; ours, in `_refuse_forged`, with a problem document.
    marked = csrf_exempt(view)
    for alias in connections:
        # Without a name the mark holds for the default database alone.
        marked = non_atomic_requests(using=alias)(marked)
    marked.methods = methods
    return marked  # type: ignore[no-any-return]  # Django has no types.


class _ForgeryCheck(CsrfViewMiddleware):
    """Django's own check of its token and of the Origin header, with its verdict as a value."""

    def _reject(self, request: Any, reason: str) -> str:
        return reason


def _refuse_forged(request: Any) -> None:
    """Raise `errors.Forbidden` for what another site made a browser send, whichever middleware the host has."""
    check = _ForgeryCheck(lambda _: None)
    check.process_request(request)
    reason = check.process_view(request, None, (), {})
    if reason is not None:
        log.warning("forged_request_refused", reason=str(reason), path=request.path)
        raise Forbidden(_FORGED)


def _checked(ids: Mapping[str, str]) -> dict[str, str]:
    """Nothing that can't be an id reaches the database."""
    checks = {"order_id": api.order_id_in_path, "payment_id": api.payment_id_in_path, "name": api.action_in_path}
    return {name: checks[name](value) if name in checks else value for name, value in ids.items()}


def _read_json(request: Any) -> bytes:
    """The body, which is JSON if there is any."""
    if request.method in _WITHOUT_BODY:
        return b""
    body = _read_body(request, LARGEST_BODY_BYTES)
    if body and request.content_type != "application/json":
        raise problems.NotJson
    return body


def _read_body(request: Any, largest: int) -> bytes:
    """All of the body, or an error: what can't be read must never pass for nothing."""
    declared = request.META.get("CONTENT_LENGTH") or "0"
    if not (declared.isascii() and declared.isdigit()) or len(declared) > 12 or int(declared) > largest:
        raise problems.BodyTooLarge
    if _is_wsgi(request) and request.META.get("HTTP_TRANSFER_ENCODING"):
        # Django reads as much as is declared, and so nothing of this.
        raise LengthRequired
    try:
        # Read as a stream, since the host's own limit for forms need not fit ours.
        body: bytes = request.read(largest + 1)
    except UnreadablePostError:
        raise BodyIncomplete from None
    if len(body) > largest:
        raise problems.BodyTooLarge
    if len(body) < int(declared):
        # The client went away, or a middleware of the host has read it.
        raise BodyIncomplete
    return body


def _is_wsgi(request: Any) -> bool:
    return "wsgi.input" in request.META


# ── Answers ──────────


def _answer(model: BaseModel, status: int = 200) -> HttpResponse:
    return _private(JsonResponse(model.model_dump(), status=status))


def _private(response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _problem(error: Exception) -> HttpResponse:
    if isinstance(error, Problem | DatabaseDown | CommitUnknown | GatewayError):
        return _refused(problems.to_problem(error))
    # A bug: the details go to the log under an incident id. Django's own page and mail would show local variables.
    incident = "inc_" + secrets.token_hex(8)
    trace = scrub_text("".join(traceback.format_exception(error)))
    log.error("unexpected_error", incident=incident, traceback=trace)
    return _refused(Problem(), incident=incident)


def _refused(problem: Problem, *, incident: str | None = None, **headers: str) -> HttpResponse:
    body = problems.document(problem, incident)
    response = JsonResponse(body, status=problem.status, content_type="application/problem+json", headers=headers)
    if problem.retry_after_seconds is not None:
        response["Retry-After"] = str(problem.retry_after_seconds)
    return _private(response)


# ── Orders ──────────


def _cancel_order(ask: _Context, *, order_id: str) -> HttpResponse:
    run(api.bound_questions(ask.wiring.limits, ask.actor))
    status = run(checkout.cancel_order(ask.core, order_id, ask.actor))
    return _answer(models.OrderStatusOut(id=order_id, status=status))


def _explain(ask: _Context, *, order_id: str) -> HttpResponse:
    ask.actor.require_staff()
    found = run(ask.core.db.read(explain.explain, ask.core, order_id))
    if found is None:
        raise NotFound("We could not find this order.")
    return _answer(models.ExplanationOut.model_validate(explain.as_json(found)))


def _list_payment_methods(ask: _Context, *, order_id: str) -> HttpResponse:
    order = run(ask.core.db.read(payable_order, ask.core.store, order_id, ask.actor.user_id))
    return _answer(models.PaymentMethodsOut.of(order, [with_static_module(one) for one in offers(ask.wiring, order)]))


def with_static_module(offer: Offer) -> Offer:
    """The offer, with its module where Django's static files are."""
    return replace(offer, module=static("paidonce/" + offer.module.removeprefix(origins.ASSETS)))


# ── Payments ──────────


def _start(ask: _Context, *, order_id: str) -> HttpResponse:
    wanted = ask.required(models.NewPayment)
    back = ask.wiring.return_url(order_id)
    if wanted.return_url is not None:
        back = origins.checked_return_url(ask.wiring.settings, wanted.return_url)
    news = ask.wiring.url(webhooks_path() + wanted.gateway)
    run(api.bound_starts(ask.wiring.limits, order_id, ask.actor))
    started = run(
        checkout.start(
            ask.core, order_id, wanted.gateway, ask.actor, return_url=back, cancel_url=back, webhook_url=news
        )
    )
    return _answer(models.StartedOut.of(started), 201 if started.created else 200)


def _complete(ask: _Context, *, payment_id: str) -> HttpResponse:
    ask.body(models.Nothing)
    run(api.bound_questions(ask.wiring.limits, ask.actor))
    result = run(checkout.complete(ask.core, payment_id, ask.actor))
    return _answer(models.ResultOut.of(result), 202 if result.unknown else 200)


def _cancel(ask: _Context, *, payment_id: str) -> HttpResponse:
    ask.body(models.Nothing)
    run(api.bound_questions(ask.wiring.limits, ask.actor))
    return _answer(models.ResultOut.of(run(checkout.cancel(ask.core, payment_id, ask.actor))))


def _get(ask: _Context, *, payment_id: str) -> HttpResponse:
    return _answer(models.PaymentOut.of(run(checkout.get_payment(ask.core, payment_id, ask.actor))))


# ── Staff ──────────


def _refund(ask: _Context, *, payment_id: str) -> HttpResponse:
    actor, wanted = ask.staff, ask.amount_in(models.NewRefund) or models.NewRefund()
    result = run(
        refunds.refund(
            ask.core,
            payment_id,
            actor,
            amount_minor=wanted.amount,
            reason=wanted.reason,
            restock=wanted.restock,
            request_key=ask.request_key,
        )
    )
    status = 202 if result.refund.state == "recorded" else 201 if result.created else 200
    return _answer(models.RefundResultOut.of_result(result), status)


def _list_refunds(ask: _Context, *, payment_id: str) -> HttpResponse:
    found = run(refunds.list_refunds(ask.core, payment_id, ask.staff))
    listed = [models.RefundOut.of(refund).model_dump() for refund in found]
    return _private(JsonResponse(listed, safe=False))


def _capture(ask: _Context, *, payment_id: str) -> HttpResponse:
    actor, wanted = ask.staff, ask.amount_in(models.NewCapture)
    amount = None if wanted is None else wanted.amount
    result = run(captures.capture(ask.core, payment_id, actor, amount_minor=amount))
    return _answer(models.ResultOut.of(result), 202 if result.unknown else 200)


def _void(ask: _Context, *, payment_id: str) -> HttpResponse:
    actor = ask.staff
    ask.body(models.Nothing)
    result = run(captures.release(ask.core, payment_id, actor))
    return _answer(models.ResultOut.of(result), 202 if result.unknown else 200)


def _show_actions(ask: _Context, *, payment_id: str) -> HttpResponse:
    return _answer(models.StaffSheetOut.of(run(desk.sheet(ask.core, payment_id, ask.staff))))


def _act(ask: _Context, *, payment_id: str, name: str) -> HttpResponse:
    actor, entry = ask.staff, ask.required(models.StaffEntry)
    result = run(
        desk.act(ask.core, payment_id, actor, name, entry.params, seen=entry.seen, request_key=ask.request_key)
    )
    return _answer(models.ResultOut.of(result), 202 if result.unknown else 200)


# ── Webhooks ──────────


def _webhook(request: Any, *, gateway: str) -> HttpResponse:
    """Take a gateway's signed news: verify, commit a row, answer, and only then work on it."""
    try:
        if request.method != "POST":
            return _refused(problems.MethodNotAllowed(), Allow="POST")
        here = runtime()
        here.register_endpoints()
        received = _receive(request, here.core, gateway)
    except Exception as error:
        return _problem(error)
    work = None if received.lease is None else _Work(here.core, received.lease)
    return _private(_AnswerThenWork({"outcome": received.outcome}, work=work))


def _receive(request: Any, core: Core, gateway: str) -> inbox.Received:
    known = core.gateways.get(gateway)
    if known is None:
        raise NotFound("There is no such gateway here.")
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        event = run(known.read_webhook(headers, _read_body(request, LARGEST_WEBHOOK_BYTES)))
    except WebhookRefused as error:
        webhook_log.warning("webhook_refused", gateway=gateway, reason=str(error))
        raise NotAccepted from None
    except WebhookUnverifiable as error:
        webhook_log.error("webhook_unverifiable", gateway=gateway, reason=str(error))
        raise NotVerifiable(retry_after_seconds=30) from None
    received = run(inbox.receive(core, event))
    webhook_log.info("webhook", gateway=gateway, type=event.type, event_id=event.id, outcome=received.outcome)
    return received


class _Work:
    """An event whose processing is ours. Whatever fails is left to recovery, whose lease on it runs out."""

    def __init__(self, core: Core, lease: Lease) -> None:
        self._core = core
        self._lease = lease

    def do(self) -> None:
        """Work on it."""
        try:
            run(recovery.process_event(self._core, self._lease))
        except DatabaseError as error:
            webhook_log.error("webhook_left_to_recovery", inbox=self._lease.id, error=str(error))
        except Exception as error:
            trace = scrub_text("".join(traceback.format_exception(error)))
            webhook_log.error("webhook_left_to_recovery", inbox=self._lease.id, traceback=trace)


class _AnswerThenWork(JsonResponse):
    """Servers close a response once it is sent: the gateway does not wait for what follows from its news."""

    def __init__(self, data: Any, *, work: _Work | None) -> None:
        super().__init__(data)
        self._work = work

    def close(self) -> None:
        """Work on the event, once, then end the request as usual."""
        work, self._work = self._work, None
        if work is not None:
            work.do()
        super().close()


cancel_order = _api(POST=_cancel_order)
explain_order = _api(GET=_explain)
payment_methods = _api(GET=_list_payment_methods)
start = _api(POST=_start)
complete = _api(POST=_complete)
cancel = _api(POST=_cancel)
payment = _api(GET=_get)
refund = _api(POST=_refund, GET=_list_refunds)
capture = _api(POST=_capture)
void = _api(POST=_void)
actions = _api(GET=_show_actions)
action = _api(POST=_act)
webhook = _marked(_webhook, methods=("POST",))
