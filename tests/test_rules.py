"""Rules as a list: what is stored of a policy, its digest, several rules of the user's own, and who names a rule."""

from __future__ import annotations

import ast
import hashlib
from datetime import timedelta
from decimal import Decimal, getcontext, localcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

import exitfsm
from exitfsm import Bar
from exitfsm.audit import whatif
from exitfsm.config import load_config
from exitfsm.custom_rules import answer_of
from exitfsm.engine import Engine
from exitfsm.errors import ConfigError
from exitfsm.events import ExitTriggered
from exitfsm.policy import (
    LATER,
    RULES,
    CustomRules,
    ExitPolicy,
    Level,
    OneRule,
    Rule,
    bars_before_entry,
    rules_off,
    rules_on,
    typed,
)
from exitfsm.policy.exit_policy import Format1
from exitfsm.policy.listed import plan_of
from exitfsm.position import NO_STATES, fold_bars, levels, refolded, restored, saved
from exitfsm.recorded_bars import Seen
from exitfsm.simulate import simulate
from exitfsm.store import ExitStore
from exitfsm.testing.given import after, bar, given, like, opened, policy, seen, to_open
from exitfsm.values import EXACT, ExitType, Side

PACKAGE = Path(exitfsm.__file__).parent

# --- what is stored of a policy ---------------------------------------------------------------------------------------

#: Every section with its defaults, as a hash: they are permanent. A new section is a new line; no line ever changes.
DEFAULTS = {
    "enabled": "b5bea41b6c62",
    "evaluate_on": "97959247360c",
    "profit_taking": "b77cbbd8b4e4",
    "stop_loss": "7a072b850e2a",
    "trailing_stop": "b9671800cf59",
    "atr_levels": "7719bf875a32",
    "break_even": "66548f84a189",
    "time_limit": "86676babbc57",
    "end_of_session": "8468b25d6599",
    "target_ladder": "5e17e612371b",
    "custom_rule": "6f7c9dc58915",
    "partial_fills": "338b9762656f",
    "exit_cooldown_seconds": "983bd614bb5a",
    "price_guard": "2ea13d36afc9",
    "custom_rules": "57faf07118bc",
    "targets": "7dba634a8fdf",
}


def as_hash(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:12]


def test_defaults_are_permanent() -> None:
    assert {name: as_hash(ExitPolicy().section(name)) for name in ExitPolicy.__struct_fields__} == DEFAULTS


def test_the_sections_of_format_1_stand_in_every_policy_and_the_later_ones_only_where_they_say_something() -> None:
    assert ExitPolicy().digest() == "dbec64c2e6ff"
    assert list(msgspec.json.decode(msgspec.json.encode(ExitPolicy()))) == list(Format1.__struct_fields__)

    default = ExitPolicy(custom_rules=CustomRules())  # type: ignore[call-arg]  # a later section, made from its rule
    assert default == ExitPolicy()
    assert msgspec.json.encode(default) == msgspec.json.encode(ExitPolicy())

    named = policy(custom_rules={"rules": [{"name": "mine"}]})
    stored = msgspec.json.encode(named)
    assert msgspec.json.decode(stored)["custom_rules"]["rules"] == [{"name": "mine", "version": "1"}]
    assert msgspec.json.decode(stored, type=ExitPolicy) == typed(named) == named
    assert named.digest() != ExitPolicy().digest()


def test_a_policy_that_was_stored_before_a_section_was_thought_of_reads_back_with_its_default() -> None:
    old = msgspec.json.encode({name: getattr(ExitPolicy(), name) for name in Format1.__struct_fields__})
    assert msgspec.json.decode(old, type=ExitPolicy).section("custom_rules") == LATER["custom_rules"]


def test_each_rule_has_its_section_and_says_how_it_is_told_from_others_with_its_reason() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert isinstance(ExitPolicy().section(rule.name), rule.section)
    for rule in RULES:
        same = [other for other in RULES if other.reason is rule.reason and other is not rule]
        told_apart = rule.label or rule.stands_in_for or rule.reason is ExitType.CUSTOM
        assert told_apart or all(other.label or other.stands_in_for for other in same), rule.name


# --- several rules of the user's own ----------------------------------------------------------------------------------

TWO = {"custom_rules": {"enabled": True, "rules": [{"name": "quiet"}, {"name": "loud", "version": "3"}]}}


