"""What a bot asks before it enters. Holdings decides; where nothing is watched, nothing is allowed."""

from __future__ import annotations

from datetime import datetime

from exitfsm import holdings
from exitfsm.values import symbol_key, utc


class MayEnter:
    """What of a manager answers whether a symbol may be entered."""

    def _account(self) -> holdings.Account | None:
        """What speaks for or against an entry; None where nothing is watched."""
        raise NotImplementedError

    def _now(self) -> datetime:
        """The time."""
        raise NotImplementedError

    def may_enter(self, symbol: str, at: datetime | None = None) -> bool:
        """True when nothing here speaks against entering `symbol` at `at` (now when None)."""
        return holdings.may_enter(*self._entry(symbol, at))

    def entry_block(self, symbol: str, at: datetime | None = None) -> str | None:
        """Why `symbol` may not be entered at `at`; None when it may."""
        return holdings.entry_block(*self._entry(symbol, at))

    def _entry(self, symbol: str, at: datetime | None) -> tuple[str, datetime, holdings.Account]:
        """An entry, and what speaks for or against it."""
        account = self._account() or holdings.Account(positions=(), cooldowns={}, is_reconciled=False)
        return symbol_key(str(symbol)), utc(at) if at is not None else self._now(), account
