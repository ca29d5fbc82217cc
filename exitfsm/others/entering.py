"""What a bot asks before it enters. Holdings decides; where nothing is watched, nothing is allowed."""

from __future__ import annotations

from datetime import datetime

from exitfsm import holdings
from exitfsm.holdings import OnSide
from exitfsm.values import Side, symbol_key, utc


class MayEnter:
    """What of a manager answers whether a symbol may be entered."""

    def _account(self, symbol: str, side: Side | None) -> holdings.Account | None:
        """What speaks for or against an entry; None where nothing is watched."""
        raise NotImplementedError

    def _now(self) -> datetime:
        """The time."""
        raise NotImplementedError

    def may_enter(self, symbol: str, at: datetime | None = None, side: OnSide = None) -> bool:
        """True when nothing here speaks against entering `symbol` at `at` (now when None)."""
        return holdings.may_enter(*self._entry(symbol, at, side))

    def entry_block(self, symbol: str, at: datetime | None = None, side: OnSide = None) -> str | None:
        """Why `symbol` may not be entered at `at`; None when it may. In hedge mode each `side` has its own blocks."""
        return holdings.entry_block(*self._entry(symbol, at, side))

    def _entry(self, symbol: str, at: datetime | None, side: OnSide) -> tuple[str, datetime, holdings.Account]:
        """An entry, and what speaks for or against it."""
        name, nothing = symbol_key(str(symbol)), holdings.Account(positions=(), cooldowns={}, is_reconciled=False)
        account = self._account(name, holdings.on_side(side)) or nothing
        return name, utc(at) if at is not None else self._now(), account
