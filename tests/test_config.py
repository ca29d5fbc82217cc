"""The configuration: what is read, what is refused and in which words, and what is shown."""

from __future__ import annotations

import json
import subprocess
import sys
import types
import warnings
from collections.abc import Mapping
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from exitfsm.config import ConfigWarning, ExitConfig, SessionHours, config_schema, load_config, reference_table
from exitfsm.config.settings import Field, root_fields
from exitfsm.errors import ConfigError
from exitfsm.policy import ExitPolicy, LadderStep, StopLoss, TargetLadder
from exitfsm.values import EvaluateOn, OrderType

# --- Given, when, then ----------------------------------------------------------------------------------------------


def mistakes_in(source: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    assert str(caught.value) == "\n".join(caught.value.mistakes)
    return caught.value.mistakes


def outcome(source: Any) -> tuple[ExitConfig | None, list[str]]:
    """The configuration, or the mistakes. Anything but a `ConfigError` fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)
            return load_config(source), []
    except ConfigError as error:
        return None, error.mistakes


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """A function that writes a configuration file and returns its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "trading.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def mistakes_of(file: Any, text: str | bytes) -> list[str]:
    """The mistakes of a file without its folder, so that they read as they are documented."""
    path = file(text)
    return [line.removeprefix(f"{path.parent}/") for line in mistakes_in(path)]


# --- What is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [{}, {"exit_manager": {}}, {"exit_manager": None}, ExitConfig()])
def test_given_nothing_set_when_loaded_then_the_defaults_are_the_bots(source: Any) -> None:
    config = load_config(source)

    assert config == ExitConfig()
    assert config.policy.profit_taking.threshold_pct == 2
    assert config.policy.stop_loss.threshold_pct == 1
    assert config.policy.exit_cooldown_seconds == 300
    assert config.session == SessionHours(timezone="America/New_York", open=time(9, 30), close=time(16, 0))
    assert config.record_bars is False


def test_given_the_documented_file_when_loaded_then_every_value_arrives(file: Any) -> None:
    path = file(
        """
broker: {keys: [a, b]}
exit_manager:
  enabled: true
  evaluate_on: range
  profit_taking: {enabled: true, threshold_pct: 2.1, order_type: limit, time_in_force: gtc}
  stop_loss:     {enabled: true, threshold_pct: 1, order_type: market, time_in_force: day}
  partial_fills: {resubmit_delay_seconds: 45, max_resubmit_attempts: 5}
  target_ladder:
    enabled: on
    steps:
      - {after_seconds: 600, threshold_pct: 1.5}
      - {after_seconds: 1_200, threshold_pct: "0.75"}
  session: {timezone: Europe/Berlin, open: 9:00, close: 17:30}
  exit_cooldown_seconds: 0
  record_bars: yes
"""
    )

    config = load_config(path)
    policy = config.policy

    assert policy.evaluate_on is EvaluateOn.RANGE
    assert policy.profit_taking.threshold_pct == Decimal("2.1")
    assert policy.profit_taking.order_type is OrderType.LIMIT
    assert policy.partial_fills.resubmit_delay_seconds == 45
    assert policy.target_ladder.steps == (
        LadderStep(after_seconds=600, threshold_pct=Decimal("1.5")),
        LadderStep(after_seconds=1200, threshold_pct=Decimal("0.75")),
    )
    assert config.session == SessionHours(timezone="Europe/Berlin", open=time(9), close=time(17, 30))
    assert policy.exit_cooldown_seconds == 0
    assert config.record_bars is True
    assert load_config(str(path)) == config


def test_given_an_empty_section_when_loaded_then_the_defaults_hold(file: Any) -> None:
    assert load_config(file("exit_manager:\n")) == ExitConfig()


def test_given_a_byte_order_mark_when_loaded_then_it_is_no_part_of_the_key(file: Any) -> None:
    assert load_config(file(b"\xef\xbb\xbfexit_manager: {}\n")) == ExitConfig()


@pytest.mark.parametrize("value", [2, 2.0, "2", "2.00", "2e0", Decimal("2.000"), Decimal(2)])
def test_given_one_number_in_many_spellings_when_loaded_then_the_policy_is_the_same_bytes(value: Any) -> None:
    config = load_config({"profit_taking": {"threshold_pct": value}, "exit_cooldown_seconds": "300"})

    assert msgspec.json.encode(config) == msgspec.json.encode(ExitConfig())


@pytest.mark.parametrize("value", [2.1, "2.1", "2.10", Decimal("2.100")])
def test_given_a_float_when_loaded_then_it_counts_by_its_shortest_text(value: Any) -> None:
    assert str(load_config({"profit_taking": {"threshold_pct": value}}).policy.profit_taking.threshold_pct) == "2.1"


def test_given_any_mapping_when_loaded_then_it_reads_like_a_dict() -> None:
    frozen = types.MappingProxyType({"exit_manager": types.MappingProxyType({"exit_cooldown_seconds": 7}), "bot": 1})

    assert load_config(frozen).policy.exit_cooldown_seconds == 7


def test_given_other_sections_with_tags_aliases_and_merges_when_loaded_then_they_are_the_bots_business(
    file: Any,
) -> None:
    path = file("base: &b {x: !ENV y}\nbot:\n  <<: *b\n  <<: *b\nrun: !!python/object:os.x {}\nexit_manager: {}\n")

    assert load_config(path) == ExitConfig()


def test_given_an_alias_in_our_section_when_loaded_then_it_stands_for_its_value(file: Any) -> None:
    path = file("pct: &pct 0.5\nexit_manager: {stop_loss: {threshold_pct: *pct}}\n")

    assert load_config(path).policy.stop_loss.threshold_pct == Decimal("0.5")


# --- What is refused ------------------------------------------------------------------------------------------------


def test_given_many_mistakes_when_loaded_then_all_are_told_at_once_with_place_value_and_what_is_allowed(
    file: Any,
) -> None:
    text = """bot: {}
exit_manager:
  enabled: 1
  stop_loss:
    threshold_pct: -1
    order_type: limit
    treshold_pct: 1
  profit_taking: {threshold_pct: true, time_in_force: week}
  break_even: {activation_pct: 1, offset_pct: 1.5}
  exit_cooldown_second: 3
"""
    assert mistakes_of(file, text) == [
        "trading.yaml:3: exit_manager.enabled: 1 is not allowed; must be true or false",
        "trading.yaml:5: exit_manager.stop_loss.threshold_pct: -1 is not allowed; "
        "must be greater than 0 and less than 100",
        'trading.yaml:6: exit_manager.stop_loss.order_type: "limit" is not allowed; must be market '
        "(a stop order is always market, because one that waits at a limit may never fill)",
        'trading.yaml:7: exit_manager.stop_loss.treshold_pct: unknown setting; did you mean "threshold_pct"?',
        "trading.yaml:8: exit_manager.profit_taking.threshold_pct: true is not allowed; "
        "must be a number, greater than 0 and at most 1000",
        'trading.yaml:8: exit_manager.profit_taking.time_in_force: "week" is not allowed; must be day, gtc or ioc',
        "trading.yaml:9: exit_manager.break_even.offset_pct: 1.5 is not allowed; must be less than activation_pct (1)",
        'trading.yaml:10: exit_manager.exit_cooldown_second: unknown setting; did you mean "exit_cooldown_seconds"?',
    ]


def test_given_a_mapping_with_a_mistake_when_loaded_then_config_stands_for_the_file() -> None:
    assert mistakes_in({"exit_manager": {"stop_loss": {"threshold_pct": 0}}}) == [
        "config: exit_manager.stop_loss.threshold_pct: 0 is not allowed; must be greater than 0 and less than 100"
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (Decimal("NaN"), "NaN"),
        (Decimal("-Infinity"), "-Infinity"),
        (Decimal("sNaN"), "sNaN"),
        ("nan", '"nan"'),
        ("1,5", '"1,5"'),
        ("2%", '"2%"'),
        ("", '""'),
        ("010", '"010"'),
        ("0x10", '"0x10"'),
        ("１", '"１"'),
        (" 1", '" 1"'),
        ("9" * 99, '"' + "9" * 59 + '…"'),
        (True, "true"),
        (False, "false"),
        ([1], "[1]"),
        ({"a": 1}, "{'a': 1}"),
        (1 + 2j, "(1+2j)"),
        (object, "<class 'object'>"),
        ("a\nb", '"a\\nb"'),
    ],
)
def test_given_no_number_when_loaded_then_the_value_is_shown_on_one_line(value: Any, shown: str) -> None:
    [mistake] = mistakes_in({"stop_loss": {"threshold_pct": value}})

    assert mistake == (
        f"config: exit_manager.stop_loss.threshold_pct: {shown} is not allowed; "
        "must be a number, greater than 0 and less than 100"
    )


