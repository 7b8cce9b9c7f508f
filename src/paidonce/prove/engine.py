"""The ports as a simulator has them: whatever the core awaits suspends here, until the schedule says how it ends.

One thread, no event loop. A `Task` is one action of the core, run by one simulated process; between two ports nothing
else can happen to it, so the ends of its ports are all the moments at which a process may end.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from paidonce.errors import CommitUnknown, DatabaseDown, GatewayError, OutcomeUnknown
from paidonce.gateways.base import Gateway, HttpRequest, HttpResponse
from paidonce.ports import SECOND, Microseconds, Transaction, assert_outside_transaction
from paidonce.sandbox.app import SandboxTransport

P = ParamSpec("P")
T = TypeVar("T")

CRASH_BEFORE, CRASH_AFTER = "crash before", "crash after"
# How a port may end, besides well. Plural: the same again for every try of this call.
COMMIT_FATES = (CRASH_BEFORE, CRASH_AFTER, "commit unknown, kept", "commit unknown, lost", "database down")
READ_FATES = (CRASH_BEFORE, "database down")
SEND_FATES = (
    *(CRASH_BEFORE, CRASH_AFTER),
    *("request lost", "requests lost", "answer lost", "answers lost"),
    *("429", "503", "500 after all", "500s after all", "garbage", "409", "404"),
)
# Followed by what the gateway's answer lies about.
LIE = "lies about "
SLEEP_FATES = (CRASH_BEFORE,)
FATES = {"commit": COMMIT_FATES, "read": READ_FATES, "send": SEND_FATES, "sleep": SLEEP_FATES}
_STUBBORN = {"requests lost": "request lost", "answers lost": "answer lost", "500s after all": "500 after all"}

# What somebody does to the simulator, and no task of it did.
_NOT_OURS = (KeyboardInterrupt, SystemExit, MemoryError)
_TAKES: dict[str, Microseconds] = {"commit": 3_000, "read": 1_000, "send": 80_000, "sleep": 0}
_HTML = {"content-type": "text/html"}
_JSON = {"content-type": "application/json"}
# Answers of one who did not carry the request out.
_REFUSALS = {
    "429": HttpResponse(429, {**_JSON, "retry-after": "1"}, b'{"error": {"message": "slow down"}}'),
    "409": HttpResponse(409, _JSON, b'{"error": {"message": "in progress"}}'),
    "404": HttpResponse(404, _JSON, b'{"error": {"message": "no such object"}}'),
    "503": HttpResponse(503, _HTML, b"<html>down</html>"),
}


@dataclass(slots=True)
class Port:
    """What a task waits for: `run` carries it out."""

    kind: Literal["commit", "read", "send", "sleep"]
    name: str
    run: Callable[..., Any]
    wake: Microseconds = 0
    key: str = ""  # Which tries belong together.
    deadline_seconds: float = 0.0


@types.coroutine
def _wait(port: Port) -> Generator[Port, Any, Any]:
    return (yield port)


@dataclass(slots=True, eq=False)
class Task:
    """One action of the core in one process. `calling` is the gateway's method that it is inside of."""

    number: int
    label: str
    process: int
    coroutine: Coroutine[Any, Any, Any]
    then: Callable[[Any], None] | None
    must_be_refused: bool = False
    began_at: Microseconds = 0
    committed_at: Microseconds = 0
    lease_of: int = 0  # The task whose lease it works under, if that is not its own.
    waiting: Port | None = None
    calling: str = ""
    spells: dict[str, str] = field(default_factory=dict)
    over: bool = False
    killed: bool = False
    result: Any = None
    error: BaseException | None = None


