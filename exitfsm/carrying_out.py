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


class Carrier:
    """Does what the positions of an engine owe a venue, after a crash just as on any other day."""

    def __init__(self, engine: Engine, venue: SimulatedBroker) -> None:
        self._engine, self._venue = engine, venue
        #: What was last read for a position, where nothing followed from that and no executions were asked for. An
        #: unprotected one is polled at each bar: the same books and the same position mean nothing once more.
        self._idle: dict[str, tuple[object, ...]] = {}

    def carry_out(self, actions: Iterable[Action], at: datetime) -> None:
        """Do what is owed, and what is owed after that."""
        waiting = deque(actions)
        while waiting:
            waiting.extend(self._act(waiting.popleft(), at))

    def _act(self, action: Action, at: datetime) -> list[Action]:
        """Do one thing; returns what is owed after it."""
        engine, venue, p = self._engine, self._venue, self._engine.positions.get(action.position_id)
        if p is None:
            return []
        match action:
            case Submit():
                return self._submit(p, action, at)
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
                return self.read_position(p, at)

    def _submit(self, p: Position, action: Submit, at: datetime) -> list[Action]:
        """Send an order that may leave; one that may not is owed again at the next bar.

        A symbol is held once at a time, so that nothing is beside it.
        """
        engine, order = self._engine, action.order
        intent = holdings.Intent(order=action, position=p, owed=engine.owed_by(p, at))
        permit = holdings.may_send(holdings.leaving_of(intent, self._looks(p), self._venue.capabilities, 0.0))
        try:
            if isinstance(permit, holdings.Short):
                raise holdings.more_than_held(order.qty, permit)
            if not isinstance(permit, holdings.Send):
                return []
            engine.sent(order.client_order_id)
            report = self._venue.submit(order)
        except OrderRefused as refusal:
            report = refused_report(order.client_order_id, refusal, at)
        told = engine.on_report(report, at=at)
        if report.refused_at_submit:
            engine.not_known(order.client_order_id)  # refused for now, it is sent again
        return told

    def _looks(self, p: Position) -> holdings.Looks:
        """Looks at what is held, where the venue would take an order for more; its records are never late."""
        if self._venue.capabilities.reduce_only:
            return holdings.Looks(proved=0.0)
        return holdings.Looks(read=self._books(p.symbol), shown=READS_MIN, proved=0.0)

    def read_position(self, p: Position, at: datetime) -> list[Action]:
        """Read what the venue holds, and tell a position what that means; returns what is owed after it."""
        order_id, beside = p.client_order_id or "", tuple(self._engine.beside(p))
        books, report = self._books(p.symbol), self._venue.order(order_id)
        due = p.next_attempt_at is not None and at >= p.next_attempt_at
        read = (p, beside, report, due, *((row.side, row.qty, row.avg_entry_price) for row in books.rows))
        if self._idle.get(p.position_id) == read:
            return []
        evidence = holdings.Evidence(
            position=p,
            beside=beside,
            expected=holdings.expect(p, beside),
            read=books,
            began=at,
            broker=self._venue.capabilities,
            record=RecordRead(client_order_id=order_id, began=at, report=report),
            next_order_known=True,  # nobody else sends
        )
        conclusion, _ = holdings.weigh(evidence, None)
        if conclusion is holdings.Need.EXECUTIONS:
            listed = holdings.executions_of(p, self._venue.fills(p.opened_at), listed=True)
            evidence = replace(evidence, executions=holdings.Executions(items=listed))
            conclusion, _ = holdings.weigh(evidence, None)
        actions: list[Action] = []
        if isinstance(conclusion, holdings.Holds | holdings.Closed):
            actions = self._engine.tell(p.position_id, holdings.position_read(evidence, conclusion, at))
        self._idle.pop(p.position_id, None)
        if evidence.executions is None and self._engine.positions.get(p.position_id) is p:
            self._idle[p.position_id] = read
        return actions

    def _books(self, symbol: str) -> holdings.Read:
        """What the venue holds of a symbol; its books are never behind."""
        row = self._venue.position(symbol)
        return holdings.Read(rows=(row,) if row is not None else (), began=0.0, exact=True)