def test_given_nothing_for_a_setting_when_loaded_then_it_is_not_taken_for_the_default() -> None:
    assert mistakes_in({"stop_loss": {"threshold_pct": None}, "custom_rule": None}) == [
        "config: exit_manager.stop_loss.threshold_pct: an empty value is not allowed; "
        "must be a number, greater than 0 and less than 100",
        "config: exit_manager.custom_rule: is empty; remove the key to take the defaults, "
        "or write {enabled: false} to switch the rule off",
    ]


@pytest.mark.parametrize("value", [0, -0.0, -1, "-1", 100, 1e300, 10**400, Decimal("1e999999"), "1e999"])
def test_given_a_threshold_out_of_bounds_when_loaded_then_it_is_refused(value: Any) -> None:
    [mistake] = mistakes_in({"stop_loss": {"threshold_pct": value}})

    assert mistake.endswith("is not allowed; must be greater than 0 and less than 100")


@pytest.mark.parametrize("value", [1e-19, Decimal("1e-999999999"), "0." + "3" * 19])
def test_given_more_places_than_the_levels_compute_exactly_when_loaded_then_it_is_refused(value: Any) -> None:
    [mistake] = mistakes_in({"stop_loss": {"threshold_pct": value}})

    assert mistake.endswith("is not allowed; must have at most 18 decimal places")


