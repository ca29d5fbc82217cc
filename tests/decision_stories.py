"""Stories of what is decided: bars, time, orders, what the broker holds, what others do, and people."""

from __future__ import annotations

from decision_starts import (
    LIMIT,
    NEVER_LATE,
    STEPS,
    TIMED,
    TRAIL,
    D,
    Story,
    asked,
    canceling,
    expired,
    filled,
    loose,
    monitored,
    nothing,
    partial,
    pending,
    recovered,
    resting,
    second,
    submitted,
    unprotected,
)
from msgspec.structs import replace

from exitfsm.messages import (
    Acknowledge,
    ChangePolicy,
    Contradiction,
    GiveWay,
    RaiseAlarm,
    Release,
)
from exitfsm.ports import CAREFUL
from exitfsm.testing.given import (
    after,
    given,
    holds,
    opened,
    policy,
    refused,
    reported,
    seen,
    timer,
    to_open,
    triggered,
)
from exitfsm.values import OrderSide

STORIES: list[Story] = [
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
            reported("rejected", 0, refusal="not_tradable", text="no trading"),
            holds(10, at=200),
            reported("rejected", 0, refusal="not_tradable", text="no trading", at=201),
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
            reported("rejected", 0, symbol="MSFT", refusal="not_tradable", text="no"),
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
            reported("rejected", 0, refusal="not_tradable", attempt=2, at=202), Contradiction(at=after(203), why="?")
        ),
        [
            Release(at=after(300), who="jo", qty=D(6), entry_price=D(99)),
            seen(90, 360),
            reported("rejected", 0, refusal="not_tradable"),
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
        partial.when(reported("rejected", 4, refusal="not_tradable", at=90)),
        [recovered(2, 6, at=100), recovered(2, 6, at=300), recovered(3, 6, at=301)],
    ),
    ("an order of ours is found that is too large", monitored, [recovered(1, 11)]),
    ("a canceled order of ours is found", monitored, [recovered(1, 10, "canceled", 4), holds(6, at=70)]),
]
