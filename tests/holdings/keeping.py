"""A small shell around the pure rules, for worlds that are tried: it reads, asks, obeys, and decides nothing.

A world offers the books: `read`, `executions`, `order`, `exits`, `submit`, `cancel`, `price`. What the shell concludes
is reported to `closed` and `adopted`, where a world holds it against its truth.
"""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any, Protocol

from msgspec.structs import replace

from exitfsm.holdings import facts
from exitfsm.holdings.cases import over
from exitfsm.holdings.facts import (
    Adopted,
    Calm,
    ClosedBy,
    Evidence,
    Failed,
    Flat,
    Instrument,
    Key,
    Memory,
    Needed,
    Placed,
    Raise,
    Read,
    Reported,
    Resized,
    Scope,
    Shrink,
    Unit,
    Watched,
)
from exitfsm.holdings.leaving import Leaving, Send, Wait, Working, may_send
from exitfsm.holdings.rows import Silent, expect, learned, net, sellable, sign
from exitfsm.holdings.weighing import at_most, weigh
from exitfsm.values import ZERO, Fill, Side

POLL_S, GAP_S, LOOK_S = 10, 2, 3


class Record(Protocol):
    """What a venue's record of an order says."""

    qty: Decimal
    cum: Decimal
    ended: float | None
    refused: bool


class Books(Protocol):
    """What a world offers."""

    t: int
    price: Decimal

    def read(self, begin: int, end: int) -> Read | Failed: ...
    def executions(self, end: int) -> tuple[Fill, ...] | None: ...
    def order(self, order_id: str) -> Record | None: ...
    def exits(self, key: Key, prefix: str) -> list[tuple[str, Record]]: ...
    def submit(self, order_id: str, key: Key, side: Side, qty: Decimal) -> None: ...
    def cancel(self, order_id: str) -> None: ...


class Kept:
    """A position of the shell: the frozen one, which the rules see, and when its exit was decided."""

    def __init__(self, now: Watched, key: Key) -> None:
        self.now, self.key_, self.want = now, key, -1