@pytest.mark.parametrize("value", [1.5, "1.5", "x", True, 2**0.5])
def test_given_no_whole_number_of_seconds_when_loaded_then_it_is_refused(value: Any) -> None:
    [mistake] = mistakes_in({"exit_cooldown_seconds": value})

    assert mistake.endswith("is not allowed; must be a whole number, at least 0 and at most 1000000000")


@pytest.mark.parametrize("value", [1, 0, "true", "yes", None, 1.0])
def test_given_something_like_a_truth_value_when_loaded_then_only_true_and_false_count(value: Any) -> None:
    [mistake] = mistakes_in({"record_bars": value})

    assert mistake.endswith("is not allowed; must be true or false")


@pytest.mark.parametrize("value", [5, "on", ["enabled"], True, StopLoss()])
def test_given_a_plain_value_for_a_section_when_loaded_then_it_is_refused(value: Any) -> None:
    [mistake] = mistakes_in({"stop_loss": value})

    assert mistake.startswith("config: exit_manager.stop_loss: ")
    assert mistake.endswith(" is not allowed; must be a section of settings")


@pytest.mark.parametrize("value", [5, "text", [], True])
def test_given_a_plain_value_for_everything_when_loaded_then_it_is_refused(value: Any) -> None:
    [mistake] = mistakes_in({"exit_manager": value})

    assert mistake.endswith(" is not allowed; must be a section of settings")


def test_given_keys_that_are_no_text_when_loaded_then_they_are_unknown_settings() -> None:
    found = mistakes_in({True: 1, 5: 2, "a\nb": 3, "Stop_Loss": {}, "exit_manger": {}})

    assert [line.split(";")[0] for line in found] == [
        "config: exit_manager.true: unknown setting",
        "config: exit_manager.5: unknown setting",
        "config: exit_manager.a\\nb: unknown setting",
        "config: exit_manager.Stop_Loss: unknown setting",
        "config: exit_manager.exit_manger: unknown setting",
    ]
    assert found[0].endswith("known here: " + ", ".join(field.name for field in root_fields()))
    assert found[3].endswith('did you mean "stop_loss"?')
    assert found[4].endswith('did you mean "exit_manager"?')


def test_given_a_value_that_cannot_even_be_shown_when_loaded_then_the_mistake_is_told_all_the_same() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert [
        line.split(" is not allowed")[1] for line in mistakes_in({"enabled": Hostile(), "record_bars": 10**5000})
    ] == [
        "; must be true or false",
        "; must be true or false",
    ]


def test_given_a_mapping_inside_itself_when_loaded_then_it_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["stop_loss"] = loop

    assert mistakes_in(loop)


