"""A failure as a story that a person can follow: the promise, who did what, both books, and how to see it again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from paidonce.ports import Transaction
from paidonce.prove.checks import INVARIANTS, Violation
from paidonce.prove.flows import flows
from paidonce.prove.regressions import UNTOLD, Regression, load, read
from paidonce.prove.script import Outcome, Script, read_script
from paidonce.prove.story import save, story
from paidonce.prove.world import Move, Setup, Stage, World


def paid(gateway: int) -> tuple[Move, ...]:
    """Ann pays a mug and comes back."""
    going: Move = ("go", 0, 99)
    return (("order", 0, 0, 0), going, ("start", 0, gateway, 0), going, ("agree", 0, 0), ("complete", 0, 0), going)


AT_ONCE = Setup(calm=False)


def broken(stage: Stage, script: Script) -> Outcome:
    """The script, and a lost piece of stock behind its back, as the checks find it."""
    world = script.play(stage).world

    async def lose(tx: Transaction) -> None:
        await tx.execute("UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'mug'")

    stage.books.write(lose)
    with pytest.raises(Violation) as found:
        world.watch.safety()
    return Outcome(script, world, found.value)


def section(told: str, title: str) -> list[str]:
    """The lines of one part of a story."""
    (part,) = [one for one in told.split("\n\n") if one.splitlines()[0].startswith(title)]
    return [line.strip() for line in part.splitlines()[1:]]


@pytest.mark.parametrize("gateway", [0, 1])
def test_a_broken_promise_is_told_from_its_beginning_to_its_books(stage: Stage, gateway: int) -> None:
    outcome = broken(stage, Script(AT_ONCE, paid(gateway)))
    name = stage.names[gateway]
    told = story(outcome, origin="seed 7")

    promised = section(told, "What was promised")
    assert promised == [f"I3: {INVARIANTS['I3']}.", "Broken: 2 mug on hand, but 3 by movements"]
    happened = section(told, "What happened")
    assert happened[0].endswith("#1 Ann orders 1 mug")
    assert f"Ann starts to pay ord_000001 by {name}" in happened[1]
    assert happened[-2] == "told: pay_000003 is captured, the order paid"
    assert happened[-1] == ">>> I3: 2 mug on hand, but 3 by movements"
    heads, *rows = section(told, "Both books")
    assert heads.split() == ["gateway", "object", "ours", "theirs"]
    assert len(rows) >= 1
    for row in rows:
        *_, ours, _, theirs, currency = row.split()
        assert (ours, currency) == (theirs, "EUR"), "the books of this run are equal, only the stock is not"
    assert " ".join(section(told, "Orders")[1].split()) == "ord_000001 usr_ann paid none 19.99 EUR 19.99 EUR"
    payment = section(told, "Payments")[1].split()
    assert payment[:3] == ["pay_000003", "ord_000001", name]
    assert payment[4:] == ["captured", "none", "19.99", "EUR", "no", "-"]
    assert section(told, "Stock")[1].split() == ["mug", "2", "0"]
    assert f"trace hash: {outcome.world.digest()}" in section(told, "Run")
    assert "xxxxx" not in told, "ids are short"


def test_columns_are_aligned(stage: Stage) -> None:
    told = story(broken(stage, Script(AT_ONCE, (*paid(0), ("order", 1, 2, 0), ("go", 0, 99)))))
    table = next(part for part in told.split("\n\n") if part.startswith("Orders")).splitlines()[1:]
    assert len(table) == 3
    assert len({line.rstrip().rfind("EUR") for line in table[1:]}) == 1
    assert len({len(line) for line in table}) == 1, "the last column is money, and money ends at one edge"


def test_money_that_only_the_gateway_knows_of_is_shown_on_its_side(stage: Stage) -> None:
    number = stage.names.index("stripe")
    outcome = Script(AT_ONCE, paid(number)[:5]).play(stage)
    with pytest.raises(Violation) as found:
        outcome.world.watch.liveness(stage.twins)
    told = story(replace(outcome, violation=found.value))
    rows = section(told, "Both books")[1:]
    assert any(row.startswith("stripe") and "0.00 EUR" in row and row.endswith("<<< differs") for row in rows)
    assert section(told, "What was promised")[0].startswith("I1: ")


def test_where_it_crashed_and_what_was_under_way(stage: Stage) -> None:
    moves = (*paid(0)[:6], ("go", 0, 1, "crash before"), ("complete", 0, 1), ("recover", 0), ("go", 0, 1))
    told = story(Script(AT_ONCE, moves).play(stage))
    happened = "\n".join(section(told, "What happened"))
    assert ": crash before\nprocess 0 is killed" in happened
    under_way = section(told, "Under way")
    assert [line.split(", before its ")[0] for line in under_way] == [
        "#4 [1] Ann's browser comes back for pay_000003",
        "#5 [0] a worker looks for what is due",
    ]
    assert all(", before its " in line for line in under_way)
    promised, not_asked = section(told, "What was promised")
    assert promised == "All that has to be true at any moment, and nothing is broken."
    assert "(I1)" in not_asked
    assert "(I9) was not asked" in not_asked
    assert ">>>" not in told


def test_only_a_calm_asks_all_ten(stage: Stage) -> None:
    told = story(Script(Setup(calm=True), paid(0)).play(stage))
    assert section(told, "What was promised") == ["All ten invariants, and nothing is broken."]


def test_numbered_faults_are_named(stage: Stage) -> None:
    told = story(Script(AT_ONCE, paid(0), {3: "503"}).play(stage))
    assert "Port 3 of the run ends with: 503." in section(told, "How the world began")


def test_every_part_of_a_setup_has_its_words(stage: Stage) -> None:
    plain = section(story(Script(Setup()).play(stage)), "How the world began")
    for name, value in asdict(Setup()).items():
        flipped = Setup(**{**asdict(Setup()), name: 1 if type(value) is int else not value})
        assert section(story(Script(flipped).play(stage)), "How the world began") != plain, name


def test_what_banks_repeat_in_the_calm_is_told_once(stage: Stage) -> None:
    outcome = Script(Setup(), paid(0)).play(stage)
    happened = section(story(outcome), "What happened")
    calm = happened[happened.index("— all faults stop —") :]
    said = [line for line in calm if line.startswith("at ")]
    assert len(said) == len(set(said))
    assert sum(line.endswith(" s pass") for line in calm) > 1, "time that passes is told each time"


# ── Again ──────────


def test_how_to_see_it_again(stage: Stage) -> None:
    outcome = broken(stage, Script(AT_ONCE, paid(0)))
    seed = section(story(outcome, origin="seed 7"), "Run")
    assert "repeat the seed's whole run: paidonce prove --seed 7" in seed
    kept = section(story(outcome, file=Path("kept/i3.json")), "Run")
    assert kept[-1] == "repeat it: paidonce prove --replay kept/i3.json"
    assert section(story(outcome, origin="kept/i3.json"), "Run")[-1] == kept[-1]
    for origin in ("", "flow 'pay' with port 3: 503"):
        assert not any("--seed" in line for line in section(story(outcome, origin=origin), "Run"))


def test_a_story_carries_its_own_script(stage: Stage) -> None:
    script = Script(AT_ONCE, paid(1), {3: "503"})
    told = story(broken(stage, script), origin="seed 7")
    assert read_script(told[told.index("\n  {\n") :]) == script


# ── Secrets ──────────


def test_client_values_never_appear(stage: Stage, tmp_path: Path) -> None:
    checked = 0
    for script in list(flows(stage).values())[::5]:
        outcome = script.play(stage)
        told = story(outcome) + save(outcome, tmp_path).read_text("utf-8")
        refs = {ref for (ref,) in stage.books.rows("SELECT gateway_ref FROM payments")}
        secrets = {value for tab in outcome.world.tabs for value in tab.client.values()} - refs
        checked += len(secrets)
        assert [secret for secret in secrets if secret in told] == []
        assert "_secret_" not in told
    assert checked > 10


def test_a_client_value_in_an_errors_text_is_blotted_out(stage: Stage, tmp_path: Path) -> None:
    outcome = Script(AT_ONCE, paid(stage.names.index("stripe"))[:5]).play(stage)
    (tab,) = outcome.world.tabs
    secret = tab.client["client_secret"]
    outcome.world.engine.tell(f"#9 ended: SomeError: {secret} was refused")
    outcome = replace(outcome, violation=Violation("I10", f"it ended in SomeError: {secret} was refused"))
    told, kept = story(outcome), save(outcome, tmp_path).read_text("utf-8")
    assert secret not in told
    assert secret not in kept
    assert "#9 ended: SomeError: (client value) was refused" in told
    assert ">>> I10: it ended in SomeError: (client value) was refused" in told


# ── Kept files ──────────


def test_a_run_is_kept_once_and_read_again(stage: Stage, tmp_path: Path) -> None:
    script = Script(replace(AT_ONCE, verdict=1), paid(1), {3: "503"})
    outcome = broken(stage, script)
    path = save(outcome, tmp_path / "new", origin="seed 7")
    assert path == tmp_path / "new" / f"i3-{outcome.world.digest()}.json"
    kept = read(path)
    assert (kept.breaks, kept.origin, kept.script) == ("I3", "seed 7", script)
    assert kept.story == f"{UNTOLD}I3: 2 mug on hand, but 3 by movements"
    assert read_script(path.read_text("utf-8")) == script
    assert [one.name for one in load(path.parent)] == [path.stem]

    told = replace(kept, story="A mug was lost behind the shop's back.")
    path.write_text(told.to_text(), "utf-8")
    assert save(outcome, path.parent, origin="seed 8") == path
    assert read(path) == told, "what somebody wrote down stays"


def test_another_run_does_not_take_the_place_of_a_kept_one(stage: Stage, tmp_path: Path) -> None:
    path = save(Script(AT_ONCE, paid(0)).play(stage), tmp_path, "mine")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"mine\.json holds another run already"):
        save(Script(AT_ONCE, paid(1)).play(stage), tmp_path, "mine")
    assert path.read_bytes() == before
    assert path.name == "mine.json"


GOOD = json.loads(Regression("x", "A story.", "I3", "seed 1", Script(moves=paid(0))).to_text())


def without(name: str) -> str:
    """The good file without one of its fields."""
    return json.dumps({key: value for key, value in GOOD.items() if key != name})


def with_script(**changed: object) -> str:
    """The good file with something else in its script."""
    return json.dumps({**GOOD, "script": {**GOOD["script"], **changed}})


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "Expecting value"),
        ("[]", "a kept run is an object of breaks, origin, script, story"),
        (without("story"), "a kept run is an object"),
        (json.dumps({**GOOD, "breaks": "I99"}), "there is no invariant 'I99'"),
        (json.dumps({**GOOD, "origin": 7}), "origin is a text, not 7"),
        (json.dumps({**GOOD, "script": []}), "a script is an object"),
        (with_script(moves=[["dance", 1]]), "move 1: there is no move 'dance'"),
        (with_script(moves=[["order", 0, 0, 0], ["go"]]), "move 2 (go): missing a required argument: 'number'"),
        (with_script(moves=[["go", 0, "all"]]), "move 1 (go): steps can't be 'all'"),
        (with_script(moves=[["go", 0, 1, "boom"]]), "move 1 (go): no port can end with 'boom'"),
        (with_script(moves=[["bank", 0, "pend", {"ref": "#x"}]]), "move 1 (bank): params can't be"),
        (with_script(moves={}), "the moves must be a list"),
        (with_script(faults={"3": "boom"}), "no port can end with 'boom'"),
        (with_script(faults={"three": "503"}), "a fault's port is a number, not 'three'"),
        (with_script(setup={"colour": "red"}), "the setup has no colour"),
        (with_script(setup={"manual": 1}), "manual of the setup is of type bool, not 1"),
        (with_script(more=1), "a script has no more"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_name_and_what_is_wrong(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"^odd\.json: ") as refused:
        read(path)
    assert wrong in str(refused.value)
    (tmp_path / "good.json").write_text(json.dumps(GOOD), "utf-8")
    assert read(tmp_path / "good.json").script == Script(moves=paid(0)), "without that it would be good"


def test_a_setup_may_say_less_than_all(stage: Stage) -> None:
    """A field that is added later does not make the kept files useless."""
    script = read_script(with_script(setup={"manual": True}))
    assert script.setup == Setup(manual=True)
    assert isinstance(script.open(stage), World)
