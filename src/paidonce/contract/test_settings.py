"""Settings of every gateway: what is missing or wrong is named with its fix, and no value is ever told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from paidonce.contract.bench import Bench, Case
from paidonce.contract.expect import equal, none_of, some
from paidonce.contract.marks import needs
from paidonce.errors import ConfigError
from paidonce.gateways.base import Gateway

pytestmark = pytest.mark.asyncio

# A value that fits no setting, and that no message may repeat.
CANARY = "not a valid value canary"


def configure(bench: Bench, environment: Mapping[str, str]) -> Gateway | ConfigError | None:
    """What `configure` makes of `environment`; an error of another kind fails the test."""
    try:
        return bench.case.provider.configure(environment, bench.wire, bench.clock)
    except ConfigError as error:
        return error


def assert_named(bench: Bench, error: ConfigError) -> None:
    """Each problem names one of the gateway's settings and is a sentence that goes on to say what to do."""
    for problem in error.problems:
        named = any(name in problem for name in bench.case.provider.settings)
        assert named, f"a problem names none of the gateway's settings: {problem!r}"
        assert len(problem.split()) > 5, f"a problem does not say how to mend it: {problem!r}"
        assert problem.endswith("."), f"a problem is no sentence: {problem!r}"
        assert "canary" not in problem, f"a problem repeats the setting's value: {problem!r}"


async def test_without_its_settings_a_gateway_is_not_offered(bench: Bench) -> None:
    """`configure` gives None where none of the gateway's settings is set, or all of them are empty."""
    equal("the gateway without any settings", configure(bench, {}), None)
    equal("the gateway with others' settings", configure(bench, {"PATH": "/bin", "PAIDONCE_SECRET_KEY": "x"}), None)
    empty = dict.fromkeys(bench.case.environment, "")
    equal("the gateway with empty settings", configure(bench, empty), None)


async def test_every_setting_that_the_sandbox_uses_is_declared_and_belongs_to_the_gateway(case: Case) -> None:
    """`provider.settings` names every setting that is read, once, in capitals."""
    settings = case.provider.settings
    some("settings in `provider.sandbox_environment`", case.environment)
    none_of("undeclared setting of the sandbox", set(case.environment) - set(settings))
    equal("the number of different settings", len(set(settings)), len(settings))
    none_of("name that is not in capitals", [name for name in settings if name != name.upper() or not name.isascii()])


async def test_configuring_calls_nobody(bench: Bench) -> None:
    """`configure` builds the gateway and sends nothing."""
    assert isinstance(bench.gateway, object)
    equal("what was sent", bench.wire.sent, [])
    equal("notes written", bench.notebook.written, 0)


async def test_a_missing_setting_is_optional_or_named(bench: Bench) -> None:
    """A setting that is left out is optional, or the ConfigError names it."""
    for name in bench.case.environment:
        rest = {key: value for key, value in bench.case.environment.items() if key != name}
        outcome = configure(bench, rest)
        if isinstance(outcome, ConfigError):
            told = any(name in problem for problem in outcome.problems)
            assert told, f"without {name} the problems don't name it: {outcome.problems}"
            assert_named(bench, outcome)


async def test_a_nonsensical_setting_is_named_without_its_value(bench: Bench) -> None:
    """Nonsense in a setting is refused by name, and the value is not repeated; at least one setting is checked so."""
    refused = 0
    for name in bench.case.environment:
        outcome = configure(bench, {**bench.case.environment, name: CANARY})
        if isinstance(outcome, ConfigError):
            refused += 1
            told = any(name in problem for problem in outcome.problems)
            assert told, f"with nonsense in {name} the problems don't name it: {outcome.problems}"
            assert_named(bench, outcome)
    assert refused > 0, "nonsense is accepted in every setting."


@needs("signed webhooks")
async def test_the_webhook_setting_is_declared_and_used_by_the_sandbox(bench: Bench) -> None:
    """What webhooks are verified with is a setting, and another endpoint's value is accepted as well."""
    name, other = bench.hooks.webhook_setting
    assert name in bench.case.provider.settings, f"`provider.settings` lacks {name!r} of `contract.webhook_setting`."
    assert bench.case.environment[name] != other, "`contract.webhook_setting` holds the sandbox's own value."
    outcome = configure(bench, {**bench.case.environment, name: other})
    assert isinstance(outcome, bench.gateway.__class__), f"another endpoint's {name} is refused: {outcome}"


async def test_contradictions_stop_the_start(bench: Bench) -> None:
    """Each of `contract.contradictions` is a ConfigError that names a setting and a fix, and no value."""
    some("changes in `contract.contradictions`", bench.hooks.contradictions)
    for change in bench.hooks.contradictions:
        outcome = configure(bench, {**bench.case.environment, **change})
        assert isinstance(outcome, ConfigError), f"`configure` accepted {dict(change)}."
        assert_named(bench, outcome)


async def test_no_secret_setting_is_in_the_gateways_repr(bench: Bench) -> None:
    """`repr` of the gateway and of what it holds shows no secret setting."""
    named = [name for name in bench.case.environment if "SECRET" in name or name.endswith("_KEY")]
    if bench.has("secrets"):
        some("secret settings: names with SECRET, or ending with _KEY", named)
    else:
        none_of("secret setting of a gateway without secrets", named)
    shown = repr(bench.gateway) + repr(vars(bench.gateway))
    secret = [name for name in named if "PUBLISHABLE" not in name and bench.case.environment[name] in shown]
    none_of("secret setting in the gateway's repr", secret)


async def test_the_gateway_says_what_the_core_has_to_know(bench: Bench) -> None:
    """The gateway has a title, positive key lives, the provider's name, and can void if the browser moves money."""
    gateway = bench.gateway
    equal("the gateway's name", gateway.name, bench.case.provider.name)
    some("a title", gateway.title.strip())
    # Without a void, a payment that holds its order's capture right would lock the order for ever.
    assert gateway.can_void or not gateway.captures_in_browser, "it captures in the browser and can't void."
    lives = [gateway.create_key_life_seconds, gateway.capture_key_life_seconds, gateway.refund_key_life_seconds]
    none_of("key life that is not positive", [life for life in lives if life <= 0])


@needs("twin")
@pytest.mark.parametrize("public_url", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/"])
async def test_the_sandboxs_settings_stay_below_its_address(case: Case, public_url: str) -> None:
    """Addresses in `provider.sandbox_environment` lie below the address where the twin is mounted."""
    mounted = f"http://127.0.0.1:9000/{case.provider.name}"
    addresses = [value for value in case.provider.sandbox_environment(public_url).values() if "://" in value]
    some("an address of the twin among the sandbox's settings", addresses)
    outside = [one for one in addresses if one != mounted and not one.startswith(mounted + "/")]
    none_of(f"address outside of {mounted}", outside)
