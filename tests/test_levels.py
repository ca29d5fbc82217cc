"""The quiet band: what it lets pass unseen would have changed nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm.engine import Engine
from exitfsm.events import Event, ExitEscalated, ExitTriggered, RefusalEnded, StopMoved
from exitfsm.levels import Levels, Slot
from exitfsm.messages import BarSeen, ChangePolicy, Message, PositionRead, RaiseAlarm, Report
from exitfsm.policy import ExitPolicy, bar_fault
from exitfsm.position import Position, decide, evolve, fold, wake_band
from exitfsm.position.evaluating import levels, ratchet_price
from exitfsm.position.watching import fault_of
from exitfsm.store import ExitStore
from exitfsm.testing.given import BROKER, after, bar, given, opened, policy, reported, seen, to_open, triggered
from exitfsm.values import EXACT, Bar, OrderStatus, Side

CLOSE = after(3600)


def armed(*positions: Position, reference: Decimal | None = Decimal(100)) -> Slot:
    """The slot of these positions of one symbol."""
    all_levels = Levels()
    for p in positions:
        all_levels.put(p, reference=reference)
    return all_levels.slots[positions[0].symbol]


def quiet(slot: Slot, the_bar: Bar) -> bool:
    return slot.lower < the_bar.floor and the_bar.ceiling < slot.upper and the_bar.timestamp < slot.until


NO_GUARD = {"price_guard": False}

# --- the band ---------------------------------------------------------------------------------------------------------


def test_given_a_position_then_the_band_is_between_its_stop_and_its_target() -> None:
    slot = armed(evolve(None, opened(policy=policy(**NO_GUARD))))
    assert (slot.lower, slot.upper) == (99.0, 102.0)
    short = armed(evolve(None, opened("short", policy=policy(**NO_GUARD))))
    assert (short.lower, short.upper) == (98.0, 101.0)


@pytest.mark.parametrize(("price", "is_quiet"), [(99, False), (99.0000001, True), (101.9999999, True), (102, False)])
def test_given_a_bar_at_the_edge_then_it_is_not_quiet(price: float, is_quiet: bool) -> None:
    slot = armed(evolve(None, opened(policy=policy(**NO_GUARD))))
    assert quiet(slot, bar(price)) is is_quiet
    assert quiet(slot, bar(Decimal(str(price)))) is is_quiet
    assert quiet(slot, bar(100, low=min(price, 100), high=max(price, 100))) is is_quiet


@pytest.mark.parametrize(("price", "exits"), [("99", 1), ("99.0000001", 0), ("101.9999999", 0), ("102", 1)])
def test_given_a_bar_before_it_when_one_comes_to_the_edge_then_the_engine_exits_exactly_there(
    price: str, exits: int
) -> None:
    for given_as in (float, Decimal):
        both = Both(opened())
        both.tell_bar(bar(100, 60))
        both.tell_bar(bar(given_as(price), 120))
        assert [type(e) for e in both.logs()[0]] == [ExitTriggered] * exits


def test_given_several_positions_then_the_band_is_the_narrowest_of_all() -> None:
    long = evolve(None, opened(policy=policy(**NO_GUARD)))
    short = evolve(None, opened("short", entry=101, epoch="2", policy=policy(**NO_GUARD)))
    slot = armed(long, short)
    assert (slot.lower, slot.upper) == (99.0, 102.0)
    tight = evolve(None, opened(epoch="3", policy=policy(stop_loss={"threshold_pct": "0.2"}, **NO_GUARD)))
    slot = armed(long, short, tight)
    assert (slot.lower, slot.upper) == (99.8, 102.0)


def test_given_a_jump_guard_then_no_two_bars_inside_the_band_are_a_jump_apart() -> None:
    wide = policy(stop_loss={"threshold_pct": 90}, profit_taking={"threshold_pct": 900})
    slot = armed(evolve(None, opened(policy=wide)))
    assert slot.upper / slot.lower < 1.3
    assert slot.lower < 100 < slot.upper


def test_given_no_price_to_hold_a_bar_against_then_every_bar_wakes() -> None:
    slot = armed(evolve(None, opened()), reference=None)
    assert math.isnan(slot.lower)
    assert not quiet(slot, bar(100))


def test_given_an_unsound_bar_then_it_is_never_quiet() -> None:
    slot = armed(evolve(None, opened(policy=policy(stop_loss=False, profit_taking=False, **NO_GUARD))))
    assert quiet(slot, bar(100))
    for price in ("NaN", "Infinity", "-Infinity", "0", "-1"):
        assert not quiet(slot, bar(price))
    assert not quiet(slot, bar(100, low=101, high=99))


def test_given_rules_that_must_see_each_bar_then_nothing_is_quiet() -> None:
    for rules in ({"custom_rule": {"name": "x"}}, {"end_of_session": {}}):
        assert wake_band(evolve(None, opened(policy=policy(**rules))), after(0)) is None


def test_given_time_rules_then_the_band_holds_until_they_are_due() -> None:
    steps = {"steps": [{"after_seconds": 600, "threshold_pct": 1}, {"after_seconds": 900, "threshold_pct": 0}]}
    p = evolve(None, opened(policy=policy(target_ladder=steps, time_limit={"max_seconds": 700})))
    for at, until in ((0, 600), (599, 600), (600, 700), (800, 700)):
        band = wake_band(p, after(at))
        assert band is not None
        assert band.until == after(until)


def test_given_an_exit_under_way_then_bars_mean_nothing_unless_a_limit_rests() -> None:
    pending = given(opened(), triggered())
    for s in (pending, pending.when(reported("new")), pending.when(reported("canceled", 4))):
        band = wake_band(s.now, after(0))
        assert band is not None
        assert (band.lower, band.upper, band.until) == (None, None, None)
    limit = policy(profit_taking={"order_type": "limit"}, time_limit={"max_seconds": 700})
    resting = given(opened(policy=limit), triggered(reason="profit_take", limit=102)).when(reported("new"))
    band = wake_band(resting.now, after(0))
    assert band is not None
    assert (band.lower, band.upper, band.until) == (Decimal(99), None, after(700))


def test_given_a_resting_limit_when_the_time_is_up_then_the_engine_hears_of_it_although_the_price_is_quiet() -> None:
    limit = policy(profit_taking={"order_type": "limit"}, time_limit={"max_seconds": 700})
    both = Both(opened(policy=limit))
    both.tell_bar(bar(102, 60))
    both.tell_report("new", 0, after(61))
    both.tell_bar(bar("101.5", 600))
    both.tell_bar(bar("101.4", 700))
    assert both.logs()[0][-1] == ExitEscalated(
        client_order_id=both.brute[0].now.client_order_id, at=after(700), why="time_limit", price=Decimal("101.4")
    )


@pytest.mark.parametrize("side", Side)
def test_given_many_digits_then_the_ratchet_wakes_exactly_where_a_stop_first_moves(side: Side) -> None:
    entry = Decimal("98765.123456789123456789123456789")
    rules = policy(trailing_stop={"activation_pct": "0.123456789123456789"}, stop_loss=False, profit_taking=False)
    p = evolve(None, opened(side, entry=entry, policy=rules))
    price = ratchet_price(p)
    assert price is not None
    at = given(opened(side, entry=entry, policy=rules))
    at.when(seen(price)).then(StopMoved)
    at.when(seen(EXACT.subtract(price, side.sign * Decimal("1E-30")))).then()


# --- the band against asking every position about every bar -----------------------------------------------------------


@dataclass
class Run:
    """One position and the run of refused bars that it is in, as a loop without any cleverness keeps them."""

    now: Position
    log: list[Event] = field(default_factory=list)
    refusing: str | None = None
    refused: int = 0

    def tell(self, message: Message) -> None:
        events = decide(self.now, message, BROKER)
        self.log += events
        after_it = fold(self.now, events)
        assert after_it is not None
        self.now = after_it


class Both:
    """The engine, and beside it a loop that asks `decide` about every bar; told the same."""

    def __init__(self, *openings: Any, session: bool = False) -> None:
        self.store = ExitStore(":memory:")
        self.engine = Engine(self.store, BROKER, session_close=(lambda *_: CLOSE) if session else None)
        self.session_close = CLOSE if session else None
        self.reference = self.previous_at = None
        self.brute = []
        for opening in openings:
            p = self.engine.open(to_open(opening), reference=opening.entry_price)
            self.brute.append(Run(p))
            self.reference = self.reference or opening.entry_price
        if len(openings) > 1:
            self.reference = openings[-1].entry_price

    def tell_bar(self, the_bar: Bar, paused: bool = False) -> None:
        (self.engine.pause if paused else self.engine.resume)()
        self.engine.on_bar(the_bar)
        held = [run for run in self.brute if not run.now.state.terminal]
        if not held:
            return
        guards = [run.now.policy.price_guard for run in held]
        faults = [bar_fault(the_bar, guard, reference=self.reference, previous_at=self.previous_at) for guard in guards]
        fault = next((f for f in faults if f is not None), None)
        for run in held:
            message = BarSeen(
                at=the_bar.timestamp,
                bar=the_bar,
                reference_price=self.reference,
                previous_bar_at=self.previous_at,
                refused_count=run.refused,
                session_close=self.session_close,
                paused=paused,
            )
            own = fault_of(run.now, message)
            run.tell(message)
            reason = own.reason if own is not None else run.now.refusing
            if run.now.refusing is None:
                run.refused = 0
            if reason is not None and (own is not None or reason in ("paused", "disabled")):
                run.refused = run.refused + 1 if run.refusing == reason and run.refused else 1
                run.refusing = reason
        if fault is None:
            self.reference, self.previous_at = the_bar.close, the_bar.timestamp

    def tell_report(self, status: str, filled: int, at: datetime) -> None:
        for run in self.brute:
            if run.now.client_order_id is None:
                continue
            message = reported(status, filled, 100 if filled else None)(run.now)
            told = Report(at=at, report=message.report)
            run.tell(told)
            self.engine.on_report(told.report, at=at)

    def tell_read(self, qty: int, entry: Decimal, at: datetime) -> None:
        for run in self.brute:
            message = PositionRead(at=at, began=at, qty=Decimal(qty), reads=3, avg_entry_price=entry)
            run.tell(message)
            self.engine.tell(run.now.position_id, message)

    def logs(self) -> list[list[Event]]:
        """The engine's events of each position, as stored; and they are those of the loop."""
        stored = [[r.event for r in self.store.stream(run.now.position_id)][1:] for run in self.brute]
        assert stored == [run.log for run in self.brute]
        return stored