class Books(Protocol):
    """The database behind the simulation: `db.inline.InlineSqlite`, or another that runs a transaction at once."""

    def write(self, call: Callable[[Transaction], Coroutine[Any, Any, T]], *, keep: bool = True) -> T:
        """Run and commit, or roll back without `keep`."""

    def read(self, call: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        """Run on one snapshot."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one query."""


class Engine:
    """Time, tasks, and how their ports end."""

    def __init__(self, books: Books, began: Microseconds) -> None:
        self.books = books
        self.now = began
        self.running: Task | None = None
        self.tasks: list[Task] = []
        self.started = 0
        self.steps = 0
        self.ids = 0
        self.reached: set[str] = set()  # Crash points at which a process was ended.
        self.told: list[str] = []
        self.on_step: Callable[[Port], None] | None = None
        self.on_refund: Callable[[Task, str], None] | None = None
        self.liar: Callable[[str, HttpResponse, str], HttpResponse] | None = None

    # ── The ports ──────────

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        self.told.append(what)

    @property
    def current(self) -> Task:
        """The task that runs now."""
        assert self.running is not None, "a port was used outside any task"
        return self.running

    # ── Tasks ──────────

    def spawn(
        self,
        label: str,
        process: int,
        coroutine: Coroutine[Any, Any, Any],
        then: Callable[[Any], None] | None = None,
        *,
        must_be_refused: bool = False,
    ) -> Task:
        """Start a task; it runs up to its first port."""
        self.started += 1
        task = Task(self.started, label, process, coroutine, then, must_be_refused, began_at=self.now)
        self.tasks.append(task)
        self.tell(f"{self._time()} [{process}] #{task.number} {label}")
        self._resume(task, lambda: coroutine.send(None))
        return task

    def step(self, task: Task, fate: str = "") -> bool:
        """Let the port that `task` waits for end with `fate` (empty: well). True if its process must end now."""
        port = task.waiting
        assert port is not None, "a task that is over waits for nothing"
        self.steps += 1
        if self.on_step is not None:
            self.on_step(port)
        possible = fate in FATES[port.kind] or (port.kind == "send" and fate.startswith(LIE))
        fate = (fate if possible else "") or task.spells.get(port.key, "")
        self.now = max(self.now + _TAKES[port.kind], port.wake)
        if fate:
            self.tell(f"{self._time()} [{task.process}] #{task.number} {port.kind} {port.name}: {fate}")
        if fate in (CRASH_BEFORE, CRASH_AFTER):
            self.reached.add(f"{fate.removeprefix('crash ')} {port.name}")
        if fate == CRASH_BEFORE:
            return True
        if port.kind == "commit":
            task.committed_at = self.now
        try:
            value = self._end(task, port, fate)
        except _NOT_OURS:
            raise
        except BaseException as error:
            thrown = error
            if fate == CRASH_AFTER:
                return True
            self._resume(task, lambda: task.coroutine.throw(thrown))
            return False
        if fate == CRASH_AFTER:
            return True
        self._resume(task, lambda: task.coroutine.send(value))
        return False

    def _end(self, task: Task, port: Port, fate: str) -> Any:
        match port.kind:
            case "commit":
                return _end_commit(port, fate)
            case "read":
                if fate:
                    raise DatabaseDown("the database can't be reached")
                return port.run()
            case "send":
                return self._end_send(task, port, fate)
        return None

    def _end_send(self, task: Task, port: Port, fate: str) -> HttpResponse:
        if fate in _STUBBORN:
            task.spells[port.key] = _STUBBORN[fate]
            fate = _STUBBORN[fate]
        if fate == "request lost":
            self._lose_time(port)
            raise OutcomeUnknown("the request was lost")
        if fate in _REFUSALS:
            return _REFUSALS[fate]
        answer: HttpResponse = port.run()
        if fate == "answer lost":
            self._lose_time(port)
            raise OutcomeUnknown("the answer was lost")
        if fate == "500 after all":
            return HttpResponse(500, _HTML, b"<html>oops</html>")
        if fate.startswith(LIE) and self.liar is not None:
            return self.liar(port.name, answer, fate.removeprefix(LIE))
        if fate == "garbage":
            return HttpResponse(answer.status, _JSON, answer.body[: len(answer.body) // 2])
        return answer

    def _lose_time(self, port: Port) -> None:
        self.now += int(port.deadline_seconds * SECOND)

    def _resume(self, task: Task, go: Callable[[], Any]) -> None:
        self.running, task.waiting = task, None
        try:
            task.waiting = go()
        except StopIteration as done:
            task.over, task.result = True, done.value
        except _NOT_OURS:
            raise
        except BaseException as error:
            task.over, task.error = True, error
        finally:
            self.running = None
        if task.over:
            self.tasks.remove(task)

    def kill(self, process: int) -> None:
        """End a process: what its tasks had begun is never heard of again."""
        for task in [one for one in self.tasks if one.process == process]:
            task.over = task.killed = True
            self.tasks.remove(task)
            try:
                task.coroutine.close()
            except RuntimeError:
                # A clean-up wanted to await; a process that was killed cleans nothing up.
                continue

    def _time(self) -> str:
        seconds, micro = divmod(self.now, SECOND)
        return f"{seconds % 10_000_000}.{micro // 1000:03d}"


def _end_commit(port: Port, fate: str) -> Any:
    if fate == "database down":
        raise DatabaseDown("the database can't be reached")
    value = port.run(keep=fate != "commit unknown, lost")
    if fate.startswith("commit unknown"):
        raise CommitUnknown("the connection died at COMMIT")
    return value


def point_of(fn: Callable[..., Any]) -> str:
    """The name of a transaction as a crash point: its module and its function."""
    return f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}"


class SimDatabase:
    """`ports.Database`."""

    dialect: Literal["sqlite", "postgresql"] = "sqlite"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def transaction(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `ports.Database.transaction`."""
        assert_outside_transaction("a transaction was started")
        run = partial(self._engine.books.write, lambda tx: fn(tx, *args, **kwargs))
        value: T = await _wait(Port("commit", point_of(fn), run))
        return value

    async def read(
        self, fn: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """See `ports.Database.read`."""
        assert_outside_transaction("a read was started")
        run = partial(self._engine.books.read, lambda tx: fn(tx, *args, **kwargs))
        value: T = await _wait(Port("read", point_of(fn), run))
        return value

    async def close(self) -> None:
        """Nothing to free."""


class SimClock:
    """`ports.Clock`: time passes by the schedule."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def now(self) -> Microseconds:
        """See `ports.Clock.now`."""
        return self._engine.now

    async def sleep(self, seconds: float) -> None:
        """Wait for the schedule, and at least `seconds`."""
        wake = self._engine.now + int(seconds * SECOND)
        await _wait(Port("sleep", "sleep", lambda: None, wake=wake))


class SimIds:
    """`ports.Ids`: numbered, so that a run repeats and its story can be read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def new(self, prefix: str) -> str:
        """As long as a real one."""
        self._engine.ids += 1
        return f"{prefix}_{self._engine.ids:06d}{'x' * 20}"


class SimTransport:
    """`base.Transport`: the way to the twins, which the schedule may cut. Remembers which key said what."""

    def __init__(self, engine: Engine, inner: SandboxTransport, on_key: Callable[[HttpRequest], None]) -> None:
        self._engine = engine
        self._inner = inner
        self._on_key = on_key

    async def send(self, request: HttpRequest, *, deadline_seconds: float) -> HttpResponse:
        """Send now, or as the schedule says."""
        assert_outside_transaction("a call to a gateway was started")
        self._on_key(request)
        name = self._engine.current.calling
        run = partial(self._send, request, deadline_seconds)
        port = Port("send", name, run, key=f"{request.method} {request.url}", deadline_seconds=deadline_seconds)
        response: HttpResponse = await _wait(port)
        return response

    def _send(self, request: HttpRequest, deadline_seconds: float) -> HttpResponse:
        sending = self._inner.send(request, deadline_seconds=deadline_seconds)
        try:
            sending.send(None)
        except StopIteration as done:
            response: HttpResponse = done.value
            return response
        raise AssertionError("the twins answer at once")

    async def close(self) -> None:
        """Nothing to free."""


class WatchedGateway:
    """A gateway whose calls carry the name of the protocol's method, so that crash points have names."""

    def __init__(self, engine: Engine, inner: Gateway, calls: tuple[str, ...]) -> None:
        self._engine = engine
        self._inner = inner
        for name in calls:
            setattr(self, name, partial(self._call, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        task = self._engine.current
        outer, task.calling = task.calling, f"{self._inner.name}.{method}"
        if method == "refund" and self._engine.on_refund is not None:
            self._engine.on_refund(task, args[0])
        try:
            return await getattr(self._inner, method)(*args, **kwargs)
        finally:
            task.calling = outer


def is_allowed(error: BaseException, *others: type[BaseException]) -> bool:
    """Whether an action may end like this: in words for its caller, or because the database is out of reach."""
    return isinstance(error, (CommitUnknown, DatabaseDown, *others)) and not isinstance(error, GatewayError)