@pytest.mark.parametrize(
    ("ladder", "wrong"),
    [
        ({"enabled": True}, ".steps: the ladder is enabled but has no steps; give at least one"),
        ({"enabled": True, "steps": []}, ".steps: the ladder is enabled but has no steps; give at least one"),
        (
            {"steps": [{"after_seconds": 60, "threshold_pct": 1}, {"after_seconds": 60, "threshold_pct": 1}]},
            ".steps[1].after_seconds: 60 is not allowed; must be greater than 60, the step before",
        ),
        (
            {"enabled": True, "steps": [{"after_seconds": 60}]},
            ".steps[0].threshold_pct: is missing; must be a number, at least 0 and at most 1000",
        ),
        ({"steps": [7]}, ".steps[0]: 7 is not allowed; must be a section of settings"),
        ({"steps": 7}, ".steps: 7 is not allowed; must be a list, each item with after_seconds and threshold_pct"),
    ],
)
def test_given_a_ladder_that_cannot_be_climbed_when_loaded_then_the_step_is_named(ladder: Any, wrong: str) -> None:
    assert mistakes_in({"target_ladder": ladder}) == [f"config: exit_manager.target_ladder{wrong}"]


@pytest.mark.parametrize("name", ["", "  "])
def test_given_a_custom_rule_without_a_name_when_loaded_then_it_is_refused(name: str) -> None:
    [mistake] = mistakes_in({"custom_rule": {"enabled": True, "name": name}})

    assert mistake.startswith("config: exit_manager.custom_rule.name: the rule is enabled but has no name")


@pytest.mark.parametrize("value", [1.1, 1, True, ["a"], "a\nb"])
def test_given_a_version_that_is_no_text_when_loaded_then_it_is_not_made_into_one(value: Any) -> None:
    [mistake] = mistakes_in({"custom_rule": {"version": value}})

    assert "must be text (in quotes where" in mistake


@pytest.mark.parametrize("name", ["America/NewYork", "", "America", "../etc/passwd", "/etc/localtime", "é", "a" * 300])
def test_given_an_unknown_time_zone_when_loaded_then_it_is_refused(name: str) -> None:
    [mistake] = mistakes_in({"session": {"timezone": name}})

    assert " is no known time zone; " in mistake


def test_given_a_misspelt_time_zone_when_loaded_then_the_nearest_is_named() -> None:
    [mistake] = mistakes_in({"session": {"timezone": "america/newyork"}})

    assert mistake.endswith('did you mean "America/New_York"?')


@pytest.mark.parametrize("value", [960, "24:00", "9", "9:5", "09:30:15", time(9, 30, 1), 9.5, None])
def test_given_no_time_of_day_when_loaded_then_it_is_refused(value: Any) -> None:
    [mistake] = mistakes_in({"session": {"open": value}})

    assert mistake.endswith('is not allowed; must be a time of day in quotes, like "16:00"')


def test_given_a_session_that_closes_before_it_opens_when_loaded_then_it_is_refused() -> None:
    assert mistakes_in({"session": {"open": "16:00", "close": time(9, 30)}}) == [
        'config: exit_manager.session.open: "16:00" is not allowed; must be before close ("09:30")'
    ]


def test_given_a_hand_made_configuration_with_mistakes_when_loaded_then_it_is_checked_like_any_other() -> None:
    policy = ExitPolicy(stop_loss=StopLoss(threshold_pct=Decimal("NaN")), target_ladder=TargetLadder(enabled=True))

    found = mistakes_in(ExitConfig(policy=policy))

    assert [line.split(":")[1].strip() for line in found] == [
        "exit_manager.stop_loss.threshold_pct",
        "exit_manager.target_ladder.steps",
    ]


def test_given_more_mistakes_than_anyone_reads_when_loaded_then_the_rest_is_counted() -> None:
    found = mistakes_in({f"key{n}": 1 for n in range(250)})

    assert len(found) == 101
    assert found[-1] == "config: and 150 more mistakes"


@pytest.mark.parametrize("source", [5, None, ["a"], b"trading.yaml"])
def test_given_no_configuration_at_all_when_loaded_then_it_says_what_to_give(source: Any) -> None:
    [mistake] = mistakes_in(source)

    assert mistake.endswith("is no configuration; give the path of a YAML file, or a mapping")


# --- What is doubted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profit", [1, 0.5])
def test_given_a_profit_threshold_not_above_the_stop_when_loaded_then_it_warns_with_both(profit: float) -> None:
    source = {"profit_taking": {"threshold_pct": profit}, "stop_loss": {"threshold_pct": 1}}

    with pytest.warns(ConfigWarning) as caught:
        config = load_config(source)

    assert config.policy.profit_taking.threshold_pct == Decimal(str(profit))
    assert [str(w.message) for w in caught] == [
        f"config: exit_manager.profit_taking.threshold_pct: {profit} is not above stop_loss.threshold_pct (1): "
        "a win would gain no more than a loss costs"
    ]
    assert caught[0].filename == __file__


