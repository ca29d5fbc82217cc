"""Symbols are whatever a venue calls its instruments: each is held, compared, exited and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import World
from msgspec.structs import replace

from exitfsm import Order, State
from exitfsm.audit import verify
from exitfsm.audit.trail import find
from exitfsm.testing import ScriptedBroker

SYMBOLS = (
    "BRK B", "BTC/USDT:USDT", "ES=F", "M&M", "NSE:SBIN", "AAPL  240621C00190000", "^GSPC", "=1+1", "[RED]X", "<B>X",
    "贵州茅台", "СБЕР", "BTC/USDT:USDT-240329-50000-C", "%S{0}", "LONG:SHORT", "ACCOUNT:X",
)  # fmt: skip


@pytest.mark.parametrize("symbol", SYMBOLS)
async def test_given_whatever_symbol_then_it_is_exited_and_found_again(tmp_path: Path, symbol: str) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100, symbol=symbol)
    (p,) = world.manager.positions()
    assert world.manager.may_enter(symbol)
    await world.bar("98.9", symbol)
    assert not world.manager.may_enter(symbol)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    assert world.last_order.symbol == p.symbol
    assert find(world.manager.store, symbol) == [p.position_id]
    assert find(world.manager.store, p.position_id[:-3]) == [p.position_id]
    path = world.store_path
    await world.finish()
    assert verify(path).findings == []


async def test_a_spot_holding_and_a_perpetual_are_never_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100, symbol="BTC/USDT")
    await world.enter(7, at=100, symbol="BTC/USDT:USDT", side="short")
    assert len(world.manager.positions()) == 2
    await world.bar(102, "BTC/USDT:USDT")
    (order,) = world.orders
    assert (order.symbol, order.qty) == ("BTC/USDT:USDT", 7)
    assert world.manager.may_enter("BTC/USDT")
    await world.manager.force_exit("BTC/USDT")
    assert {o.symbol for o in world.orders} == {"BTC/USDT:USDT", "BTC/USDT"}
    for one in list(world.orders):
        world.broker.fill(one)
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()


@pytest.mark.parametrize("symbol", ["", " ", "A\x1b[31mB", "A" * 200, "A\u202eB", "\ud800"])
async def test_no_question_raises_into_the_bot_for_a_symbol(tmp_path: Path, symbol: str) -> None:
    world = World(tmp_path)
    await world.start()
    manager = world.manager
    assert not manager.may_enter(symbol)
    assert "is not a symbol" in (manager.entry_block(symbol) or "")
    assert await manager.force_exit(symbol) == []
    update = {"client_order_id": "b", "symbol": symbol, "status": "filled", "side": "buy", "qty": 1}
    await manager.on_order_update(update)
    await manager.on_bar({"symbol": symbol, "timestamp": world.clock.now(), "close": 1})
    await world.settle()
    world.expected |= {"bar_unreadable"}
    assert manager.positions() == []
    await world.finish()


class SmallLetters:
    """A venue whose names have small letters that count."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self._broker, self.capabilities = broker, broker.capabilities
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def positions(self) -> list[dict[str, str]]:
        held = await self._broker.positions()
        return [
            {"symbol": p.symbol.replace("K", "k"), "qty": str(p.qty), "entry_price": str(p.avg_entry_price)}
            for p in held
        ]

    async def submit(self, order: Order) -> Any:
        self.sent.append(order.symbol)
        return await self._broker.submit(replace(order, symbol=order.symbol.upper()))


async def test_an_order_names_its_symbol_as_the_venue_does(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.seen_by_manager = venue = SmallLetters(world.broker)
    world.manager = world._new_manager()
    await world.start()
    await world.enter(10, at=100, symbol="KPEPE")
    await world.bar("98.9", "kPEPE")
    assert venue.sent == ["kPEPE"]
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()


async def test_given_letters_that_are_put_together_in_another_way_then_they_are_the_same_symbol(tmp_path: Path) -> None:
    composed, apart = "\u0419", "\u0418\u0306"  # one letter, and a letter with its sign
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100, symbol=composed)
    await world.bar("98.9", apart)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()