PRICES = st.sampled_from(["90", "98", "99", "99.5", "100", "100.5", "101", "102", "102.5", "104", "130.5", "NaN", "0"])
POLICIES = st.builds(
    policy,
    evaluate_on=st.sampled_from(["close", "range"]),
    profit_taking=st.sampled_from([{}, {"order_type": "limit"}, False]),
    stop_loss=st.sampled_from([{}, {"threshold_pct": 3}, False]),
    trailing_stop=st.sampled_from([False, {"trail_pct": 1}, {"trail_pct": "0.7", "activation_pct": 0, "step_pct": 0}]),
    break_even=st.sampled_from([False, {}]),
    atr_levels=st.sampled_from([False, {}]),
    time_limit=st.sampled_from([False, {"max_seconds": 300}]),
    target_ladder=st.sampled_from(
        [False, {"steps": [{"after_seconds": 120, "threshold_pct": "0.5"}, {"after_seconds": 400, "threshold_pct": 0}]}]
    ),
    end_of_session=st.sampled_from([False, False, {"minutes_before_close": 50}]),
    price_guard=st.sampled_from([{}, {"max_jump_ratio": "1.02"}]),
    enabled=st.sampled_from([True, True, True, False]),
)
OPENINGS = st.lists(
    st.builds(
        lambda side, entry, rules, epoch, atr: opened(side, entry=entry, policy=rules, epoch=epoch, atr=atr),
        st.sampled_from(Side),
        st.sampled_from(["100", "100.1", "99.123456789"]),
        POLICIES,
        st.just("e"),
        st.sampled_from([None, "0.5"]),
    ),
    min_size=1,
    max_size=3,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("bar"),
            st.sampled_from([60, 60, 60, 1, 0, -60]),
            PRICES,
            PRICES,
            st.booleans(),
            st.sampled_from([False, False, False, True]),
        ),
        st.tuples(st.just("edge"), st.integers(0, 5), st.integers(-1, 1), st.booleans()),
        st.tuples(st.just("edge"), st.integers(0, 5), st.integers(-1, 1), st.booleans()),
        st.tuples(
            st.just("report"), st.sampled_from(["new", "partially_filled", "rejected", "canceled"]), st.integers(0, 9)
        ),
        st.tuples(st.just("read"), st.sampled_from([0, 5, 10, 12]), st.sampled_from([Decimal(100), Decimal(101)])),
    ),
    max_size=25,
)