def test_given_one_of_the_two_rules_is_off_when_loaded_then_there_is_nothing_to_compare() -> None:
    load_config({"profit_taking": {"threshold_pct": 1, "enabled": False}, "stop_loss": {"threshold_pct": 5}})


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "trading.yaml: the file has no section exit_manager; begin one with `exit_manager:`"),
        ("- a\n", "trading.yaml: the file has no section exit_manager; begin one with `exit_manager:`"),
        ("stop_loss: {}\n", "trading.yaml: the file has no section exit_manager; begin one with `exit_manager:`"),
        (
            "a: 1\nexit_manger: {}\n",
            'trading.yaml:2: there is "exit_manger", but the file has no section exit_manager; '
            "begin one with `exit_manager:`",
        ),
        ("exit_manager: {}\nexit_manager: {}\n", "trading.yaml:2: exit_manager: is given twice; first on line 1"),
        (
            "exit_manager:\n  enabled: true\n\n  enabled: false\n",
            "trading.yaml:4: exit_manager.enabled: is given twice; first on line 2",
        ),
        (
            "exit_manager: !!python/object/apply:os.system [ls]\n",
            "trading.yaml:1: exit_manager: the tag !!python/object/apply:os.system is not allowed here; "
            "write the plain value",
        ),
        (
            "exit_manager:\n  custom_rule: {name: !secret x}\n",
            "trading.yaml:2: exit_manager.custom_rule.name: the tag !secret is not allowed here; write the plain value",
        ),
        (
            "b: &b {}\nexit_manager:\n  <<: *b\n",
            "trading.yaml:3: exit_manager.<<: merging is not supported here; write the settings out",
        ),
        ("exit_manager: {? [a] : 1}\n", "trading.yaml:1: exit_manager: a key must be a plain word"),
        (
            "exit_manager:\n  stop_loss: {threshold_pct: 010}\n",
            'trading.yaml:2: exit_manager.stop_loss.threshold_pct: "010" is not allowed; '
            "must be a number, greater than 0 and less than 100",
        ),
        (
            "exit_manager:\n  stop_loss: {threshold_pct: .nan}\n",
            'trading.yaml:2: exit_manager.stop_loss.threshold_pct: ".nan" is not allowed; '
            "must be a number, greater than 0 and less than 100",
        ),
        (
            "exit_manager:\n  target_ladder:\n    steps:\n    - after_seconds: 1\n      threshold_pct: 1\n"
            "    - after_seconds: 5\n",
            "trading.yaml:6: exit_manager.target_ladder.steps[1].threshold_pct: is missing; "
            "must be a number, at least 0 and at most 1000",
        ),
        (
            "exit_manager: &a {stop_loss: *a}\n",
            "trading.yaml:1: exit_manager holds more than 20000 values, or an alias inside itself",
        ),
        (
            "exit_manager:\n\tenabled: true\n",
            "trading.yaml:2: not valid YAML: while scanning for the next token, "
            "found character '\\t' that cannot start any token",
        ),
        ("a: 1\nb: [\n", "trading.yaml:3: not valid YAML: while parsing a flow node, expected the node content"),
        (b"a: 1\nexit_manager: \x00\n", "trading.yaml:2: not valid YAML: character 0x0000 is not allowed"),
        (b"a: 1\nb: \xff\n", "trading.yaml:2: not UTF-8; save the file with the encoding UTF-8"),
        ("a: {}\n".encode("utf-16"), "trading.yaml:1: not UTF-8; save the file with the encoding UTF-8"),
        (b"a" * 1_000_001, "trading.yaml: larger than 1000000 bytes: this is no configuration file"),
    ],
)
def test_given_a_file_with_a_mistake_in_its_form_when_loaded_then_the_place_is_named(
    file: Any, text: str | bytes, found: str
) -> None:
    [mistake] = mistakes_of(file, text)

    assert mistake.startswith(found)


@pytest.mark.parametrize(
    "text",
    [
        'exit_manager: "\\UFFFFFFFF"',
        "exit_manager: {}\n---\nb: 1\n",
        "[" * 100_000,
        "- " * 100_000,
        "exit_manager: " + "[a, " * 1000,
        "exit_manager: {target_ladder: {steps: [" + "5, " * 30_000 + "]}}",
        "exit_manager:\n a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f" a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    ],
    ids=["escape", "two documents", "brackets", "dashes", "nested", "many", "a billion laughs"],
)
def test_given_a_hostile_file_when_loaded_then_it_is_one_mistake_and_soon(file: Any, text: str) -> None:
    assert len(mistakes_of(file, text)) == 1


