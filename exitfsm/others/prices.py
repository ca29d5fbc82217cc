"""Prices where there are no bars: each is a bar of one price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from exitfsm.aio.loops import Loop, on_its_loop
from exitfsm.bar import Quote
from exitfsm.broker.market import bar_of
from exitfsm.engine import Engine
from exitfsm.errors import BrokerError
from exitfsm.position import price_for
from exitfsm.values import decimal_of, symbol_key


class Prices:
    """What of a manager takes prices."""

    _loop: Loop | None

    @property
    def _running(self) -> bool:
        """True while it is started."""
        raise NotImplementedError

    @property
    def _engine(self) -> Engine:
        """The engine that knows which side is held."""
        raise NotImplementedError

    def _now(self) -> datetime:
        """The time."""
        raise NotImplementedError

    async def on_bars(self, bars: Sequence[Any] | Mapping[str, Any]) -> None:
        """Many bars at once."""
        raise NotImplementedError

    @on_its_loop
    async def on_price(
        self, symbol: str, price: Any = None, *, bid: Any = None, ask: Any = None, at: Any = None
    ) -> None:
        """A price of now (or of `at`) where there are no bars: a long is judged by the bid, a short by the ask."""
        sides = self._engine.levels.sides(symbol_key(str(symbol))) if self._running else ()
        at, close = at or self._now(), price_for(sides, price, bid, ask)
        await self.on_bars([_quoted({"symbol": symbol, "timestamp": at, "close": close}, bid, ask)])


def _quoted(given: dict[str, Any], bid: Any, ask: Any) -> Any:
    """The price with what is bid and asked: what is held when it is judged says which counts, not what is held now."""
    if bid is None and ask is None:
        return given
    try:
        bar = bar_of(given)
        sides = [decimal_of(one) if one is not None else None for one in (bid, ask)]
    except (BrokerError, ValueError):
        return given  # whoever takes it says what cannot be read
    return Quote(bar.symbol, bar.timestamp, bar.open, bar.high, bar.low, bar.close, bid=sides[0], ask=sides[1])