def edge_price(run: Run, which: int, step: int, at: datetime) -> Decimal:
    """A price on what may matter to a position now, or one tick beside it."""
    target, stops = levels(run.now, at)
    edges = [level.price for level in (target, *stops) if level is not None]
    ratchet = ratchet_price(run.now)
    edges += [ratchet] if ratchet is not None else []
    return (edges[which % len(edges)] if edges else Decimal(100)) + step * Decimal("1E-9")


@for_all(OPENINGS, st.booleans(), STEPS)
def test_whatever_comes_the_band_hides_no_decision(openings: list[Any], session: bool, steps: list[Any]) -> None:
    for number, opening in enumerate(openings):
        openings[number] = opened(
            opening.side, entry=opening.entry_price, policy=opening.policy, epoch=f"e{number}", atr=opening.atr
        )
    both = Both(*openings, session=session)
    at = after(0)
    for step in steps:
        match step:
            case "bar", seconds, close, other, as_float, paused:
                at += timedelta(seconds=seconds)
                low, high = sorted((close, other), key=lambda p: float(p) if p != "NaN" else 0.0)
                prices = [close, high, low, close]
                both.tell_bar(Bar("AAPL", at, *(float(p) if as_float else Decimal(p) for p in prices)), paused)
            case "edge", which, tick, as_float:
                at += timedelta(seconds=60)
                price: Decimal | float = edge_price(both.brute[which % len(both.brute)], which, tick, at)
                price = float(price) if as_float else price
                both.tell_bar(Bar("AAPL", at, price, price, price, price))
            case "report", status, filled:
                both.tell_report(status, filled, at)
            case "read", qty, entry:
                both.tell_read(qty, entry, at)
    both.logs()


