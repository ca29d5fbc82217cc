"""Stories of what is decided at the edges."""

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
    ChangePolicy,
    Contradiction,
    Ignore,
    Release,
)
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.testing.given import (
    after,
    bar,
    given,
    holds,
    opened,
    policy,
    reported,
    seen,
    timer,
    to_open,
    triggered,
)
from exitfsm.values import OrderSide

EDGES: list[Story] = [
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
    ("a person takes it out of what is managed", monitored, [seen("NaN"), Ignore(at=after(120))]),
    ("a person takes it out while its exit is under way", partial, [Ignore(at=after(120))]),
]