def test_given_mistakes_of_form_and_of_value_when_loaded_then_both_are_told(file: Any) -> None:
    text = "exit_manager:\n  stop_loss: {threshold_pct: -1}\n  stop_loss: {}\n  time_limit: {max_seconds: !x 1}\n"

    assert [line.split(";")[0] for line in mistakes_of(file, text)] == [
        "trading.yaml:2: exit_manager.stop_loss.threshold_pct: -1 is not allowed",
        "trading.yaml:3: exit_manager.stop_loss: is given twice",
        "trading.yaml:4: exit_manager.time_limit.max_seconds: the tag !x is not allowed here",
    ]


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b", "x" * 5000, "new\nline"])
def test_given_a_file_that_cannot_be_read_when_loaded_then_it_says_so_on_one_line(tmp_path: Path, name: str) -> None:
    [mistake] = mistakes_in(f"{tmp_path}/{name}")

    assert ": cannot be read: " in mistake
    assert "\n" not in mistake


_KEYS = ["exit_manager:", "stop_loss:", "enabled:", "steps:", "after_seconds:"]
_WORDS = ["true", "1e5", "0x1f", ".inf", "-1", "~", "<<", "!x ", "!<", "!!str ", "&a ", "*a", "%FF", "😀", "\ufeff"]
_MARKS = ["---", "...", "%YAML 1.1", "? ", "- ", "\n", "\n  ", "\t", "\\U", "\\x", "\x00", "\x85", *"[]{}:,'\"#@`|>"]
_JUNK = st.lists(st.sampled_from([*_KEYS, *_WORDS, *_MARKS]), max_size=25).map("".join)


@given(st.one_of(_JUNK, _JUNK.map("exit_manager: ".__add__), st.text(), st.binary()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_given_any_junk_when_loaded_then_nothing_but_a_config_error_comes_out(
    tmp_path: Path, junk: str | bytes
) -> None:
    path = tmp_path / "junk.yaml"
    path.write_bytes(junk if isinstance(junk, bytes) else junk.encode("utf-8", "surrogatepass"))

    assert all(line.startswith(str(path)) and line.isprintable() for line in outcome(path)[1])


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([field.name for field in root_fields()]) | st.text(), _VALUES, max_size=4))
def test_given_any_mapping_when_loaded_then_nothing_but_a_config_error_comes_out(source: dict[str, Any]) -> None:
    assert all(line.startswith("config: ") and line.isprintable() for line in outcome(source)[1])


# --- What comes out again -------------------------------------------------------------------------------------------


def _valid(field: Field) -> st.SearchStrategy[Any]:
    """Every value that a field allows, in one of its spellings."""
    if field.name == "channels":
        one = st.fixed_dictionaries({f.name: _valid(f) for f in field.inner})
        return st.lists(one, max_size=3).map(lambda found: [c | {"name": f"c-{n}"} for n, c in enumerate(found)])
    if field.item:
        return st.lists(st.fixed_dictionaries({f.name: _valid(f) for f in field.inner}), max_size=3)
    if field.is_texts:
        return st.lists(st.sampled_from(["AAPL", "BTC/USD"] if field.name == "symbols" else ["MSFT", "on"]), max_size=3)
    if field.section:
        return st.fixed_dictionaries({}, optional={f.name: _valid(f) for f in field.inner})
    if field.choices:
        return st.sampled_from(field.choices)
    if field.type is bool:
        return st.booleans()
    if field.type is time:
        return st.sampled_from(["08:00", "16:30"])
    if field.name == "url":
        return st.sampled_from(["https://127.0.0.1/a/t0ken", "$HOOK"])  # right for every kind
    if field.type is str:
        return st.sampled_from(["Asia/Tokyo"] if field.name == "timezone" else ["a rule", "1.10", "no"])
    gt, ge, lt, le = field.limits
    if field.type is int:
        return st.integers(int(ge if ge is not None else (gt or 0) + 1), int(le or lt or 0))
    numbers = st.decimals(gt if gt is not None else ge, lt if lt is not None else le, places=6, allow_nan=False)
    inside = numbers.filter(lambda n: n not in (gt, lt))
    return st.one_of(inside, inside.map(float), inside.map(str))


_SETTINGS = st.fixed_dictionaries({}, optional={field.name: _valid(field) for field in root_fields()})


