"""Doing what is owed to a simulated venue: what is polled at each bar is weighed anew where something changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from exitfsm import holdings
from exitfsm.config import ExitConfig
from exitfsm.lifecycle import State
from exitfsm.position import Position
from exitfsm.simulate import Simulation
from exitfsm.simulated import Act, SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.values import Bar, OrderSide, Side

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)


class Run:
    """A simulation of one symbol whose exit is refused twice, so that it is unprotected and polled at each bar."""

    def __init__(self, store: ExitStore) -> None:
        self.venue = SimulatedBroker()
        self.venue.plain_act = Act(refuse="not_tradable")
        self._run = Simulation(ExitConfig(), store, Decimal(10), Side.LONG, False, self.venue, {}, "test")
        self._minute = 0
        for close in ("100", "98", "98", "98", "98"):
            self.bar(close)
        assert self.position.state is State.UNPROTECTED

    def bar(self, close: str = "98") -> None:
        """The next minute."""
        price = Decimal(close)
        self._run.on_bar(Bar("AAPL", T0 + timedelta(minutes=self._minute), price, price, price, price))
        self._minute += 1

    @property
    def position(self) -> Position:
        """The one that is polled, as it is now."""
        (stream,) = (s for s in self._run.engine.store.stream_ids() if s.startswith("AAPL"))
        found = self._run.engine.get(stream)
        assert found is not None
        return found


@pytest.fixture
def run() -> Iterator[Run]:
    with ExitStore(":memory:") as store:
        yield Run(store)


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[holdings.Evidence]:
    """What is weighed from here on."""
    seen: list[holdings.Evidence] = []
    weigh = holdings.weigh

    def noting(evidence: holdings.Evidence, memory: Any) -> Any:
        seen.append(evidence)
        return weigh(evidence, memory)

    monkeypatch.setattr("exitfsm.holdings.weigh", noting)
    return seen


def test_given_the_same_books_and_the_same_position_then_a_poll_weighs_nothing(
    run: Run, weighed: list[holdings.Evidence]
) -> None:
    before = run.position
    for _ in range(5):
        run.bar()
    assert len(weighed) <= 1
    assert run.position == before


@pytest.mark.parametrize("sold", [3, 10])
def test_given_that_somebody_sold_then_the_next_poll_weighs_it(
    run: Run, weighed: list[holdings.Evidence], sold: int
) -> None:
    run.bar()
    weighed.clear()
    run.venue.trade_by_hand("AAPL", OrderSide.SELL, Decimal(sold), Decimal(98))
    run.bar()
    assert weighed[0].read.rows == ((run.venue.position("AAPL"),) if sold < 10 else ())
    assert (run.position.state is State.CLOSED) is (sold == 10)


def test_given_that_less_is_held_than_is_left_then_executions_are_asked_for_at_each_poll(
    run: Run, weighed: list[holdings.Evidence]
) -> None:
    run.venue.trade_by_hand("AAPL", OrderSide.SELL, Decimal(3), Decimal(98))
    run.bar()
    weighed.clear()
    run.bar()
    assert [len(e.executions.items) if e.executions else None for e in weighed] == [None, 2]


def test_given_that_it_was_sold_and_entered_anew_at_the_same_price_between_two_polls_then_it_is_another(
    run: Run,
) -> None:
    run.venue.trade_by_hand("AAPL", OrderSide.SELL, Decimal(3), Decimal(98))
    run.bar()
    run.bar()
    run.venue.trade_by_hand("AAPL", OrderSide.SELL, Decimal(7), Decimal(98))
    run.venue.trade_by_hand("AAPL", OrderSide.BUY, Decimal(7), Decimal(100))
    run.bar()
    assert run.position.state is State.CLOSED