def test_a_bar_that_only_another_position_refused_does_not_count_for_the_next_run() -> None:
    calm = {"trailing_stop": False, "break_even": False, "atr_levels": False}
    guards: list[dict[str, Any]] = [{}, {"max_jump_ratio": "1.02"}]
    both = Both(*(opened(policy=policy(price_guard=guard, **calm), epoch=f"e{n}") for n, guard in enumerate(guards)))
    for minute, (price, paused) in enumerate([("90", False), ("99.1", False), ("90", True), ("90", False)]):
        at = after(60 * minute)
        both.tell_bar(Bar("AAPL", at, *([Decimal(price)] * 4)), paused)
    calm_log, _ = both.logs()
    assert [type(e).__name__ for e in calm_log] == ["TriggerRefused", "RefusalEnded", "ExitTriggered"]
    assert isinstance(calm_log[1], RefusalEnded)
    assert calm_log[1].count == 1


@for_all(
    POLICIES,
    st.sampled_from(Side),
    st.decimals("0.01", "99999", places=9),
    st.integers(0, 5),
    st.tuples(st.integers(-2, 2), st.booleans()),
)
def test_float_or_decimal_no_price_that_breaches_is_ever_quiet(
    rules: ExitPolicy, side: Side, entry: Decimal, which: int, beside: tuple[int, bool]
) -> None:
    ulps, as_float = beside
    both = Both(opened(side, entry=entry, policy=rules, atr=entry / 200))
    both.tell_bar(Bar("AAPL", after(30), entry, entry, entry, entry))  # so that the short test holds
    price: Decimal | float = edge_price(both.brute[0], which, 0, after(60))
    if as_float:
        price = float(price)
        for _ in range(abs(ulps)):
            price = math.nextafter(price, math.inf if ulps > 0 else 0.0)
    else:
        price += ulps * Decimal("1E-20")
    both.tell_bar(Bar("AAPL", after(60), price, price, price, price))
    both.tell_bar(Bar("AAPL", after(120), price, price, price, price))
    for log in both.logs():
        assert len([e for e in log if isinstance(e, ExitTriggered)]) <= 1


