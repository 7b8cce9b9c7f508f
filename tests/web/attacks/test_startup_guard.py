"""What must not be served is refused at start, by the command itself, with the fix and without the secret."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from paidonce import Payments, guard
from paidonce.config import load_settings
from paidonce.errors import ConfigError
from paidonce.hoststore import HostStore
from paidonce.sandbox.app import sandbox_environment
from paidonce.store import SqlStore
from support.processes import free_port
from support.webshop import SECRET_KEY

ROOT = Path(__file__).parents[3]
TWINS = sandbox_environment("http://127.0.0.1:9")
OPEN = "The shop is open"

# Starting Python and reading all modules takes longer than the start itself, so one process does that and forks the
# command as often as it is told to: from there on it is what runs when somebody types `paidonce …`.
_NURSERY = """
import json, os, sys
import paidonce.app, paidonce.cli, paidonce.db.migration, paidonce.db.sqlite, paidonce.web.routes, uvicorn
import paidonce.gateways.paypal.gateway, paidonce.gateways.stripe.gateway
for line in sys.stdin:
    order = json.loads(line)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.chdir(order["folder"])
        os.umask(order["umask"])
        os.environ.clear()
        os.environ.update(order["environment"])
        for stream in (1, 2):
            os.dup2(writing, stream)
        sys.argv = ["paidonce", *order["arguments"]]
        code = 0
        try:
            paidonce.cli.run()
        except SystemExit as ended:
            code = ended.code or 0
        sys.stdout.flush()
        os._exit(code)
    os.close(writing)
    said = b""
    while piece := os.read(reading, 65536):
        said += piece
        if b"The shop is open" in said:
            os.kill(child, 9)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    print(json.dumps({"code": os.waitstatus_to_exitcode(status), "said": said.decode()}), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all that it said."""

    code: int
    said: str


@dataclass
class Command:
    """The command `paidonce`, in a folder with a database that would do."""

    nursery: subprocess.Popen[str]
    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "shop.db"

    def environment(self, **changes: str) -> dict[str, str]:
        """Settings with which the shop opens."""
        return {
            "PATH": os.environ["PATH"],
            "COLUMNS": "300",
            "PAIDONCE_SECRET_KEY": SECRET_KEY,
            "PAIDONCE_DATABASE_URL": f"sqlite:///{self.database}",
            "PAIDONCE_WORKER": "0",
            "PORT": str(free_port()),
            **changes,
        }

    def run(self, *arguments: str, umask: int = 0o022, changes: Mapping[str, str] | None = None) -> Ended:
        """Run it to its end, with `changes` to the settings; a shop that opens is ended at once."""
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        order = {"arguments": arguments, "folder": str(self.folder), "umask": umask}
        self.nursery.stdin.write(json.dumps({**order, "environment": self.environment(**(changes or {}))}) + "\n")
        self.nursery.stdin.flush()
        told: dict[str, Any] = json.loads(self.nursery.stdout.readline())
        return Ended(told["code"], told["said"])

    def serve(self, **changes: str) -> Ended:
        return self.run("serve", changes=changes)


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _NURSERY], **pipes) as program:  # type: ignore[call-overload]
        yield program
        program.stdin.close()


@pytest.fixture
def command(nursery: subprocess.Popen[str], sqlite_template: Path, tmp_path: Path) -> Command:
    shutil.copy(sqlite_template, tmp_path / "shop.db")
    return Command(nursery, tmp_path)


def refused(ended: Ended, *words: str) -> bool:
    """Whether it did not open, and said all of `words`."""
    assert OPEN not in ended.said, "the shop opened"
    assert ended.code == 2, ended.said
    assert [word for word in words if word not in ended.said] == [], ended.said
    return True


STRIPE_LIVE = {"STRIPE_SECRET_KEY": "sk_live_canary1", "STRIPE_PUBLISHABLE_KEY": "pk_live_canary2"}
PAYPAL = {
    "PAYPAL_CLIENT_ID": "a-client-id",
    "PAYPAL_CLIENT_SECRET": "a-canary-of-a-client",
    "PAYPAL_MERCHANT_ID": "QQQQQQQQQQQQ2",
}
PUBLIC = {"PAIDONCE_PUBLIC_URL": "https://shop.example"}


def test_with_good_settings_the_shop_opens(command: Command) -> None:
    """All the refusals below begin from these settings, so each is due to what it changes."""
    assert OPEN in command.serve(**TWINS).said
    assert OPEN in command.serve(**STRIPE_LIVE, **PUBLIC).said


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "is missing; make one with"),
        ("canary-short", "at least 32 characters"),
        ("canary-changeme-canary-changeme-canary", "too easy to guess"),
        ("canary-CHANGE_ME-before-you-go-live-now", "too easy to guess"),
        ("your-secret-key-canary-goes-into-here-ok", "too easy to guess"),
        ("canary-insecure-canary-do-not-use-this-1", "too easy to guess"),
        ("cococococococococococococococococococococo", "too easy to guess"),
        (f"{SECRET_KEY} canary-changeme-canary-changeme-canary", "too easy to guess"),
    ],
)
def test_an_empty_or_example_secret_key_is_refused(command: Command, key: str, words: str) -> None:
    ended = command.serve(PAIDONCE_SECRET_KEY=key)
    assert refused(ended, "PAIDONCE_SECRET_KEY", words, "secrets.token_urlsafe")
    assert "canary" not in ended.said.lower()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**PAYPAL, "PAYPAL_CLIENT_SECRET": "changeme"}, ["PAYPAL_CLIENT_SECRET", "is an example", "dashboard"]),
        ({**PAYPAL, "PAYPAL_CLIENT_SECRET": "<your-canary-secret…>"}, ["PAYPAL_CLIENT_SECRET", "is an example"]),
        ({**PAYPAL, "PAYPAL_CLIENT_SECRET": "xxxxxxxxxxxxxxxx"}, ["PAYPAL_CLIENT_SECRET", "is an example"]),
        ({**TWINS, "STRIPE_SECRET_KEY": "sk_test_your_secret_key"}, ["STRIPE_SECRET_KEY", "is an example"]),
        ({**TWINS, "STRIPE_WEBHOOK_SECRET": ""}, ["STRIPE_WEBHOOK_SECRET is empty"]),
        ({**TWINS, "STRIPE_WEBHOOK_SECRET": "whsec_replace_me"}, ["STRIPE_WEBHOOK_SECRET", "is an example"]),
        (
            {**PUBLIC, "PAIDONCE_DATABASE_URL": "postgresql://canary:password@db.example/shop"},
            ["PAIDONCE_DATABASE_URL: its password is an example"],
        ),
        (
            {**PUBLIC, "PAIDONCE_DATABASE_URL": "postgresql://canary@db.example/shop?password=changeme"},
            ["PAIDONCE_DATABASE_URL: its password is an example"],
        ),
        (
            {**PUBLIC, "PAIDONCE_DATABASE_URL": "postgresql://canary:ch%61ngeme@db.example/shop"},
            ["PAIDONCE_DATABASE_URL: its password is an example"],
        ),
    ],
)
def test_example_secrets_of_gateways_and_databases_are_refused(
    command: Command, settings: dict[str, str], words: list[str]
) -> None:
    ended = command.serve(**settings)
    assert refused(ended, *words)
    assert "canary" not in ended.said.replace("sk_live_canary", "")


def test_a_random_key_is_never_taken_for_an_example() -> None:
    digests = [hashlib.sha512(str(number).encode()).digest()[:48] for number in range(5_000)]
    assert [one for one in digests if guard.is_example(base64.urlsafe_b64encode(one).decode())] == []
    assert [one for one in digests if guard.is_example(one.hex())] == []


def test_what_our_own_manuals_show_as_a_secret_is_refused() -> None:
    """Whoever copies a line of the manual as it stands must hear of it."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages if "node_modules" not in page.parts)
    shown = re.findall(r"\b(PAIDONCE_(?:SECRET_KEY|EVENT_SECRET))=(\"[^\"]+\"|\S+)", text)
    assert shown, "the manuals show none, or this test can't read them"
    for name, value in shown:
        good = {"PAIDONCE_SECRET_KEY": SECRET_KEY, "PAIDONCE_EVENT_URLS": "https://erp.example"}
        with pytest.raises(ConfigError, match=name):
            load_settings({**good, name: value.strip('"`')})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**STRIPE_LIVE, "STRIPE_API_BASE": "http://127.0.0.1:9/stripe"}, ["STRIPE_API_BASE", "keys are live"]),
        ({**STRIPE_LIVE, "STRIPE_JS_URL": "https://cdn.example/x"}, ["STRIPE_JS_URL", "keys are live"]),
        ({**STRIPE_LIVE, "STRIPE_PUBLISHABLE_KEY": "pk_test_canary2"}, ["different modes"]),
        (
            {**PAYPAL, "PAYPAL_ENVIRONMENT": "live", "PAYPAL_API_BASE": "https://api-m.sandbox.paypal.com"},
            ["PAYPAL_API_BASE must not be set"],
        ),
        ({**PAYPAL, "PAYPAL_API_BASE": "https://api-m.paypal.com"}, ["PAYPAL_API_BASE", "live address"]),
        ({**TWINS, "PAYPAL_ENVIRONMENT": "live", "PAYPAL_API_BASE": ""}, ["PAYPAL_CLIENT_SECRET", "offline sandbox"]),
        # The reverse: the twins' keys, which stand in the package, at the gateways' own addresses.
        ({**TWINS, "STRIPE_API_BASE": ""}, ["STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "offline sandbox's"]),
        ({**TWINS, "PAYPAL_API_BASE": ""}, ["PAYPAL_CLIENT_ID", "PAYPAL_CLIENT_SECRET", "offline sandbox's"]),
    ],
)
def test_live_keys_with_a_test_address_and_the_reverse_are_refused(
    command: Command, settings: dict[str, str], words: list[str]
) -> None:
    ended = command.serve(**settings)
    assert refused(ended, *words)
    assert "canary" not in ended.said.lower()


