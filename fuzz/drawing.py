"""Values out of bytes: what a broker could send, made of the names and words that the library looks for.

Random text is hardly ever JSON with the right names in it, and says nothing then about what is behind the names. So the
bytes are read as choices: the same bytes give the same value, and each change of a byte another one.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from exitfsm.fix import EXEC_TYPE, ORD_STATUS

#: Figures as they come, and as they should not.
FIGURES: tuple[Any, ...] = (
    "0", "1", "10", "-10", "100.25", "0.000000001", "99999999", 0, 1, 10, -3, 2.5, 0.1, 1e300, -0.0, True, False, None,
    "", " 7 ", "1_0", "٣", "NaN", "sNaN", "-sNaN7", "Infinity", "-Infinity", "1E+999999999", "1e-400", "1E-30",
    "123456789012345678901234567890.123456789", "0.30000000000000004", 10**400, "9" * 70, "ten", [], {}, [1], {"a": 1},
    Decimal("1.5"), Decimal("sNaN"), Decimal("1E+40"), float("nan"), float("inf"), 1j, b"1",
)  # fmt: skip
#: Times likewise.
TIMES: tuple[Any, ...] = (
    "2024-01-02T14:30:00Z", "2024-01-02 14:30:00", "2024-01-02T14:30:00.123456789-05:00", "20240102-15:30:00.000",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1704205800", "1704205800000", 1704205800,
    1704205800.5, 1704205800123456789, -1, 1e300, float("nan"), "", None, "now", "2024-13-40", 0, True, [], {},
    "9999-12-31", "0001-01-01", "24:00", datetime(2024, 1, 2, tzinfo=UTC), datetime.min.replace(tzinfo=UTC),
    datetime.max,  # noqa: DTZ901  # a bot may give one without a zone
    date(2024, 1, 2), "²²²²²²²²²", "1" * 400,
)  # fmt: skip
#: Words for states, kinds, sides and names.
WORDS: tuple[Any, ...] = (
    *(spelling for w in (*ORD_STATUS, *EXEC_TYPE) for spelling in (w.name, w.code, *w.others.split()[:2])),
    "closed", "done", "finished", "fill", "trade", "buy", "sell", "short", "long", "sell_short", "open",
    "order_cancel_rejected", "order_replace_rejected", "new", "held", "AAPL", "BTC/USD", "BTCUSD", "crypto",
    "ß", "", "A" * 40, "\x1b[2J\n", "\ud800", "\u202e", None, 0, 1, 2.5, True, [], {}, ["new"], {"value": "new"}, "9",
    "2", "unknown order", "duplicate client order id", "xf1-a-1", b"new",
)  # fmt: skip


class Drawn:
    """Choices out of bytes; once they are used up, the first of everything."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """The next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one_of(self, choices: Any) -> Any:
        """One of these."""
        return choices[
            (self.byte() << 8 | self.byte()) % len(choices) if len(choices) > 256 else self.byte() % len(choices)
        ]

    def text(self) -> str:
        """Up to 15 bytes as text, whatever they are."""
        size = self.byte() % 16
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece.decode("utf-8", "surrogateescape")

    def value(self, depth: int = 0) -> Any:
        """A figure, a time, a word, any text, or a list or object of them."""
        kind = self.byte() % (6 if depth < 3 else 4)
        if kind < 3:
            return self.one_of((FIGURES, TIMES, WORDS)[kind])
        if kind == 3:
            return self.text()
        if kind == 4:
            return [self.value(depth + 1) for _ in range(self.byte() % 4)]
        return {self.text(): self.value(depth + 1) for _ in range(self.byte() % 4)}

    def record(self, names: tuple[str, ...], fields_max: int = 12, depth: int = 0) -> dict[str, Any]:
        """An object with some of these names; a value may be such an object, too."""
        made: dict[str, Any] = {}
        for _ in range(self.byte() % (fields_max + 1)):
            name = self.one_of(names)
            nested = depth < 3 and self.byte() % 8 == 0
            made[name] = self.record(names, fields_max, depth + 1) if nested else self.value()
        return made