CALM = st.one_of(st.sampled_from(["99.6", "100", "100.3"]), st.sampled_from(["99.6", "100.3"]), PRICES)


@for_all(
    st.lists(st.one_of(st.just(policy(time_limit={"max_seconds": 300})), POLICIES), max_size=1),
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["AAPL", "MSFT", "SPY"]), st.sampled_from([60, 60, 1, 0, -60]), CALM, CALM),
            min_size=1,
            max_size=8,
        ),
        min_size=3,
        max_size=8,
    ),
    st.booleans(),
)
def test_whether_one_by_one_or_together_and_with_the_short_test_or_without_all_comes_out_the_same(
    all_rules: list[ExitPolicy], groups: list[list[tuple[str, int, str, str]]], aged: bool
) -> None:
    """A group is told at once or bar by bar; each bar of a symbol is so many seconds after the one before it."""
    told: list[list[Bar]] = []
    at = dict.fromkeys(("AAPL", "MSFT", "SPY"), after(0))
    for group in groups:
        told.append([])
        for symbol, seconds, close, other in group:
            at[symbol] += timedelta(seconds=seconds)
            low, high = sorted((close, other), key=lambda p: float(p) if p != "NaN" else 0.0)
            told[-1].append(Bar(symbol, at[symbol], close, high, low, close))
    outcomes = []
    for together, short in ((False, False), (False, True), (True, True)):
        with pytest.MonkeyPatch.context() as patch, ExitStore(":memory:") as store:
            if not short:
                patch.setattr(Slot, "ease", lambda slot: None)  # NaN from the start: the short test never holds
            engine = Engine(store, BROKER)
            for number, rules in enumerate([policy(), *all_rules]):
                opening = opened(policy=rules, epoch=f"e{number}", atr="0.5")
                engine.open(to_open(opening), reference=opening.entry_price)
                engine.open(replace(to_open(opening), symbol="MSFT"), bar=bar(100, 0, symbol="MSFT"))
            for group in told:
                received_at = max((b.timestamp for b in group), default=None) if aged else None
                if together:
                    engine.on_bars(group, received_at=received_at)
                else:
                    for b in group:
                        engine.on_bar(b, received_at)
            events = {name: [r.event for r in store.stream(name)] for name in store.stream_ids()}
            outcomes.append((events, engine.marks(), engine.refusals(), engine.positions))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] == outcomes[2]


def test_given_a_time_rule_when_it_comes_due_in_the_quietest_of_bars_then_it_wakes() -> None:
    both = Both(opened(policy=policy(time_limit={"max_seconds": 300})))
    for second in (60, 120, 180, 240, 299, 300):
        both.tell_bar(bar(100, second))
    assert [(type(e), e.at) for e in both.logs()[0]] == [(ExitTriggered, after(300))]


def test_given_quiet_bars_then_nothing_is_written_and_the_last_price_is_known() -> None:
    both = Both(opened())
    for minute in range(1, 50):
        both.tell_bar(bar(100 + minute / 50, 60 * minute))
    assert both.logs() == [[]]
    assert both.engine.last_price("AAPL") == Decimal("100.98")
    assert both.engine.quiet(bar(100, 3000))
    assert not both.engine.quiet(bar(100, 3000))  # seen already


def test_given_another_symbol_then_it_is_nobodys_business() -> None:
    both = Both(opened())
    assert both.engine.on_bar(bar("NaN", symbol="MSFT")) == ()
    assert both.engine.refusals() == []


def test_the_status_words_used_here_are_the_brokers() -> None:
    assert {"new", "partially_filled", "rejected", "canceled"} <= set(OrderStatus)


