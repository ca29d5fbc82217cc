"""What the tests of holdings are made of: positions, executions and rows of AAPL, and strategies for them.

The bought side of a short position sells, and so on: everything is drawn for a long position, and `mirrored`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm.holdings import Evidence, Executions, Read, expect
from exitfsm.lifecycle import State
from exitfsm.messages import RecordRead
from exitfsm.policy import ExitPolicy
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import ExitOrder, Position
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, OrderSide, OrderStatus, Side

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
OTHER_WAY = {OrderSide.BUY: OrderSide.SELL, OrderSide.SELL: OrderSide.BUY, Side.LONG: Side.SHORT, Side.SHORT: Side.LONG}
Sided = TypeVar("Sided", Position, Fill, BrokerPosition)


def at(seconds: float) -> datetime:
    """So long after the position was opened."""
    return T0 + timedelta(seconds=seconds)


def held(**fields: Any) -> Position:
    """Ten AAPL, bought at 100, and monitored."""
    given: dict[str, Any] = {
        "position_id": "p", "account": "a", "symbol": "AAPL", "side": Side.LONG, "epoch": "e", "qty": Decimal(10),
        "entry_price": Decimal(100), "opened_at": T0, "policy": ExitPolicy(),
    }  # fmt: skip
    return changed(Position(**given), **fields)


#: Fields of a position's current exit order, as the tests name them.
OF_ORDER = {name: name for name in ("client_order_id", "attempt", "broker_order_id", "filled_qty", "ended_how")} | {
    "order_qty": "qty", "order_live": "live", "next_attempt_at": "next_attempt_at", "restated": "restated",
    "ordered_by": "ordered_by", "corrected": "corrected",
}  # fmt: skip


def changed(p: Position, *, before: tuple[ExitOrder, ...] = (), **fields: Any) -> Position:
    """A position with other figures, of its current order too; `before` are orders that came before that."""
    of_order = {OF_ORDER[name]: fields.pop(name) for name in OF_ORDER if name in fields}
    current = p.orders[-1:] or (ExitOrder(client_order_id="xf1-1", attempt=1, qty=Decimal(10), live=False),)
    if of_order or before:
        fields["orders"] = (*p.orders[:-1], *before, replace(current[0], **of_order))
    if "triggered_at" in fields:
        fields["exit"] = replace(p.exit, triggered_at=fields.pop("triggered_at"))
    return replace(p, **fields)


def over(client_order_id: str, filled: int, how: str, broker_order_id: str | None = None) -> ExitOrder:
    """An exit order that has ended, before the current one."""
    return ExitOrder(
        client_order_id=client_order_id, attempt=1, qty=Decimal(10), live=False, filled_qty=Decimal(filled),
        ended_how=how, broker_order_id=broker_order_id,
    )  # fmt: skip


def exiting(**fields: Any) -> Position:
    """The same with its first exit order at work since the tenth second."""
    given: dict[str, Any] = {
        "state": State.SUBMITTED, "client_order_id": "xf1-1", "attempt": 1, "order_qty": Decimal(10),
        "order_live": True, "triggered_at": at(10), "waiting_since": at(10), "broker_order_id": "B1",
    }  # fmt: skip
    return held(**(given | fields))


def ended(**fields: Any) -> Position:
    """The same with its first exit order canceled in the twentieth second; the next may follow five seconds later."""
    given: dict[str, Any] = {
        "state": State.REJECTED, "order_live": False, "ended_how": "canceled", "next_attempt_at": at(25),
        "waiting_since": at(20),
    }  # fmt: skip
    return exiting(**(given | fields))


def fill(side: str, qty: int | str, price: int | str = 100, *, second: float = 0, **ids: str) -> Fill:
    """One execution."""
    return Fill(
        fill_id=f"f{second}", symbol="AAPL", side=OrderSide(side), qty=Decimal(qty), price=Decimal(price),
        at=at(second), **ids,
    )  # fmt: skip


def report(status: str, filled: int | None = None, **fields: Any) -> ExecutionReport:
    """What the broker says of an order, by default the first exit order."""
    qty = Decimal(filled) if filled is not None else None
    given: dict[str, Any] = {"client_order_id": "xf1-1", "at": at(21), "filled_qty": qty, "symbol": "AAPL"}
    return ExecutionReport(status=OrderStatus(status), **(given | fields))


def row(
    qty: int | str | Decimal, entry: int | str = 100, *, side: str = "long", symbol: str = "AAPL"
) -> BrokerPosition:
    """One row of the broker's list of positions."""
    return BrokerPosition(symbol=symbol, side=Side(side), qty=Decimal(qty), avg_entry_price=Decimal(entry))


def read(*rows: BrokerPosition, began: float = 30, **fields: Any) -> Read:
    """A read of the broker's positions; it began in the thirtieth second."""
    return Read(rows=rows, began=began, **fields)


#: A broker that shows ended orders, and lists executions.
BROKER = Capabilities(
    ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, reduce_only=True, late_fills=True, late_fill_window_s=5
)


def evidence(p: Position, positions: Read, *fills: Fill, beside: Sequence[Position] = (), **fields: Any) -> Evidence:
    """A read, and all that could be read beside it: the executions, and the record of the ended order."""
    ended_order = RecordRead(client_order_id="xf1-1", began=at(30), report=report("canceled", int(p.filled_qty)))
    given: dict[str, Any] = {
        "position": p, "beside": tuple(beside), "expected": expect(p, beside), "read": positions,
        "began": at(positions.began) if positions.began >= 0 else T0, "broker": BROKER, "record": ended_order,
        "executions": Executions(items=fills), "next_order_known": True,
    }  # fmt: skip
    return Evidence(**(given | fields))


def mirrored(what: Sided) -> Sided:
    """The same on the other side."""
    return replace(what, side=OTHER_WAY[what.side])


quantities = st.integers(1, 40).map(lambda tenths: Decimal(tenths) / 2)
#: Whose an execution is: our exit's, a known order's of somebody else, or nobody says.
names = st.sampled_from(
    [
        {"client_order_id": "xf1-1"},
        {"broker_order_id": "B1"},
        {"client_order_id": "bot-1"},
        {"broker_order_id": "B9"},
        {},
    ]
)


@st.composite
def executions(draw: st.DrawFn, *, max_size: int = 8) -> list[Fill]:
    """Executions of a symbol since a position's entry, oldest first, no two in one second."""
    made: list[Fill] = []
    for second in range(draw(st.integers(0, max_size))):
        side, ids = draw(st.sampled_from(["buy", "sell"])), draw(names)
        made.append(replace(fill(side, 1, second=second, **ids), qty=draw(quantities)))
    return made


@st.composite
def positions(draw: st.DrawFn) -> Position:
    """A position before, during and after its first exit order."""
    filled = draw(st.integers(0, 20).map(lambda halves: Decimal(halves) / 2))
    elsewhere = draw(st.integers(0, 6).map(lambda halves: Decimal(halves) / 2))
    return draw(
        st.sampled_from(
            [
                held(),
                exiting(filled_qty=filled, sold_elsewhere=elsewhere),
                ended(filled_qty=filled, sold_elsewhere=elsewhere),
                ended(filled_qty=filled, state=State.UNPROTECTED, next_attempt_at=None),
            ]
        )
    )


def shuffled(items: Sequence[Fill], random: Any) -> list[Fill]:
    """The same in another order."""
    other = list(items)
    random.shuffle(other)
    return other