def test_given_several_custom_rules_then_the_first_reason_counts_and_its_rule_is_recorded() -> None:
    asked: list[str] = []

    def rule(name: str, price: str) -> Any:
        def says(p: Any, bar: Bar) -> str | None:
            asked.append(name)
            return f"{name} minds" if bar.close == Decimal(price) else None

        return says

    rules = {
        ("one", "1"): rule("one", "101.5"),
        ("quiet", "1"): rule("quiet", "100.5"),
        ("loud", "3"): rule("loud", "100.7"),
    }
    config = load_config({**TWO, "custom_rule": {"enabled": True, "name": "one"}})
    bars = [bar(close, 60 * number) for number, close in enumerate(("100", "100.2", "100.7", "100.9"))]
    with ExitStore(":memory:") as store:
        [ended] = simulate(bars, config, store=store, rules=rules).exits
        assert ended.reason == "custom"
        [trigger] = (r.event for r in store.stream(ended.position_id) if isinstance(r.event, ExitTriggered))
        assert trigger.detail == "loud 3: loud minds"
        assert asked == ["one", "quiet", "loud"] * 2
        told = [Seen(one, None) for one in bars]
        assert whatif(store, lambda: told, rules=rules).reproduced
        with pytest.raises(ConfigError, match=r"'loud' version '3'.*custom_rules\.enabled=false leaves it out"):
            whatif(store, lambda: told, rules={key: rules[key] for key in rules if key[0] != "loud"})
    with pytest.raises(ConfigError, match="custom_rules names 'quiet' version '1'"):
        simulate(bars, load_config(TWO), rules={})


def test_given_a_rule_that_sets_the_precision_of_decimals_then_ours_is_as_it_was() -> None:
    def rounds(p: Any, bar: Bar) -> str | None:
        getcontext().prec = 3
        return None

    config = load_config({"custom_rule": {"enabled": True, "name": "rounds"}})
    held = given(opened()).position
    with localcontext(EXACT) as ours:
        answer_of({("rounds", "1"): rounds}, msgspec.structs.replace(held, policy=config.policy), bar("100", 60))
        assert getcontext().prec == ours.prec == EXACT.prec


def test_given_a_verdict_without_a_name_then_it_is_that_of_the_only_rule() -> None:
    s = given(opened(policy=policy(custom_rules={"rules": [{"name": "mine"}]})))
    s.when(seen("100.1", verdict="so")).then(like(ExitTriggered, reason="custom", detail="mine 1: so"))


def test_given_custom_rules_without_names_then_they_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are none; name at least one"):
        load_config({"custom_rules": {"enabled": True}})
    with pytest.raises(ConfigError, match=r"custom_rules\.rules\[0\]\.name: the rule has no name"):
        load_config({"custom_rules": {"rules": [{"name": " "}]}})
    assert load_config(TWO).policy.section("custom_rules").rules[1] == OneRule(name="loud", version="3")


# --- folded states ----------------------------------------------------------------------------------------------------


def test_states_that_cannot_be_read_are_lost_and_not_guessed() -> None:
    p = given(opened()).position
    assert saved(NO_STATES) == ""
    for text in ("", "{", "[]", '{"to": 1}', '{"to": "2024-01-01T00:00:00Z"}'):
        assert restored(p, text) == NO_STATES


class Counted(msgspec.Struct, frozen=True):
    bars: int


class Counting(Rule[CustomRules]):
    """Counts the bars that it is given."""

    name = "custom_rules"
    section = CustomRules
    reason = ExitType.CUSTOM
    state = Counted

    def fold(self, state: Counted | None, p: Any, bar: Bar) -> Counted:
        return Counted((state.bars if state is not None else 0) + 1)


def test_bars_that_are_not_accepted_are_not_folded_and_prices_that_start_over_begin_anew() -> None:
    p = given(opened(policy=policy())).position
    p.policy.__dict__["plan"] = p.policy.plan._replace(folding=(Counting(),))
    told = [bar(100, 0), bar(101, 60), bar(50, 120), bar(101, 180), bar("NaN", 240), bar(101, 180), bar(102, 300)]
    counts = [getattr(states.states["custom_rules"], "bars") for states in fold_bars(p, told) if states.to]  # noqa: B009
    assert counts == [1, 2, 3], "neither that of the entry, nor a spike, nor what is no price, nor one twice"
    other = Bar("ELSE", bar(7, 420).timestamp, 7, 7, 7, 7)
    assert refolded(p, [*told, other]) == refolded(p, told)
    text = saved(refolded(p, told))
    assert restored(p, text)[:2] == refolded(p, told)[:2]  # what was before the last bar is not saved
    assert refolded(p, [bar(103, 360)], restored(p, text)).states["custom_rules"] == Counted(4)
    split = [bar(50, 360), bar(50, 420), bar(51, 480)]
    assert refolded(p, [*told, *split]).states["custom_rules"] == Counted(2)