@pytest.mark.parametrize(
    ("settings", "live", "test"),
    [
        ({**STRIPE_LIVE, **PAYPAL}, "stripe", "paypal"),
        # Money arrives on a real account, so test money must not buy the same goods.
        ({**PAYPAL, "BANK_TRANSFER_IBAN": "DE89370400440532013000", "BANK_TRANSFER_HOLDER": "A"}, "bank_tr", "paypal"),
    ],
)
def test_live_and_test_mode_among_the_gateways_are_refused(
    command: Command, settings: dict[str, str], live: str, test: str
) -> None:
    ended = command.serve(**settings)
    assert refused(ended, "Live and test mode are mixed", "use keys of one mode")
    would = re.search(r"mixed: (.*) would take real money and (.*) only test money", ended.said)
    assert would is not None
    assert (live in would[1], test in would[2]) == (True, True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PAIDONCE_PUBLIC_URL": "http://shop.example"}, ["PAIDONCE_PUBLIC_URL", "unencrypted", "use https"]),
        ({"PAIDONCE_HOST": "0.0.0.0"}, ["PAIDONCE_PUBLIC_URL", "unencrypted"]),  # noqa: S104 - it is refused.
        ({**PUBLIC, "PAIDONCE_ALLOWED_ORIGINS": "http://front.example"}, ["PAIDONCE_ALLOWED_ORIGINS", "needs https"]),
        ({**PUBLIC, "PAIDONCE_DEMO": "1"}, ["PAIDONCE_DEMO", "public address", "remove it"]),
        ({**STRIPE_LIVE, "PAIDONCE_DEMO": "1"}, ["PAIDONCE_DEMO", "stripe would", "remove it"]),
    ],
)
def test_plain_http_and_demonstrations_in_public_are_refused(
    command: Command, settings: dict[str, str], words: list[str]
) -> None:
    assert refused(command.serve(**settings), *words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAIDONCE_PUBLIC_URL", "https://user:canary@shop.example"),
        ("PAIDONCE_PUBLIC_URL", "https://shop.example/?token=canary"),
        ("PAIDONCE_ALLOWED_ORIGINS", "https://user:canary@front.example"),
        ("PAIDONCE_EVENT_URLS", "https://user:canary@erp.example/paidonce"),
        ("STRIPE_API_BASE", "https://user:canary@stripe.example"),
        ("PAYPAL_JS_URL", "https://canary@paypal.example/core"),
    ],
)
def test_a_secret_in_an_address_that_would_be_printed_is_refused(command: Command, name: str, value: str) -> None:
    ended = command.serve(**{**TWINS, name: value})
    assert refused(ended, name)
    assert "canary" not in ended.said


