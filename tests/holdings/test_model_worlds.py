"""The rules in the worlds of the specification's model, where that lies beside the checkout.

The model judges with its truth; its own rules are replaced by the library's.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from keeping import Keeper, Kept, Record

from exitfsm.holdings.facts import Failed, Instrument, Key, Read, Scope, Watched
from exitfsm.values import BrokerPosition, Fill, OrderSide, Side

MODEL = next(
    (
        path
        for parent in Path(__file__).resolve().parents
        if (path := parent / "shared" / "model" / "holdings_model.py").exists()
    ),
    None,
)
RUNS = int(os.environ.get("HOLDINGS_RUNS", "6"))
SEED = int(os.environ.get("HOLDINGS_SEED", "7000000"))


def loaded() -> ModuleType | None:
    if MODEL is None:
        return None
    spec = importlib.util.spec_from_file_location("holdings_model", MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["holdings_model"] = module
    spec.loader.exec_module(module)
    return module


model = loaded()
needs_model = pytest.mark.skipif(model is None, reason="the specification's model does not lie beside the checkout")
WORLDS = [c.name.split()[0] for c in model.P] if model is not None else []


class Books:
    """A world of the model as books."""

    def __init__(self, world: Any, cfg: Any) -> None:
        self.w, self.c = world, cfg

    @property
    def t(self) -> int:
        return int(self.w.t)

    @property
    def price(self) -> Decimal:
        return Decimal(str(self.w.price))

    def read(self, begin: int, end: int) -> Read | Failed:
        rows = self.w.read(begin, end)
        if rows is None:
            return Failed(begin=begin, end=end)
        return Read(rows=tuple(map(self.row, rows)), begin=begin, end=end)

    def row(self, row: Any) -> BrokerPosition:
        account, key, n, average = row
        symbol = "ZZZ" if key == "Z" else "AAPL"
        hedged = self.c.hedge and key != "Z"
        side = Side.SHORT if (key == -1 if hedged else n < 0) else Side.LONG
        return BrokerPosition(
            symbol=symbol, side=side, qty=Decimal(abs(n)), avg_entry_price=Decimal(str(average)), account=account
        )

    def executions(self, end: int) -> tuple[Fill, ...] | None:
        if not self.c.lists:
            return None
        return tuple(self.fill(x) for x in self.w.execs if x["seen"] <= end)

    def fill(self, x: Any) -> Fill:
        opens = x["n"] > 0
        held = (Side.LONG if x["key"] == 1 else Side.SHORT) if self.c.hedge else None
        buys = opens if held is not Side.SHORT else not opens
        return Fill(
            fill_id=x["id"],
            symbol="AAPL",
            side=OrderSide.BUY if buys else OrderSide.SELL,
            qty=Decimal(str(abs(x["n"]))),
            price=Decimal(str(x["price"])),
            at=datetime.fromtimestamp(x["at"], UTC),
            client_order_id=x["cid"],
            position_side=held,
        )

    def order(self, order_id: str) -> Record | None:
        found = self.w.orders.get(order_id.removeprefix("xf1bot").removeprefix("xf1b2"))
        return Told(found) if found is not None else None

    def exits(self, key: Key, prefix: str) -> list[tuple[str, Record]]:
        found = [(f"xf1{o.owner}{cid}", o) for cid, o in self.w.orders.items() if o.key == number(key)]
        return [(order_id, Told(o)) for order_id, o in found if order_id.startswith(prefix)]

    def submit(self, order_id: str, key: Key, side: Side, qty: Decimal) -> None:
        owner, cid = order_id[3:].removeprefix("bot"), order_id
        owner = "bot" if order_id.startswith("xf1bot") else "b2"
        cid = order_id[len("xf1" + owner) :]
        way = 1 if key.side is not None or side is Side.LONG else -1
        order = self.w.orders[cid] = model.Order(cid, number(key), way, int(qty), owner=owner)
        if qty % model.STEP:
            order.live, order.ended = False, self.w.t - model.LATE - 1

    def cancel(self, order_id: str) -> None:
        order = self.w.orders.get(order_id.removeprefix("xf1bot").removeprefix("xf1b2"))
        if order is not None and order.live:
            order.live, order.ended = False, self.w.t


class Told:
    """An order of the model as a record."""

    def __init__(self, order: Any) -> None:
        self.qty, self.cum, self.refused = Decimal(order.qty), Decimal(order.cum), order.refused
        self.ended = None if order.live else float(order.ended)


def number(key: Key) -> int:
    return 0 if key.side is None else 1 if key.side is Side.LONG else -1


class Figure(Kept):
    """A position as the model's judge looks at it."""

    key = property(lambda self: number(self.key_))
    entry = property(lambda self: float(self.now.entry))
    best = property(lambda self: float(self.now.price))
    name = property(lambda self: self.now.name)

    def left(self) -> float:
        return float(self.now.left)


