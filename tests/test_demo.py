"""The demo as a person runs it: the command, in a process of its own, over real HTTP."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paidonce import db
from paidonce.demo.books import Books, differences, read_books
from paidonce.demo.folder import DataFolder, demo_environment
from paidonce.demo.once import buyer_of, declines_at
from paidonce.errors import ConfigError
from paidonce.gateways.registry import providers
from paidonce.sandbox.app import sandbox_environment
from paidonce.serving import bind

WAIT_SECONDS = 60


def environment(**more: str) -> dict[str, str]:
    """The process's environment without anybody's keys or settings."""
    own = {name: value for name, value in os.environ.items() if not re.match(r"PAIDONCE_|STRIPE_|PAYPAL_|PORT$", name)}
    return {**own, "COLUMNS": "200", "TERM": "dumb", **more}


def paidonce(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in `folder`."""
    command = [sys.executable, "-m", "paidonce", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS * 2,
        check=False,
    )


def two_free_ports() -> int:
    """The first of two free ports side by side."""
    while True:
        with closing(bind("127.0.0.1", 0, fix="")) as first:
            port: int = first.getsockname()[1]
            try:
                bind("127.0.0.1", port + 1, fix="").close()
            except (ConfigError, OverflowError):
                continue
            return port


@contextmanager
def running_demo(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """`paidonce demo`, once shop and sandbox answer; killed at the end if it is still there."""
    command = [sys.executable, "-m", "paidonce", "demo"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(PORT=str(port)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_until(lambda: (answers(port) and answers(port + 1)) or process.poll() is not None)
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            yield process
        finally:
            process.kill()


def wait_until(done: Callable[[], bool]) -> None:
    """Wait; how long it takes is nobody's business, that it happens is."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def answers(port: int) -> bool:
    """Whether a server answers a request on this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def books_of(folder: DataFolder) -> Books:
    """The demo's books, straight from its file."""
    tables = {
        "orders": "SELECT * FROM orders",
        "lines": "SELECT * FROM order_lines",
        "payments": "SELECT * FROM payments",
        "stock": "SELECT s.*, p.name FROM stock s JOIN products p ON p.sku = s.sku",
        "movements": "SELECT * FROM stock_movements",
        "holds": "SELECT * FROM holds",
        "entries": "SELECT * FROM journal_entries",
        "postings": "SELECT * FROM journal_postings",
    }
    with closing(sqlite3.connect(folder.path / "paidonce.db")) as connection:
        connection.row_factory = sqlite3.Row
        return Books(**{name: [dict(row) for row in connection.execute(sql)] for name, sql in tables.items()})


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataFolder, subprocess.CompletedProcess[str]]:
    """A folder in which `demo --once` has run, and what it said."""
    path = tmp_path_factory.mktemp("paid")
    return DataFolder(path / "data"), paidonce(path, "demo", "--once", "--data", "data")


def test_once_pays_at_every_gateway_recovers_declines_and_adds_up(
    paid: tuple[DataFolder, subprocess.CompletedProcess[str]],
) -> None:
    folder, ran = paid
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for table in ("Orders", "Payments", "Stock", "Journal", "It all adds up"):
        assert table in ran.stdout
    books = books_of(folder)
    names = [provider.name for provider in providers({}) if buyer_of(provider) is not None]
    assert {row["gateway"] for row in books.payments} == set(names)
    # An order at each gateway, and one after a decline: the same payment was used again, or had failed for good.
    declining = [provider.name for provider in providers({}) if declines_at(provider)]
    assert len(declining) >= 2
    orders = len(names) + len(declining)
    assert [row["status"] for row in books.orders] == ["paid"] * orders
    ends = [row["status"] for row in books.payments]
    assert ends.count("captured") == orders
    assert set(ends) <= {"captured", "failed"}
    assert len(re.findall(r"order \S+ was declined:", ran.stdout)) == len(declining)
    assert [row["kind"] for row in books.entries].count("capture") == orders


def test_once_says_no_secret(paid: tuple[DataFolder, subprocess.CompletedProcess[str]]) -> None:
    folder, ran = paid
    said = ran.stdout + ran.stderr
    assert folder.secret_key() not in said
    assert "_secret_" not in said
    assert "sk_test" not in said


def test_once_finds_a_planted_stock_figure(tmp_path: Path) -> None:
    first = paidonce(tmp_path, "demo", "--once", "--data", "data")
    assert first.returncode == 0, first.stdout + first.stderr
    with closing(sqlite3.connect(tmp_path / "data" / "paidonce.db")) as connection:
        sku, on_hand = connection.execute("SELECT sku, on_hand FROM stock ORDER BY on_hand LIMIT 1").fetchone()
        connection.execute("UPDATE stock SET on_hand = on_hand + 1 WHERE sku = ?", (sku,))
        connection.commit()
    second = paidonce(tmp_path, "demo", "--once", "--data", "data")
    assert second.returncode == 1, second.stdout + second.stderr
    expected = f"stock of {sku}: {on_hand + 1} on hand, but its movements add up to {on_hand}"
    assert expected in second.stdout
    assert "It all adds up" not in second.stdout


Rows = list[dict[str, Any]]


def _changed(rows: Any, place: int, **values: object) -> Rows:
    return [{**row, **values} if index == place else dict(row) for index, row in enumerate(rows)]


TAMPERED: Mapping[str, Callable[[Books], Books]] = {
    "stock of": lambda b: replace(b, stock=_changed(b.stock, 0, on_hand=b.stock[0]["on_hand"] - 1)),
    "held, but": lambda b: replace(b, stock=_changed(b.stock, 0, held=1)),
    "left the stock": lambda b: replace(b, movements=[row for row in b.movements if row["kind"] != "sale"]),
    "debits and credits": lambda b: replace(b, postings=_changed(b.postings, 0, amount_minor=1)),
    "no postings": lambda b: replace(b, postings=[]),
    "is open over": lambda b: replace(b, orders=_changed(b.orders, 0, status="open")),
    "sales in the journal: none": lambda b: replace(b, entries=b.entries[1:], postings=_without(b, b.entries[0]["id"])),
    "the journal holds 1 captures": lambda b: replace(b, payments=_changed(b.payments, 0, capture_ref="another")),
    "is canceled over": lambda b: replace(b, payments=_changed(b.payments, 0, status="canceled")),
}


def _without(books: Books, entry_id: str) -> Rows:
    return [dict(row) for row in books.postings if row["entry_id"] != entry_id]


@pytest.mark.parametrize("said", TAMPERED)
def test_each_difference_is_found(said: str, paid: tuple[DataFolder, subprocess.CompletedProcess[str]]) -> None:
    books = books_of(paid[0])
    assert differences(books) == []
    assert any(said in difference for difference in differences(TAMPERED[said](books))), differences(
        TAMPERED[said](books)
    )


async def test_books_read_the_same_through_the_port(
    paid: tuple[DataFolder, subprocess.CompletedProcess[str]],
) -> None:
    database = await db.connect(paid[0].database_url)
    try:
        books = await database.read(read_books)
    finally:
        await database.close()
    assert len(books.payments) == len(books_of(paid[0]).payments)
    assert differences(books) == []


def test_ctrl_c_closes_shop_and_sandbox_and_a_restart_knows_everything(tmp_path: Path) -> None:
    port = two_free_ports()
    with running_demo(tmp_path, port) as process:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, said
    assert f"http://127.0.0.1:{port}" in said
    assert "Traceback" not in said
    # The shop ends the sandbox before it ends itself.
    assert not answers(port)
    assert not answers(port + 1)
    key, before = DataFolder(tmp_path / "var").secret_key(), books_of(DataFolder(tmp_path / "var"))
    with running_demo(tmp_path, port):
        pass
    assert DataFolder(tmp_path / "var").secret_key() == key
    assert books_of(DataFolder(tmp_path / "var")).movements == before.movements, "the stock was seeded twice"


def test_sandbox_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    port = two_free_ports()
    with running_demo(tmp_path, port) as process:
        process.kill()
        process.wait(WAIT_SECONDS)
        wait_until(lambda: not answers(port + 1))


def test_busy_port_is_explained(tmp_path: Path) -> None:
    with closing(bind("127.0.0.1", 0, fix="")) as taken:
        port = taken.getsockname()[1]
        ran = paidonce(tmp_path, "demo", PORT=str(port))
    assert ran.returncode == 2
    assert f"Port {port}" in ran.stderr
    assert "PORT=" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with DataFolder(tmp_path / "data").in_use():
        ran = paidonce(tmp_path, "demo", "--once", "--data", "data")
    assert ran.returncode == 2
    assert "Another demo is using the data folder" in ran.stderr
    assert not (tmp_path / "data" / "paidonce.db").exists()


def test_secret_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    key = folder.secret_key()
    assert len(key) >= 32
    assert folder.secret_key() == key
    assert (tmp_path / "secret-key").stat().st_mode & 0o777 == 0o600


def _environment(folder: Path, own: Mapping[str, str]) -> Any:
    urls = {"shop_url": "http://127.0.0.1:8000", "sandbox_url": "http://127.0.0.1:8001"}
    return demo_environment(own, DataFolder(folder), providers({}), port=8000, **urls)


def test_own_test_keys_are_used_instead_of_the_twin(tmp_path: Path) -> None:
    own = {"STRIPE_SECRET_KEY": "sk_test_mine", "STRIPE_PUBLISHABLE_KEY": "pk_test_mine"}
    made = _environment(tmp_path, own)
    assert made.offline == {provider.name for provider in providers({})} - {"stripe"}
    assert made.values["STRIPE_SECRET_KEY"] == "sk_test_mine"
    assert "STRIPE_API_BASE" not in made.values
    assert made.values["PAYPAL_API_BASE"] == "http://127.0.0.1:8001/paypal"


def test_demo_never_touches_a_real_shop(tmp_path: Path) -> None:
    real = {
        "PAIDONCE_DATABASE_URL": "postgresql://shop@db/shop",
        "PAIDONCE_SECRET_KEY": "the-real-shops-secret-key-0123456789",
        "PAIDONCE_PUBLIC_URL": "https://shop.example",
    }
    made = _environment(tmp_path, real)
    assert made.values["PAIDONCE_DATABASE_URL"].startswith("sqlite:///")
    assert not set(real.values()) & set(made.values.values())


def test_with_own_keys_a_card_is_paid_and_the_approval_is_left_to_a_person(tmp_path: Path) -> None:
    """A second sandbox stands in for the test modes: its keys come from the environment, as real ones would."""
    port = two_free_ports()
    command = [sys.executable, "-m", "paidonce", "sandbox", "--port", str(port)]
    own = sandbox_environment(f"http://127.0.0.1:{port}")
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as sandbox:
        try:
            wait_until(lambda: answers(port) or sandbox.poll() is not None)
            ran = paidonce(tmp_path, "demo", "--once", "--data", "data", **own)
        finally:
            sandbox.kill()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "https://www.sandbox.paypal.com/checkoutnow?token=" in ran.stdout
    rows = books_of(DataFolder(tmp_path / "data")).payments
    found = [(row["gateway"], row["status"]) for row in rows if row["gateway"] in ("paypal", "stripe")]
    # One order waits for its approval, holds its goods, and is not called paid.
    assert sorted(found) == [("paypal", "awaiting_buyer"), ("stripe", "captured"), ("stripe", "captured")]
    for secret in ("STRIPE_SECRET_KEY", "PAYPAL_CLIENT_SECRET"):
        assert own[secret] not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"STRIPE_SECRET_KEY": "sk_test_alone"}, "STRIPE_PUBLISHABLE_KEY"),
        ({"PAYPAL_CLIENT_ID": "alone"}, "PAYPAL_CLIENT_SECRET"),
        ({"PAIDONCE_HOLD_MINUTES": "soon"}, "PAIDONCE_HOLD_MINUTES"),
    ],
)
def test_wrong_setting_is_named_without_a_traceback(tmp_path: Path, settings: dict[str, str], named: str) -> None:
    ran = paidonce(tmp_path, "demo", "--once", **settings)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert named in ran.stderr
    assert "Traceback" not in ran.stderr


