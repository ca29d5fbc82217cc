"""An engine with a simulated venue, and somebody who does what is owed: where the tests of the engine begin."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitfsm.engine import Engine
from exitfsm.errors import OrderRefused
from exitfsm.events import (
    Event,
)
from exitfsm.messages import PositionRead, RecordRead
from exitfsm.policy import ExitPolicy
from exitfsm.position import (
    READS_MIN,
    Action,
    Cancel,
    LookUp,
    Position,
    ReadPosition,
    Submit,
    replay,
)
from exitfsm.simulated import SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.testing.given import after, bar, opened, to_open
from exitfsm.values import Side, refused_report


class Desk:
    """An engine, a simulated venue, and somebody who does what is owed."""

    def __init__(self, store: ExitStore | None = None, broker: SimulatedBroker | None = None, **settings: Any) -> None:
        self.store = store or ExitStore(":memory:")
        self.broker = broker or SimulatedBroker()
        self.engine = Engine(self.store, self.broker.capabilities, **settings)

    def buy(
        self,
        entry: Any = 100,
        qty: int = 10,
        *,
        side: Side = Side.LONG,
        symbol: str = "AAPL",
        rules: ExitPolicy | None = None,
        at: float = 0,
    ) -> Position:
        """A position comes on the books of the venue and under watch."""
        first = opened(side, qty, entry, symbol=symbol, policy=rules, at=after(at), epoch=f"e{at}")
        self.broker.hold(symbol, side, Decimal(qty), first.entry_price, first.opened_at)
        return self.engine.open(to_open(first), bar=bar(entry, at, symbol=symbol))

    def bar(self, close: Any, at: float, symbol: str = "AAPL", **prices: Any) -> tuple[Action, ...]:
        """A bar trades at the venue, and is told to the engine; what is owed is done."""
        the_bar = bar(close, at, symbol=symbol, **prices)
        for report in self.broker.on_bar(the_bar):
            self.do(self.engine.on_report(report, at=the_bar.timestamp), the_bar.timestamp)
        self.do(self.engine.tick(the_bar.timestamp), the_bar.timestamp)
        actions = self.engine.on_bar(the_bar)
        self.do(actions, the_bar.timestamp)
        return actions

    def do(self, actions: Iterable[Action], at: datetime) -> None:
        """What is owed, and what is owed after that."""
        waiting = deque(actions)
        while waiting:
            waiting.extend(self.act(waiting.popleft(), at))

    def act(self, action: Action, at: datetime) -> list[Action]:
        engine, broker = self.engine, self.broker
        match action:
            case Submit(order=order):
                engine.sent(order.client_order_id)
                try:
                    report = broker.submit(order)
                except OrderRefused as refusal:
                    report = refused_report(order.client_order_id, refusal, at)
                return engine.on_report(report, at=at)
            case LookUp(position_id=owner, client_order_id=order_id):
                known = broker.order(order_id)
                if known is not None:
                    return engine.on_report(known, at=at)
                engine.not_known(order_id)
                again = engine.owed_by(engine.positions[owner], at)
                return [again] if again is not None else []
            case Cancel(client_order_id=order_id):
                broker.cancel(order_id)
                return engine.on_report(broker.order(order_id), at=at)
            case ReadPosition(position_id=owner, symbol=symbol):
                position = engine.get(owner)
                order_id = position.client_order_id or ""
                record = RecordRead(client_order_id=order_id, began=at, report=broker.order(order_id))
                held = broker.held(symbol) * position.side.sign
                read = PositionRead(at=at, began=at, qty=held, reads=READS_MIN, record=record)
                return engine.tell(owner, read)

    def events(self, p: Position) -> list[Event]:
        """Everything stored about a position after its opening."""
        return [r.event for r in self.store.stream(p.position_id)][1:]

    def now(self, p: Position) -> Position:
        """The position as it is, open or ended."""
        found = self.engine.get(p.position_id)
        assert found is not None
        assert found == replay(r.event for r in self.store.stream(p.position_id))
        return found


def checked_desk() -> Iterator[Desk]:
    """A desk, whose tables and chain hold when it is done with."""
    a_desk = Desk()
    yield a_desk
    assert a_desk.store.verify_read_models() == []
    assert a_desk.store.verify_chain() is None
    a_desk.store.close()