class Judged(Keeper):
    """The shell in the model's world."""

    def __init__(self, world: Any, cfg: Any, me: str = "bot") -> None:
        instrument = Instrument(
            step=Decimal(model.STEP),
            hedge=cfg.hedge,
            reduce_only=cfg.reduce_only,
            lag_s=cfg.lag,
            executions_late_s=cfg.exec_late,
            late_fill_s=model.LATE,
            empty_s=90,
        )
        sides = (Side.LONG, Side.SHORT) if cfg.hedge else (None,)
        scope = Scope(ids=(me,) if cfg.scope == "prefix" else (), exit_prefix=f"xf1{me}")
        super().__init__(Books(world, cfg), instrument, [Key("A", "AAPL", s) for s in sides], scope, world.r)
        self.w, self.c, self.me, self.h, self.due = world, cfg, me, model.Holdings(cfg, me), 0
        self.ext = {number(key): 0 for key in self.keys}
        self.restarts = 0

    due = property(lambda self: self.next_read, lambda self, value: setattr(self, "next_read", value))
    pos = property(lambda self: self.kept)
    alarms = property(lambda self: {(kind, number(key)) for kind, key in self.standing})
    alarmed_ever = property(lambda self: set(self.ever))

    def of(self, key: Any) -> list[Any]:
        found = super().of(key if isinstance(key, Key) else next(k for k in self.keys if number(k) == key))
        for kept in found:
            kept.__class__ = Figure
        return found

    def lose(self) -> None:
        self.restarts += 1
        self.forget(self.w.t)

    def closed(self, p: Watched, key: Key, qty: Decimal, how: str) -> None:
        if how == "other_exit":
            return
        figure = Figure(p, key)
        figure.side = 1 if key.side is not None or p.side is Side.LONG else -1
        model.Manager.gone(self, figure, float(qty), how)

    def adopted(self) -> None:
        if self.counts["adopt"] > self.w.openings + 2 + 2 * self.restarts:
            raise model.Violation("STORM")

    def sent(self) -> None:
        if self.counts["orders"] > 14:
            raise model.Violation("STORM")


def tried(
    name: str, runs: int, manager: type[Judged] = Judged, seed: int = SEED
) -> tuple[Counter[str], list[int], Counter[str], Counter[str]]:
    """Runs of a world: violations, the seeds that have them, what was concluded, and which alarms there were."""
    cfg = model.by[name]
    before, model.Manager = model.Manager, type("Manager", (manager,), {"gone": model.Manager.gone})
    found, seeds, counts, alarms = Counter[str](), [], Counter[str](), Counter[str]()
    try:
        for one in range(seed, seed + runs):
            violation, _, m, _, _ = model.scenario(cfg, one)
            counts.update(m.counts)
            alarms.update(m.alarmed_ever)
            if violation:
                found[violation] += 1
                seeds.append(one)
    finally:
        model.Manager = before
    return found, seeds, counts, alarms


@needs_model
@pytest.mark.parametrize("name", WORLDS)
def test_no_world_of_the_model_is_violated(name: str) -> None:
    found, seeds, _, _ = tried(name, RUNS)
    assert (dict(found), seeds) == ({}, [])