def _loaded(source: Mapping[str, Any]) -> ExitConfig:
    """The configuration, unless the settings contradict each other."""
    config, mistakes = outcome(source)
    contradictions = ("no steps", "are none", "the step before", "has no name", "activation_pct (", "before close")
    contradictions += ("each has escalation_only", "the same as start", "it needs ids", "it stands beside ids")
    contradictions += ("the target before", "they must come to", "must be less than at_pct", "stands beside targets")
    assert all(any(text in line for text in contradictions) for line in mistakes), mistakes
    assume(config is not None)
    assert config is not None
    return config


@given(_SETTINGS)
@pytest.mark.filterwarnings("ignore::exitfsm.config.ConfigWarning")  # not what this is about
def test_given_any_valid_settings_when_shown_and_read_back_then_nothing_changes(source: dict[str, Any]) -> None:
    config = _loaded(source)
    shown = config.as_dict(secrets=True)

    assert load_config(config) == config
    assert load_config(shown) == config
    assert load_config(json.loads(json.dumps(shown))) == config
    assert load_config(yaml.safe_load(yaml.safe_dump(shown))) == config
    flat = shown["exit_manager"]
    for name, section in source.items():
        for key, value in section.items() if isinstance(section, dict) else ():
            if isinstance(value, (Decimal, float)):
                assert Decimal(str(flat[name][key])) == Decimal(str(value))