class Third(Counting):
    """A stop at 99 from the third bar on."""

    def stop(self, p: Any, at: Any, folded: Any) -> Level | None:
        state = folded.get(self.name)
        return Level(Decimal(99), ExitType.STOP_LOSS, Decimal(1), self.name) if state and state.bars > 2 else None


@pytest.mark.parametrize("kept", ["saved", "recorded", "lost"])
def test_given_a_folded_state_when_the_engine_restarts_then_its_stop_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    rule = (Third(),)
    plan = property(lambda policy: plan_of(policy)._replace(folding=rule, stops=rule))
    monkeypatch.setattr(ExitPolicy, "plan", plan)
    told = [bar("100.5", 60 * minute) for minute in range(1, 4)]
    with ExitStore(":memory:") as store:
        engine = Engine(store)
        p = engine.open(to_open(opened(policy=policy(stop_loss={"enabled": False}))))
        for one in told:
            assert list(engine.on_bar(one)) == []
        assert [
            level.price for level in levels(p, told[-1].timestamp, engine._slots[p.symbol].folded_of(p).states)[1]
        ] == [99]
        if kept == "saved":
            store.save_marks(engine.marks())
        again = Engine(store, bars_since=(lambda symbol, at: told) if kept == "recorded" else None)
        again.load()
        reason = [action.order.qty for action in again.on_bar(bar("98.9", 240))]  # type: ignore[union-attr]
        assert bool(reason) is (kept != "lost"), "a state that is lost is not guessed"


def test_what_each_rule_says_of_itself() -> None:
    everything = policy(
        atr_levels={"enabled": True},
        trailing_stop={"enabled": True},
        break_even={"enabled": True},
        time_limit={"enabled": True},
        end_of_session={"enabled": True},
        target_ladder={"enabled": True, "steps": [{"after_seconds": 60, "threshold_pct": "1"}]},
        custom_rule={"enabled": True, "name": "mine"},
        custom_rules={"enabled": True, "rules": [{"name": "other"}]},
    )
    p = given(opened(policy=everything)).position
    said = {}
    for rule in rules_on(everything):
        begins, due = rule.begins_pct(p), rule.due_at(p)
        words = [rule.brief(everything), rule.watches(p), rule.not_on_record(p, watched=True)]
        changes = [f"{name}: {value}" for one in rule.alternatives(everything) for name, value in one.items()]
        said[rule.name] = [*filter(None, words), *changes, *([f"{begins}"] if begins else []), *([due] if due else [])]
    assert said == {
        "profit_taking": ["target 2 %", "profit_taking.threshold_pct: 1", "profit_taking.threshold_pct: 4"],
        "stop_loss": ["stop 1 %", "stop_loss.threshold_pct: 0.5", "stop_loss.threshold_pct: 2"],
        "trailing_stop": [
            "trailing_stop.trail_pct: 0.5",
            "trailing_stop.trail_pct: 2",
            "trailing_stop.enabled: false",
            "1.0",
        ],
        "atr_levels": ["an average true range at the entry, so the fixed levels apply"],
        "break_even": ["1.0"],
        "time_limit": [p.opened_at + timedelta(seconds=everything.time_limit.max_seconds)],
        "end_of_session": ["end_of_session is on.", "the session's hours, so when end_of_session would be due"],
        "target_ladder": [],
        "custom_rule": [
            "The custom rule mine 1 has given no reason to exit.",
            "the answers of the custom rule while it gave no reason to exit",
        ],
        "custom_rules": [
            "The custom rules other 1 have given no reason to exit.",
            "the answers of the custom rules while they gave no reason to exit",
        ],
    }
    assert rules_off(everything) == []
    assert "trailing_stop" in rules_off(policy())
    assert bars_before_entry(everything) == everything.atr_levels.period + 1
    assert levels(p, p.opened_at)[1][0].rule is ExitType.STOP_LOSS, "without a range the fixed stop counts"
    plan = everything.plan
    everything.__dict__["plan"] = plan._replace(entry_stops=(Rule(), *plan.entry_stops))
    assert levels(p, p.opened_at)[1][0].rule is ExitType.STOP_LOSS, "one that has none leaves it to the next"
    with pytest.raises(NotImplementedError, match="says nothing of orders"):
        Counting().terms(everything)


def test_what_a_rule_leaves_out_says_nothing() -> None:
    rule: Rule[Any] = Rule()
    p, none = given(opened()).position, Decimal(0)
    assert rule.target(p, p.opened_at) is rule.entry_stop(p) is rule.moved_stop(p) is None
    assert rule.stop(p, p.opened_at, {}) is rule.next_stop(p, none) is rule.next_stop_at(p) is None
    assert rule.fold("state", p, bar(100, 60)) == "state"
    assert not rule.due(p, p.opened_at, None)
    assert rule.next_change_s(p, p.opened_at) is None
    assert not rule.orders(ExitType.CUSTOM)
    assert rule.loosens(Decimal(99), Decimal(98), 1)
    assert not rule.loosens(Decimal(99), Decimal(98), -1)
    [break_even] = (rule for rule in RULES if rule.name == "break_even")
    assert not break_even.loosens(Decimal(99), Decimal(100), 1), "after a purchase it moves again, further only"


