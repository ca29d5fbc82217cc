"""Random walks of the protocol, taken by the model and by the library at once, and compared after each step.

The model leads: of all that may happen next one move is drawn (a request is delivered late, again or never, an answer
is lost, the broker fills, rejects, expires, somebody sells by hand, the bot crashes, …). What the move means for a bot
is told to a real engine on a real store; and what the model's bot does next must be what the engine says is owed. After
each step the attempts (id, quantity, stage, filled), the verdict, and the log on the disk must be the same.

`EXITFSM_DEEP=1 pytest tests/model` walks fifty times as often.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from exit_protocol import Attempt, Move, Order, Store, Variant, World, beginning, broken, heard, moves

from exitfsm import Bar, Capabilities, ExecutionReport, ExitStore, IdMemory, OrderStatus, Side, State
from exitfsm.engine import Engine
from exitfsm.messages import Open, PositionRead, RecordRead, TimeSeen
from exitfsm.position import READS_MIN, Cancel, LookUp, Position, Submit, account_hash, client_order_id, replay
from exitfsm.testing.given import policy
from exitfsm.values import OrderType

DEEP = bool(os.environ.get("EXITFSM_DEEP"))
T0 = datetime(2024, 1, 2, 15, tzinfo=UTC)
BROKER = Capabilities(ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, reduce_only=True, late_fills=False)
WALK = Variant(
    "walk", done="strict", size="smaller", first_looks=True, reduce_only=True,
    qty=4, attempts=99, crashes=3, rejects=2, expiries=2, by_hand=1,
)  # fmt: skip
VARIANTS = {
    "plain": WALK,
    "the position lags": Variant(**{**WALK.__dict__, "name": "lag", "reads": "lag", "by_hand": 0}),
    "no stream": Variant(**{**WALK.__dict__, "name": "mute", "has_news": False}),
    "many rejects": Variant(**{**WALK.__dict__, "name": "rejects", "rejects": 5, "expiries": 4, "crashes": 5}),
}
STEPS, WALKS = 90, 30
STATUS = {"filled": OrderStatus.FILLED, "rejected": OrderStatus.REJECTED, "canceling": OrderStatus.PENDING_CANCEL}


class Library:
    """The real engine and store, told what the model's bot hears and asked what it owes."""

    def __init__(self, folder: Path, v: Variant) -> None:
        self.path, self.now = folder / "exits.db", T0
        rules = policy(
            profit_taking={"order_type": "limit"},
            partial_fills={"resubmit_delay_seconds": 0, "max_resubmit_attempts": 99},
        )
        self._open()
        opened = self.engine.open(
            Open(at=T0, account=account_hash("walk"), symbol="AAPL", side=Side.LONG, epoch="e1", qty=Decimal(v.qty),
                 entry_price=Decimal(100), opened_at=T0 - timedelta(minutes=1), policy=rules)
        )  # fmt: skip
        self.name = opened.position_id
        self.refused_cancel = False

    def _open(self) -> None:
        self.store = ExitStore(self.path)
        self.engine = Engine(self.store, BROKER)
        self.engine.load()

    def crash(self) -> None:
        """Everything in memory is gone."""
        self.store.close()
        self._open()
        self.refused_cancel = False

    @property
    def p(self) -> Position:
        """The position, open or over."""
        p = self.engine.get(self.name)
        assert p is not None
        return p

    def id_of(self, order_id: str) -> str:
        """The library's id for the model's: P3 is the third attempt's."""
        return client_order_id(self.name, int(order_id[1:]))

    # --- told ---------------------------------------------------------------------------------------------------------

    def told(self, move: Move, w: World) -> None:
        """What a move means for the bot; and that what the model's bot does is what the engine says is owed."""
        self.now += timedelta(seconds=1)
        owed = self.engine.owed_by(self.p, self.now)
        match move.what:
            case "crash":
                self.crash()
            case "look first" | "look up" if self.p.state is State.PENDING:
                assert owed == LookUp(position_id=self.name, client_order_id=self.id_of(move.of))
            case "submit":
                assert isinstance(owed, Submit), owed
                assert (owed.order.client_order_id, owed.order.qty) == (self.id_of(move.of), move.more)
                self.engine.sent(owed.order.client_order_id)
            case "hear answer" | "answer comes too late":
                self._answer(move.of, move.more)
            case "cancel refused":
                self.refused_cancel = True
            case "hear record" | "record comes too late":
                self._record(move, w)
            case "hear":
                self.report(move.more, w)
            case "cancel":
                self.too_slow()
                owed = self.engine.owed_by(self.p, self.now)
                assert owed == Cancel(position_id=self.name, client_order_id=self.id_of(move.of))
            case "commit intent":
                self._read(move.more[0])
                if self.p.state is State.MONITORING:
                    self.engine.on_bar(Bar("AAPL", self.now, "102.5", "102.5", "102.5", "102.5"))
            case "commit done" | "commit alarm":
                self._read(move.more)

    def _answer(self, order_id: str, answer: str) -> None:
        if answer == "duplicate":
            return  # no answer about the order: it stays unknown
        order = self.p.order_qty
        accepted = answer == "accepted"
        self._tell(
            order_id,
            OrderStatus.NEW if accepted else OrderStatus.REJECTED,
            0,
            order if accepted else None,
            refused_at_submit=answer == "refused",
        )

    def _record(self, move: Move, w: World) -> None:
        refused, self.refused_cancel = self.refused_cancel, False
        if move.more is None:
            self.engine.not_known(self.id_of(move.of))
        elif refused and move.more.status in ("live", "canceling"):
            self._tell(move.of, OrderStatus.CANCEL_REJECTED, move.more.cum, Decimal(move.more.qty))
        else:
            self.report(move.more, w)

    def report(self, order: Order, w: World) -> None:
        """The broker's snapshot of an order, as a report."""
        status = STATUS.get(order.status, OrderStatus.PARTIALLY_FILLED if order.cum else OrderStatus.NEW)
        if order.status == "canceled":
            asked = any(request.id == order.id and not request.qty for request in w.wire)
            status = OrderStatus.CANCELED if asked else OrderStatus.EXPIRED
        self._tell(order.id, status, order.cum, Decimal(order.qty))

    def _tell(
        self, order_id: str, status: OrderStatus, cum: int, qty: Decimal | None, *, refused_at_submit: bool = False
    ) -> None:
        report = ExecutionReport(
            client_order_id=self.id_of(order_id), status=status, at=self.now, filled_qty=Decimal(cum), qty=qty,
            refusal=f"no {order_id}" if status is OrderStatus.REJECTED else None, refused_at_submit=refused_at_submit,
            avg_fill_price=Decimal(102) if cum else None,
        )  # fmt: skip
        self.engine.on_report(report, at=self.now)

    def _read(self, qty: int) -> None:
        p, now = self.p, self.now
        order_id = p.client_order_id or ""
        over = ExecutionReport(client_order_id=order_id, status=OrderStatus.CANCELED, at=now)
        record = RecordRead(client_order_id=order_id, began=now, report=over)
        self.engine.tell(self.name, PositionRead(at=now, began=now, qty=Decimal(qty), reads=READS_MIN, record=record))

    def can_cancel(self) -> bool:
        """True where the library would ever cancel: a limit order that does not fill."""
        p = self.p
        return p.state is State.CANCELING or (
            p.state in (State.SUBMITTED, State.PARTIAL) and p.order_live and p.order_type is OrderType.LIMIT
        )

    def too_slow(self) -> None:
        """The order has made no progress for long."""
        if self.p.state is not State.CANCELING:
            self.engine.tell(self.name, TimeSeen(at=self.now))

    def noise(self, rng: random.Random, v: Variant, w: World) -> Iterator[str]:
        """What must mean nothing: news that the model makes nothing of, and a position read wrongly for once."""
        store = w.stores[0]
        if store.verdict:
            return
        if w.news and rng.random() < 0.2:
            old = rng.choice(sorted(w.news))
            of_it = [i for i, one in enumerate(store.attempts) if one.id == old.id]
            if all(heard(v, store, i, old) == store for i in of_it):
                self.report(old, w)
                yield str(old)
        if rng.random() < 0.1 and self.p.remaining_qty > 0:
            self.engine.tell(self.name, PositionRead(at=self.now, began=self.now, qty=Decimal(0), reads=1))
            yield "nothing held, read once"

    # --- compared -----------------------------------------------------------------------------------------------------

    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts as the model writes them."""
        p = self.p
        newest = "intent" if p.state is State.PENDING else "acked" if p.order_live else "over"
        sizes = {row.client_order_id: row.qty for row in self.store.exit_orders()}
        assert all(sizes[order.client_order_id] == order.qty for order in p.orders)
        return tuple(
            Attempt(f"P{order.attempt}", int(order.qty), newest if order is p.order else "over", int(order.filled_qty))
            for order in p.orders
        )

    def compare(self, store: Store, w: World) -> None:
        """The same attempts, the same verdict; the log on the disk says the same as memory."""
        p = self.p
        assert self.attempts() == store.attempts
        assert replay(recorded.event for recorded in self.store.stream(self.name)) == p
        if not store.verdict:
            assert p.state not in (State.FILLED, State.CLOSED, State.UNPROTECTED), p.state
        elif store.verdict == "done":
            assert p.state is State.FILLED
        elif p.state is not State.UNPROTECTED:  # others have sold the rest: the library knows that, the model does not
            assert p.state in (State.FILLED, State.CLOSED)
            assert w.held == 0
        if p.state is State.FILLED:
            assert (p.sold_qty + p.sold_elsewhere, p.remaining_qty) == (p.qty, 0)
        if p.state is State.UNPROTECTED:
            assert p.alarms


def walk(folder: Path, v: Variant, seed: int) -> Iterator[str]:
    """One walk, as the moves it took."""
    rng = random.Random(seed)
    library, w = Library(folder, v), beginning(v)
    try:
        for _ in range(STEPS):
            able = library.can_cancel()
            possible = [m for m in moves(v, w) if able or m.what != "cancel"]
            who = rng.choice(sorted({m.who for m in possible}))
            move = rng.choice([m for m in possible if m.who == who])
            yield str(move)
            assert not broken(move.world)
            if move.what == "stop":
                return
            library.told(move, w)
            w = move.world
            library.compare(w.stores[0], w)
            for noise in library.noise(rng, v, w):
                yield f"noise: {noise}"
                library.compare(w.stores[0], w)
    finally:
        library.store.close()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_library_walks_as_the_model_does(variant: str) -> None:
    memory = Path("/dev/shm")
    took: set[str] = set()
    for seed in range(WALKS * (50 if DEEP else 1)):
        way: list[str] = []
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            try:
                for step in walk(Path(folder), VARIANTS[variant], seed):
                    way.append(step)
            except AssertionError as error:
                raise AssertionError("\n".join([f"seed {seed}", *way, str(error)])) from error
        took |= {step.split(" P")[0].split(" Order")[0] for step in way}
    wanted = {"bot 0: commit intent", "bot 0: submit", "bot 0: submit timed out", "bot 0: hear answer",
              "bot 0: hear record", "bot 0: cancel", "bot 0: crash", "broker: fill"}  # fmt: skip
    assert wanted <= took, wanted - took
