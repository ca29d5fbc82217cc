"""Whether a symbol may be entered: nothing of it is on its way out, and it does not cool down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from exitfsm.holdings.symbols import same_symbol
from exitfsm.lifecycle import State
from exitfsm.position import Position
from exitfsm.values import canonical_symbol


class Account(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What speaks for or against an entry.

    Attributes:
        positions: open positions, of the symbol at least.
        cooldowns: until when a symbol is not to be entered.
        is_reconciled: what is held was compared with the broker's books.
        is_paused: entries are on hold.
    """

    positions: Iterable[Position]
    cooldowns: Mapping[str, datetime]
    is_reconciled: bool = True
    is_paused: bool = False


def may_enter(symbol: str, at: datetime, account: Account) -> bool:
    """True when nothing here speaks against entering a symbol."""
    return entry_block(symbol, at, account) is None


def entry_block(symbol: str, at: datetime, account: Account) -> str | None:
    """Why a symbol may not be entered; None when it may."""
    try:
        canonical_symbol(symbol)
    except ValueError as error:
        return str(error)  # a position in it could not be watched
    if not account.is_reconciled:
        return "not reconciled with the broker yet"
    if account.is_paused:
        return "paused"
    for p in account.positions:
        if same_symbol(p.symbol, symbol) and p.state is not State.MONITORING:
            return f"an exit of {p.symbol} is under way ({p.state})"
    for cooling, until in account.cooldowns.items():
        if same_symbol(cooling, symbol) and at < until:
            return f"cooldown until {until.isoformat()}"
    return None
