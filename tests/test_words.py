"""Each event in words, errors in words, and texts from outside made harmless."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from exitfsm.errors import BrokerError, ConfigError, IllegalTransition, OrderRefused, StoreError, VersionConflict
from exitfsm.events import (
    POSITION_EVENTS,
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TradingPaused,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.outside import harmless, logged, logger
from exitfsm.position import evolve
from exitfsm.profit import Profit
from exitfsm.testing.given import Scenario, after, given, holds, opened, order_id, policy, reported, triggered
from exitfsm.values import ExitType, OrderType, TimeInForce
from exitfsm.words import WORDS, in_words

D = Decimal
ONE, TWO = order_id(1), order_id(2)
monitoring = given(opened())
pending = given(opened(), triggered())
partial = pending.when(reported("new"), reported("partially_filled", 4, "98.5"))
expired = partial.when(reported("expired", 4))
again = expired.when(holds(6, at=200))
retried = ExitRetried(
    client_order_id=TWO, attempt=2, qty=D(6), order_type=OrderType.MARKET, time_in_force=TimeInForce.DAY,
    at=after(90), budget_spent=1,
)  # fmt: skip
ended = OrderEnded(client_order_id=ONE, how="expired", filled_qty=D(4), at=after(80), next_attempt_at=after(110))
completed = ExitCompleted(
    filled_qty=D(10), avg_fill_price=D("98.5"), filled_at=after(70), at=after(75), cooldown_until=after(375)
)
gone = PositionClosedElsewhere(how="by_hand", remaining_qty=D(10), at=after(62), cooldown_until=after(362))
released = PositionReleased(by="jo", at=after(90), qty=D(6), entry_price=D(100))
digest = policy(stop_loss=False).digest()

SAYINGS: list[tuple[Scenario, Event, str]] = [
    (monitoring, PositionResized(qty=D("7.50"), entry_price=D(101), at=after(1), why="bought"),
     "from 10 to 7.5 at 101 (bought); stop_loss 99.99 (1 %), profit_take 103.02 (2 %)"),
    (monitoring, PositionResized(qty=D(7), entry_price=D(100), at=after(1)),
     "from 10 to 7 at 100; stop_loss 99 (1 %), profit_take 102 (2 %)"),
    (monitoring, PolicyChanged(policy=policy(stop_loss=False), at=after(1), by="jo"),
     f"stop_loss.enabled on → off; policy {digest}, by jo; profit_take 102 (2 %)"),
    (monitoring, PolicyChanged(policy=policy(stop_loss=False, profit_taking=False), at=after(1)),
     "profit_taking.enabled on → off, stop_loss.enabled on → off; "
     f"policy {policy(stop_loss=False, profit_taking=False).digest()}; no levels"),
    (monitoring, PolicyChanged(policy=policy(enabled=False), at=after(1)),
     f"enabled on → off; policy {policy(enabled=False).digest()}; exits are off (enabled: false)"),
    (monitoring, StopMoved(rule=ExitType.TRAILING_STOP, stop=D(101), best_price=D(102), bar_at=after(60)),
     "trailing_stop to 101; best price 102"),
    (monitoring, StopMoved(rule=ExitType.BREAK_EVEN, stop=D(100), best_price=D(102), bar_at=after(60)),
     "break_even to 100; best price 102"),
    (monitoring, TriggerRefused(reason="stale", bar_at=after(60), price="99", reference_price=D(100)),
     "stale: 99, last believed 100; nothing is decided on it"),
    (monitoring, TriggerRefused(reason="stale", bar_at=after(60), price="99"), "stale: 99; nothing is decided on it"),
    (monitoring, RefusalEnded(reason="stale", count=1, bar_at=after(60)), "stale is over after 1 bar"),
    (monitoring, RefusalEnded(reason="stale", count=3, bar_at=after(60)), "stale is over after 3 bars"),
    (monitoring, triggered(), f"stop_loss: 99 reached 99 (1 %); sell 10 market day as {ONE}"),
    (monitoring, replace(triggered(reason="profit_take", limit=102), best_price=D(103), detail="so"),
     f"profit_take: 102 reached 102 (2 %, best price 103) (so); sell 10 limit 102 day as {ONE}"),
    (monitoring, replace(triggered(), reason=ExitType.EMERGENCY, threshold_pct=D(0)),
     f"emergency at 99; sell 10 market day as {ONE}"),
    (monitoring, replace(triggered(), level=D(98), threshold_pct=D(0)),
     f"stop_loss: 99 reached 98 (0 %); sell 10 market day as {ONE}"),
    (pending, OrderAccepted(client_order_id=ONE, broker_order_id="b7", at=after(61)), "the broker has it as b7"),
    (pending, OrderAccepted(client_order_id=ONE, broker_order_id=None, at=after(61)), "the broker has it"),
    (expired, OrderAccepted(client_order_id=ONE, broker_order_id="b7", at=after(99)),
     "the broker has it after all as b7"),
    (again, OrderAccepted(client_order_id=ONE, broker_order_id=None, at=after(99)),
     f"the broker has the earlier {ONE} after all"),
    (again, CancelRequested(client_order_id=ONE, at=after(99), why="it works"), f"the earlier {ONE}; why: it works"),
    (again, replace(ended, how="canceled", text="gone"), f"the earlier {ONE} is canceled with 4 filled (gone)"),
    (again, replace(ended, how="canceled"), f"the earlier {ONE} is canceled with 4 filled"),
    (partial, FillsRecorded(client_order_id=ONE, filled_qty=D(5), avg_fill_price=D("98.50"), at=after(62)),
     "5 of 10 at 98.5"),
    (partial, FillsRecorded(client_order_id=ONE, filled_qty=D(3), avg_fill_price=None, at=after(62), corrected=True),
     "3 of 10, price not known (corrected)"),
    (expired, FillsRecorded(client_order_id="xf1-old", filled_qty=D(5), avg_fill_price=D(98), at=after(99)),
     "5 of the earlier xf1-old at 98"),
    (partial, OrderRestated(client_order_id=ONE, qty=D(8), at=after(62), text="by jo"),
     "the broker changed the order from 10 to 8 (by jo)"),
    (partial, OrderRestated(client_order_id=ONE, qty=D(8), at=after(62)), "the broker changed the order from 10 to 8"),
    (partial, CancelRequested(client_order_id=ONE, at=after(62), why="slow"), "why: slow"),
    (
        pending,
        ExitPostponed(client_order_id=ONE, at=after(61), until=after(66), times=1, refusal="halted", text="paused"),
        "refused for now (halted: paused), 1 in a row; the same order is sent again from 2024-01-02T14:31:06Z",
    ),
    (partial, CancelRefused(client_order_id=ONE, at=after(62), text="too late"), "too late"),
    (partial, CancelRefused(client_order_id=ONE, at=after(62)), "the broker would not cancel; the order works on"),
    (partial, ExitEscalated(client_order_id=ONE, at=after(62), why="stop_loss", price=D("98.90")),
     "stop_loss at 98.9: the limit order is canceled, the next attempt is market"),
    (partial, ExitEscalated(client_order_id=ONE, at=after(62), why="no progress"),
     "no progress: the limit order is canceled, the next attempt is market"),
    (partial, ended, "expired with 4 of 10 filled; next attempt from 2024-01-02T14:31:50Z"),
    (partial, replace(ended, how="rejected", next_attempt_at=None, refusal="halted", text="no trading"),
     "rejected with 4 of 10 filled (halted: no trading); no automatic attempt follows"),
    (partial, replace(ended, how="rejected", refusal="halted"),
     "rejected with 4 of 10 filled (halted); next attempt from 2024-01-02T14:31:50Z"),
    (expired, retried, f"attempt 2; sell 6 market day as {TWO}"),
    (expired, replace(retried, by="jo"), f"attempt 2, by jo; sell 6 market day as {TWO}"),
    (partial, completed,
     "10 at 98.5; the broker shows none left; cooldown until 2024-01-02T14:36:15Z"),
    (partial, replace(completed, avg_fill_price=D("100.5")),
     "10 at 100.5; the broker shows none left; cooldown until 2024-01-02T14:36:15Z"),
    (partial, replace(completed, avg_fill_price=None),
     "10, price not known; the broker shows none left; cooldown until 2024-01-02T14:36:15Z"),
    (monitoring, gone, "by hand: 10 not sold by us; cooldown until 2024-01-02T14:36:02Z"),
    (monitoring, replace(gone, how="residue", remaining_qty=D("0.05")),
     "a residue that cannot be sold: 0.05 not sold by us; cooldown until 2024-01-02T14:36:02Z"),
    (partial, ProtectionLost(why="the broker shows less", at=after(62)), "the broker shows less"),
    (expired, released, "by jo: 6 at 100; stop_loss 99 (1 %), profit_take 102 (2 %)"),
    (monitoring, UnitChanged(factor=D(10), qty=D(100), entry_price=D(10), at=after(9), why="a split"),
     "from 10 at 100 to 100 at 10, times 10 (a split); stop_loss 9.9 (1 %), profit_take 10.2 (2 %)"),
    (pending, ExitWithdrawn(client_order_id=ONE, at=after(61), why="a split"),
     f"{ONE} never left, and is taken back: a split"),
    (monitoring, replace(triggered(), keep_qty=D(4), leg="2"),
     f"stop_loss: 99 reached 99 (1 %); part 2, 4 is kept; sell 10 market day as {ONE}"),
    (monitoring, replace(triggered(), keep_qty=D(4), leg="by hand"),
     f"stop_loss: 99 reached 99 (1 %); a part, by hand, 4 is kept; sell 10 market day as {ONE}"),
    (partial, LegCompleted(client_order_id=ONE, leg="1", filled_qty=D(4), remaining_qty=D(6), at=after(62),
                           avg_fill_price=D("98.50")),
     "part 1 is sold: 4 at 98.5; 6 left; stop_loss 99 (1 %), profit_take 102 (2 %)"),
    (partial, LegWidened(reason=ExitType.TIME_LIMIT, at=after(62), price=D(99), detail="no bar came"),
     "time_limit at 99 (no bar came): everything is to be sold"),
    (partial, LegWidened(reason=ExitType.STOP_LOSS, at=after(62)),
     "stop_loss: everything is to be sold"),
    (monitoring, replace(gone, how="reversed"),
     "reversed by one order: 10 not sold by us; cooldown until 2024-01-02T14:36:02Z"),
    (monitoring, AlarmRaised(alarm_id="a/1", kind="feed_unusable", text="no bars", at=after(9)),
     "feed_unusable: no bars"),
    (monitoring, AlarmAcknowledged(alarm_id="a/1", by="jo", at=after(9)), "a/1, by jo"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "event", "text"), SAYINGS, ids=lambda x: type(x).__name__)
def test_given_an_event_then_it_is_said_with_its_evidence(before: Scenario, event: Event, text: str) -> None:
    assert in_words(before.now, evolve(before.now, event), event) == text


def test_given_a_stop_that_stood_already_when_it_moves_then_both_prices_are_said() -> None:
    first = StopMoved(rule=ExitType.TRAILING_STOP, stop=D(101), best_price=D(102), bar_at=after(60))
    p = evolve(monitoring.now, first)
    then = replace(first, stop=D(102), best_price=D(103))
    assert in_words(p, evolve(p, then), then) == "trailing_stop from 101 to 102; best price 103"
    other = replace(then, rule=ExitType.BREAK_EVEN)
    assert in_words(p, evolve(p, other), other) == "break_even to 102; best price 103"


def test_given_the_first_event_or_one_of_no_position_then_it_is_said_without_a_position_before() -> None:
    first = replace(opened("short", entry="100.50"), strategy_name="sma")
    text = "short 10 at 100.5; stop_loss 101.505 (1 %), profit_take 98.49 (2 %)"
    assert in_words(None, evolve(None, first), first) == f"{text}, strategy sma"
    assert in_words(None, evolve(None, opened("short", entry="100.50")), opened("short")).startswith("short 10 at 100;")
    paused = TradingPaused(by="jo", at=after(0), why="news")
    assert in_words(None, None, paused) == f"by jo, at {after(0)}, why news"


def test_every_event_of_a_position_has_words_of_its_own() -> None:
    assert set(WORDS) == set(POSITION_EVENTS)
    said = {type(event) for _, event, _ in SAYINGS}
    assert {kind.__name__ for kind in POSITION_EVENTS if kind not in said} == {"PositionOpened"}


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (IllegalTransition("filled", "Imagined"), "no transition for Imagined in state 'filled'; nothing was changed"),
        (ConfigError(["a.yaml:1: one", "two"]), "a.yaml:1: one\ntwo"),
        (VersionConflict("p1", 3), "stream 'p1' is no longer at version 3: another writer appended to it; "
         "reload the position and decide again"),
        (OrderRefused("halted", "no trading"), "halted: no trading"),
        (OrderRefused("halted"), "halted"),
        (OrderRefused(403, None), "403"),  # type: ignore[arg-type]  # as brokers have it
    ],
)  # fmt: skip
def test_given_an_error_then_it_says_what_happened(error: Exception, text: str) -> None:
    assert str(error) == text


# --- texts from outside -----------------------------------------------------------------------------------------------


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain — text", "plain — text"),
        ("one\ntwo\x1b[2J", r"one\ntwo\x1b[2J"),
        ("a\u202eb", r"a\u202eb"),
        ("a\ud800b", r"a\ud800b"),
    ],
)
def test_given_a_text_from_outside_then_what_cannot_be_seen_is_shown_by_its_code(text: str, shown: str) -> None:
    assert harmless(text) == shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("a\nb", 5), r"a\nb: 5"),
        (("ok", 5), "ok: 5"),
        ((Unspeakable(), 5), "a Unspeakable that cannot be shown: 5"),
    ],
)
def test_given_a_line_of_the_log_then_what_is_put_into_it_is_harmless(
    arguments: Any, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = logger("exitfsm.some_part")
    assert logger("exitfsm.some_part").filters == log.filters
    with caplog.at_level(logging.INFO, log.name):
        log.info("%s: %d", *arguments)
    assert caplog.messages == [line]


def test_given_a_line_with_named_arguments_then_it_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "exitfsm.some_part"):
        logger("exitfsm.some_part").info("%(a)s", {"a": 1})
    assert caplog.messages == ["1"]


def test_given_a_failure_that_does_no_harm_then_it_is_logged_and_any_other_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with logged("not_done id=%s error=%s", "x\ny"):
        raise BrokerError("no answer")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "not_done id=x\\ny error=no answer")
    ]
    with pytest.raises(StoreError), logged("not_done error=%s"):
        raise StoreError("the disk")
    with logged("not_done error=%s", of=(StoreError,)):
        raise StoreError("the disk")
    with logged("not_done error=%s"):
        pass
    assert len(caplog.records) == 2


def test_given_what_came_of_it_then_the_end_says_what_our_orders_gained_and_what_others_sold() -> None:
    part = Profit(qty=D(4), pnl=D("-6.4"), pnl_pct=D("-1.6000"), by_hand_qty=D(6))
    done = in_words(partial.now, evolve(partial.now, completed), completed, replace(part, qty=D(10)))
    assert done.startswith("10 at 98.5, -1.6 % (-6.4); 6 by a manual trade, price not recorded; the broker shows none")
    elsewhere = in_words(partial.now, evolve(partial.now, gone), gone, part)
    assert elsewhere.startswith("by hand: 10 not sold by us; 4 sold by us, -1.6 % (-6.4); cooldown until")


def test_given_a_size_in_other_units_then_it_is_called_a_split_and_not_bought() -> None:
    e = PositionResized(qty=D(100), entry_price=D(10), at=after(1), why="bought")
    text = in_words(monitoring.now, evolve(monitoring.now, e), e)
    assert text.startswith("from 10 at 100 to 100 at 10, worth the same (a split, or the like); stop_loss 9.9")