def test_serve_refuses_an_old_schema_until_migrate_has_run(tmp_path: Path) -> None:
    port = two_free_ports()
    settings = {
        "PAIDONCE_DATABASE_URL": f"sqlite:///{tmp_path}/shop.db",
        "PAIDONCE_SECRET_KEY": "a-key-for-this-test-0123456789-abcdef",
        "PORT": str(port),
    }
    refused = paidonce(tmp_path, "serve", **settings)
    assert refused.returncode == 2
    assert "paidonce migrate" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "shop.db").exists(), "looking must not make a file"
    assert paidonce(tmp_path, "migrate", **settings).returncode == 0
    command = [sys.executable, "-m", "paidonce", "serve"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(**settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: answers(port) or process.poll() is not None)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_SECONDS)
        finally:
            process.kill()
    assert not answers(port)


def test_missing_secret_key_stops_serve_with_the_fix(tmp_path: Path) -> None:
    ran = paidonce(tmp_path, "serve")
    assert ran.returncode == 2
    assert "PAIDONCE_SECRET_KEY" in ran.stderr
    assert "token_urlsafe" in ran.stderr


def test_sandbox_prints_the_settings_that_lead_to_it(tmp_path: Path) -> None:
    port = two_free_ports()
    command = [sys.executable, "-m", "paidonce", "sandbox", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            wait_until(lambda: answers(port) or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=WAIT_SECONDS)
        finally:
            process.kill()
    for name, value in providers({})[0].sandbox_environment(f"http://127.0.0.1:{port}").items():
        assert f"{name}={value}" in said
    assert "Traceback" not in said
