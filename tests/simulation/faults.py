"""What can go wrong: every fault the simulation knows, by the row of the fault table that it makes happen.

Whether a fault happens is drawn from the day's own seed. Each one that does gets the next number, so that a failing day
can be run again without some of them, until only those are left that it takes to fail.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from simulation.trace import Trace


class Row(NamedTuple):
    """A row of the fault table: its number, what happens, and where it is exercised.

    `elsewhere` names the tests of a row that no simulated world can make happen; empty for all others.
    """

    number: int
    what: str
    elsewhere: str = ""


#: The fault table, in order.
ROWS: tuple[Row, ...] = (
    Row(1, "the process dies before the decision to exit is committed"),
    Row(2, "COMMIT raises an error"),
    Row(3, "the process dies after the commit and before the send"),
    Row(4, "a send times out and arrives late, or never"),
    Row(5, "a send times out and was accepted"),
    Row(6, "accepted and filled before the answer arrives"),
    Row(7, "the request is repeated on the way; the second answer says that the id is known"),
    Row(8, "a definite refusal"),
    Row(9, "the request does not leave: too many requests, no connection"),
    Row(10, "the answer has arrived and the process dies before it is recorded"),
    Row(11, "a fill is heard of before the answer to the submit"),
    Row(12, "the process dies between a fill and its commit"),
    Row(13, "an update comes twice"),
    Row(14, "updates come out of order"),
    Row(15, "the stream of updates is cut, and what it would have brought is lost"),
    Row(16, "a part is filled, and then nothing moves"),
    Row(17, "a fill comes while a cancel is pending"),
    Row(18, "a cancel is refused, because it comes too late"),
    Row(19, "a cancel is lost, or its answer"),
    Row(20, "a fill comes after the cancel was confirmed"),
    Row(21, "a fill is taken back"),
    Row(22, "an order for the day expires, filled in part or not at all"),
    Row(23, "a split changes quantity and price"),
    Row(24, "the broker replaces an order by one of another id", "tests/alpaca/test_alpaca_words.py"),
    Row(25, "the market of a symbol is halted"),
    Row(26, "a person closes the position by hand"),
    Row(27, "a person sells a part by hand"),
    Row(28, "more is bought"),
    Row(29, "the list of positions is behind, or empty"),
    Row(30, "a list of orders or executions is empty, fails, or cannot be understood"),
    Row(31, "two processes on one store"),
    Row(32, "two machines, each with its own store"),
    Row(33, "the same symbol is entered again on the same day"),
    Row(34, "the database is busy"),
    Row(35, "the disk is full, or fails before the commit"),
    Row(36, "the disk fails at the sync: whether it was stored is not known"),
    Row(37, "the store is damaged and is set aside"),
    Row(38, "power fails, and the newest commits are gone"),
    Row(39, "the store is lost, and the machine begins with an empty one"),
    Row(40, "the process is killed between any two steps"),
    Row(41, "the clock is set forward or back"),
    Row(42, "the market closes early, and orders expire with it"),
    Row(43, "a bar comes late, twice, or out of order"),
    Row(44, "a price is no number, is zero, or has jumped beyond belief"),
    Row(45, "a quantity is no number, negative, or beyond all bounds"),
    Row(46, "a position has no entry price"),
    Row(47, "a symbol in other letters or spellings", "tests/position, tests/alpaca/test_alpaca_words.py"),
    Row(48, "a hostile configuration file", "tests/test_config.py"),
    Row(49, "hostile JSON from the broker", "tests/alpaca/test_alpaca_failures.py"),
    Row(50, "credentials in logs, events or errors", "tests/alpaca/test_alpaca_failures.py"),
    Row(51, "the configuration is another one after a restart, in the middle of an exit"),
    Row(52, "a log that an older version wrote", "tests/test_store.py"),
    Row(53, "the process is starved, or the machine asleep"),
    Row(54, "the channel for alarms fails"),
    Row(55, "one thing in a list cannot be read: a position, an order, an execution"),
    Row(56, "the stream of updates never comes up"),
    Row(57, "the market data of a symbol is refused"),
    Row(58, "a refusal for a cause that passes"),
    Row(59, "a repeat is refused for what the first copy holds"),
    Row(60, "an order's state is called by a word that nobody knows"),
)
#: The rows that a long run must have exercised.
CLAIMED: tuple[int, ...] = tuple(row.number for row in ROWS if not row.elsewhere)

#: Faults that are drawn, with how likely each is where it can happen, in a day on which it is on.
CHANCES: dict[str, float] = {
    # the network
    "request late": 0.02,
    "request lost": 0.01,
    "request repeated": 0.01,
    "reply lost": 0.015,
    "not sent": 0.01,
    "refused": 0.02,
    "answer unreadable": 0.005,
    "positions behind": 0.03,
    "positions empty": 0.01,
    "quantity absurd": 0.004,
    "no entry price": 0.004,
    "list empty": 0.01,
    "list behind": 0.05,
    "record behind": 0.15,
    "read slow": 0.04,
    "answer slow": 0.04,
    "error after arrival": 0.012,
    "look-ups out": 0.008,
    # the updates
    "update lost": 0.05,
    "update twice": 0.05,
    "update late": 0.08,
    "stream cut": 0.0015,
    "duplicate told": 0.8,
    # the venue
    "end denied": 0.015,
    "end taken back": 0.3,
    "fill in parts": 0.15,
    "fill slow": 0.06,
    "part then nothing": 0.03,
    "rejected": 0.02,
    "ended by the venue": 0.015,
    "late fill": 0.4,
    "fill taken back": 0.03,
    "cancel pending": 0.4,
    "cancel refused": 0.15,
    "halt": 0.002,
    "split": 0.001,
    # people and the bot
    "sold by hand": 0.004,
    "closed by hand": 0.004,
    "more bought": 0.01,
    "bought during an exit": 0.03,
    "sold past zero": 0.003,
    # the process and its machine
    "killed": 0.003,
    "killed at the commit": 0.002,
    "killed at the answer": 0.003,
    "killed at the update": 0.001,
    "starved": 0.008,
    "clock set": 0.008,
    "alarm channel": 0.2,
    "other configuration": 0.3,
    # the disk
    "busy": 0.002,
    "disk full": 0.002,
    "commit fails": 0.001,
    "commit unclear": 0.002,
    "power": 0.0008,
    "store lost": 0.1,
    # refusals of copies
    "held by the first copy": 0.5,
    "store lost, look-ups out": 0.6,
    "store damaged": 0.1,
    # prices
    "bar late": 0.01,
    "bar twice": 0.02,
    "price absurd": 0.01,
    # one thing among others
    "position unreadable": 0.02,
    "order unreadable": 0.02,
    "execution unreadable": 0.02,
    "stream never up": 0.35,
    "symbol refused": 0.03,
}


class Faults:
    """The faults of one day.

    Args:
        rng: the day's own randomness, for nothing but this.
        trace: told of each fault.
        without: numbers of faults that do not happen, for a replay with fewer.

    Attributes:
        counts: how often each row of the table was exercised.
        kinds: how often each kind of fault happened.
        on: False ends all faults.
    """

    def __init__(self, rng: random.Random, trace: Trace, without: Collection[int] = ()) -> None:
        self._rng = rng
        self._trace = trace
        self._without = frozenset(without)
        self.counts: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.number = 0
        self.on = True
        # Days differ: on each some faults never happen and some often, so that they meet in many combinations.
        weather = rng.choice((0.3, 0.6, 1.0, 1.0, 1.6))
        self._chance = {
            kind: chance * weather * rng.choice((0.0, 0.5, 1.0, 1.0, 2.0)) for kind, chance in CHANCES.items()
        }

    def never(self, *kinds: str) -> None:
        """These cannot happen today: the day's broker does not do that."""
        for kind in kinds:
            self._chance[kind] = 0.0

    def often(self, kind: str, chance: float) -> None:
        """This happens today, as often as is said."""
        self._chance[kind] = chance

    def happens(self, kind: str, row: int | None = None, about: str = "") -> bool:
        """True when the fault happens now; counted under `row` where it is known already."""
        chance = self._chance[kind]
        if not self.on or chance == 0.0 or self._rng.random() >= chance:
            return False
        return self._happens_now(kind, row, about)

    def drawn(self, rng: random.Random, kind: str, chance: float, row: int | None = None, about: str = "") -> bool:
        """The same for what only some days have: drawn by a randomness of its own, so that other days stay as they are.

        Never without faults, however likely.
        """
        if not self.on or rng.random() >= chance:
            return False
        return self._happens_now(kind, row, about)

    def _happens_now(self, kind: str, row: int | None, about: str) -> bool:
        self.number += 1
        if self.number in self._without:
            return False
        self.kinds[kind] += 1
        if row is not None:
            self.counts[row] += 1
        self._trace("fault", f"#{self.number} {kind} {about}")
        return True

    def count(self, kind: str) -> None:
        """Something of this kind has just happened: no draw of its own, it follows from how the day is set up."""
        self.kinds[kind] += 1

    def seen(self, row: int) -> None:
        """A row of the table has just been exercised."""
        self.counts[row] += 1
