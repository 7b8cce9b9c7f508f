"""Settings of every gateway: what is missing or wrong is named with its fix, and no value is ever told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway

if TYPE_CHECKING:
    from contract.conftest import Bench, Case

# A value that fits no setting, and that no message may repeat.
CANARY = "not a valid value canary"


def configure(bench: Bench, environment: Mapping[str, str]) -> Gateway | ConfigError | None:
    try:
        return bench.case.provider.configure(environment, bench.wire, bench.clock)
    except ConfigError as error:
        return error


def assert_named(bench: Bench, error: ConfigError) -> None:
    """Each problem names one of the gateway's settings and is a sentence that goes on to say what to do."""
    for problem in error.problems:
        assert any(name in problem for name in bench.case.provider.settings), problem
        assert len(problem.split()) > 5, problem
        assert problem.endswith("."), problem


def test_without_its_settings_a_gateway_is_not_offered(bench: Bench) -> None:
    assert configure(bench, {}) is None
    assert configure(bench, {"PATH": "/bin", "PAIDONCE_SECRET_KEY": "x"}) is None
    assert configure(bench, dict.fromkeys(bench.case.environment, "")) is None


def test_every_setting_that_the_sandbox_uses_is_declared_and_belongs_to_the_gateway(case: Case) -> None:
    assert set(case.environment) <= set(case.provider.settings)
    assert len(set(case.provider.settings)) == len(case.provider.settings)
    assert all(name == name.upper() and name.isascii() for name in case.provider.settings)


def test_configuring_calls_nobody(bench: Bench) -> None:
    assert configure(bench, bench.case.environment) is not None
    assert bench.wire.sent == []


def test_a_missing_setting_is_optional_or_named(bench: Bench) -> None:
    for name in bench.case.environment:
        rest = {key: value for key, value in bench.case.environment.items() if key != name}
        outcome = configure(bench, rest)
        if isinstance(outcome, ConfigError):
            assert any(name in problem for problem in outcome.problems)
            assert_named(bench, outcome)


def test_a_nonsensical_setting_is_named_without_its_value(bench: Bench) -> None:
    refused = 0
    for name in bench.case.environment:
        outcome = configure(bench, {**bench.case.environment, name: CANARY})
        if isinstance(outcome, ConfigError):
            refused += 1
            assert any(name in problem for problem in outcome.problems)
            assert "canary" not in str(outcome)
            assert_named(bench, outcome)
    assert refused > 0


def test_the_webhook_setting_is_declared_and_used_by_the_sandbox(bench: Bench) -> None:
    name, other = bench.hooks.webhook_setting
    assert name in bench.case.provider.settings
    assert bench.case.environment[name] != other
    assert isinstance(configure(bench, {**bench.case.environment, name: other}), bench.gateway.__class__)


def test_contradictions_stop_the_start(bench: Bench) -> None:
    assert bench.case.hooks.contradictions
    for change in bench.case.hooks.contradictions:
        outcome = configure(bench, {**bench.case.environment, **change})
        assert isinstance(outcome, ConfigError), change
        assert "canary" not in str(outcome)
        assert_named(bench, outcome)


def test_no_secret_setting_is_in_the_gateways_repr(bench: Bench) -> None:
    secrets = [value for name, value in bench.case.environment.items() if "SECRET" in name or name.endswith("_KEY")]
    shown = repr(bench.gateway) + repr(vars(bench.gateway))
    assert not [value for value in secrets if value in shown and not value.startswith("pk_")]


def test_the_gateway_says_what_the_core_has_to_know(bench: Bench) -> None:
    gateway = bench.gateway
    assert gateway.name == bench.case.provider.name
    assert gateway.title.strip()
    # Without a void, a payment that holds its order's capture right would lock the order for ever.
    assert gateway.can_void or not gateway.captures_in_browser
    assert gateway.create_key_life_seconds > 0
    assert gateway.capture_key_life_seconds > 0
    assert gateway.refund_key_life_seconds > 0


@pytest.mark.parametrize("public_url", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/"])
def test_the_sandboxs_settings_stay_below_its_address(case: Case, public_url: str) -> None:
    mounted = f"http://127.0.0.1:9000/{case.provider.name}"
    addresses = [value for value in case.provider.sandbox_environment(public_url).values() if "://" in value]
    assert addresses
    assert all(address == mounted or address.startswith(mounted + "/") for address in addresses)
