"""Gateways that are broken on purpose: the contract suite finds each fault, and says in words what the gateway did."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract.runs import Run, run_suite

EXAMPLE = Path(__file__).parents[2] / "examples" / "gateways" / "acme_pay" / "acme_pay"


@dataclass(frozen=True)
class Fault:
    """A change to one file of a sound gateway, and a test that has to fail for it, with words of its reason."""

    name: str
    file: str
    before: str
    after: str
    test: str
    told: str


FAULTS = (
    Fault(
        "a new key for every create",
        "gateway.py",
        "key=request.idempotency_key",
        "key=__import__('uuid').uuid4().hex",
        "test_creating_again_with_the_same_key_gives_the_same_object",
        "the ref of a repeated `create` is",
    ),
    Fault(
        "an approval taken for money",
        "wire.py",
        '"approved": Progress.APPROVED',
        '"approved": Progress.CAPTURED',
        "test_a_confirmed_payment_is_captured_once_however_often_we_ask",
        "It raised OutcomeUnknown",
    ),
    Fault(
        "a decline told for ever",
        "gateway.py",
        '        snapshot = _snapshot(await self._call("GET", _path(ref)))\n',
        '        answer = await self._call("GET", _path(ref))\n'
        "        snapshot = replace(_snapshot(answer), decline=_readable(answer, wire.decline))\n",
        "test_an_old_decline_is_told_by_no_reading_where_only_the_capture_moves_money",
        "it must be None.",
    ),
    Fault(
        "an expired authorization that is an error",
        "gateway.py",
        '"already_captured", "declined", "expired", ',
        '"already_captured", "declined", ',
        "test_a_reservation_that_ran_out_ends_cleanly",
        "It raised GatewayRefused",
    ),
    Fault(
        "refunds that wait left out of the list",
        "wire.py",
        "return tuple(refund(one, charge_id) for one in found)",
        'return tuple(refund(one, charge_id) for one in found if one["status"] != "pending")',
        "test_a_refund_may_wait_and_then_succeed",
        "the progress in the list is []; it must be [PENDING].",
    ),
    Fault(
        "a server error taken for a no",
        "gateway.py",
        "if response.status >= 500 or response.status < 400 or code is None:",
        "if response.status < 400 or code is None:",
        "test_what_cannot_be_read_is_unknown[refund-own_refusal_as_server_error]",
        "it must raise OutcomeUnknown.",
    ),
    Fault(
        "any signature",
        "webhook.py",
        'if not hmac.compare_digest(expected, given.encode("utf-8", "replace")):',
        "if not given:",
        "test_a_body_that_differs_by_one_byte_is_refused",
        "were accepted: changed bodies.",
    ),
    Fault(
        "a value in a problem",
        "__init__.py",
        '    return ["ACME_PAY_KEY is no key of AcmePay:',
        '    return [f"ACME_PAY_KEY {key} is no key of AcmePay:',
        "test_a_nonsensical_setting_is_named_without_its_value",
        "a problem repeats the setting's value",
    ),
    Fault(
        "a body in the log",
        "gateway.py",
        'log.info("gateway_call", method=method,',
        'log.info("gateway_call", body=response.body, method=method,',
        "test_no_secret_is_written_anywhere",
        "there must be no place that tells a secret; found: ['the log'].",
    ),
    Fault(
        "hooks that are not there",
        "contract.py",
        "async def confirm(",
        "async def agree(",
        "test_a_confirmed_payment_is_captured_once_however_often_we_ask",
        "The gateway's module `contract` has no `confirm`. Write it (docs/adding-a-gateway.md, section 6)",
    ),
    Fault(
        "a word that means nothing",
        "contract.py",
        'without = {"dispute":',
        'without = {"disputes":',
        "test_every_amount_that_a_gateway_accepts_comes_back_unchanged",
        "contract: `without` names ['disputes']; it may name ['dashboard_refund',",
    ),
)


TESTS = sorted({fault.test.partition("[")[0] for fault in FAULTS})


def copy(folder: Path, name: str) -> Path:
    """The sound gateway under another name, so that one run tests many."""
    package = folder / name
    shutil.copytree(EXAMPLE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*package.glob("*.py"), *package.glob("assets/*.js")]:
        file.write_text(file.read_text("utf-8").replace("acme_pay", name), "utf-8")
    return package


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The suite's tests that find the faults, run on every broken gateway and on a sound one."""
    folder = tmp_path_factory.mktemp("broken")
    copy(folder, "sound")
    for number, fault in enumerate(FAULTS):
        file = copy(folder, f"broken{number}") / fault.file
        text = file.read_text("utf-8")
        assert text.count(fault.before) == 1, f"{fault.file} has changed: {fault.before}"
        file.write_text(text.replace(fault.before, fault.after), "utf-8")
    names = [f"broken{number}" for number in range(len(FAULTS))]
    return run_suite(folder, "sound", *names, options=("-k", " or ".join(TESTS)))


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=lambda number: FAULTS[number].name)
def test_a_fault_is_found_and_told_in_words(ran: Run, number: int) -> None:
    fault, gateway = FAULTS[number], f"broken{number}"
    assert fault.told in ran.failed(gateway).get(fault.test, "the test passed")
    # What is printed: the reason, the test and its sentence.
    assert fault.told in ran.told(gateway)
    assert fault.test.partition("[")[0] in ran.told(gateway)


def test_no_failure_is_told_by_a_traceback(ran: Run) -> None:
    assert "Traceback" not in ran.output
    assert len(ran.output.splitlines()) < 400


def test_the_sound_gateway_passes_what_the_broken_ones_fail(ran: Run) -> None:
    assert ran.failed("sound") == {}
    assert {test.partition("[")[0] for test in ran.passed("sound")} == set(TESTS)
    assert ran.told("sound") == ""
