"""What is decided, to the letter: stories, and all that they write into the log, change in memory and owe the broker.

The log is permanent, and people read its texts when money is at stake: nothing in it changes unnoticed. What the
stories lead to is kept in `decisions.txt`; when a change is meant, `python tests/test_decisions.py` writes it anew, and
the difference is there to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from exitfsm.events import tag_of
from exitfsm.messages import (
    Acknowledge,
    ChangePolicy,
    Contradiction,
    ForceExit,
    GiveWay,
    RaiseAlarm,
    Recover,
    Release,
)
from exitfsm.ports import CAREFUL, AssetRules, Capabilities
from exitfsm.position import ExitOrder, Position, account_hash, decide, epoch_of, levels, owed, wake_band
from exitfsm.testing.given import (
    T0,
    Scenario,
    Told,
    after,
    bar,
    given,
    holds,
    opened,
    order_id,
    policy,
    refused,
    reported,
    seen,
    timer,
    to_open,
    triggered,
)
from exitfsm.values import ExecutionReport, OrderSide, OrderStatus

KEPT = Path(__file__).with_name("decisions.txt")
D = Decimal
NEVER_LATE = Capabilities(late_fills=False)
STEPS = Capabilities(late_fills=False, stocks=AssetRules(qty_step=D("0.1"), qty_min=D("0.5"), price_tick=D("0.05")))
LIMIT = policy(profit_taking={"order_type": "limit", "time_in_force": "gtc"}, stop_loss={"time_in_force": "day"})
TIMED = policy(time_limit={"max_seconds": 600}, end_of_session={"minutes_before_close": 5})
TRAIL = policy(trailing_stop={"activation_pct": 1, "trail_pct": 1}, break_even={"activation_pct": 1, "offset_pct": 0})

nothing = given()
monitored = given(opened())
pending = given(opened(), triggered())
submitted = pending.when(reported("new", broker_order_id="b1"))
partial = submitted.when(reported("partially_filled", 4, "98.5"))
resting = given(opened(policy=LIMIT), triggered(reason="profit_take", limit=102)).when(reported("new"))
canceling = resting.when(reported("partially_filled", 4, 102), timer(200))
expired = partial.when(reported("expired", 4, at=70))
second = expired.when(holds(6, at=200), reported("new", attempt=2, at=201))
filled = partial.when(reported("filled", 10, 99), holds(0))
unprotected = submitted.when(Contradiction(at=after(90), why="it cannot be"))
loose = unprotected.when(reported("canceled", 0, at=91))


def recovered(
    attempt: int, qty: int | str, status: str = "new", filled: int = 0, at: int = 50, **fields: Any
) -> Recover:
    """Our order is found at the broker."""
    report = ExecutionReport(
        client_order_id=order_id(attempt), status=OrderStatus(status), at=after(40), qty=D(qty), filled_qty=D(filled),
        **fields,
    )  # fmt: skip
    return Recover(at=after(at), attempt=attempt, report=report)


def asked(who: str = "jo", **fields: Any) -> ForceExit:
    """An operator wants out."""
    return ForceExit(at=after(100), who=who, reason="news", **fields)


#: Name, where it starts, and what is told. Each is told at the broker of its start.
STORIES: list[tuple[str, Scenario, list[Told]]] = [
    ("it is opened", nothing, [to_open(replace(opened(atr=2), strategy_name="sma", source="bot"))]),
    ("it is opened with an average range that is none", nothing, [to_open(replace(opened(), atr=D("NaN")))]),
    # bars
    ("the target is reached", monitored, [seen(102)]),
    ("the stop is reached", monitored, [seen(99)]),
    ("a short is stopped out", given(opened("short")), [seen(101)]),
    ("the target rests as a limit on the grid", given(opened(entry="100.01", policy=LIMIT)).at(STEPS), [seen(103)]),
    ("a short's target rests", given(opened("short", entry="100.01", policy=LIMIT)).at(STEPS), [seen(97)]),
    ("stops follow", given(opened(policy=TRAIL)), [seen(101), seen("101.5", 120), seen("100.4", 180)]),
    ("stops follow a short", given(opened("short", policy=TRAIL)), [seen(99), seen("98.5", 120), seen("99.6", 180)]),
    (
        "a run of bad bars begins and ends",
        monitored,
        [
            seen("NaN", 60),
            seen("NaN", 120, refused_count=1),
            seen(-1, 180, refused_count=2),
            seen(100, 240, refused_count=1),
        ],
    ),
    (
        "ten bad bars in a row",
        monitored,
        [seen("NaN", 60), *(seen("NaN", 60 * n, refused_count=n - 1) for n in (9, 10, 11))],
    ),
    ("a jump while it is monitored", monitored, [seen(140, reference_price=D(100)), seen(141, 120, refused_count=1)]),
    ("a jump without a reference that is known", submitted, [seen(140, 70, reference_price=D(100)), seen(99, 80)]),
    ("bars of before the entry", monitored, [seen(100, -1000, received_at=after(-1000)), seen(98, 0)]),
    (
        "bad bars, then bars of before the entry",
        monitored,
        [
            seen("NaN", 60),
            seen(100, -1000, received_at=after(-1000), refused_count=1),
        ],
    ),
    (
        "a paused and a disabled trigger",
        monitored,
        [
            seen(99, 60, paused=True),
            seen(99, 120, paused=True, refused_count=1),
            seen(100, 180, refused_count=2),
        ],
    ),
    ("a disabled trigger", given(opened(policy=policy(enabled=False))), [seen(99)]),
    (
        "bars that were seen or are out of order",
        monitored,
        [
            seen(100, 60),
            seen(100, 60, previous_bar_at=after(60)),
            seen(99, 30, previous_bar_at=after(60)),
            seen(100, 120, previous_bar_at=after(60), refused_count=2),
            seen(99, 180, previous_bar_at=after(120), refused_count=2),
        ],
    ),
    ("a custom rule", given(opened(policy=policy(custom_rule={"name": "mine"}))), [seen(100, verdict="so")]),
    ("a limit meets the stop", resting, [seen("101.9", 70), seen(99, 130)]),
    (
        "a limit meets the time",
        given(
            opened(policy=replace(LIMIT, time_limit=TIMED.time_limit)), triggered(reason="profit_take", limit=102)
        ).when(reported("new")),
        [seen(101, 600)],
    ),
    # time
    (
        "the time is up without a bar",
        given(opened(policy=TIMED)),
        [timer(700), replace(timer(599), price=D(101)), replace(timer(600), price=D(101))],
    ),
    (
        "the session ends without a bar",
        given(opened(policy=TIMED)),
        [
            replace(timer(100), price=D(101), session_close=after(460)),
            replace(timer(200), price=D(101), session_close=after(460)),
        ],
    ),
    (
        "the time is up amid bad bars",
        given(opened(policy=TIMED)).when(seen("NaN")),
        [replace(timer(600), price=D(101))],
    ),
    ("a limit makes no progress", resting, [timer(90), timer(91)]),
    ("a submit is not resolved", pending, [timer(119, 60), timer(120, 60), timer(200, 60)]),
    ("an order stalls", partial, [timer(120, 60), timer(121, 60)]),
    ("a cancel is not resolved", canceling, [timer(300, 60)]),
    ("a retry stalls", expired, [timer(159, 60), timer(160, 60)]),
    # the order on its way
    ("an order is filled at once", pending, [reported("filled", 10, "98.7"), holds(0)]),
    (
        "fills without a price, told later",
        submitted,
        [
            reported("partially_filled", 4),
            reported("partially_filled", 4, 99),
            reported("filled"),
            holds(0),
        ],
    ),
    ("a fill grows and an older report comes", partial, [reported("new", 0), reported("partially_filled", 7, "98.6")]),
    ("a short's exit", given(opened("short"), triggered()), [reported("filled", 10, "101.2"), holds(0)]),
    (
        "it expires, is tried again, and is filled",
        partial,
        [
            reported("expired", 4, at=70),
            holds(6, at=99),
            holds(6, at=100),
            reported("filled", 6, 98, at=101),
            holds(0),
        ],
    ),
    (
        "it is rejected twice for one reason",
        pending,
        [
            reported("rejected", 0, refusal="halted", text="no trading"),
            holds(10, at=200),
            reported("rejected", 0, refusal="halted", text="no trading", at=201),
        ],
    ),
    (
        "it is refused twice without a reason",
        pending,
        [
            refused(""),
            holds(10, at=200),
            reported("rejected", 0, at=201),
        ],
    ),
    (
        "it is rejected for another order passed on by word of mouth",
        submitted,
        [
            reported("rejected", 0, refusal="duplicate_of_verbal"),
        ],
    ),
    (
        "the budget is spent",
        given(opened(policy=policy(partial_fills={"max_resubmit_attempts": 1})), triggered()),
        [
            refused("one"),
            holds(10, at=200),
            refused("two", at=201),
            holds(10, at=400),
        ],
    ),
    ("it is canceled, and the window of late fills is waited for", partial, [reported("canceled", 4), holds(6, at=92)]),
    ("it is canceled where fills are never late", partial.at(NEVER_LATE), [reported("canceled", 4), holds(6, at=92)]),
    ("it is canceled where there is no bound", partial.at(CAREFUL), [reported("canceled", 4, text="by hand")]),
    ("it is canceled, and with how much is not said", partial, [reported("canceled")]),
    ("it is called filled and is short", partial, [reported("filled", 9, 99)]),
    (
        "it is done for the day, for good",
        partial,
        [
            reported("done_for_day", 4),
            reported("done_for_day", 4, leaves_qty=D(0)),
        ],
    ),
    (
        "a limit escalates, is canceled and goes on at market",
        resting,
        [
            timer(91),
            reported("canceled", 4, 102, at=92),
            holds(6, at=96),
            holds(6, at=97),
            reported("new", attempt=2),
        ],
    ),
    (
        "a cancel is refused again and again",
        canceling,
        [
            reported("cancel_rejected", 4, at=201, text="too late"),
            timer(232),
            reported("cancel_rejected", 4, at=233),
            timer(264),
            reported("cancel_rejected", 5, 102, at=265),
        ],
    ),
    ("a limit that expired is tried again as it was", resting, [reported("expired", 0, at=70), holds(10, at=200)]),
    (
        "sizes are whole steps, and a residue closes",
        given(opened(qty="6.25")).at(STEPS),
        [
            seen(99),
            reported("expired", 3, 99, at=70),
            holds("3.25", at=200),
            reported("filled", "3.2", 99, at=201),
            holds("0.05", at=202),
        ],
    ),
    (
        "only a residue is left between attempts",
        given(opened(qty="6.25"), triggered(qty="6.2")).at(STEPS),
        [
            reported("new"),
            reported("partially_filled", 6, 99, at=65),
            reported("expired", 6, at=70),
            holds("0.25", at=200),
        ],
    ),
    # what the broker holds
    ("closed by hand", monitored, [holds(0, reads=2), holds(0)]),
    (
        "bought, sold and another average",
        monitored,
        [
            holds(12, entry=101),
            holds(7),
            holds(7, entry="99.5", reads=2),
            holds(7, entry="99.5"),
            holds(7, entry=-1),
        ],
    ),
    ("a read of a small price", monitored, [holds(12, entry="0.5")]),
    ("a split while stops stand", given(opened(policy=TRAIL)).when(seen("101.5")), [holds(70, entry="14.3")]),
    ("bought while stops stand", given(opened(policy=TRAIL)).when(seen("101.5")), [holds(12, entry=101)]),
    ("the other side", partial, [holds(-3)]),
    ("the other side while it is monitored", monitored, [holds(-3)]),
    ("less than the order sells", partial, [holds(5, reads=2), holds(5)]),
    ("all is sold, and the broker shows some", partial, [reported("filled", 10, 99), holds(3, reads=2), holds(3)]),
    ("sold by others between attempts", expired, [holds(4, at=200, reads=2), holds(4, at=200)]),
    ("closed by others between attempts", expired, [holds(0, at=200)]),
    ("flat while it is unprotected", loose, [holds(0, reads=2), holds(0)]),
    # news after the end
    ("a late fill between attempts", expired, [reported("expired", 5, 98, at=75), reported("expired", 10, 98, at=76)]),
    (
        "a late fill beside the next order",
        second,
        [reported("expired", 5, 98, attempt=1, at=202), reported("canceled", 0)],
    ),
    ("a late fill for more than is left", second, [reported("expired", 11, 98, attempt=1, at=202)]),
    ("a late fill after the exit", filled, [reported("filled", 11, 98)]),
    ("a late fill after it was closed by hand", expired.when(holds(0, at=200)), [reported("expired", 6, 98)]),
    ("an earlier order's fill is taken back", second, [reported("expired", 3, 98, attempt=1, at=202, corrected=True)]),
    (
        "an earlier order says nothing new",
        second,
        [
            reported("expired", 4, attempt=1),
            reported("expired", attempt=1),
            reported("expired", -1, attempt=1),
            reported("expired", "NaN", attempt=1),
            reported("expired", 3, attempt=1),
            reported("expired", 9, attempt=9),
        ],
    ),
    (
        "nothing was filled after all",
        pending.when(refused(), holds(10, at=200), reported("new", attempt=2)),
        [
            reported("rejected", 0, attempt=1),
            reported("rejected", 1, 99, attempt=1, at=300),
        ],
    ),
    ("a refused order works all the same", pending.when(refused()), [reported("new", 0, at=70)]),
    ("a refused order fills all the same", pending.when(refused()), [reported("partially_filled", 3, 99, at=70)]),
    (
        "a refused order works beside the next",
        pending.when(refused(), holds(10, at=200), reported("new", attempt=2)),
        [
            reported("new", attempt=1, at=300),
        ],
    ),
    (
        "a refused order fills beside the next",
        pending.when(refused(), holds(10, at=200), reported("new", attempt=2)),
        [
            reported("partially_filled", 3, 99, attempt=1, at=300),
        ],
    ),
    (
        "its price is told after its end",
        submitted.when(reported("expired", 4, at=70)),
        [reported("expired", 4, 98, at=80)],
    ),
    ("more is filled than was sent", partial, [reported("filled", 11, 99), reported("filled", 11, 99)]),
    ("more is filled while it is unprotected", unprotected, [reported("partially_filled", 11, 99)]),
    # what others do to it
    (
        "it is not ours",
        submitted,
        [
            reported("new", symbol="MSFT"),
            reported("rejected", 0, symbol="MSFT", refusal="halted", text="no"),
        ],
    ),
    ("it is on the wrong side", submitted, [reported("new", side=OrderSide.BUY)]),
    ("it is of no quantity", submitted, [reported("new", qty=D("NaN"))]),
    ("it is filled with no quantity", submitted, [reported("new", "NaN")]),
    ("it is made larger", partial, [reported("new", 4, qty=D(12), text="by jo"), reported("canceled", 4, qty=D(12))]),
    ("it is made smaller", partial, [reported("new", 4, qty=D(8), text="by jo"), reported("filled", 8, 99, qty=D(8))]),
    ("it is made smaller before it is acknowledged", pending, [reported("new", qty=D(8), broker_order_id="b1")]),
    (
        "it is made as small as what it filled",
        partial,
        [reported("new", 4, qty=D(4)), reported("canceled", 4, qty=D(4))],
    ),
    (
        "it is made smaller while it is unprotected",
        unprotected,
        [
            reported("new", 0, qty=D(4)),
            reported("partially_filled", 4, 99, qty=D(4)),
            reported("filled", 4, 99, qty=D(4)),
        ],
    ),
    ("it is made smaller than what it filled", partial, [reported("new", 3, qty=D(3), corrected=True)]),
    ("a split changes it", partial, [reported("partially_filled", 40, "9.85", qty=D(100))]),
    ("a split the other way changes it", partial, [reported("partially_filled", 2, 197, qty=D(5))]),
    ("it is made larger after its end", expired, [reported("new", 4, qty=D(12)), reported("expired", 4, qty=D(9))]),
    ("it is made larger after the exit", filled, [reported("partially_filled", 10, qty=D(12))]),
    ("it is replaced", partial, [reported("replaced", 5, 99)]),
    ("it is replaced without news of fills", partial, [reported("replaced", 4)]),
    ("it is replaced after its end", expired, [reported("replaced", 5, 98, at=80)]),
    ("a price is corrected", partial, [reported("partially_filled", 4, 97, corrected=True)]),
    ("a fill is taken back", partial, [reported("partially_filled", 1, 99, corrected=True)]),
    ("a fill is taken back after the exit", filled, [reported("filled", 8, 99, corrected=True)]),
    (
        "a small fill is corrected",
        submitted.when(reported("partially_filled", "0.5", 99)),
        [
            reported("partially_filled", "0.5", 98, corrected=True),
        ],
    ),
    ("a correction without a fill", submitted, [reported("new", 0, 98, corrected=True)]),
    # people
    ("an operator wants out", monitored, [asked(price=D(98))]),
    (
        "an operator wants out amid bad bars, with a price that is none",
        monitored.when(seen("NaN")),
        [asked(price=D(-1))],
    ),
    ("an operator wants a limit out", resting, [asked()]),
    ("an operator wants a market order out", partial, [asked()]),
    ("an operator wants an unprotected position out", loose, [asked(qty=D(7))]),
    ("an operator wants one out of which nothing is held", loose, [asked(qty=D(0)), asked(qty=D("NaN"))]),
    ("an operator wants one out of which nothing is left", filled.when(reported("filled", 11, 98)), [asked()]),
    (
        "an operator releases it",
        loose,
        [
            Release(at=after(100), who="jo", qty=D(0), entry_price=D(100)),
            Release(at=after(100), who="jo", qty=D(8), entry_price=D(99)),
            seen(98, 160),
        ],
    ),
    (
        "an operator releases it while an order may live",
        unprotected,
        [
            Release(at=after(100), who="jo", qty=D(8), entry_price=D(99)),
        ],
    ),
    (
        "a budget and a refusal are forgotten with a release",
        second.when(
            reported("rejected", 0, refusal="halted", attempt=2, at=202), Contradiction(at=after(203), why="?")
        ),
        [
            Release(at=after(300), who="jo", qty=D(6), entry_price=D(99)),
            seen(90, 360),
            reported("rejected", 0, refusal="halted"),
        ],
    ),
    (
        "the policy changes",
        monitored,
        [
            ChangePolicy(at=after(30), policy=policy(stop_loss=False), who="jo"),
            ChangePolicy(at=after(31), policy=policy(stop_loss=False), who="jo"),
        ],
    ),
    ("the policy does not change an exit", partial, [ChangePolicy(at=after(90), policy=policy(stop_loss=False))]),
    (
        "an alarm is raised, once, and acknowledged",
        monitored,
        [
            RaiseAlarm(at=after(5), kind="feed_lost", text="no bars"),
            RaiseAlarm(at=after(6), kind="feed_lost", text="none"),
            Acknowledge(at=after(7), alarm_id="nothing", who="jo"),
            lambda p: Acknowledge(at=after(7), alarm_id=p.alarms[0].alarm_id, who="jo"),
        ],
    ),
    (
        "evidence contradicts itself",
        partial,
        [Contradiction(at=after(90), why="it cannot be"), Contradiction(at=after(91), why="again")],
    ),
    (
        "evidence contradicts itself, and the order could sell too much",
        second.when(reported("partially_filled", 1, 99, attempt=2)),
        [reported("expired", 6, 98, attempt=1, at=202)],
    ),
    (
        "an order that could sell too much meets a contradiction",
        given(opened(qty=6), triggered(qty=10)).when(reported("new")),
        [Contradiction(at=after(90), why="it cannot be")],
    ),
    ("a limit gives way to another exit", resting, [GiveWay(at=after(90), why="a stop waits")]),
    ("a market order does not", submitted, [GiveWay(at=after(90), why="a stop waits")]),
    (
        "a limit gives way to another exit while nothing else is done",
        resting.when(Contradiction(at=after(80), why="it cannot be")),
        [GiveWay(at=after(90), why="a stop waits"), GiveWay(at=after(91), why="a stop waits")],
    ),
    (
        "an earlier order that was refused works, fills and ends",
        pending.when(refused(), holds(10, at=200), reported("new", attempt=2, at=201, broker_order_id="b2")),
        [
            reported("expired", 1, 98, attempt=2, at=202),
            reported("partially_filled", 2, 99, attempt=1, at=203, broker_order_id="b1"),
            reported("canceled", None, attempt=1, at=204),
            reported("canceled", 3, 99, attempt=1, at=205),
        ],
    ),
    (
        "an order that was refused works while nothing else is done",
        pending.when(refused(), Contradiction(at=after(80), why="it cannot be")),
        [reported("new", at=90, broker_order_id="b1"), reported("canceled", 0, at=91)],
    ),
    ("our order is found at the broker", monitored, [recovered(2, 10, "partially_filled", 4, broker_order_id="b7")]),
    ("a filled order of ours is found amid bad bars", monitored.when(seen("NaN")), [recovered(1, 6, "filled", 6)]),
    (
        "the next attempt is found at the broker",
        partial.when(reported("rejected", 4, refusal="halted", at=90)),
        [recovered(2, 6, at=100), recovered(2, 6, at=300), recovered(3, 6, at=301)],
    ),
    ("an order of ours is found that is too large", monitored, [recovered(1, 11)]),
    ("a canceled order of ours is found", monitored, [recovered(1, 10, "canceled", 4), holds(6, at=70)]),
    # at the edges
    ("bad bars and jumps after the watch", partial, [seen("NaN", 70), seen(-1, 80)]),
    ("a jump that nobody waits for", filled, [seen(140, 300, reference_price=D(100))]),
    ("a jump while it is unprotected", loose, [seen(140, 300, reference_price=D(100))]),
    (
        "the session ends with a bar",
        given(opened(policy=TIMED)),
        [
            seen(100, 60, session_close=after(361)),
            seen(100, 120, session_close=after(420)),
        ],
    ),
    (
        "a limit meets the end of the session",
        given(
            opened(policy=replace(LIMIT, end_of_session=TIMED.end_of_session)),
            triggered(reason="profit_take", limit=102),
        ).when(reported("new")),
        [seen(101, 120, session_close=after(421)), seen(101, 121, session_close=after(421))],
    ),
    (
        "a bar that is old when it arrives",
        monitored,
        [
            seen(99, 60, received_at=after(361)),
            seen(99, 120, received_at=after(420), refused_count=1),
        ],
    ),
    (
        "a low that is a jump, on the range and on the close",
        given(opened(policy=policy(evaluate_on="range"))),
        [
            seen(bar(100, 60, low=50), reference_price=D(100)),
            seen(bar(100, 120, low="98.9"), reference_price=D(100)),
        ],
    ),
    ("a low that is a jump, on the close", monitored, [seen(bar(100, 60, low=50), reference_price=D(100))]),
    ("a jump that a second source confirms", monitored, [seen(140, reference_price=D(100), confirmed=True)]),
    ("the stop of one whose target would rest", given(opened(policy=LIMIT)), [seen(99)]),
    (
        "the target rests where any price goes",
        given(opened(entry="100.01", policy=LIMIT)).at(Capabilities(stocks=AssetRules(price_tick=D(0)))),
        [seen(103)],
    ),
    (
        "the target rests for good, and is tried again",
        given(opened(policy=LIMIT)),
        [
            seen(102),
            reported("expired", 0, at=70),
            holds(10, at=200),
        ],
    ),
    ("as much is left as the order sells", partial, [holds(6), holds(7)]),
    ("bought at a price that is none", monitored, [holds(8, entry=-1), holds(9, entry="NaN")]),
    ("a read between attempts that is as expected needs no second", expired, [holds(6, at=200, reads=1)]),
    (
        "a small rest is tried again",
        submitted.when(reported("partially_filled", "9.5", 99), reported("expired", "9.5")),
        [
            holds("0.5", at=200),
        ],
    ),
    (
        "the least there is is sold, and less is not",
        given(opened(qty="6.5"), triggered(qty="6.5")).at(STEPS).when(reported("expired", 6, 99, at=70)),
        [holds("0.5", at=200)],
    ),
    (
        "less than a step is left, and nothing is held",
        given(opened(qty="6.25")).at(STEPS).when(seen(99), reported("filled", "6.2", 99)),
        [holds(0, reads=2), holds(0)],
    ),
    (
        "less than a step is left, and more is held",
        given(opened(qty="6.25")).at(STEPS).when(seen(99), reported("filled", "6.2", 99)),
        [holds("0.05", reads=2), holds(1, reads=2), holds(1)],
    ),
    (
        "all was sold by an order that is over",
        expired.when(reported("expired", 10, 98, at=75)),
        [
            holds(1, at=200, reads=2),
            holds(0, at=200),
        ],
    ),
    (
        "half a share is left of an unprotected position",
        given(opened(qty="0.5"), triggered(qty="0.5")).when(
            reported("new"), Contradiction(at=after(90), why="?"), reported("canceled", 0)
        ),
        [asked()],
    ),
    ("an operator wants one out whose order may live", unprotected, [asked()]),
    (
        "the time is up at a price that is none, and while it is off",
        given(opened(policy=TIMED)),
        [
            replace(timer(700), price=D(-1)),
            ChangePolicy(at=after(1), policy=replace(TIMED, enabled=False)),
            replace(timer(700), price=D(100)),
        ],
    ),
    (
        "an order is found that says no quantity, or belongs to another",
        monitored,
        [
            replace(recovered(1, 10), report=replace(recovered(1, 10).report, qty=None)),
            replace(recovered(1, 10), attempt=2),
        ],
    ),
    ("an order is found while an exit is under way", partial, [recovered(1, 10)]),
    (
        "an order is found that is known already",
        loose.when(Release(at=after(100), who="jo", qty=D(10), entry_price=D(100))),
        [recovered(1, 10)],
    ),
    ("an order is found whose quantity is none", monitored, [recovered(1, "0")]),
    (
        "an order is found of a position that may exit for good",
        given(opened(policy=policy(stop_loss={"time_in_force": "gtc"}))),
        [recovered(1, 10)],
    ),
    (
        "a late fill leaves as much as the next order sells",
        second.when(reported("new", 0, qty=D(5), attempt=2, at=203)),
        [
            reported("expired", 5, 98, attempt=1, at=204),
        ],
    ),
    (
        "a late fill beside an order that was made smaller",
        second.when(reported("new", 0, qty=D(5), attempt=2, at=203), Contradiction(at=after(204), why="?")),
        [
            reported("expired", 5, 98, attempt=1, at=205),
            reported("expired", "5.5", 98, attempt=1, at=206),
        ],
    ),
    (
        "an earlier order is corrected by what nobody fills",
        second,
        [
            reported("expired", -1, attempt=1, corrected=True),
            reported("expired", "0.5", 98, attempt=1, corrected=True),
        ],
    ),
    ("an earlier order is corrected to nothing", second, [reported("expired", 0, attempt=1, at=202, corrected=True)]),
    ("a price is told of an order that is over and not ours any more", filled.when(), [reported("filled", 10, 98)]),
    ("a price comes for an order that is filled", submitted.when(reported("filled", 10)), [reported("filled", 10, 98)]),
    ("it is made larger by news that say less is filled", partial, [reported("new", 3, qty=D(12))]),
    (
        "it is made smaller, filled more, and not over",
        partial,
        [
            reported("partially_filled", 6, 98, qty=D(8)),
            reported("expired", 7, 98, qty=D(8), at=80),
            holds(3, at=200),
        ],
    ),
    (
        "it is made smaller while a cancel is under way",
        canceling,
        [
            reported("pending_cancel", 4, qty=D(5)),
            reported("canceled", 5, 102, qty=D(5)),
        ],
    ),
    ("its earlier order is changed", second, [reported("new", 4, qty=D(12), attempt=1, at=202)]),
    (
        "an unprotected order is corrected",
        unprotected.when(reported("partially_filled", 4, 99)),
        [
            reported("partially_filled", 3, 99, corrected=True),
            reported("canceled", 3, corrected=True),
        ],
    ),
    (
        "an unprotected order is refused, and expires",
        unprotected,
        [
            reported("rejected", 0, refused_at_submit=True),
            reported("expired", 0),
        ],
    ),
    ("an unprotected order expires", unprotected, [reported("expired", 3, 98, text="over")]),
    ("an unprotected order is rejected without a reason", unprotected, [reported("rejected", 0)]),
    ("an unprotected order is called filled and is short", unprotected, [reported("filled", 9, 98)]),
    (
        "a split leaves stops that others may keep",
        given(opened(policy=TRAIL)).when(seen("101.5")),
        [
            holds(11, entry=130),
            holds(11, entry=131, at=63),
            holds(11, entry=90, at=64),
        ],
    ),
    ("the broker's clock is slow", pending, [reported("new", at=30), reported("partially_filled", 4, 99, at=40)]),
    (
        "a limit that rests is done for the day, found at the broker",
        monitored,
        [
            recovered(1, 10, "done_for_day", 0, leaves_qty=D(0)),
        ],
    ),
    (
        "it is done for the day, with more to fill or none said",
        partial,
        [
            reported("done_for_day", 4, leaves_qty=D(6)),
            reported("done_for_day", leaves_qty=D(0)),
            reported("done_for_day", 4, leaves_qty=D("NaN")),
        ],
    ),
    (
        "a good-till-canceled order is done for the day",
        given(opened(policy=LIMIT)).when(seen(102), reported("new")),
        [
            reported("done_for_day", 0, leaves_qty=D(0)),
        ],
    ),
    (
        "a pair and its spelling",
        given(opened(symbol="BTC/USD"), triggered()),
        [
            reported("new", symbol="BTCUSD", side=OrderSide.SELL, qty=D(10)),
        ],
    ),
    ("a pending order is not ours", pending, [reported("new", symbol="MSFT")]),
    (
        "a canceled limit waits for the window alone",
        resting.at(NEVER_LATE).when(timer(91)),
        [
            reported("canceled", 0, at=92),
            holds(10, at=92),
        ],
    ),
    ("an end that is told late says less than was filled", partial, [reported("canceled", 3)]),
    (
        "a pair, spelled as we do, and of no quantity",
        given(opened(symbol="BTC/USD"), triggered()),
        [
            reported("new", symbol="BTC/USD", qty=D(0)),
        ],
    ),
    (
        "half a share",
        given(opened(qty="0.5"), triggered(qty="0.5")),
        [
            reported("new", qty=D("0.5")),
            reported("partially_filled", "0.25"),
            reported("partially_filled", "0.25", "0.5"),
            Contradiction(at=after(90), why="?"),
            reported("canceled", "0.25"),
            reported("canceled", "0.25"),
            asked(qty=D("0.1")),
        ],
    ),
    (
        "fills at prices that are none",
        submitted,
        [
            reported("partially_filled", 4, 0),
            reported("partially_filled", 5, -1),
            reported("partially_filled", 6, "NaN"),
        ],
    ),
    ("a cancel is refused before anything is filled", resting.when(timer(91)), [reported("cancel_rejected", 0, at=92)]),
    (
        "a cancel is refused when half a share is filled",
        resting.when(timer(91)),
        [
            reported("cancel_rejected", "0.5", 102, at=92),
            timer(200),
            reported("cancel_rejected", "0.5", at=201),
        ],
    ),
    (
        "it is made as small as what is left, and filled",
        given(opened(qty=6), triggered(qty=10)).when(reported("new")),
        [
            reported("filled", 6, 99, qty=D(6)),
            holds(0),
        ],
    ),
    (
        "late fills whose price is not said",
        expired,
        [
            reported("expired", 5, at=75),
            reported("replaced", 6, at=76),
            reported("expired", 11, at=77),
            reported("expired", 12, at=78),
        ],
    ),
    ("it is replaced, and the price of what it filled is not said", partial, [reported("replaced", 5)]),
    (
        "fills while it is unprotected whose price is not said",
        unprotected,
        [
            reported("partially_filled", 4),
            reported("partially_filled", 4),
            reported("partially_filled", 4, 99),
        ],
    ),
    ("after its end it is smaller than what it filled", expired, [reported("expired", 4, qty=D(3))]),
    (
        "it is made larger by what is left over",
        given(opened(qty="6.25")).at(STEPS).when(seen(99)),
        [
            reported("new", 0, qty=D("6.25")),
        ],
    ),
    ("it is made larger and filled at once", partial, [reported("partially_filled", 5, 99, qty=D(11))]),
    (
        "an unprotected order is made smaller and larger again",
        unprotected,
        [
            reported("new", 0, qty=D(5)),
            reported("new", 0, qty=D(10)),
            reported("new", 0, qty=D(11)),
        ],
    ),
    (
        "an order is replaced after it was closed by hand",
        expired.when(holds(0, at=200)),
        [
            reported("replaced", 5, 98, at=300),
        ],
    ),
    (
        "an unprotected order is made as small as what it filled, and is over",
        unprotected.when(reported("partially_filled", 4, 99)),
        [reported("new", 4, qty=D(4)), reported("canceled", 4, qty=D(4))],
    ),
    (
        "the first of two earlier orders fills late",
        second.when(
            reported("expired", 2, 97, attempt=2, at=210), holds(4, at=300), reported("new", attempt=3, at=301)
        ),
        [
            reported("expired", 5, 98, attempt=1, at=302),
            reported("expired", "2.5", 97, attempt=2, at=303),
        ],
    ),
    (
        "more is filled than was sent, and it is said to be for as much",
        partial.when(reported("filled", 11, 99)),
        [
            reported("filled", 11, 99, qty=D(11)),
        ],
    ),
    ("half a share at half a dollar", nothing, [to_open(opened(qty="0.5", entry="0.5"))]),
    (
        "all is sold, and less than a step is held",
        given(opened(qty=6)).at(STEPS).when(seen(99), reported("filled", 6, 99)),
        [holds("0.05", reads=2), holds("0.05")],
    ),
    (
        "less than a step is left, and a whole share is held",
        given(opened(qty="6.25")).at(STEPS).when(seen(99), reported("filled", "6.2", 99)),
        [holds(1, reads=2), holds(1)],
    ),
    # levels
    (
        "levels by the average range",
        given(opened(atr="1.5", policy=policy(atr_levels={}))),
        [seen(100), seen("97.75", 120)],
    ),
    (
        "levels of a short by the average range",
        given(opened("short", atr="1.5", policy=policy(atr_levels={}))),
        [
            seen(100),
            seen("95.5", 120),
        ],
    ),
    (
        "an average range that is too wide",
        given(opened(atr=70, policy=policy(atr_levels={}, stop_loss=False))),
        [seen(100)],
    ),
    (
        "an average range that is just too wide",
        given(opened("short", entry=3, atr=1, policy=policy(atr_levels={}))),
        [seen(3)],
    ),
    (
        "no average range",
        given(opened(policy=policy(atr_levels={}, stop_loss=False, profit_taking=False))),
        [seen(100)],
    ),
    ("an average range of nothing", given(opened(atr=0, policy=policy(atr_levels={}))), [seen(100)]),
    (
        "a ladder",
        given(
            opened(
                policy=policy(
                    target_ladder={
                        "steps": [
                            {"after_seconds": 120, "threshold_pct": "1.5"},
                            {"after_seconds": 240, "threshold_pct": "0.5"},
                        ]
                    }
                )
            )
        ),
        [
            seen(100, 60),
            seen(100, 119),
            seen(100, 120),
            seen(101, 239),
            seen("100.5", 240),
        ],
    ),
    (
        "a ladder without a target before it",
        given(
            opened(
                "short",
                policy=policy(
                    profit_taking=False, target_ladder={"steps": [{"after_seconds": 120, "threshold_pct": 1}]}
                ),
            )
        ),
        [seen(50, 60), seen(99, 120)],
    ),
    (
        "a ladder and a time limit",
        given(
            opened(
                policy=policy(
                    time_limit={"max_seconds": 90},
                    target_ladder={
                        "steps": [{"after_seconds": 60, "threshold_pct": 1}, {"after_seconds": 120, "threshold_pct": 0}]
                    },
                )
            )
        ),
        [
            seen(100, 30),
            seen(100, 60),
            seen(100, 89),
            seen(100, 90),
        ],
    ),
    (
        "a step of the trail",
        given(
            opened(
                policy=policy(
                    profit_taking=False,
                    stop_loss=False,
                    trailing_stop={"activation_pct": 0, "trail_pct": "0.5", "step_pct": 1},
                )
            )
        ),
        [
            seen(100, 60),
            seen("100.9", 120),
            seen("101.1", 180),
            seen("100.595", 240),
        ],
    ),
    (
        "a step of a short's trail",
        given(
            opened(
                "short",
                policy=policy(
                    profit_taking=False,
                    stop_loss=False,
                    trailing_stop={"activation_pct": 0, "trail_pct": "0.5", "step_pct": 1},
                ),
            )
        ),
        [
            seen(100, 60),
            seen("99.1", 120),
            seen("98.9", 180),
            seen("99.4", 240),
        ],
    ),
    (
        "break even before the trail begins",
        given(
            opened(
                policy=policy(
                    break_even={"activation_pct": 1, "offset_pct": "0.25"},
                    trailing_stop={"activation_pct": 3, "trail_pct": 1},
                    profit_taking=False,
                    stop_loss=False,
                )
            )
        ),
        [seen(100, 60), seen(102, 120), seen(103, 180), seen(110, 240)],
    ),
    (
        "the trail begins before break even, for a short",
        given(
            opened(
                "short",
                policy=policy(
                    break_even={"activation_pct": 3, "offset_pct": "0.25"},
                    trailing_stop={"activation_pct": 1, "trail_pct": 1},
                    profit_taking=False,
                    stop_loss=False,
                ),
            )
        ),
        [seen(100, 60), seen(98, 120), seen(97, 180)],
    ),
    (
        "a wide bar on the range counts as the stop",
        given(opened(policy=policy(evaluate_on="range"))),
        [
            seen(bar(100, 60, low=99, high=102)),
        ],
    ),
    (
        "a short's bar on the range",
        given(opened("short", policy=policy(evaluate_on="range", stop_loss=False))),
        [
            seen(bar(100, 60, low=98, high=102)),
        ],
    ),
    (
        "bars that cannot be",
        monitored,
        [
            seen(bar(100, 60, open=0)),
            seen(bar(100, 61, low="NaN")),
            seen(bar(100, 62, high="Infinity")),
            seen(bar(100, 63, high=98, low=99)),
            seen(bar("1E+40", 64)),
            seen(bar("1E-40", 65)),
            seen(bar(100, 66, open=140), reference_price=D(100)),
            seen(bar(100, 67, open=130), reference_price=D(100)),
            seen(bar(100, 68), received_at=after(68 - 86400)),
            seen(bar(100, 69), received_at=after(69 - 86401)),
            seen(bar(77, 70, open=76), reference_price=D(100)),
            seen(bar(100, 71), reference_price=D("130.1")),
            seen(bar(100, 72), received_at=after(72), previous_bar_at=after(400)),
            seen(bar(100, 73), received_at=after(73), previous_bar_at=after(372)),
        ],
    ),
    ("a guard that is off", given(opened(policy=policy(price_guard=False))), [seen(140, reference_price=D(100))]),
    (
        "a fill is taken back between attempts, and the order stays over",
        expired,
        [
            reported("expired", 3, "98.5", at=75, corrected=True),
            reported("new", 3, at=76),
        ],
    ),
    (
        "an average range that is wide for the target alone",
        given(opened(atr=40, policy=policy(atr_levels={}))),
        [seen(100)],
    ),
    (
        "an average range that is wide for a short's target",
        given(opened("short", atr=40, policy=policy(atr_levels={}))),
        [
            seen(100),
        ],
    ),
    (
        "a ladder whose steps are over",
        given(opened(policy=policy(target_ladder={"steps": [{"after_seconds": 120, "threshold_pct": 1}]}))),
        [seen(100, 130)],
    ),
    (
        "a limit rests where there is no stop, beside a ladder",
        given(
            opened(
                policy=policy(
                    profit_taking={"order_type": "limit"},
                    stop_loss=False,
                    target_ladder={"steps": [{"after_seconds": 120, "threshold_pct": 1}]},
                )
            ),
            triggered(reason="profit_take", limit=102),
        ),
        [reported("new"), seen(50, 70), seen(50, 130)],
    ),
]


def lines(start: Scenario, messages: list[Told]) -> Iterator[str]:
    """What the messages lead to: events, changed fields, what is owed at once and a day later, and the quiet band."""
    s = start
    before: dict[str, str] = fields_of(start.position)
    for one in messages:
        message = one(s.now) if callable(one) else one
        s = s.when(message)
        yield f"  {type(message).__name__} by {message.by}"
        for event in s.news:
            yield f"    {tag_of(event)} {body(event)}"
        now = fields_of(s.position)
        changes = [f"{name}={value}" for name, value in now.items() if before.get(name, unsaid(name)) != value]
        yield f"    = {', '.join(changes) or 'as before'}"
        before = now
        yield f"    owes {owes(s.now, message.at)}; {watches(s.now, message.at)}"


def fields_of(p: Position | None) -> dict[str, str]:
    """All fields but the policy, those of each order by its number, and what is computed of them, as text."""
    if p is None:
        return {}
    found: dict[str, Any] = {}
    for name in p.__struct_fields__:
        if name in ("stops", "exit"):
            found |= {f"{name}.{field}": value for field, value in msgspec.structs.asdict(getattr(p, name)).items()}
        elif name == "orders":
            found |= {f"#{o.attempt}.{field}": v for o in p.orders for field, v in msgspec.structs.asdict(o).items()}
        elif name not in ("policy", "version"):
            found[name] = getattr(p, name)
    found |= {n: getattr(p, n) for n in ("sold_qty", "remaining_qty", "leaves_qty", "avg_exit_price")}
    return {name: short(msgspec.json.encode(value)) for name, value in found.items()}


def unsaid(name: str) -> str | None:
    """What need not be said of an order that is new; None for what must be."""
    number, _, field = name.partition(".")
    return NEW_ORDER.get(field) if number.startswith("#") else None


def body(event: Any) -> str:
    """The event as it is stored; a policy as its digest."""
    changed = {"policy": event.policy.digest()} if hasattr(event, "policy") else {}
    plain = {name: getattr(event, name) for name in event.__struct_fields__} | changed
    return short(msgspec.json.encode(plain))


def owes(p: Position, at: datetime) -> str:
    """What the broker is owed at once, with an unknown outcome, and a day later."""
    times = {"now": owed(p, at), "unsure": owed(p, at, outcome_unknown=True), "later": owed(p, at + timedelta(days=1))}
    said = {
        when: f"{type(a).__name__} {short(msgspec.json.encode(a))}" if a else "nothing" for when, a in times.items()
    }
    different = [f", {when} {what}" for when, what in said.items() if what != said["now"]]
    return said["now"] + "".join(different)


def watches(p: Position, at: datetime) -> str:
    """The levels that stand, and between which prices nothing happens."""
    if p.state.terminal:
        return "over"
    band = wake_band(p, at)
    quiet = "every bar" if band is None else f"{band.lower}..{band.upper} until {band.until and band.until - T0}"
    target, stops = levels(p, at)
    return f"{[f'{x.rule} {x.price}' for x in [*stops, *([target] if target else [])]]} {quiet}".replace("'", "")


def short(encoded: bytes) -> str:
    """Ids by their number, times by their distance from the opening, without quotes."""
    text = encoded.decode().replace(given(opened()).now.position_id, "P").replace('"', "")
    text = re.sub(r"xf1-[0-9a-f]{32}-(\d+)", r"#\1", text)

    def since(found: re.Match[str]) -> str:
        return f"{(datetime.fromisoformat(found[0]) - T0).total_seconds():+g}s"

    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|\+00:00)", since, text)


NEW_ORDER = {
    field: short(msgspec.json.encode(default))
    for field, default in zip(
        ExitOrder.__struct_fields__[-len(ExitOrder.__struct_defaults__) :], ExitOrder.__struct_defaults__, strict=True
    )
}


def told() -> str:
    """All stories, as they are kept."""
    parts = [line for name, start, messages in STORIES for line in (name, *lines(start, messages))]
    return "\n".join(parts) + "\n"


def kept() -> dict[str, str]:
    """Each story as it is kept, by its name."""
    found = re.split(r"^(?=\S)", KEPT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part for part in found if part}


@pytest.mark.parametrize(("name", "start", "messages"), STORIES, ids=[name for name, _, _ in STORIES])
def test_what_is_decided_is_what_was_decided(name: str, start: Scenario, messages: list[Told]) -> None:
    assert "\n".join([name, *lines(start, messages)]) + "\n" == kept()[name]


def test_nothing_is_kept_that_is_not_told() -> None:
    assert list(kept()) == [name for name, _, _ in STORIES]


def test_nothing_is_decided_of_a_position_that_there_is_not() -> None:
    assert decide(None, timer(1)) == ()
    assert decide(None, holds(1)) == ()


def test_the_names_that_enter_every_id_never_change() -> None:
    assert account_hash("PA3ABCDEF") == "bff0faed331b"
    assert epoch_of(T0) == "20240102T143000Z"
    assert epoch_of(T0.replace(microsecond=5)) == "20240102T143000.000005Z"


if __name__ == "__main__":
    KEPT.write_text(told(), encoding="utf-8")
