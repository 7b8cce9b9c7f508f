"""A disk that fails below the whole shop: syncs and writes of SQLite's files that end with EIO or ENOSPC, by strace.

A day of a small shop is lived again and again, each time with another failing call. What somebody was told is kept, the
errors say what happened, and once the disk is well again a worker brings everything to its end. PROVE_DISK_TURNS says
how many calls of a day are tried for each kind of failure, spread evenly (0: all of them).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import paidonce.db
from paidonce import serving
from paidonce.ports import RandomIds, SystemClock
from paidonce.sandbox.app import sandbox_cores
from paidonce.web import accounts
from paidonce.web.accounts import Passwords
from support.aftermath import (
    assert_each_refund_was_made_once,
    assert_every_object_is_known,
    assert_money_found_its_place,
    assert_nothing_is_open,
)
from support.apart import run_apart
from support.diskvictim import FAILING_CALL, GATEWAYS, Day
from support.killer import Said
from support.processes import TESTS, free_port
from support.shop import SANDBOX_URL, ShiftedClock, Shop, open_shop, stock_up
from support.webshop import SECRET_KEY, Client

TURNS = int(os.environ.get("PROVE_DISK_TURNS", "6"))
CALLS = {"sync": ("fsync", "fdatasync"), "write": ("pwrite64",)}
_DAY_SECONDS = 24 * 3600
# Past claims, leases, holds, the life of orders, and the days for which events wait for a payment.
CALM_WAITS = (0, 130, 320, 1300, _DAY_SECONDS, _DAY_SECONDS, 2 * _DAY_SECONDS)
START_SECONDS = 30
_INJECTED = re.compile(r"\(INJECTED\)$", re.MULTILINE)
_CALLED = re.compile(r"^(?:\[pid +\d+\] )?(\w+)\(\d+(?:, (.*))?\) += (-?\d+)", re.MULTILINE)
# How the victim makes a call that has no effect and is no part of the day.
_NO_EFFECT = '"", 0, 0'


@pytest.fixture(scope="module")
def strace() -> str:
    """The command; skips where it is missing or may not trace."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed, so no disk fails here (Debian: apt-get install strace)")
    tried = subprocess.run(
        [found, "-f", "--seccomp-bpf", "-e", "inject=fsync:error=EIO", "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    if tried.returncode:
        pytest.skip(f"strace can't trace here, so no disk fails: {tried.stderr.strip()[:200]}")
    return found


@dataclass(frozen=True)
class Failure:
    """What the calls of a kind end with: the one whose turn it is, or (`lasting`) each from there on."""

    kind: str
    error: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.kind}-{self.error}-{'lasting' if self.lasting else 'once'}"


FAILURES = [
    Failure(kind, error, lasting)
    for kind, error in (("sync", "EIO"), ("write", "ENOSPC"), ("write", "EIO"))
    for lasting in (False, True)
]


# ── Days with a failing disk ──────────


@dataclass
class Told:
    """What was said on one day, and the calls that were made and failed."""

    lines: list[dict[str, Any]]
    calls: Counter[str]
    injected: int

    def of(self, *whats: str) -> list[dict[str, Any]]:
        """The lines of these kinds."""
        return [line for line in self.lines if line["what"] in whats]

    @property
    def said(self) -> Said:
        """What was acknowledged."""
        said = Said()
        for line in self.lines:
            match line:
                case {"what": "ordered"}:
                    said.orders[line["order"]] = line["minor"]
                case {"what": "started"}:
                    said.payments[line["payment"]] = line["order"]
                case {"what": "paid"}:
                    said.paid.add(line["order"])
                    said.captured.add(line["payment"])
                case {"what": "refunded"}:
                    said.refunds[line["refund"]] = (line["payment"], line["minor"])
                    said.refunded |= {line["refund"]} if line["state"] == "succeeded" else set()
        return said


class Victim:
    """The program below strace, and its files."""

    def __init__(self, program: subprocess.Popen[str], folder: Path, template: Path) -> None:
        self._program = program
        self._folder = folder
        self._template = template

    @property
    def url(self) -> str:
        return f"sqlite:///{self._folder / 'paidonce.db'}"

    def lives(self, kind: str, turn: int) -> Told:
        """A day on a fresh database."""
        for old in self._folder.glob("paidonce.db*"):
            old.unlink()
        shutil.copy(self._template, self._folder / "paidonce.db")
        said, trace = self._folder / "said", self._folder / "trace"
        said.unlink(missing_ok=True)
        before = trace.stat().st_size
        day = Day(self.url, str(said), str(self._folder / "twins"), kind, turn)
        assert self._answer(asdict(day)) == 0, f"the day ended by an error\n{self.trace()[-3000:]}"
        called = trace.read_text()[before:]
        calls = Counter(name for name, rest, _ in _CALLED.findall(called) if rest != _NO_EFFECT)
        lines = [json.loads(line) for line in said.read_text().splitlines()]
        return Told(lines, calls, len(_INJECTED.findall(called)))

    def twins(self) -> dict[str, Any]:
        """The gateways as they were at the end of the day."""
        state = json.loads((self._folder / "twins").read_text())
        twins = dict(sandbox_cores(SANDBOX_URL))
        for name, twin in twins.items():
            twin.load(state[name])
        return twins

    def trace(self) -> str:
        """All calls so far, and what the program itself said."""
        return (self._folder / "trace").read_text()

    def _answer(self, line: dict[str, Any]) -> int:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(line) + "\n")
        self._program.stdin.flush()
        answer = self._program.stdout.readline()
        assert answer, f"the program has ended\n{self.trace()[-3000:]}"
        return int(answer)