def ladder(*after_s: int) -> dict[str, Any]:
    return {"enabled": True, "steps": [{"after_seconds": one, "threshold_pct": "1"} for one in after_s]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"break_even": {"enabled": True, "activation_pct": "1", "offset_pct": "1"}}, "1 is not allowed; must be less"),
        ({"target_ladder": {"enabled": True}}, "the ladder is enabled but has no steps"),
        ({"target_ladder": ladder(60, 120, 120)}, "120 is not allowed; must be greater than 120"),
        ({"custom_rule": {"enabled": True}}, "name"),
        ({"custom_rules": {"enabled": True}}, "rule"),
        ({"custom_rules": {"enabled": True, "rules": [{"name": " "}]}}, "name"),
        ({"profit_taking": {"threshold_pct": "1"}}, "a win would gain no more than a loss costs"),
    ],
)
def test_what_does_not_fit_together_is_said(settings: dict[str, Any], said: str) -> None:
    made = policy(**settings)
    texts = [text for rule in RULES for _, text in (*rule.conflicts(made), *rule.doubts(made))]
    assert len(texts) == 1
    assert said in texts[0]


def test_without_a_rule_that_folds_nothing_is_folded_and_nothing_saved() -> None:
    with ExitStore(":memory:") as store:
        simulate([bar(100, 60 * number) for number in range(5)], store=store)
        assert not [key for key in store.meta if key.startswith("folded/")]


# --- who names a rule -------------------------------------------------------------------------------------------------

#: What names a single rule outside its file, and why.
NAMES_A_RULE = {
    "position/folding.py": "the fields of moved stops, as format 1 has them",
    "position/state.py": "the same fields",
    "broker/lists.py": "a word of brokers for a type of order",
    "values.py": "the reasons in their order of precedence, and which of them takes the profit",
    "cli/demo.py": "the settings of the demonstration, which it makes itself",
    "cli/market_day.py": "the same",
}
SECTIONS = {rule.name for rule in RULES}
REASONS = {str(rule.reason) for rule in RULES if rule.reason is not ExitType.CUSTOM}


def names_in(path: Path) -> set[str]:
    """The rules that code names: an attribute, a member of `ExitType`, or the whole of a text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="ExitType"), attr=name) if name.lower() in REASONS:
                found.add(name.lower())
            case ast.Attribute(attr=name) if name in SECTIONS:
                found.add(name)
            case ast.Constant(value=str(text)) if text.partition(".")[0] in SECTIONS | REASONS:
                found.add(text)
    return found


def test_nothing_outside_its_file_names_a_rule_but_what_is_listed_with_its_reason() -> None:
    here = ("policy/rules/", "testing/")  # a rule itself, and what makes settings for tests
    named = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(here) and (names := names_in(path)):
            named[place] = names
    assert set(named) == set(NAMES_A_RULE), named


def test_levels_of_the_same_policy_are_the_same_from_either_side() -> None:
    long, short = (given(opened(side, policy=policy())).position for side in (Side.LONG, Side.SHORT))
    for p in (long, short):
        target, [stop] = levels(p, after(0))
        assert target is not None
        assert (target.name, stop.name) == ("profit_take", "stop_loss")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"stop_loss": {"threshold_pct": "0.02"}},
            "0.02 means 0.02 %, nearer than many spreads; where 2 % is meant, give 2",
        ),
        ({"profit_taking": {"threshold_pct": "0.05"}, "stop_loss": False}, "0.05 means 0.05 %"),
        ({"trailing_stop": {"trail_pct": "0.09"}}, "0.09 means 0.09 %"),
        ({"stop_loss": False, "profit_taking": False}, "no stop and no target are on"),
        ({"stop_loss": False, "trailing_stop": {"activation_pct": 3}}, "before a profit of 3 % nothing ends"),
        ({"profit_taking": {"threshold_pct": 1}}, "would gain no more than a loss costs"),
        ({}, ""),
    ],
)
def test_given_what_is_allowed_and_probably_not_meant_then_a_rule_doubts_it(given: dict[str, Any], says: str) -> None:
    made = policy(**given)
    texts = [text for rule in RULES for _, text in rule.doubts(made)]
    assert [text for text in texts if says in text] == texts[:1] if says else texts == []