@given(_SETTINGS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::exitfsm.config.ConfigWarning")
def test_given_any_valid_settings_when_written_to_a_file_then_it_reads_like_the_mapping(
    tmp_path: Path, source: dict[str, Any]
) -> None:
    config = _loaded(source)
    path = tmp_path / "trading.yaml"
    path.write_text(yaml.safe_dump(config.as_dict(secrets=True)))

    assert load_config(path) == config


def test_given_the_effective_configuration_when_shown_then_it_is_complete_and_plain() -> None:
    section = load_config({"stop_loss": {"threshold_pct": "0.123456789012345678"}}).as_dict()["exit_manager"]

    assert list(section) == [field.name for field in root_fields()]
    assert section["profit_taking"] == {
        "enabled": True,
        "threshold_pct": 2.0,
        "order_type": "market",
        "time_in_force": "day",
        "price": "none",
    }
    assert section["stop_loss"]["threshold_pct"] == "0.123456789012345678"
    hours = {"trade": "live", "open": "09:30", "close": "16:00"}
    assert section["session"] == {"timezone": "America/New_York", **hours, "calendar": ""}


_URL = "https://127.0.0.1/services/t0ken"


def test_given_an_address_of_a_channel_when_the_configuration_is_shown_then_it_is_not() -> None:
    config = load_config({"alerts": {"channels": [{"name": "a", "url": _URL}]}})

    assert config.as_dict()["exit_manager"]["alerts"]["channels"][0]["url"] == "(hidden)"
    assert config.as_dict(secrets=True)["exit_manager"]["alerts"]["channels"][0]["url"] == _URL
    said = [repr(config), str(config), repr(config.alerts.channels), f"{config.alerts.channels[0].__rich_repr__()}"]
    assert not any("t0ken" in text for text in said)
    with pytest.raises(ConfigError, match="is no address of a webhook"):
        load_config(config.as_dict())  # what was hidden is no address


@pytest.mark.parametrize(
    ("alerts", "wrong"),
    [
        (_URL, "alerts: what is there is not allowed"),
        ({"channels": _URL}, "alerts.channels: what is there is not allowed"),
        ({"channels": [_URL]}, "alerts.channels[0]: what is there is not allowed"),
        ({"channels": [{"name": "a", "url": [_URL]}]}, "alerts.channels[0].url: what is there is not allowed"),
        ({"channels": [{"name": "a", "url": _URL + "\n"}]}, "alerts.channels[0].url: what is there is not allowed"),
        ({"channels": [{"name": "a", "url": "slack://t0ken"}]}, "alerts.channels[0].url: is no address of a webhook"),
        ({"channels": [{"name": "a", "url": "t0ken", "kind": "apprise"}]}, "is no URL of apprise"),
        ({"channels": [{"name": "a", "url": "$t0ken!"}]}, "is no name of an environment variable"),
        ({"channels": [{"name": "a b", "url": _URL}]}, "alerts.channels[0].name: must be 1 to 40 letters"),
        ({"channels": [{"name": "a", "url": _URL}] * 2}, "is the name of another channel"),
        ({"channels": [{"name": "a", "url": _URL, "escalation_only": True}]}, "each has escalation_only"),
        ({"quiet_hours": {"enabled": True, "start": "08:00", "end": "08:00"}}, "must not be the same as start"),
        ({"quiet_hours": {"timezone": "Europe/Belin"}}, 'did you mean "Europe/Berlin"'),
        ({"least_severity": "fatal"}, "must be critical, warning or notice"),
        ({"channels": [{"name": "a", "ulr": _URL, "url": "$A"}]}, 'did you mean "url"'),
    ],
)
def test_given_alerts_with_a_mistake_when_loaded_then_it_is_named_and_no_address_is(alerts: Any, wrong: str) -> None:
    found = mistakes_in({"alerts": alerts})
    assert any(wrong in line for line in found), found
    assert not any("t0ken" in line for line in found)


# --- Schema and reference -------------------------------------------------------------------------------------------


def test_given_the_schema_when_made_then_it_is_json_and_describes_every_setting_once() -> None:
    schema = config_schema()
    section = schema["properties"]["exit_manager"]

    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is True
    assert section["additionalProperties"] is False
    assert section["properties"]["stop_loss"]["properties"]["threshold_pct"] == {
        "description": "loss in percent of the entry price at which to exit",
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 100,
        "default": 1.0,
    }
    assert section["properties"]["stop_loss"]["properties"]["order_type"]["enum"] == ["market"]
    steps = section["properties"]["target_ladder"]["properties"]["steps"]
    assert steps["type"] == "array"
    assert steps["items"]["required"] == ["after_seconds", "threshold_pct"]


def test_given_the_defaults_of_the_schema_when_loaded_then_they_are_the_defaults() -> None:
    def defaults(schema: dict[str, Any]) -> Any:
        if schema["type"] == "object":
            return {name: defaults(inner) for name, inner in schema["properties"].items()}
        return schema["default"]

    section = defaults(config_schema()["properties"]["exit_manager"])

    assert load_config(section) == ExitConfig()
    assert {"exit_manager": section} == ExitConfig().as_dict()


def test_given_the_reference_when_made_then_every_row_says_everything() -> None:
    rows = {row.key: row for row in reference_table()}

    assert all(row.doc and (row.type == "section" or (row.default and row.allowed)) for row in rows.values())
    assert rows["stop_loss.threshold_pct"] == (
        "stop_loss.threshold_pct",
        "number",
        "1.0",
        "a number, greater than 0 and less than 100",
        "loss in percent of the entry price at which to exit",
    )
    assert rows["profit_taking.order_type"][1:4] == ("word", "market", "market or limit")
    assert rows["target_ladder.steps[].after_seconds"].default == "required"
    assert rows["session.open"].default == '"09:30"'
    assert rows["custom_rule.name"].default == '""'


def test_given_every_number_when_described_then_it_is_bounded_on_both_sides() -> None:
    # Bounds keep sums and products exact; `checked` relies on them when it rounds to its decimal places.
    def leaves(fields: list[Field]) -> list[Field]:
        return [leaf for field in fields for leaf in (leaves(field.inner) or [field])]

    for field in leaves(root_fields()):
        if field.type in (int, Decimal):
            gt, ge, lt, le = field.limits
            assert (gt is None) != (ge is None), field
            assert (lt is None) != (le is None), field


def test_given_a_fresh_interpreter_when_imported_then_pydantic_and_yaml_are_not() -> None:
    code = "import sys, exitfsm.config; print(sorted({'pydantic', 'yaml', 'difflib'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_given_one_word_of_several_then_it_is_that_one() -> None:
    for word in ("live", "regular", "extended"):
        assert load_config({"session": {"trade": word}}).session.trade == word


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"stop_loss": {"threshold_pct": 0.02}}, "0.02 means 0.02 %"),
        ({"profit_taking": {"threshold_pct": 0.05}, "stop_loss": False}, "0.05 means 0.05 %"),
        ({"trailing_stop": {"enabled": True, "trail_pct": "0.09"}}, "0.09 means 0.09 %"),
        ({"stop_loss": {"enabled": False}, "profit_taking": {"enabled": False}}, "no stop and no target are on"),
        (
            {"stop_loss": {"enabled": False}, "trailing_stop": {"enabled": True, "activation_pct": 3}},
            "before a profit of 3 %",
        ),
    ],
)
def test_given_what_is_probably_not_meant_then_a_warning_says_so(given: dict[str, Any], says: str) -> None:
    given = {k: {"enabled": False} if v is False else v for k, v in given.items()}
    with pytest.warns(ConfigWarning, match=says):
        load_config(given)
