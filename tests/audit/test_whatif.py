"""What if: the same decide code on the same bars; with the same policy the log again, decision for decision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from stores import T0, TRAILING, troubled, wander

from exitfsm import Bar, ConfigError, Engine, ExitPolicy, ExitStore, Side, SimulatedBroker, StoreError, load_config
from exitfsm.audit import changed, grid, parse_change, whatif
from exitfsm.config import SessionHours
from exitfsm.config.settings import plain_value
from exitfsm.events import TradingPaused, TradingResumed
from exitfsm.messages import ChangePolicy, ForceExit, MoveStop, Open, PositionRead
from exitfsm.policy import LadderStep, average_true_range
from exitfsm.recorded_bars import Seen, recorded_bars
from exitfsm.simulate import simulate
from exitfsm.testing.given import BROKER

BASE: dict[str, Any] = {
    "trailing": TRAILING,
    "defaults": {},
    "limit": {"profit_taking": {"threshold_pct": 0.4, "order_type": "limit"}, "stop_loss": {"threshold_pct": 0.3}},
    "range": {"evaluate_on": "range", "break_even": {"enabled": True, "activation_pct": 0.2}},
    "time": {"time_limit": {"enabled": True, "max_seconds": 1800}, "exit_cooldown_seconds": 0},
    "session": {"end_of_session": {"enabled": True, "minutes_before_close": 15}},
    "ladder": {"target_ladder": {"enabled": True, "steps": [{"after_seconds": 600, "threshold_pct": 0.1}]}},
    "atr": {"atr_levels": {"enabled": True, "period": 5, "stop_multiple": 4, "target_multiple": 6}},
    "trailing on the range": {**TRAILING, "evaluate_on": "range"},
    "off": {"enabled": False},
}
Feed = Callable[[], Iterator[Seen]]


def feed(bars: Callable[[], Any] = wander) -> Feed:
    return lambda: (Seen(bar, None) for bar in bars())


class TestUnchanged:
    """The proof that everything else here means something."""

    @pytest.mark.parametrize("name", BASE)
    @pytest.mark.parametrize("side", list(Side))
    @pytest.mark.parametrize("re_enter", [False, True])
    def test_it_reproduces_every_simulated_run(self, name: str, side: Side, re_enter: bool) -> None:
        with ExitStore(":memory:") as store:
            ran = simulate(wander(), load_config(BASE[name]), store=store, side=side, re_enter=re_enter)
            found = whatif(store, feed())
        assert found.unchanged
        assert found.reproduced
        assert all(p.same_events for p in found.positions)
        exits = {e.position_id: e.as_dict() for e in ran.exits}
        for p in found.positions:
            assert p.as_dict()["logged"] == p.as_dict()["replayed"] == exits.get(p.position_id)
            assert p.pnl_difference_pct in (None, Decimal(0))
        assert found.policy == plain_value(load_config(BASE[name]).policy)

    @pytest.mark.parametrize("side", list(Side))
    @pytest.mark.parametrize("name", BASE)
    def test_it_reproduces_every_run_on_the_real_bars(self, real_bars: list[Bar], name: str, side: Side) -> None:
        for re_enter in (False, True):
            with ExitStore(":memory:") as store:
                simulate(real_bars, load_config(BASE[name]), store=store, re_enter=re_enter, side=side)
                found = whatif(store, feed(lambda: real_bars))
                ended_at_a_split = {alarm.stream_id for alarm in store.alarms() if alarm.kind == "split"}
            assert found.reproduced
            # That the price jumped as in a split, a person is told once, in the log.
            assert all(p.same_events for p in found.positions if p.position_id not in ended_at_a_split)
            assert len(ended_at_a_split) <= 1
            assert len(found.positions) >= 3
            assert found.bars == 5779

    def test_with_slippage(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(), load_config(TRAILING), store=store, broker=SimulatedBroker(slippage_pct=Decimal("0.1")))
            assert all(p.same_events for p in whatif(store, feed(), slippage_pct=Decimal("0.1")).positions)
            without = whatif(store, feed())
        assert without.reproduced  # how it fills is no decision
        assert not all(p.same_events for p in without.positions)

    def test_with_other_hours(self) -> None:
        config = load_config(BASE["session"] | {"session": {"open": "09:30", "close": "12:00"}})
        calm = feed(lambda: wander(spread=0.0001))
        with ExitStore(":memory:") as store:
            simulate(wander(spread=0.0001), config, store=store)
            assert whatif(store, calm, session=config.session).reproduced
            assert whatif(store, calm, session=SessionHours()).reproduced is False

    def test_what_the_broker_did_is_no_decision(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(), load_config(TRAILING), store=store, broker=troubled())
            found = whatif(store, feed())
        assert found.reproduced
        assert not all(p.same_events for p in found.positions)

    def test_with_the_recorded_bars_and_no_other_file(self, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "e.db") as store:
            config = load_config(TRAILING | {"record_bars": True})
            simulate(wander(), config, store=store, re_enter=True)
            found = whatif(store, lambda: recorded_bars(tmp_path / "e.db.bars"))
        assert found.reproduced
        assert all(p.same_events for p in found.positions)

    def test_one_position_alone(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(), load_config(TRAILING), store=store, re_enter=True)
            for row in store.positions()[::7]:
                found = whatif(store, feed(), positions=[row.position_id])
                assert [p.position_id for p in found.positions] == [row.position_id]
                assert found.reproduced

    def test_a_changed_bar_shows(self) -> None:
        with ExitStore(":memory:") as store:
            result = simulate(wander(), load_config(TRAILING), store=store)
            at = result.exits[0].triggered_at

            def others() -> Iterator[Bar]:
                for b in wander():
                    yield Bar(b.symbol, b.timestamp, 200, 200, 200, 200) if b.timestamp == at else b

            found = whatif(store, feed(others))
        assert found.reproduced is False
        assert any("decision" in p.first_difference for p in found.positions)

    def test_bars_that_go_on_after_the_log(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(1, 30), load_config({}), store=store)
            found = whatif(store, feed(lambda: wander(1, 4000)))
        (p,) = found.positions
        assert p.logged is None
        assert p.replayed is not None
        assert "the log ends there, and the bars go on" in p.first_difference

    def test_bars_that_do_not_reach_the_entry(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(2, 30), load_config({}), store=store)
            found = whatif(store, feed(lambda: wander(1, 30)))
        assert [p.entered for p in found.positions] == [True, False]
        assert found.positions[1].replayed is None
        assert found.positions[1].first_difference == "no bar reaches its entry"


class TestChanged:
    def test_it_is_what_a_run_with_that_policy_gives(self) -> None:
        """First entries do not depend on the policy: there a simulation is the check."""
        changes = {"stop_loss.threshold_pct": "0.3", "trailing_stop.enabled": "false"}
        with ExitStore(":memory:") as store, ExitStore(":memory:") as other:
            simulate(wander(), load_config(TRAILING), store=store)
            found = whatif(store, feed(), changes)
            config = load_config(TRAILING | {"stop_loss": {"threshold_pct": 0.3}, "trailing_stop": {"enabled": False}})
            wanted = simulate(wander(), config, store=other)
        exits = {e.position_id: e.as_dict() for e in wanted.exits}
        assert exits
        assert {p.position_id: p.as_dict()["replayed"] for p in found.positions if p.replayed} == exits
        assert not found.unchanged
        assert found.reproduced is None

    @pytest.mark.parametrize("period", ["5", "14"])
    def test_a_range_that_was_not_recorded_is_computed_from_the_bars(self, period: str) -> None:
        """Entered after forty minutes: the bars before the entry are the range, as they would have been then."""
        start = T0 + timedelta(minutes=40)
        before = [b for b in wander(1) if b.timestamp <= start]
        changes = {"atr_levels.enabled": "true", "atr_levels.period": period, "atr_levels.stop_multiple": "4"}
        policy = changed(ExitPolicy(), changes)
        at_entry = average_true_range(before, int(period))
        assert at_entry is not None
        with ExitStore(":memory:") as store, ExitStore(":memory:") as other:
            plain, knowing = entry(at=start), entry(at=start, policy=policy, atr=at_entry)
            for kept, message in ((store, plain), (other, knowing)):
                Engine(kept, BROKER).open(message)
            found, wanted = whatif(store, feed(lambda: wander(1)), changes), whatif(other, feed(lambda: wander(1)))
            fixed = whatif(store, feed(lambda: wander(1)))
        assert found.positions[0].replayed == wanted.positions[0].replayed
        assert found.positions[0].replayed != fixed.positions[0].replayed

    def test_a_wider_stop_holds_on_beside_the_next_entry(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(), load_config(TRAILING), store=store, re_enter=True)
            found = whatif(store, feed(), {"stop_loss.threshold_pct": "50", "trailing_stop.enabled": "no"})
        held = [p for p in found.positions if p.replayed is None]
        assert len({p.symbol for p in held}) < len(held)  # several of one symbol at once
        assert all(p.entered for p in held)
        for p in found.positions:
            if p.replayed is not None:
                assert p.replayed.reason == "profit_take"
                assert p.logged is None or p.replayed.opened_at == p.logged.opened_at

    def test_the_difference_is_in_percent_of_the_entry(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(), load_config(TRAILING), store=store, re_enter=True)
            found = whatif(store, feed(), {"profit_taking.threshold_pct": "0.1"})
        for p in found.positions:
            if p.logged is not None and p.replayed is not None:
                assert p.logged.pnl_pct is not None
                assert p.replayed.pnl_pct is not None
                assert p.pnl_difference_pct == p.replayed.pnl_pct - p.logged.pnl_pct
                assert set(p.as_dict()) == {"position_id", "symbol", "logged", "replayed", "pnl_difference_pct"}

    def test_the_value_that_it_has_is_no_change(self) -> None:
        with ExitStore(":memory:") as store:
            simulate(wander(), load_config(TRAILING), store=store)
            found = whatif(store, feed(), {"stop_loss.threshold_pct": "0.60", "exit_cooldown_seconds": "60"})
        assert found.unchanged
        assert found.reproduced

    def test_policies_that_differ_are_shown_as_far_as_they_agree(self) -> None:
        with ExitStore(":memory:") as store:
            engine = Engine(store, BROKER)
            for n, stop in enumerate(("1", "2")):
                engine.open(entry(f"S{n}", policy=changed(ExitPolicy(), {"stop_loss.threshold_pct": stop})))
            found = whatif(store, feed(), {"profit_taking.threshold_pct": "3"})
        assert found.policy is not None
        assert found.policy["stop_loss"]["threshold_pct"] is None
        assert found.policy["profit_taking"]["threshold_pct"] == 3


def entry(symbol: str = "S0", at: Any = T0, **changes: Any) -> Open:
    fields: dict[str, Any] = {
        "account": "0123456789ab", "symbol": symbol, "side": Side.LONG, "epoch": "e1", "qty": Decimal(10),
        "entry_price": Decimal(100), "opened_at": at, "policy": ExitPolicy(), "source": "broker",
    }  # fmt: skip
    return Open(at=at, **fields | changes)


class Live:
    """A log as the live manager writes it: entries and orders of operators between the bars."""

    def __init__(self, closes: list[float]) -> None:
        self.store = ExitStore(":memory:")
        self.engine = Engine(self.store, BROKER)
        self.bars = [self.bar(minute, close) for minute, close in enumerate(closes, 1)]

    @staticmethod
    def bar(minute: float, close: float) -> Bar:
        return Bar("S0", T0 + timedelta(minutes=minute), close, close, close, close)

    def whatif(self, changes: dict[str, str] | None = None, **options: Any) -> Any:
        return whatif(self.store, lambda: (Seen(b, None) for b in self.bars), changes, **options)


class TestBarsThatForm:
    """An exit at a look: bars that have closed cannot say what was decided when, and recorded looks can."""

    def exited_inside(self) -> tuple[Live, list[Seen]]:
        live = Live([])
        looks = [(1, 100, 5), (2, 100, 61), (2, 98.5, 75), (2, 99.8, 90), (3, 99.9, 125)]
        live.engine.open(entry())
        seen = []
        for minute, close, arrived in looks:
            bar, received = live.bar(minute, close), T0 + timedelta(seconds=arrived + 60)
            live.engine.on_bar(bar, received)
            seen.append(Seen(bar, received))
        live.bars = [live.bar(minute, close) for minute, close in ((1, 100), (2, 99.8), (3, 99.9))]
        return live, seen

    def test_closed_bars_say_that_it_was_decided_inside_a_bar(self) -> None:
        live, _ = self.exited_inside()
        (p,) = live.whatif().positions
        assert not p.same_decisions
        assert p.decided_inside_bar
        assert p.as_dict()["decided_inside_bar"] is True
        inside = "decided inside a bar: 98.5 came while the bar of 2024-01-02T14:32:00Z formed, which closed at 99.8"
        assert p.first_difference.endswith(f"({inside}; record_bars: true keeps each look)")

    def test_recorded_looks_are_exact(self) -> None:
        live, seen = self.exited_inside()
        (p,) = whatif(live.store, lambda: iter(seen)).positions
        assert p.same_decisions, p.first_difference
        assert not p.decided_inside_bar
        assert "decided_inside_bar" not in p.as_dict()


class TestWhatCameFromOutside:
    def test_an_entry_between_the_bars(self) -> None:
        live = Live([100, 100, 98.5, 98])
        for b in live.bars[:1]:
            live.engine.on_bar(b)
        live.engine.open(entry(at=T0 + timedelta(seconds=90)))
        for b in live.bars[1:]:
            live.engine.on_bar(b)
        (p,) = live.whatif().positions
        assert p.same_decisions
        assert p.decisions == 1
        assert p.replayed.filled_at == live.bars[3].timestamp

    def test_an_operators_exit_comes_again(self) -> None:
        live = Live([100, 100, 100, 100])
        key = live.engine.open(entry()).position_id
        live.engine.on_bar(live.bars[0])
        force = ForceExit(at=T0 + timedelta(seconds=100), who="ann", reason="news", price=Decimal(100))
        live.engine.tell(key, force)
        (p,) = live.whatif().positions
        assert p.same_decisions
        assert p.replayed.reason == "emergency"
        (p,) = live.whatif({"stop_loss.threshold_pct": "5"}).positions
        assert p.replayed.reason == "emergency"

    def test_an_operators_policy_comes_again_changed_like_the_others(self) -> None:
        live = Live([100, 100, 98.5, 100, 97])
        key = live.engine.open(entry()).position_id
        live.engine.on_bar(live.bars[0])
        wider = changed(ExitPolicy(), {"stop_loss.threshold_pct": "2.5"})
        live.engine.tell(key, ChangePolicy(at=T0 + timedelta(seconds=100), policy=wider, who="ann"))
        for b in live.bars[1:]:
            live.engine.on_bar(b)
        found = live.whatif()
        assert found.reproduced
        assert (
            live.whatif({"stop_loss.threshold_pct": "1"}).positions[0].replayed.triggered_at == live.bars[2].timestamp
        )

    def test_a_stop_by_hand_and_settings_of_its_own_come_again(self) -> None:
        live = Live([100, 100, 98.5, 100, 97, 97])
        key = live.engine.open(entry()).position_id
        live.engine.on_bar(live.bars[0])
        own = changed(ExitPolicy(), {"profit_taking.price": "110"})
        at = T0 + timedelta(seconds=100)
        live.engine.tell(key, ChangePolicy(at=at, policy=own, who="ann", own=True, why="news"))
        last, seen = live.engine.last_price("S0"), live.engine.levels.last_at("S0")
        live.engine.tell(key, MoveStop(at=at, price=Decimal("97.5"), who="ann", last_price=last, bar_at=seen, why="x"))
        for b in live.bars[1:]:
            live.engine.on_bar(b)
        found = live.whatif()
        assert found.reproduced
        [p] = live.whatif({"stop_loss.threshold_pct": "0.5", "profit_taking.price": "95"}).positions
        assert p.replayed.reason == "operator"  # and a price on the wrong side of the entry is left out

    def test_a_pause_comes_again(self) -> None:
        live = Live([100, 98.5, 98.4, 98.3, 98.2])
        live.engine.open(entry())
        stream = "account:0123456789ab"
        at = T0 + timedelta(seconds=90)
        live.engine.on_bar(live.bars[0])
        live.store.append(stream, 0, [TradingPaused(by="ann", at=at)], at=at, by="operator")
        live.engine.pause()
        for b in live.bars[1:3]:
            live.engine.on_bar(b)
        at = T0 + timedelta(seconds=200)
        live.store.append(stream, 1, [TradingResumed(by="ann", at=at)], at=at, by="operator")
        live.engine.resume()
        live.engine.on_bar(live.bars[3])
        (p,) = live.whatif().positions
        assert p.same_decisions, p.first_difference
        assert p.replayed.triggered_at == live.bars[3].timestamp

    @pytest.mark.parametrize(("qty", "entry_price"), [("15", "99"), ("6", None)])
    def test_a_change_of_size_by_other_hands_comes_again(self, qty: str, entry_price: str | None) -> None:
        live = Live([100, 100, 98.9, 97.9, 97])
        key = live.engine.open(entry()).position_id
        live.engine.on_bar(live.bars[0])
        read = PositionRead(
            at=T0 + timedelta(seconds=100), began=T0 + timedelta(seconds=100), qty=Decimal(qty), reads=3,
            avg_entry_price=Decimal(entry_price) if entry_price else None,
        )  # fmt: skip
        live.engine.tell(key, read)
        for b in live.bars[1:]:
            live.engine.on_bar(b)
        (p,) = live.whatif().positions
        assert p.same_decisions, p.first_difference
        assert p.replayed.qty == Decimal(qty)

    def test_a_close_by_other_hands_comes_again(self) -> None:
        live = Live([100, 100, 98])
        key = live.engine.open(entry()).position_id
        live.engine.on_bar(live.bars[0])
        live.engine.tell(
            key,
            PositionRead(at=T0 + timedelta(seconds=100), began=T0 + timedelta(seconds=100), qty=Decimal(0), reads=3),
        )
        (p,) = live.whatif().positions
        assert p.same_decisions
        assert p.replayed.reason is None
        assert p.as_dict()["logged"]["pnl_pct"] is None

    def test_a_split_comes_again(self) -> None:
        live = Live([100, 14.2, 14.2, 14.0, 13.9])
        key = live.engine.open(entry()).position_id
        live.engine.on_bar(live.bars[0])
        live.engine.on_bar(live.bars[1])
        live.engine.rebase("S0", live.bars[1])
        split = PositionRead(
            at=T0 + timedelta(seconds=121),
            began=T0 + timedelta(seconds=121),
            qty=Decimal(70),
            avg_entry_price=Decimal("14.285"),
            reads=3,
        )
        live.engine.tell(key, split)
        for b in live.bars[2:]:
            live.engine.on_bar(b)
        (p,) = live.whatif().positions
        assert p.same_decisions, p.first_difference
        assert p.replayed.reason == "stop_loss"

    def test_bars_count_from_when_they_arrived(self) -> None:
        live = Live([100, 100, 100])
        key = live.engine.open(entry(at=T0)).position_id
        for b in live.bars[:2]:
            live.engine.on_bar(b)
        # The bar of minute 3 arrives at its end, after the operator's word.
        live.engine.tell(key, ForceExit(at=live.bars[2].timestamp + timedelta(seconds=30), who="ann"))
        seen = [Seen(b, b.timestamp + timedelta(seconds=61)) for b in live.bars]
        seen.append(Seen(live.bar(4, 90), T0 + timedelta(seconds=301)))
        found = whatif(live.store, lambda: iter(seen))
        assert found.reproduced, found.positions[0].first_difference


class TestCustomRules:
    RULE: ClassVar[dict[str, Any]] = {"custom_rule": {"enabled": True, "name": "mine", "version": "2"}}

    @staticmethod
    def mine(position: Any, bar: Bar) -> str | None:
        return "high enough" if bar.close > position.entry_price * Decimal("1.001") else None

    def test_one_that_it_does_not_have_is_refused(self) -> None:
        rules = {("mine", "2"): self.mine}
        with ExitStore(":memory:") as store:
            simulate(wander(), load_config(self.RULE), store=store, rules=rules)
            with pytest.raises(ConfigError, match="custom rule 'mine' version '2'"):
                whatif(store, feed())
            assert whatif(store, feed(), rules=rules).reproduced
            without = whatif(store, feed(), {"custom_rule.enabled": "false"})
        assert all(p.replayed is None or p.replayed.reason != "custom" for p in without.positions)


class TestSettings:
    def test_a_change_is_read_as_a_configuration_is(self) -> None:
        new = changed(
            ExitPolicy(),
            {
                "stop_loss.threshold_pct": "1.50",
                "profit_taking.order_type": "limit",
                "trailing_stop.enabled": "on",
                "exit_cooldown_seconds": "0",
                "target_ladder.steps": "[{after_seconds: 60, threshold_pct: 1}]",
                "evaluate_on": "range",
            },
        )
        assert new.stop_loss.threshold_pct == Decimal("1.5")
        assert new.profit_taking.order_type == "limit"
        assert new.trailing_stop.enabled
        assert new.exit_cooldown_seconds == 0
        assert new.target_ladder.steps == (LadderStep(after_seconds=60, threshold_pct=Decimal(1)),)
        assert new.evaluate_on == "range"

    def test_nothing_else_is_touched(self) -> None:
        odd = msgspec.json.decode(
            msgspec.json.encode(ExitPolicy()).replace(b'"threshold_pct":"2.0"', b'"threshold_pct":"2.000"'),
            type=ExitPolicy,
        )
        assert str(changed(odd, {"stop_loss.threshold_pct": "3"}).profit_taking.threshold_pct) == "2.000"
        assert changed(odd, {}) is odd
        assert changed(odd, {"profit_taking.threshold_pct": "2"}) is odd

    def test_every_mistake_is_named(self) -> None:
        with pytest.raises(ConfigError) as caught:
            changed(
                ExitPolicy(),
                {"stop_los.threshold_pct": "1", "stop_loss": "1", "profit_taking.threshold_pct": "x", "a": "1"},
            )
        text = str(caught.value)
        assert "stop_los.threshold_pct is no setting of the policy" in text
        assert "stop_loss is a section; name one of its settings: stop_loss.enabled" in text
        assert 'profit_taking.threshold_pct: "x" is not allowed' in text
        assert "a is no setting" in text

    @pytest.mark.parametrize("text", ["", "x", "=1", " = "])
    def test_what_is_no_change(self, text: str) -> None:
        with pytest.raises(ConfigError, match="write it as"):
            parse_change(text)

    def test_a_list_that_cannot_be_read(self) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            changed(ExitPolicy(), {"target_ladder.steps": "[{"})

    def test_a_grid_is_every_combination(self) -> None:
        found = grid({"a": "1"}, [("b", ["1", "2"]), ("c", ["x", "y", "z"])])
        assert len(found) == 6
        assert found[0] == {"a": "1", "b": "1", "c": "x"}
        assert grid({"a": "1"}, []) == [{"a": "1"}]
        with pytest.raises(ConfigError, match="1,001 combinations"):
            grid({}, [("b", [str(n) for n in range(1001)])])

    def test_a_position_that_is_not_there(self) -> None:
        with ExitStore(":memory:") as store, pytest.raises(StoreError, match="no position"):
            whatif(store, feed(), positions=["none"])

    def test_a_store_without_positions(self) -> None:
        with ExitStore(":memory:") as store:
            found = whatif(store, feed())
        assert found.as_dict() == {"policy": None, "positions": []}
        assert found.reproduced is None


def test_a_logged_exit_is_shown_as_the_simulation_shows_it() -> None:
    with ExitStore(":memory:") as store:
        result = simulate(wander(), load_config(TRAILING), store=store)
        logged = {p.position_id: p.logged for p in whatif(store, feed()).positions if p.logged}
    assert logged == {e.position_id: e for e in result.exits}
