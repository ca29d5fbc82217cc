"""Parts whose order was found at the broker without a record, what targets may stand beside, and small cases."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from exitfsm.events import AlarmRaised, ExitEscalated
from exitfsm.messages import ForceExit
from exitfsm.policy import ExitPolicy
from exitfsm.policy.rules import targets, time_limit
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.position import Position
from exitfsm.position.evaluating import Verdict
from exitfsm.position.parting import FOUND, Part, part_found, part_of, why_no_part, widened
from exitfsm.testing.given import BROKER, T0, after, given, like, opened, policy, reported, seen
from exitfsm.values import ZERO, ExitType

D = Decimal


def held(*parts: tuple[Any, Any], broker: Capabilities = BROKER) -> Position:
    """Ten at 100 with these targets."""
    rules = policy(targets=[{"at_pct": at, "sell_pct": sell} for at, sell in parts]) if parts else policy()
    return given(opened(policy=rules)).at(broker).position


@pytest.mark.parametrize(
    ("qty", "found"),
    [
        (5, Part(D(5), D(5), "1")),
        (8, Part(D(8), D(2), "2")),
        (3, Part(D(3), D(7), FOUND)),
        (9, Part(D(9), D(1), FOUND)),
        (10, None),
    ],
)
def test_given_an_order_without_a_record_then_it_is_the_part_that_its_quantity_says(
    qty: int, found: Part | None
) -> None:
    assert part_found(held((2, 50), (4, 30)), D(qty), BROKER) == found


def test_given_targets_that_come_to_all_then_what_is_less_is_a_part_of_the_first() -> None:
    p = held((2, 50), (4, 50))
    assert part_found(p, D(5), BROKER) == Part(D(5), D(5), "1")
    assert part_found(p, D(7), BROKER) == Part(D(7), D(3), FOUND)
    assert part_found(held(), D(5), BROKER) is None


def test_given_a_price_below_every_target_then_no_part_is_sold_by_it() -> None:
    verdict = Verdict(ExitType.PROFIT_TAKE, D(101), D(101), ZERO)
    assert part_of(held((2, 50)), verdict, BROKER) is None


def test_given_a_rule_that_knows_no_parts_then_it_reaches_none() -> None:
    rule, p = time_limit.RULE, held()
    assert rule.parts_reached(p, D(1000)) is None
    assert rule.shares(p, 1) is None
    assert rule.stop_after(p, 1) is None


WHOLE = replace(BROKER, stocks=AssetRules(qty_step=D(1), qty_min=D(1)))


@pytest.mark.parametrize(
    ("qty", "why"),
    [
        ("10", None),
        ("4", None),
        ("10.5", "10.5 is more than the 10 that is held"),
        ("0.5", "0.5 is less than the venue takes in one order"),
    ],
)
def test_given_a_quantity_that_a_person_wants_then_it_is_said_why_he_cannot_have_it(qty: str, why: str | None) -> None:
    p = held(broker=WHOLE)
    assert why_no_part(p, D(qty), WHOLE) == why
    s = given(opened()).at(WHOLE).when(ForceExit(at=after(90), at_most=D(qty)))
    s.is_in("monitoring" if why else "pending")


def test_given_an_order_that_rests_for_all_when_a_part_is_wanted_then_it_is_refused_and_not_hurried() -> None:
    rests = policy(profit_taking={"threshold_pct": 2, "order_type": "limit"})
    s = given(opened(policy=rests)).when(seen(102), reported("new"))
    refused = s.when(ForceExit(at=after(90), at_most=D(4))).then(like(AlarmRaised, kind="not_done"))
    refused.when(ForceExit(at=after(95), at_most=D(4))).then()
    s.when(ForceExit(at=after(90))).then(ExitEscalated)


def test_given_everything_is_to_be_sold_then_nothing_is_widened() -> None:
    assert widened(held((2, 50)), ExitType.STOP_LOSS, T0) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"targets": [{"at_pct": 2, "sell_pct": 50}, {"at_pct": 2, "sell_pct": 50}]}, "must be greater than 2"),
        ({"targets": [{"at_pct": 2, "sell_pct": 60}, {"at_pct": 3, "sell_pct": 50}]}, "come to 110 %"),
        ({"targets": [{"at_pct": 2, "sell_pct": 50, "then": {"stop": 2}}]}, "must be less than at_pct (2)"),
        ({"targets": [{"at_pct": 2, "sell_pct": 50}], "profit_taking": {"threshold_pct": 3}}, "stands beside targets"),
        (
            {
                "targets": [{"at_pct": 2, "sell_pct": 50}],
                "target_ladder": {"enabled": True, "steps": [{"after_seconds": 60, "threshold_pct": 1}]},
            },
            "stands beside targets",
        ),
        (
            {"targets": [{"at_pct": 2, "sell_pct": 50}], "atr_levels": {"enabled": True, "target_multiple": 7}},
            "stands beside targets",
        ),
    ],
)
def test_given_targets_that_contradict_each_other_or_another_rule_then_it_is_said(
    settings: dict[str, Any], said: str
) -> None:
    found = [text for _, text in targets.RULE.conflicts(policy(**settings))]
    assert any(said in text for text in found), found


def test_given_no_targets_then_nothing_contradicts_them_and_a_near_one_is_doubted() -> None:
    assert list(targets.RULE.conflicts(ExitPolicy())) == []
    near = policy(targets=[{"at_pct": "0.01", "sell_pct": 50}])
    assert len(list(targets.RULE.doubts(near))) == 1
    assert targets.RULE.brief(near) == "targets 50 % at 0.01 %"
    assert AssetRules().qty_step == 0