def test_given_an_entry_at_a_bars_close_then_what_the_bar_reached_before_is_not_the_highest_price() -> None:
    all_levels = Levels()
    entry = bar(100, 0, high=105, low=99)
    all_levels.put(evolve(None, opened(policy=policy(**NO_GUARD))), bar=entry)
    slot = all_levels.slots[entry.symbol]
    assert slot.highest == 100.0
    slot.accept(bar(101, 60, high="101.5"))
    assert slot.highest == 101.5


def test_given_a_position_that_is_restored_beside_another_then_what_is_known_of_the_symbol_stays() -> None:
    all_levels = Levels()
    first, second = evolve(None, opened()), evolve(None, opened(epoch="2", entry=101))
    all_levels.restore(first, reference=Decimal(100), seen_at=after(60))
    slot = all_levels.slots["AAPL"]
    assert (slot.reference_price, slot.last_at, slot.previous_at) == (Decimal(100), after(60), after(60))
    all_levels.restore(second, reference=None, seen_at=after(30))
    assert all_levels.slots == {"AAPL": slot}
    assert slot.positions == (first, second)
    assert (slot.reference_price, slot.last_at) == (Decimal(100), after(60))
    slot.accept(bar("100.5", 120))
    all_levels.restore(second, reference=Decimal(7), seen_at=None)
    assert slot.reference_price == Decimal("100.5")
    assert slot.positions == (first, second)
    assert not slot.busy
    all_levels.restore(given(opened(epoch="2", entry=101), triggered()).now, reference=None, seen_at=None)
    assert slot.busy
    all_levels.restore(first, reference=None, seen_at=None)
    assert slot.busy


def test_given_positions_then_their_symbol_is_watched_while_one_of_them_is_monitored() -> None:
    all_levels = Levels()
    assert not all_levels.watched("AAPL")
    monitored, exiting = evolve(None, opened()), given(opened(epoch="2"), triggered()).now
    all_levels.put(exiting, reference=Decimal(100))
    assert not all_levels.watched("AAPL")
    all_levels.put(monitored)
    assert all_levels.watched("AAPL")
    all_levels.drop(monitored)
    assert all_levels.slots["AAPL"].positions == (exiting,)
    assert not all_levels.watched("AAPL")
    all_levels.drop(exiting)
    assert all_levels.slots == {}
    all_levels.drop(exiting)  # of what is not there, nothing is left to forget
    assert all_levels.slots == {}


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("digits", [4, 28])
def test_given_a_price_that_no_digits_can_say_then_the_ratchet_is_rounded_to_wake_too_early(
    side: Side, digits: int
) -> None:
    rules = policy(trailing_stop={"activation_pct": 0, "trail_pct": "0.7", "step_pct": "0.3"}, stop_loss=False)
    wider = policy(trailing_stop={"activation_pct": 0, "trail_pct": "0.9", "step_pct": "0.3"}, stop_loss=False)
    p = given(opened(side, policy=rules)).when(seen(100), ChangePolicy(at=after(61), policy=wider)).now
    with localcontext(Context(prec=digits)):  # the engine asks for it in whatever context the bot has
        price = ratchet_price(p)
    assert price is not None
    assert p.trail_stop is not None
    sign = side.sign
    exact = Fraction(p.trail_stop) * (100 + sign * Fraction("0.3")) / (100 - sign * Fraction("0.9"))
    assert 0 < (exact - Fraction(price)) * sign < Fraction(1, 10**20)


@pytest.mark.parametrize("ages", [(60, 300), (300, 60)])
def test_given_positions_that_believe_bars_of_different_age_then_the_strictest_decides_what_is_quiet(
    ages: tuple[int, int],
) -> None:
    first, second = (
        evolve(None, opened(epoch=str(age), policy=policy(price_guard={"max_age_seconds": age}))) for age in ages
    )
    slot = armed(first, second)
    assert slot.quiet(bar("100.1", 60), after(120))
    assert not slot.quiet(bar("100.2", 120), after(181))