@pytest.mark.parametrize("rights", [0o604, 0o602, 0o644, 0o666])
def test_a_database_that_everybody_can_read_or_change_is_refused(command: Command, rights: int) -> None:
    command.database.chmod(rights)
    assert refused(command.serve(), "every user of this machine can read", f"chmod o= {command.database}")
    command.database.chmod(0o660)
    assert OPEN in command.serve().said


def test_a_write_ahead_log_that_everybody_can_read_is_refused(command: Command) -> None:
    """It holds the newest payments."""
    beside = command.folder / "shop.db-wal"
    beside.touch()
    beside.chmod(0o644)
    assert refused(command.serve(), f"chmod o= {beside}")


def test_a_folder_in_which_everybody_can_replace_the_database_is_refused(command: Command) -> None:
    command.folder.chmod(0o777)
    assert refused(command.serve(), "can replace the files in", f"chmod o-w {command.folder}")
    # The sticky bit keeps others' files, as in /tmp.
    command.folder.chmod(0o1777)
    assert OPEN in command.serve().said


def test_a_database_behind_a_link_is_judged_where_it_lies(command: Command) -> None:
    """SQLite follows the link, and keeps its log beside the file itself."""
    elsewhere = command.folder / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    command.database.rename(elsewhere / "real.db")
    command.database.symlink_to(elsewhere / "real.db")
    assert OPEN in command.serve().said
    beside = elsewhere / "real.db-wal"
    beside.touch()
    beside.chmod(0o644)
    assert refused(command.serve(), f"chmod o= {beside}")
    beside.chmod(0o600)
    elsewhere.chmod(0o777)
    assert refused(command.serve(), f"chmod o-w {elsewhere}")


