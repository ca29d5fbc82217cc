"""Explain: facts from the log, sentences from the facts, and what is not on record said to be so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exitfsm import Bar, Engine, ExitStore, Position, StoreError
from exitfsm.audit import explain, sentences
from exitfsm.audit.telling import as_dict
from exitfsm.events import TradingPaused, TradingResumed
from exitfsm.messages import (
    Acknowledge,
    Contradiction,
    ForceExit,
    Message,
    RaiseAlarm,
    Recover,
    TimeSeen,
)
from exitfsm.position import client_order_id
from exitfsm.testing.given import ACCOUNT, BROKER, T0, after, bar, holds, opened, policy, reported, seen, to_open
from exitfsm.values import ExecutionReport, OrderStatus


class Told:
    """A position in a store of its own, told things."""

    def __init__(self, **options: Any) -> None:
        self.store = ExitStore(":memory:")
        self.engine = Engine(self.store, BROKER)
        self.key = self.engine.open(to_open(opened(**options))).position_id

    def tell(self, *messages: Any) -> Told:
        for message in messages:
            made: Message = message(self.position) if callable(message) else message
            self.engine.tell(self.key, made)
        return self

    def close_at(self, price: object, at: float, **prices: Any) -> Told:
        self.engine.on_bar(bar(price, at, **prices))  # type: ignore[arg-type]
        return self

    @property
    def position(self) -> Position:
        found = self.engine.get(self.key)
        assert found is not None
        return found

    def facts(self, **options: Any) -> Any:
        return explain(self.store, self.key, **options)

    def said(self, **options: Any) -> str:
        return "\n".join(sentences(self.facts(**options)))


@pytest.fixture
def bars() -> list[Bar]:
    return [bar(100.5, 60, high=101, low=100), bar(98.9, 120, open=100, high=100, low=98.5)]


class TestWhyItExited:
    def test_the_rule_the_evidence_and_the_levels(self, bars: list[Bar]) -> None:
        told = Told().close_at("100.5", 60).close_at("98.9", 120)
        x = told.facts()
        assert (x.exit.reason, x.exit.trigger_price, x.exit.level, x.exit.bar_at) == (
            "stop_loss", Decimal("98.9"), Decimal(99), after(120),
        )  # fmt: skip
        assert [(level.rule, level.distance, level.distance_pct) for level in x.levels] == [
            ("stop_loss", Decimal("-0.1"), Decimal("-0.1011")),
            ("profit_take", Decimal("3.1"), Decimal("3.1345")),
        ]
        assert (x.policy, x.policy_event) == (policy().digest(), 1)
        said = told.said()
        assert (
            "exited by stop_loss: the bar of 2024-01-02 14:32:00 UTC had 98.9, at or below the stop at 99 (1 %)" in said
        )
        assert "Not recorded: the other prices of the bar that decided" in said
        said = told.said(bars=bars)
        assert "The bar that decided: open 100, high 100, low 98.5, close 98.9." in said
        assert "Not recorded" not in said

    def test_a_short_reads_the_other_way_round(self) -> None:
        assert "had 101.2, at or above the stop at 101" in Told(side="short").close_at("101.2", 60).said()
        assert "had 97.9, at or below the target at 98" in Told(side="short").close_at("97.9", 60).said()

    def test_a_trailing_stop_names_the_event_that_set_it(self) -> None:
        told = Told(policy=policy(trailing_stop={"activation_pct": 1, "trail_pct": 1}))
        told.close_at(101, 60).close_at("101.5", 120).close_at("100.4", 180)
        x = told.facts()
        assert (x.exit.reason, x.exit.level_set_by_event, x.exit.best_price) == ("trailing_stop", 3, Decimal("101.5"))
        assert "That stop was set at event 3, when the best price was 101.5." in told.said()

    def test_the_way_of_the_orders(self) -> None:
        told = Told().close_at("98.9", 60)
        told.tell(reported("new", at=61), reported("rejected", 0, at=62, refusal="halted", text="LULD pause"))
        assert "rejected at 2024-01-02 14:31:02 UTC (halted: LULD pause)" in told.said()
        assert "The next attempt is due from 2024-01-02 14:31:07 UTC." in told.said()
        told.tell(holds(10, 100))
        told.tell(reported("new", at=101), reported("partially_filled", 4, "98.7", at=102))
        assert "4 filled at 98.7" in told.said()
        told.tell(reported("filled", 10, "98.5", at=103), holds(0, 104))
        x = told.facts()
        assert [(o.attempt, o.ended_how, o.filled_qty) for o in x.orders] == [
            (1, "rejected", Decimal(0)),
            (2, None, Decimal(10)),
        ]
        assert (x.outcome.pnl, x.outcome.pnl_pct, x.outcome.held_seconds) == (Decimal(-15), Decimal("-1.5000"), 103)
        assert "10 at 98.5, -1.5 % (-15)" in told.said()
        assert "Held 1 min 43 s" in told.said()

    def test_a_fill_without_a_price(self) -> None:
        told = Told().close_at("98.9", 60)
        told.tell(reported("filled", 10, at=61), holds(0, 62))
        assert "its price is not recorded" in told.said()
        assert told.facts().outcome.pnl is None

    def test_an_operators_order(self) -> None:
        told = Told().tell(ForceExit(at=after(30), who="ann", reason="news", price=Decimal(101)))
        assert "It was exited by an operator (ann: news), at 2024-01-02 14:30:30 UTC; the price was 101" in told.said()

    def test_a_rule_of_time(self) -> None:
        told = Told(policy=policy(time_limit={"max_seconds": 60})).close_at(100, 60)
        assert "by time_limit: the bar of 2024-01-02 14:31:00 UTC found it due, at 100" in told.said()
        told = Told(policy=policy(time_limit={"max_seconds": 60}))
        told.tell(TimeSeen(at=after(300), price=Decimal(99)))
        assert "it was due, without a bar, at 99" in told.said()

    def test_a_rule_of_the_users_own(self) -> None:
        told = Told(policy=policy(custom_rule={"name": "mine"})).tell(seen(100, 60, verdict="it rains"))
        assert "by the custom rule (mine 1: it rains)" in told.said()

    def test_an_order_that_was_found(self) -> None:
        told = Told()
        report = ExecutionReport(
            client_order_id=client_order_id(told.key, 1), status=OrderStatus.NEW, at=after(5), qty=Decimal(10)
        )
        told.tell(Recover(at=after(6), attempt=1, report=report))
        assert "Its exit was found at the broker without a record of it" in told.said()

    def test_by_other_hands(self) -> None:
        told = Told().tell(holds(0, 60))
        assert "No rule of ours exited it." in told.said()
        assert "it went flat by a manual trade" in told.said()

    def test_protection_lost(self) -> None:
        told = Told().close_at("98.9", 60).tell(Contradiction(at=after(70), why="it does not fit"))
        assert "Nothing automatic happens any more: it waits for a person." in told.said()
        assert "Protection was lost: it does not fit." in told.said()
        assert "An alarm stands: protection_lost: it does not fit." in told.said()


class TestWhyItDidNot:
    def test_the_distance_to_each_level(self) -> None:
        told = Told(policy=policy(trailing_stop={"activation_pct": 2}, time_limit={"max_seconds": 3600}))
        told.close_at("100.5", 60)
        x = told.facts(bars=[bar("100.5", 60)])
        assert x.exit is None
        assert (x.price.price, x.price.source) == (Decimal("100.5"), "bars")
        said = told.said(bars=[bar("100.5", 60)])
        assert "As of 2024-01-02 14:31:00 UTC it has not been exited." in said
        assert "stop_loss stands at 99 (1 %), 1.5 (1.4925 %) away: it was not reached." in said
        assert "profit_take stands at 102 (2 %), 1.5 (1.4925 %) away: it was not reached." in said
        assert "trailing_stop has not begun: it begins at 102 (2 % in profit)." in said
        assert "time_limit is due at 2024-01-02 15:30:00 UTC, in 59 min." in said
        assert "Rules that are off: break_even, end_of_session, custom_rule." in said

    def test_without_a_price_nothing_is_guessed(self) -> None:
        said = Told().said()
        assert "how far the price is from it is not recorded" in said
        assert "Not recorded: the last price" in said

    def test_the_mark_is_a_price_too(self) -> None:
        told = Told().close_at("100.5", 60)
        told.store.save_marks(told.engine.marks())
        assert "The last known price is 100.5, from the mark of 2024-01-02 14:31:00 UTC." in told.said()
        assert "Not recorded: the last price" in told.said(at=after(30))  # it was not known then

    def test_refused_inputs(self) -> None:
        told = Told().close_at(100, 60).close_at(14, 120).close_at(14, 180)
        (run,) = told.facts().refusals
        assert (run.reason, run.price, run.reference_price, run.count) == ("price_jump", "14", Decimal(100), None)
        assert "the price 14 was refused as price_jump (last believed 100)" in told.said()
        assert "that run has no end on record" in told.said()
        told.close_at(100, 240)
        assert "2 bars until 2024-01-02 14:34:00 UTC; nothing was decided on them." in told.said()

    def test_a_price_that_was_refused_is_not_the_last_known_one(self) -> None:
        """After a split the bars go on at a seventh of the price: the levels are not held against that."""
        told = Told().close_at(100, 60).close_at(14, 120).close_at("14.2", 180)
        given = [bar(100, 60), bar(14, 120), bar("14.2", 180)]
        x = told.facts(bars=given)
        assert (x.price.price, x.refused_price.price) == (Decimal(100), Decimal("14.2"))
        said = told.said(bars=given)
        assert "The last believed price is 100, from the bar of 2024-01-02 14:31:00 UTC." in said
        assert "Newer ones, up to 14.2 in the bar of 2024-01-02 14:33:00 UTC, were refused" in said
        assert "stop_loss stands at 99 (1 %), 1 (1 %) away: it was not reached." in said
        assert "is to exit" not in said
        told.close_at(100, 240)
        assert told.facts(bars=[*given, bar(100, 240)]).refused_price is None

    def test_the_highest_price_is_that_of_the_time_it_was_held(self) -> None:
        told = Told().close_at(101, 60).close_at("100.5", 120)
        given = [bar(105, 0, high=106, low=100), bar(101, 60, high="101.5", low=100), bar("100.5", 120)]
        x = told.facts(bars=given)
        assert (x.best.price, x.best.at, x.best.source) == (Decimal("101.5"), after(60), "bars")
        assert "The highest price on record while it was held is 101.5, in the bar of" in told.said(bars=given)
        short = Told(side="short").close_at(99, 60)
        assert "The lowest price on record while it was held is 98.5" in short.said(bars=[bar(99, 60, low="98.5")])

    def test_the_highest_price_without_bars(self) -> None:
        told = Told(policy=policy(trailing_stop={"activation_pct": 1, "trail_pct": 1}))
        told.close_at(101, 60).close_at("101.5", 120).close_at("100.4", 180)
        assert "The highest price on record while it was held is 101.5, when a stop moved" in told.said()
        told = Told().close_at("98.9", 60)
        assert "Not recorded: the highest price while it was held" in told.said()
        told = Told().close_at(101, 60)
        told.store.save_marks(told.engine.marks())
        assert "The highest price on record while it was held is 101, as noted at" in told.said()

    def test_a_pause(self) -> None:
        told = Told()
        stream = f"account:{ACCOUNT}"
        told.store.append(stream, 0, [TradingPaused(by="ann", at=after(30))], at=after(30), by="operator")
        told.engine.pause()
        told.close_at("98.9", 60)
        assert "Trading is paused since 2024-01-02 14:30:30 UTC by ann" in told.said()
        assert "refused as paused" in told.said()
        assert "paused since" not in told.said(at=after(10))
        told.store.append(stream, 1, [TradingResumed(by="ann", at=after(90))], at=after(90), by="operator")
        assert "Trading is paused" not in told.said(at=after(100))

    def test_switched_off(self) -> None:
        told = Told(policy=msgspec.structs.replace(policy(), enabled=False)).close_at("98.9", 60)
        assert "Exits are off for it (enabled: false)" in told.said()
        assert "refused as disabled" in told.said()
        assert "beyond it" in told.said(bars=[bar("98.9", 60)])

    def test_what_is_not_on_record(self) -> None:
        told = Told(policy=policy(end_of_session={}, custom_rule={"name": "mine"}, atr_levels={"period": 3}))
        missing = told.facts().not_recorded
        assert len(missing) == 4
        assert any("session's hours" in m for m in missing)
        assert any("custom rule" in m for m in missing)
        assert any("average true range" in m for m in missing)

    def test_no_level_at_all(self) -> None:
        told = Told(policy=policy(stop_loss=False, profit_taking=False))
        assert "No level stands" in told.said()
        assert "profit_taking, stop_loss" in told.said()


class TestAsOf:
    def test_it_knows_what_was_known_then(self) -> None:
        told = Told().close_at(100, 60).close_at("98.9", 120)
        told.tell(reported("filled", 10, "98.8", at=121), holds(0, 122))
        before = told.facts(at=after(119))
        assert (before.state, before.exit, before.outcome, before.events) == ("monitoring", None, None, 1)
        deciding = told.facts(at=after(120))
        assert (deciding.state, deciding.outcome) == ("pending", None)
        assert "acknowledgement is not recorded" in told.said(at=after(120))
        assert told.facts(at=after(122)).outcome is not None

    def test_before_it_was_known(self) -> None:
        with pytest.raises(StoreError, match="not known yet"):
            Told().facts(at=T0 - timedelta(seconds=1))

    def test_a_position_that_is_not_there(self) -> None:
        with ExitStore(":memory:") as store, pytest.raises(StoreError, match="no position"):
            explain(store, "none")

    def test_an_alarm_that_was_looked_at_is_gone(self) -> None:
        told = Told().tell(RaiseAlarm(at=after(1), kind="feed_silent", text="nothing comes"))
        assert "An alarm stands: feed_silent: nothing comes." in told.said()
        told.tell(lambda p: Acknowledge(at=after(2), alarm_id=p.alarms[0].alarm_id))
        assert "alarm" not in told.said().lower()
        assert "An alarm stands" in told.said(at=after(1))


def every(path: Path) -> Iterator[tuple[ExitStore, str]]:
    with ExitStore(path, read_only=True) as store:
        for row in store.positions():
            yield store, row.position_id


def test_every_position_at_every_event_can_be_explained(exits: Path) -> None:
    for store, key in every(exits):
        for r in store.stream(key):
            told = explain(store, key, at=T0 + timedelta(microseconds=r.at_ns // 1000 - int(T0.timestamp() * 1e6)))
            data = as_dict(told)
            assert json.loads(json.dumps(data)) == data
            assert all(line.endswith((".", ")")) for line in data["sentences"])
            assert data["symbol"] in data["sentences"][0]


def test_every_price_in_the_sentences_is_a_fact(exits: Path) -> None:
    for store, key in every(exits):
        data = as_dict(explain(store, key))
        exit_ = data["exit"]
        if exit_ is not None:
            assert exit_["trigger_price"] in data["sentences"][1]
            assert exit_["level"] in data["sentences"][1]