def test_given_a_new_high_inside_the_band_then_it_is_quiet_only_if_it_is_not_old_when_it_arrives() -> None:
    slot = armed(evolve(None, opened()))
    slot.accept(bar(100, 60))
    assert slot.low == slot.lower  # the short test is enough
    assert not slot.quiet(bar(101, 120), after(421))
    assert not slot.quiet(bar(101, 120), after(120 - 86401))
    assert slot.highest == 100
    assert slot.quiet(bar(101, 120), after(420))
    assert slot.highest == 101
    assert slot.quiet(bar("101.5", 180), None)
    assert slot.highest == 101.5
    assert not slot.quiet(bar("101.6", 180), None)


def test_given_a_bar_that_touches_the_stop_and_rises_to_a_new_high_then_it_is_not_quiet() -> None:
    slot = armed(evolve(None, opened(policy=policy(**NO_GUARD))))
    slot.accept(bar(100, 60))
    assert slot.low == slot.lower == 99
    assert not slot.quiet(bar(100, 120, low=99, high=101), None)
    assert slot.quiet(bar(100, 120, low="99.01", high=101), None)


def test_given_no_bar_yet_or_one_from_before_what_was_seen_then_the_short_test_is_not_enough() -> None:
    slot = armed(evolve(None, opened()))
    assert math.isnan(slot.low)
    slot.accept(bar(100, 60))
    assert slot.low == slot.lower
    slot.seen_to = after(600)
    slot.ease()
    assert math.isnan(slot.low)
    assert not slot.quiet(bar("100.1", 120), None)


def test_given_prices_below_one_and_a_higher_high_then_the_short_test_ends_below_the_band() -> None:
    slot = armed(evolve(None, opened(entry="0.5", policy=policy(**NO_GUARD))), reference=Decimal("0.5"))
    slot.accept(bar("0.5", 60))
    slot.highest = 1.0
    slot.ease()
    assert slot.high < slot.upper == 0.51
    assert not slot.rises(0.51)


def test_given_a_change_of_the_unit_then_the_last_price_is_in_the_new_one() -> None:
    p = given(opened()).now
    slots = Levels()
    slots.rescale("AAPL", Decimal(10))  # nothing is held
    assert slots.last_at("AAPL") is None
    assert slots.holding("AAPL") == []
    slots.put(p, reference=Decimal(100))
    slots.rescale("AAPL", Decimal(10))
    assert slots.slots["AAPL"].reference_price == 10
    slots.put(p, bar=bar(50, at=10))
    slots.rescale("AAPL", Decimal(10))
    assert slots.slots["AAPL"].reference_price == 5
    assert slots.slots["AAPL"].highest == 5.0
    assert slots.last_at("AAPL") == after(10)
    assert slots.holding("AAPL") == [p]
    bare = Levels()
    bare.put(p)
    bare.rescale("AAPL", Decimal(10))
    assert bare.slots["AAPL"].reference_price is None


NARROW = policy(price_guard=False, stop_loss={"threshold_pct": "0.5"}, profit_taking={"threshold_pct": "0.5"})
WIDE = evolve(None, opened(policy=policy(**NO_GUARD)))


def test_given_a_position_beside_another_then_the_narrower_of_both_bands_counts() -> None:
    slot = armed(WIDE, evolve(None, opened(epoch="next", policy=NARROW)))
    assert (slot.lower, slot.upper) == (99.5, 100.5)


def test_given_an_exit_under_way_beside_another_position_then_the_band_stays_the_others() -> None:
    exiting = given(opened(epoch="next", policy=NARROW), triggered()).when(reported("new")).now
    slot = armed(WIDE, exiting)
    assert (slot.lower, slot.upper) == (99.0, 102.0)


def test_given_a_position_that_must_see_each_bar_beside_another_then_none_is_quiet() -> None:
    plain = given(opened(epoch="next", policy=policy(**NO_GUARD)))
    waits = plain.when(RaiseAlarm(at=after(10), kind="feed_silent", text="no bar")).now
    assert quiet(armed(WIDE, plain.now), bar(100))
    assert not quiet(armed(WIDE, waits), bar(100))
    assert not armed(WIDE, waits).quiet(bar(100), None)