class Keeper:
    """Polls, asks, and obeys."""

    def __init__(self, books: Books, instrument: Instrument, keys: list[Key], scope: Scope, rng: random.Random) -> None:
        self.books, self.instrument, self.keys, self.scope, self.rng = books, instrument, keys, scope, rng
        self.kept: dict[str, Kept] = {}
        self.memory = {key: Memory() for key in keys}
        self.standing: set[tuple[str, Key]] = set()
        self.ever: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.inflight: tuple[int, int] | None = None
        self.next_read = 0
        self.last: Read | Failed | None = None
        self.shown: dict[str, tuple[Decimal, float]] = {}
        self.failed = 0
        self.exits_began: dict[Key, float] = {}

    # --- for the world ------------------------------------------------------------------------------------------------

    def closed(self, p: Watched, key: Key, qty: Decimal, how: str) -> None:
        """Called closed by others."""

    def adopted(self) -> None:
        """Something is watched."""

    def sent(self) -> None:
        """An order has left."""

    # --- the shell ----------------------------------------------------------------------------------------------------

    def forget(self, t: int) -> None:
        """The store is lost."""
        self.kept, self.inflight, self.standing, self.last = {}, None, set(), None
        self.memory = {key: Memory(born=t) for key in self.keys}
        self.next_read = t + 1

    def of(self, key: Key) -> list[Kept]:
        return sorted((k for k in self.kept.values() if k.key_ == key), key=lambda k: k.now.opened)

    def watched(self, key: Key) -> tuple[Watched, ...]:
        return tuple(replace(k.now, wanted=float(k.want) if k.want >= 0 else None) for k in self.of(key))

    def tick(self) -> None:
        t = self.books.t
        if t % LOOK_S == 0:
            for kept in self.kept.values():
                self.look_up(kept, t)
        if self.inflight is None and t >= self.next_read:
            self.inflight = (t, t + self.rng.randint(0, 2))
        if self.inflight is not None and t >= self.inflight[1]:
            self.weigh_all(*self.inflight)
        for kept in list(self.kept.values()):
            if kept.want >= 0 and sellable(kept.now.left, self.instrument):
                self.leave(kept, t)

    def look_up(self, kept: Kept, t: int) -> None:
        """The record of each order, and whether somebody else has sent the next one."""
        following = self.order_id(kept.now, len(kept.now.orders) + 1)
        found = self.books.order(following)
        if found is not None and all(order.order_id != following for order in kept.now.orders):
            placed = Placed(order_id=following, qty=found.qty, sent=0)
            kept.now, kept.want = replace(kept.now, orders=(*kept.now.orders, placed)), max(kept.want, t)
        for order in kept.now.orders:
            if not order.is_final(self.instrument.late_fill_s):
                self.take_record(kept, order, t)

    def take_record(self, kept: Kept, order: Placed, t: int) -> None:
        record = self.books.order(order.order_id)
        if record is None:
            return
        if record.cum > order.cum:
            change = -(record.cum - order.cum) * sign(kept.now.side, kept.key_)
            self.memory[kept.key_] = learned(self.memory[kept.key_], change, t)
        if record.ended is not None and order.ended is None and record.refused:
            self.memory[kept.key_] = replace(self.memory[kept.key_], refused=float(t))
        newer = replace(order, cum=max(order.cum, record.cum), ended=record.ended, read=float(t))
        kept.now = replace(kept.now, orders=tuple(newer if o is order else o for o in kept.now.orders))

    def order_id(self, p: Watched, number: int) -> str:
        return f"{self.scope.exit_prefix}{p.name}#{number}"

    def weigh_all(self, begin: int, end: int) -> None:
        self.inflight, self.next_read = None, self.books.t + POLL_S
        read, executions = self.books.read(begin, end), self.books.executions(end)
        self.failed = self.failed + 1 if isinstance(read, Failed) else 0
        self.last = read
        for key in self.keys:
            evidence = self.evidence(key, read, executions)
            self.note_shown(evidence)
            self.obey(key, *self.weigh(evidence, self.memory[key]))

    def evidence(self, key: Key, read: Read | Failed, executions: tuple[Fill, ...] | None) -> Evidence:
        return Evidence(
            key=key,
            instrument=self.instrument,
            read=read,
            scope=self.scope,
            watched=self.watched(key),
            executions=executions,
            price=self.books.price,
            next_ids_known=True,
            exit_began=self.exits_began.get(key),
        )

    def ours(self, key: Key) -> Decimal | None:
        if self.last is None:
            return None
        return at_most(self.evidence(key, self.last, self.books.executions(self.books.t)), self.memory[key])

    def weigh(self, evidence: Evidence, memory: Memory) -> facts.Answer:
        """The rules under test; a naive variant overrides it."""
        return weigh(evidence, memory)

    def note_shown(self, e: Evidence) -> None:
        shown = net(e.read, e.key, hedge=e.instrument.hedge) if isinstance(e.read, Read) else None
        if shown is None or isinstance(shown, Silent):
            return
        expected = expect(e.watched, self.memory[e.key], e.read.begin, e.read.end, e.key, e.instrument)
        if expected.is_clean and shown.qty == expected.qty:
            for p in e.watched:
                self.shown[p.name] = (p.left, e.read.begin)

    def leave(self, kept: Kept, t: int) -> None:
        p, key = kept.now, kept.key_
        if any(order.ended is None for order in p.orders):
            return
        known = {order.order_id for k in self.of(key) for order in k.now.orders}
        late = self.instrument.late_fill_s + self.instrument.lag_s
        exits = self.books.exits(key, self.scope.exit_prefix)
        working = tuple(Working(order_id=o, qty=r.qty - r.cum) for o, r in exits if r.ended is None)
        ended = tuple(o for o, r in exits if r.ended is not None and t <= r.ended + late and o not in known)
        leaving = Leaving(
            key=key,
            instrument=self.instrument,
            memory=self.memory[key],
            position=p,
            watched=self.watched(key),
            read=self.last,
            scope=self.scope,
            since=float(kept.want),
            now=float(t),
            working=working,
            ended=ended,
            price=self.books.price,
            shown=self.shown.get(p.name),
            failed=self.failed,
            ours=self.ours(key),
        )
        permit = self.may_send(leaving)
        if isinstance(permit, Send):
            self.place(kept, permit.qty, t)
        elif isinstance(permit, Wait):
            self.next_read = min(self.next_read, t + 1 if permit.what in ("reads", "record", "unit") else t + GAP_S)
        else:
            self.raise_alarm(permit.alarm, key)
            self.next_read = min(self.next_read, t + GAP_S)

    def may_send(self, leaving: Leaving) -> Any:
        """The rules under test; a naive variant overrides it."""
        return may_send(leaving)

    def place(self, kept: Kept, qty: Decimal, t: int) -> None:
        order_id = self.order_id(kept.now, len(kept.now.orders) + 1)
        there = self.books.order(order_id)
        placed = Placed(order_id=order_id, qty=there.qty if there is not None else qty, sent=float(t))
        kept.now = replace(kept.now, orders=(*kept.now.orders, placed))
        self.counts["orders"] += 1
        if there is None:
            self.books.submit(order_id, kept.key_, kept.now.side, qty)
        self.sent()

    def raise_alarm(self, kind: str, key: Key) -> None:
        self.ever[kind] += (kind, key) not in self.standing
        self.standing.add((kind, key))

    def obey(self, key: Key, said: tuple[facts.Concluded, ...], memory: Memory) -> None:
        t = self.books.t
        adopted = next((one for one in said if isinstance(one, Adopted)), None)
        found = self.found_orders(adopted.name) if adopted is not None else []
        settled = self.instrument.late_fill_s + self.instrument.lag_s
        if any(r.ended is None or t <= r.ended + settled for _, r in found):
            # an earlier life's exit is under way: its quantity is known once it is over; nothing of this is concluded
            said = tuple(one for one in said if not isinstance(one, Adopted))
            self.next_read = t + GAP_S
            if not any(isinstance(one, ClosedBy) for one in said):
                return
        self.memory[key] = memory
        for one in said:
            self.do(key, one, t, found)

    def found_orders(self, name: str) -> list[tuple[str, Record]]:
        found: list[tuple[str, Record]] = []
        while True:
            order_id = f"{self.scope.exit_prefix}{name}#{len(found) + 1}"
            record = self.books.order(order_id)
            if record is None:
                return found
            found.append((order_id, record))

    def do(self, key: Key, one: facts.Concluded, t: int, found: list[tuple[str, Record]]) -> None:
        if isinstance(one, Needed):
            self.next_read = min(self.next_read, t + GAP_S)
        elif isinstance(one, Raise):
            self.raise_alarm(one.kind, key)
        elif isinstance(one, Calm):
            self.standing.discard((one.kind, key))
        elif isinstance(one, Adopted):
            self.adopt(key, one, t, found)
        elif isinstance(one, Shrink):
            for order in self.kept[one.position].now.orders:
                self.books.cancel(order.order_id)
        elif isinstance(one, Reported):
            self.take_report(key, one, t)
        else:
            self.change(key, one)

    def adopt(self, key: Key, one: Adopted, t: int, found: list[tuple[str, Record]]) -> None:
        orders = tuple(
            Placed(order_id=o, qty=r.qty, cum=r.cum, sent=float(t), ended=r.ended, dead=True) for o, r in found
        )
        sold = sum((order.cum for order in orders), ZERO)
        p = Watched(
            name=one.name,
            side=one.side,
            qty=one.qty + sold,
            entry=one.entry,
            opened=float(t),
            orders=orders,
            price=one.entry,
        )
        kept = self.kept[one.name] = Kept(p, key)
        if found:
            kept.want = t
        self.standing = {alarm for alarm in self.standing if alarm[1] != key}
        self.counts["adopt"] += 1
        self.adopted()

    def take_report(self, key: Key, one: Reported, t: int) -> None:
        for kept in self.of(key):
            for order in kept.now.orders:
                if order.order_id == one.order_id:
                    change = -(one.cum - order.cum) * sign(kept.now.side, key)
                    self.memory[key] = learned(self.memory[key], change, t)
                    newer = replace(order, cum=one.cum)
                    kept.now = replace(kept.now, orders=tuple(newer if o is order else o for o in kept.now.orders))

    def change(self, key: Key, one: facts.Concluded) -> None:
        kept = self.kept.get(getattr(one, "position", ""))
        if kept is None:
            return
        p = kept.now
        if isinstance(one, Flat | ClosedBy) and kept.want >= 0:
            self.exits_began[key] = float(kept.want)
        if isinstance(one, Flat):
            del self.kept[p.name]
            self.memory[key] = over(self.memory[key], p)
            self.counts["filled"] += 1
        elif isinstance(one, ClosedBy):
            del self.kept[p.name]
            self.standing = {alarm for alarm in self.standing if alarm[1] != key}
            self.counts[f"closed {one.how}"] += 1
            self.closed(p, key, one.qty, one.how)
        elif isinstance(one, Resized):
            gone = one.external
            kept.now = replace(p, qty=p.qty + one.left - p.left + gone, external=p.external + gone, entry=one.entry)
            assert kept.now.left == one.left
            if one.why == "unit_unclear":  # moved stops are dropped, and the reference with them
                kept.now = replace(kept.now, price=self.books.price)
            self.counts["resize"] += 1
            if gone:
                self.closed(p, key, gone, one.why)
        elif isinstance(one, Unit):
            sold = sum((order.cum for order in p.orders), ZERO)
            price = p.price / one.factor if p.price is not None else None
            kept.now = replace(p, qty=one.left + sold, external=ZERO, entry=one.entry, price=price)
            self.counts["unit"] += 1
