"""What a refusal means: one that passes is tried again without an end, one that lasts reaches a person."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace
from positions import monitoring, pending, submitted

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    ExitPostponed,
    ExitRetried,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
)
from exitfsm.holdings import not_there
from exitfsm.messages import Acknowledge, Contradiction, ForceExit, PositionRead, RaiseAlarm, Release, Report
from exitfsm.position import Cancel, LookUp, Position, ReadPosition, Submit
from exitfsm.position.refusing import (
    LASTING_CODES,
    PASSING_CODES,
    PAUSE_MAX_S,
    holders,
    passes,
    pause,
    postponed_in_a_row,
    what_would_work,
)
from exitfsm.testing.given import Scenario, after, holds, like, order_id, refused, reported, timer

PASSING = [
    ("market_halted", "trading in this symbol is paused"),
    ("halted", ""),
    ("-1021", "Timestamp for this request is outside of the recvWindow."),
    ("-1003", "Too many requests queued."),
    ("429", ""),
    ("InvalidNonce", ""),
    ("RateLimitExceeded", ""),
    ("OnMaintenance", "binance system maintenance"),
    ("insufficient_closable", "not enough closable quantity"),
    ("-2010", "Market is closed."),
    ("MarketClosed", ""),
    ("2", "exchange closed"),
    ("50013", "System is busy, please try again later."),
    ("EService", "EService:Market in cancel_only mode"),
    ("201", "Order rejected - reason: The contract is halted"),
    ("rejected", "shares of today's purchase cannot be sold before T+1"),
    ("422", "outside of trading hours"),
    ("alpaca_40310000", "trading halt on symbol"),
]
LASTING = [
    ("BadSymbol", "market is closed"),
    ("delisted", "trading is suspended"),
    ("403", "account is suspended"),
    ("40310100", "trade denied due to pattern day trading protection"),
    ("10243", "Fractional-sized order cannot be placed via API"),
    ("LOT_SIZE", "quantity 499.5 is no multiple of 1"),
    ("insufficient_qty", "insufficient qty available for order; try again later"),
    ("InsufficientFunds", ""),
    ("", ""),
    ("whatever", "a reason that nobody knows"),
]


@pytest.mark.parametrize(("code", "text"), PASSING)
def test_a_cause_that_passes_is_known_by_its_code_or_its_words(code: str, text: str) -> None:
    assert passes(code, text)
    assert not passes(code, text, False)  # the adapter's word counts most


@pytest.mark.parametrize(("code", "text"), LASTING)
def test_what_is_not_known_to_pass_lasts(code: str, text: str) -> None:
    assert not passes(code, text)
    assert passes(code, text, True)


@for_all(st.text(max_size=20), st.text(max_size=60))
def test_any_words_have_an_answer(code: str, text: str) -> None:
    assert passes(code, text) in (True, False)


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause(n).total_seconds() for n in (1, 2, 3, 4, 5, 6, 400)] == [5, 10, 20, 40, 60, 60, PAUSE_MAX_S]


def test_given_a_refusal_that_passes_then_the_same_order_is_sent_again_and_nothing_is_spent() -> None:
    s = pending.when(refused("market_halted", 61, text="paused"))
    s.then(
        like(ExitPostponed, client_order_id=order_id(1), times=1, until=after(66), refusal="market_halted"),
        like(AlarmRaised, kind="exit_postponed"),
    ).is_in("pending")
    s.owes(None, after(65.9)).owes(Submit, after(66)).owes(LookUp, after(65), outcome_unknown=True)
    again = s.when(refused("market_halted", 66, text="paused"))
    again.then(like(ExitPostponed, times=2, until=after(76)))  # the alarm is active
    assert again.now.client_order_id == order_id(1)
    assert again.now.exit.budget_spent == 0
    taken = again.when(reported("new", at=80))
    taken.then(OrderAccepted, like(AlarmAcknowledged, by="exitfsm", why="the broker took the order"))
    taken.is_in("submitted").has(alarms=())


def test_given_a_refusal_that_passes_for_long_then_the_attempts_do_not_end() -> None:
    s, at = pending, 61.0
    for _ in range(200):
        s = s.when(refused("halted", at))
        at += 60
    s.is_in("pending")
    assert [a.kind for a in s.now.alarms] == ["exit_postponed"]
    assert (s.now.attempt, s.now.exit.budget_spent, s.now.order.postponed) == (1, 0, 200)


def test_a_person_who_took_the_alarm_down_hears_again_only_of_another_cause() -> None:
    s = pending.when(refused("halted", 61))
    s = s.when(Acknowledge(at=after(62), alarm_id=s.now.alarms[0].alarm_id))
    s.when(refused("halted", 66)).then(ExitPostponed)
    s.when(refused("maintenance", 66)).then(ExitPostponed, AlarmRaised)


def test_given_a_lasting_refusal_after_one_that_passes_then_the_attempt_ends_and_that_alarm_too() -> None:
    s = pending.when(refused("halted", 61), refused("not_tradable", 66))
    s.then(like(OrderEnded, how="refused", refusal="not_tradable"), AlarmAcknowledged).is_in("rejected")


def test_given_a_lasting_refusal_twice_then_a_person_hears_the_reason_and_what_would_work() -> None:
    s = pending.when(refused("LOT_SIZE", 61, text="step size 3")).is_in("rejected")
    s = s.when(holds(10, at=200)).when(refused("LOT_SIZE", 201, text="step size 3")).is_in("unprotected")
    text = s.now.alarms[-1].text
    assert "LOT_SIZE): step size 3" in text
    assert "9 of 10 would work" in text
    assert "qty='9'" in text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("Fractional-sized order cannot be placed via API", "10"),
        ("quantity 10.5 is no multiple of 1", "10"),
        ("lot size must be 5", "10"),
        ("step size 0.4", "10.4"),
        ("insufficient qty available for order (requested: 10.5, available: 7)", "7"),
        ("maximum order quantity is 4", "4"),
        ("no", ""),
        ("available: 0", ""),
        ("available: 11", ""),
        ("step size 0", ""),
        ("step size 0.5, available: 7", "7"),
    ],
)
def test_what_would_work_is_read_out_of_the_refusal(text: str, size: str) -> None:
    p = pending.now
    p = replace(p, orders=(replace(p.order, qty=Decimal("10.5")),))
    said = what_would_work(p, text)
    assert (f"; {size} of 10.5 would work" in said) if size else said == ""


def test_given_an_order_that_the_broker_had_and_rejected_for_now_then_another_follows_free_of_charge() -> None:
    s: Scenario = submitted
    at = 70.0
    for attempt in range(1, 9):
        s = s.when(reported("rejected", 0, at=at, refusal="halted", text="the market is paused"))
        s.is_in("rejected").has(attempt=attempt)
        assert s.now.order.passing
        due = s.now.next_attempt_at
        assert due is not None
        assert due - after(at) == pause(attempt)
        at += 61
        s.owes(ReadPosition, after(at))
        s = s.when(holds(10, at=at, record="rejected"))  # its record shows the end
        s.is_in("pending")
        assert s.now.exit.budget_spent == 0
        s = s.when(reported("new", at=at + 1))
        at += 2
    assert postponed_in_a_row(s.now.orders[:-1]) == 8
    assert postponed_in_a_row(s.now.orders) == 0
    assert s.now.alarms == ()


def test_a_wait_between_two_sends_is_no_order_that_is_not_known_to_have_arrived() -> None:
    s = pending.when(*(refused("halted", 61 + 60 * n) for n in range(6)))
    s.when(timer(61 + 300 + 119, 120)).then()
    s.when(timer(61 + 300 + 60 + 120, 120)).then(like(AlarmRaised, kind="submit_unresolved"))


def test_the_orders_that_hold_what_was_to_be_sold_are_read_of_a_refusal() -> None:
    text = "insufficient qty available for order {'held_for_orders': '10', 'related_orders': ['a-b-1', '77']}"
    assert holders(text) == ("a-b-1",)  # an id has three characters at least
    assert holders('{"related_orders":["904837e3-3b76-47ec-b432-046db621571b"]}') == (
        "904837e3-3b76-47ec-b432-046db621571b",
    )
    assert holders("conflicting_order_id: 4711") == ("4711",)
    assert holders("insufficient qty") == ()
    assert holders("related_orders: []") == ()


def test_codes_are_written_as_they_are_looked_for() -> None:
    assert all(code == "".join(c for c in code.lower() if c.isalnum()) for code in PASSING_CODES | LASTING_CODES)
    assert not PASSING_CODES & LASTING_CODES


def test_the_newest_order_that_was_refused_is_named_until_the_broker_takes_it() -> None:
    assert monitoring.now.refused_order is pending.now.refused_order is submitted.now.refused_order is None
    postponed = pending.when(refused("halted", 61))
    assert postponed.now.refused_order is postponed.now.orders[0]
    assert postponed.now.order.refusal == "halted"
    assert postponed.when(reported("new", at=70)).now.refused_order is None  # it is taken
    over = pending.when(refused("not_tradable", 61))
    assert over.now.refused_order is over.now.orders[0]
    again = over.when(holds(10, at=200))
    assert again.now.refused_order is again.now.orders[0]  # of the next one nothing is known
    worse = again.when(refused("halted", 201))
    assert worse.now.refused_order is worse.now.orders[1]


# --- an operator is not answered by silence ---------------------------------------------------------------------------


def asked(at: float = 200, **fields: object) -> ForceExit:
    return ForceExit(at=after(at), who="ann", reason="now", **fields)  # type: ignore[arg-type]


def test_given_an_order_that_may_have_been_sent_when_it_is_forced_then_the_answer_names_it_and_what_to_do() -> None:
    pending.when(asked()).then()  # on its way: that goes on
    s = pending.when(asked(in_doubt=True)).then(like(AlarmRaised, kind="not_done"))
    assert order_id(1) in s.now.alarms[-1].text
    assert "order_not_there=True" in s.now.alarms[-1].text
    for kind in ("submit_unresolved", "order_not_found", "exit_postponed"):
        told = pending.when(RaiseAlarm(at=after(70), kind=kind, text="x")).when(asked())
        told.then(like(AlarmRaised, kind="not_done")).is_in("pending")
    for kind in ("order_inactive", "order_stalled", "cancel_refused"):
        told = submitted.when(RaiseAlarm(at=after(70), kind=kind, text="x")).when(asked())
        told.then(like(AlarmRaised, kind="not_done")).is_in("submitted")
    submitted.when(asked()).then()


def test_given_an_order_that_can_arrive_no_more_when_nothing_is_held_then_its_position_is_closed() -> None:
    def flat(**fields: object) -> Callable[[Position], PositionRead]:
        read = {"qty": Decimal(0), "reads": 3, "lapsed": True} | fields
        return lambda _: PositionRead(at=after(300), began=after(300), **read)  # type: ignore[arg-type]

    for unproved in (flat(lapsed=False), flat(reads=2), flat(qty=Decimal(1))):
        pending.when(unproved).then()
    ended = like(OrderEnded, how="refused", refusal="unresolved", next_attempt_at=None)
    s = pending.when(flat()).then(ended, like(PositionClosedElsewhere, how="unresolved")).is_in("closed")
    late = s.when(reported("new", at=400))  # it is there after all
    late.is_in("unprotected").owes(Cancel)
    assert order_id(1) in late.now.alarms[-1].text
    s.when(reported("filled", 10, at=400)).is_in("unprotected")


def test_given_the_word_that_an_order_is_not_there_then_its_attempt_ends_and_the_next_follows() -> None:
    def word(p: Position) -> Report:
        return Report(at=after(200), report=not_there(order_id(1), "ann", after(200)))

    s = pending.when(word).then(like(OrderEnded, how="refused", refusal="not_there")).is_in("rejected")
    assert "ann says" in s.now.order.said
    s.when(holds(10, at=300)).then(ExitRetried)
    late = s.when(reported("new", at=210))  # it is there after all: it is ended, and a person hears of it
    late.is_in("unprotected").owes(Cancel)


def test_given_an_unprotected_position_when_a_part_is_ordered_then_so_much_leaves_and_the_rest_is_left() -> None:
    lost = submitted.when(reported("canceled", 0, at=70), Contradiction(at=after(80), why="?"))
    s = lost.when(asked(qty=Decimal(10), at_most=Decimal(7)))
    s.then(like(ExitRetried, qty=Decimal(7), sold_elsewhere=Decimal(0))).has(remaining_qty=Decimal(10))
    s = lost.when(asked(qty=Decimal(5), at_most=Decimal(7))).then(like(ExitRetried, qty=Decimal(5)))
    monitoring.when(asked(at_most=Decimal(10))).is_in("pending")


def test_given_a_position_that_is_not_unprotected_when_it_is_released_then_the_answer_says_so() -> None:
    wish = Release(at=after(200), qty=Decimal(10), entry_price=Decimal(100))
    submitted.when(wish).then(like(AlarmRaised, kind="not_done")).is_in("submitted")


def test_given_an_order_that_the_broker_had_then_its_number_is_used_up_whatever_the_cause() -> None:
    s = pending.when(reported("rejected", 0, at=61, refusal="halted", text="paused"))
    s.then(like(OrderEnded, how="rejected", passing=True)).is_in("rejected")
    s.when(holds(10, at=200, record="rejected")).then(like(ExitRetried, client_order_id=order_id(2), budget_spent=0))