@pytest.mark.parametrize("path", ["", "/", ".", "..", "/tmp"])
def test_an_address_that_names_no_file_is_refused_in_words(command: Command, path: str) -> None:
    """And nobody is told to change the rights of a folder that is not ours."""
    ended = command.serve(PAIDONCE_DATABASE_URL=f"sqlite:///{path}")
    assert refused(ended, "PAIDONCE_DATABASE_URL names ", "sqlite:///paidonce.db")
    assert "chmod" not in ended.said


def test_what_we_create_is_readable_by_its_owner_only(command: Command) -> None:
    """Whatever the umask."""
    fresh = command.folder / "fresh.db"
    assert command.run("migrate", umask=0, changes={"PAIDONCE_DATABASE_URL": f"sqlite:///{fresh}"}).code == 0
    assert {oct(path.stat().st_mode & 0o777) for path in command.folder.glob("fresh.db*")} == {"0o600"}


def test_secrets_in_an_env_file_that_everybody_can_read_are_refused(command: Command) -> None:
    file = command.folder / ".env"
    keys = "STRIPE_PUBLISHABLE_KEY=pk_test_canary2\nSTRIPE_SECRET_KEY=sk_test_canary1"
    file.write_text(f"PAIDONCE_SHOP_NAME=Canary\n{keys}\nOURS_TOKEN=canary\n")
    file.chmod(0o644)
    ended = command.serve()
    assert refused(ended, ".env", "OURS_TOKEN, STRIPE_SECRET_KEY", "chmod 600 .env")
    assert "canary" not in ended.said.lower()


def test_an_env_file_of_ones_own_or_without_secrets_is_fine(command: Command) -> None:
    file = command.folder / ".env"
    file.write_text("OURS_TOKEN=canary\n")
    file.chmod(0o640)
    assert OPEN in command.serve().said
    # The twins' values stand in the package, so they are nobody's secrets.
    file.write_text("".join(f"{name}={value}\n" for name, value in TWINS.items()) + "PAIDONCE_SHOP_NAME=Ours\n")
    file.chmod(0o644)
    assert OPEN in command.serve().said


@pytest.mark.parametrize("command_name", ["worker", "recover"])
def test_the_worker_is_guarded_as_well(command: Command, command_name: str) -> None:
    command.database.chmod(0o644)
    arguments = ["--once"] if command_name == "recover" else []
    assert refused(command.run(command_name, *arguments), "every user of this machine can read")


def test_all_that_is_wrong_is_told_at_once(command: Command) -> None:
    command.database.chmod(0o644)
    ended = command.serve(**STRIPE_LIVE, **PAYPAL, PAIDONCE_DEMO="1")
    assert refused(ended, "PAIDONCE_DEMO", "mixed", "chmod o=")


# ── A host's own application ──────────


class Orders(HostStore):
    """A store over a host's own tables; it is never asked here."""


async def nobody() -> None:
    """No user."""


def hosted(environment: Mapping[str, str], store: Any = None) -> Payments:
    return Payments(
        store=store or SqlStore(),
        current_user=nobody,
        return_path="/back?payment={payment}",
        environment=environment,
    )


def test_a_hosts_own_application_is_guarded_by_the_same_code(sqlite_url: str) -> None:
    environment = {**STRIPE_LIVE, **PAYPAL, "PAIDONCE_DATABASE_URL": sqlite_url}
    with pytest.raises(ConfigError, match="Live and test mode are mixed"):
        hosted(environment)


@pytest.mark.parametrize("settings", [STRIPE_LIVE, PUBLIC])
async def test_a_hosts_debug_mode_is_refused_in_public_and_with_live_keys(
    sqlite_url: str, settings: dict[str, str]
) -> None:
    environment = {"PAIDONCE_DATABASE_URL": sqlite_url, "PAIDONCE_WORKER": "0"}
    with pytest.raises(ConfigError, match="Debug mode is on"):
        async with hosted({**environment, **settings}).lifespan(FastAPI(debug=True)):
            raise AssertionError("it started")
    async with hosted({**environment, **settings}).lifespan(FastAPI()):
        pass
    async with hosted(environment).lifespan(FastAPI(debug=True)):
        pass


def test_a_hosts_database_file_is_judged_once_it_is_in_public(sqlite_url: str) -> None:
    Path(sqlite_url.removeprefix("sqlite:///")).chmod(0o644)
    environment = {"PAIDONCE_DATABASE_URL": sqlite_url}
    assert hosted(environment, Orders()).settings.https is False
    with pytest.raises(ConfigError, match="every user of this machine can read"):
        hosted({**environment, **PUBLIC}, Orders())
