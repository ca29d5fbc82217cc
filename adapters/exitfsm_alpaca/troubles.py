"""What is wrong at the moment, and seen here only: `AlpacaBroker.troubles` hands it to the manager.

Rules of this room: each trouble is about one thing, is said in one sentence that stays the same while it lasts, and
ends by itself when it is over. Safe between threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from exitfsm import logger

log = logger("exitfsm.alpaca")

#: Fields of the account that keep orders from being taken, and what they mean.
_BLOCKS = {
    "account_blocked": "the account is blocked",
    "trading_blocked": "trading is blocked",
    "trade_suspended_by_user": "trading was suspended by the account's owner",
}
#: The classes of assets whose bars come from here.
_WATCHED = frozenset({"us_equity", "crypto"})


class Troubles:
    """Sentences by what they are about."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._lock = Lock()

    def note(self, about: str, text: str | None) -> None:
        """This is wrong with it now; nothing when None."""
        with self._lock:
            before = self._texts.pop(about, None)
            if text is not None:
                self._texts[about] = text
        if text is not None and text != before:
            log.error("trouble about=%s text=%s", about, text)

    def keep_only(self, kind: str, texts: Mapping[str, str]) -> None:
        """Of one kind, these things are wrong now, and no others."""
        with self._lock:
            over = [
                name
                for name in self._texts
                if name.startswith(f"{kind}/") and name.removeprefix(f"{kind}/") not in texts
            ]
        for name in over:
            self.note(name, None)
        for name, text in texts.items():
            self.note(f"{kind}/{name}", text)

    def all(self) -> list[str]:
        """The sentences."""
        with self._lock:
            return list(self._texts.values())


def of_account(account: Mapping[str, Any]) -> dict[str, str]:
    """What of an account keeps exits from being taken, by field. One that cannot be read hides none of the others."""
    found = {}
    for field, means in _BLOCKS.items():
        value = account.get(field)
        if value is True:
            found[field] = f"{means} at Alpaca: exits are refused"
        elif value not in (False, None):
            found[field] = f"the account's field {field} cannot be read: whether exits are taken is not known"
    status = account.get("status")
    if status is not None and status != "ACTIVE":
        found["status"] = f"the account is not active at Alpaca, but {str(status)[:40]}: exits may be refused"
    return found


def of_classes(rows: list[Any]) -> dict[str, str]:
    """Positions of kinds of assets whose prices do not come from here, by kind."""
    symbols: dict[str, list[str]] = {}
    for row in rows:
        kind = str(row.get("asset_class") or "us_equity") if isinstance(row, Mapping) else "us_equity"
        if kind not in _WATCHED:
            symbols.setdefault(kind[:40], []).append(str(row.get("symbol"))[:40])
    return {
        kind: f"not watched: {kind} ({', '.join(sorted(names))}): no bars of it come from here, so that its stops and "
        "targets are not seen; it is exited by `force_exit` or `flatten_all` only"
        for kind, names in symbols.items()
    }