@contextmanager
def victim(
    strace: str, template: Path, folder: Path, calls: Iterable[str], *, error: str = "", when: str = ""
) -> Iterator[Victim]:
    """A program whose database lies in `folder`. Of its `calls`, which alone are traced, some end with `error`."""
    files = [folder / "paidonce.db", folder / "paidonce.db-wal", folder / "said"]
    command = [strace, "-f", "--seccomp-bpf"]
    command += [option for file in files for option in ("-P", str(file))]
    command += ["-e", f"trace={','.join(calls)}", "-e", "signal=none"]
    command += ["-e", f"inject={','.join(calls)}:error={error}:when={when}"] if error else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    # Into a file of its own strace writes only now and then, but to standard error after each call.
    with (
        (folder / "trace").open("ab") as trace,
        subprocess.Popen(
            [*command, sys.executable, "-m", "support.diskvictim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=trace,
            text=True,
            env=environment,
        ) as program,
    ):
        try:
            yield Victim(program, folder, template)
        finally:
            assert program.stdin is not None
            program.stdin.close()
            try:
                program.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                program.kill()


@pytest.fixture(scope="module")
def stocked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with goods, to be copied."""
    path = tmp_path_factory.mktemp("stocked") / "paidonce.db"
    shutil.copy(sqlite_template, path)

    async def stock() -> None:
        db = await paidonce.db.connect(f"sqlite:///{path}")
        shop = open_shop(db, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL)))
        await db.transaction(stock_up, shop.store, shop.clock.now())
        await db.close()

    run_apart(stock)
    return path


@pytest.fixture(scope="module")
def calls_of_a_day(strace: str, stocked: Path, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often each kind of call is made on a day during which nothing goes wrong."""
    with victim(strace, stocked, tmp_path_factory.mktemp("calm"), (*CALLS["sync"], *CALLS["write"])) as calm:
        told = calm.lives("sync", 0)
    assert told.injected == 0
    assert [line["what"] for line in told.lines] == [*ALL_OF_IT * 2, "end"]
    assert told.of("error") == []
    found = Counter({kind: sum(told.calls[name] for name in names) for kind, names in CALLS.items()})
    assert all(10 < found[kind] < FAILING_CALL[kind] for kind in CALLS), found
    return found


ALL_OF_IT = ["ordered", "started", "agreed", "paid", "refunded"]


def spread(calls: int) -> list[int]:
    """The turns to try: the first, the last and some between, or all."""
    if not TURNS or calls <= TURNS:
        return list(range(1, calls + 1))
    return sorted({1 + number * (calls - 1) // max(TURNS - 1, 1) for number in range(TURNS)})


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_whatever_fails_on_the_disk_what_was_told_is_kept_and_the_rest_recovers(
    strace: str, stocked: Path, calls_of_a_day: Counter[str], tmp_path: Path, failure: Failure
) -> None:
    when = f"{FAILING_CALL[failure.kind]}{'+' if failure.lasting else ''}"
    turns = spread(calls_of_a_day[failure.kind])
    errors = Counter[str]()
    with victim(strace, stocked, tmp_path, CALLS[failure.kind], error=failure.error, when=when) as unlucky:
        for turn in turns:
            told = await asyncio.to_thread(unlucky.lives, failure.kind, turn)
            assert told.injected, f"nothing failed at call {turn}"
            assert told.injected == 1 or failure.lasting
            assert_the_errors_say_it(told, failure, turn)
            errors.update(line["kind"] for line in told.of("error"))
            async with books(unlucky) as shop:
                await everything_is_kept_and_ends(shop, told, turn)
    print(f"{failure}: {len(turns)} of {calls_of_a_day[failure.kind]} calls, errors {dict(errors)}")
    assert errors or not failure.lasting


def assert_the_errors_say_it(told: Told, failure: Failure, turn: int) -> None:
    """Each is one of the two that callers know, with its reason; and on a disk that goes on failing it is the end."""
    reason = "full" if failure.error == "ENOSPC" else "disk I/O error"
    for line in told.of("error"):
        assert line["kind"] in ("CommitUnknown", "DatabaseDown")
        assert reason in line["text"], line
    assert told.lines[-1] == {"what": "end", "pending": False}, "reading went on"
    if failure.lasting and told.of("error"):
        after = told.lines[told.lines.index(told.of("error")[0]) :]
        # Whoever asks for the same refund again may read what was kept of it before, which needs no writing.
        new = [line for line in after if line["what"] not in ("error", "end") and line.get("state") != "recorded"]
        assert new == [], f"call {turn}: something was acknowledged on a disk that fails"
    elif not failure.lasting:
        # The core looks again by its own keys, so that of one failure its callers hear nothing.
        assert {line["step"] for line in told.of("error")} <= {"order"}, f"call {turn}"
        assert [line["what"] for line in told.of(*ALL_OF_IT)] == ALL_OF_IT * len(GATEWAYS), f"call {turn}"


@asynccontextmanager
async def books(unlucky: Victim) -> AsyncIterator[Shop]:
    """The shop after a restart on a disk that is well again."""
    db = await paidonce.db.connect(unlucky.url)
    try:
        yield open_shop(db, clock=ShiftedClock(), twins=unlucky.twins())
    finally:
        await db.close()


async def everything_is_kept_and_ends(shop: Shop, told: Told, turn: int) -> None:
    """What was told is in the books at once; then a worker brings the rest to its end."""
    await told.said.is_true(shop)
    await shop.assert_books_balance()
    for seconds in CALM_WAITS:
        await shop.recover(after=seconds)
    await told.said.is_true(shop)
    await shop.assert_books_balance()
    await shop.assert_journal_equals_gateways()
    await assert_nothing_is_open(shop)
    await assert_every_object_is_known(shop)
    assert_each_refund_was_made_once(shop)
    for row in await shop.rows("SELECT id FROM orders"):
        await assert_money_found_its_place(shop, row["id"])
    agreed = {line["order"] for line in told.of("agreed")}
    paid = {row["id"] for row in await shop.rows("SELECT id FROM orders WHERE status = 'paid'")}
    assert paid == agreed, f"call {turn}"
    assert await shop.stock("pen") == (100 - len(paid), 0)


# ── Nothing is told before it is on the disk ──────────


def test_whatever_is_told_was_synced_before(strace: str, stocked: Path, tmp_path: Path) -> None:
    with victim(strace, stocked, tmp_path, (*CALLS["sync"], *CALLS["write"], "write")) as calm:
        told = calm.lives("sync", 0)
        trace = calm.trace()
    unsynced = acknowledged = 0
    for name, rest, result in _CALLED.findall(trace):
        assert int(result) >= 0
        if name == "pwrite64":
            unsynced += 1
        elif name in ("fsync", "fdatasync"):
            unsynced = 0
        elif name == "write":
            acknowledged += 1
            assert unsynced == 0, f"told before it was on the disk: {rest}"
    assert acknowledged == len(told.lines) == 2 * len(ALL_OF_IT) + 1


# ── A shop that serves ──────────


async def test_a_shop_on_a_full_disk_says_so_and_acknowledges_nothing(
    strace: str, stocked: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'paidonce.db'}"
    shutil.copy(stocked, tmp_path / "paidonce.db")
    session = await a_session(url)
    with serving_on_a_full_disk(strace, url, tmp_path) as address:
        async with Client(address) as client:
            client.set_cookies(paidonce_session=session)
            await until_open(client)
            for _ in range(2):
                answer = await client.post("/api/orders", {"lines": [{"sku": "pen", "quantity": 1}]})
                assert answer.is_problem(503, "service_unavailable")
                assert answer.headers["Retry-After"] == "5"
            assert (await client.get("/readyz")).is_problem(503, "service_unavailable")
            assert (await client.get("/healthz")).status == 200, "a full disk must not restart the process"
            assert (await client.get("/api/products")).status == 200
            assert (await client.get("/api/orders")).json == []
    assert await orders_in(url) == 0


@contextmanager
def serving_on_a_full_disk(strace: str, url: str, folder: Path) -> Iterator[str]:
    """`paidonce serve`, whose writing to the database always fails; its address."""
    port = free_port()
    address = f"http://{serving.LOOPBACK}:{port}"
    settings = {"PAIDONCE_DATABASE_URL": url, "PAIDONCE_SECRET_KEY": SECRET_KEY, "PAIDONCE_PUBLIC_URL": address}
    command = [strace, "-f", "--seccomp-bpf", "-o", str(folder / "trace")]
    command += [option for name in ("paidonce.db", "paidonce.db-wal") for option in ("-P", str(folder / name))]
    command += ["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=ENOSPC:when=1+"]
    with (folder / "log").open("wb") as log:
        program = subprocess.Popen(
            [*command, sys.executable, "-m", "paidonce", "serve"],
            env={**os.environ, **settings, "PORT": str(port)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield address
        finally:
            # strace and the shop, which are a group of their own.
            os.killpg(program.pid, signal.SIGKILL)
            program.wait(START_SECONDS)


async def until_open(client: Client) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            with suppress(aiohttp.ClientError):
                if (await client.get("/healthz")).status == 200:
                    return
            await asyncio.sleep(0.05)


async def a_session(url: str) -> str:
    """A buyer who is signed in."""
    db = await paidonce.db.connect(url)
    ids, now = RandomIds(), SystemClock().now()
    try:
        user = await accounts.add_user(
            db, Passwords(), ids, email="buyer@example.com", name="Bo Buyer", password="a-long-password", now=now
        )
        return await accounts.open_session(db, user, replaces=None, now=now, life_seconds=_DAY_SECONDS)
    finally:
        await db.close()


async def orders_in(url: str) -> int:
    db = await paidonce.db.connect(url)
    try:
        return await open_shop(db, clock=ShiftedClock(), twins=dict(sandbox_cores(SANDBOX_URL))).count("orders")
    finally:
        await db.close()
