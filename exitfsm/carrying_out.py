"""Doing what positions owe a simulated venue, which answers at once, until nothing more is owed.

What the venue's books mean, and whether an order may leave, is asked in `holdings`, as the live manager asks it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.engine import Engine
from exitfsm.errors import OrderRefused
from exitfsm.messages import RecordRead
from exitfsm.position import READS_MIN, Action, Cancel, LookUp, Position, ReadPosition, Submit
from exitfsm.simulated import SimulatedBroker
from exitfsm.values import refused_report


def carry_out(engine: Engine, venue: SimulatedBroker, actions: Iterable[Action], at: datetime) -> None:
    """Do what is owed, after a crash just as on any other day."""
    waiting = deque(actions)
    while waiting:
        waiting.extend(_act(engine, venue, waiting.popleft(), at))


def _act(engine: Engine, venue: SimulatedBroker, action: Action, at: datetime) -> list[Action]:
    """Do one thing; returns what is owed after it."""
    p = engine.positions.get(action.position_id)
    if p is None:
        return []
    match action:
        case Submit():
            return _submit(engine, venue, p, action, at)
        case Cancel(client_order_id=order_id):
            with suppress(OrderRefused):  # it has ended already, and its own record says how
                venue.cancel(order_id)
            record = venue.order(order_id)
            return engine.on_report(record, at=at) if record is not None else []
        case LookUp(client_order_id=order_id):
            record = venue.order(order_id)
            if record is not None:
                return engine.on_report(record, at=at)
            if not holdings.may_resend(p, venue.capabilities):
                return []
            engine.not_known(order_id)
            again = engine.owed_by(p, at)
            return [again] if again is not None else []
        case ReadPosition():
            return read_position(engine, venue, p, at)


def _submit(engine: Engine, venue: SimulatedBroker, p: Position, action: Submit, at: datetime) -> list[Action]:
    """Send an order that may leave; one that may not is owed again at the next bar. A symbol is held once at a time."""
    order = action.order
    leaving = holdings.Leaving(order=action, position=p, owed=engine.owed_by(p, at))
    if holdings.may_send(leaving) is not holdings.Answer.SEND:
        return []
    try:
        if not venue.capabilities.reduce_only:
            _check_covered(venue, p, action)
        engine.sent(order.client_order_id)
        report = venue.submit(order)
    except OrderRefused as refusal:
        report = refused_report(order.client_order_id, refusal, at)
    return engine.on_report(report, at=at)


def _check_covered(venue: SimulatedBroker, p: Position, action: Submit) -> None:
    """Look at what is held, where the venue would take an order for more.

    Raises:
        OrderRefused: the order would sell more than is held.
    """
    held, _ = holdings.net(_books(venue, p.symbol), p, ())
    answer = holdings.covered(holdings.Look(position=p, qty=action.order.qty, held=held, shown=READS_MIN))
    if isinstance(answer, holdings.Short):
        raise holdings.more_than_held(action.order.qty, answer)


def read_position(engine: Engine, venue: SimulatedBroker, p: Position, at: datetime) -> list[Action]:
    """Read what the venue holds, and tell a position what that means; returns what is owed after it."""
    order_id, beside = p.client_order_id or "", tuple(engine.beside(p))
    evidence = holdings.Evidence(
        position=p,
        beside=beside,
        expected=holdings.expect(p, beside),
        read=_books(venue, p.symbol),
        began=at,
        broker=venue.capabilities,
        record=RecordRead(client_order_id=order_id, began=at, report=venue.order(order_id)),
        next_order_known=True,  # nobody else sends
    )
    conclusion, _ = holdings.weigh(evidence, None)
    if conclusion is holdings.Need.EXECUTIONS:
        listed = holdings.executions_of(p, venue.fills(p.opened_at), listed=True)
        evidence = replace(evidence, executions=holdings.Executions(items=listed))
        conclusion, _ = holdings.weigh(evidence, None)
    if not isinstance(conclusion, holdings.Holds | holdings.Closed):
        return []
    return engine.tell(p.position_id, holdings.position_read(evidence, conclusion, at))


def _books(venue: SimulatedBroker, symbol: str) -> holdings.Read:
    """What the venue holds of a symbol; its books are never behind."""
    row = venue.position(symbol)
    return holdings.Read(rows=(row,) if row is not None else (), began=0.0, exact=True)
