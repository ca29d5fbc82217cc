"""Whether a symbol may be entered: nothing of it is on its way out, and it does not cool down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from exitfsm.lifecycle import State
from exitfsm.position import Position
from exitfsm.values import is_symbol, same_symbol


class Account(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What speaks for or against an entry."""

    positions: Iterable[Position]  # open ones, of the symbol at least
    cooldowns: Mapping[str, datetime]  # until when a symbol is not to be entered
    is_reconciled: bool = True  # what is held was compared with the broker's books
    is_paused: bool = False  # entries are on hold


def may_enter(symbol: str, at: datetime, account: Account) -> bool:
    """True when nothing here speaks against entering a symbol."""
    return _block(symbol, at, account) is None


def entry_block(symbol: str, at: datetime, account: Account) -> str | None:
    """Why a symbol may not be entered; None when it may."""
    block = _block(symbol, at, account)
    if isinstance(block, Position):
        return f"an exit of {block.symbol} is under way ({block.state})"
    return f"cooldown until {block.isoformat()}" if isinstance(block, datetime) else block


def _block(symbol: str, at: datetime, account: Account) -> str | Position | datetime | None:
    """What speaks against it, not in words yet: `simulate` asks at each bar."""
    if not account.is_reconciled:
        return "not reconciled with the broker yet"
    if account.is_paused:
        return "paused"
    if not is_symbol(symbol):
        return f"{symbol!r} is not a symbol: a position in it could not be watched"
    for p in account.positions:
        if p.state is not State.MONITORING and same_symbol(p.symbol, symbol):
            return p
    for cooling, until in account.cooldowns.items():
        if at < until and same_symbol(cooling, symbol):
            return until
    return None
