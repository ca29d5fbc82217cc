"""Events in words, each on one line that is safe to print."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from exitfsm import words
from exitfsm.cli import screen
from exitfsm.events import Event, PositionOpened
from exitfsm.position import Position
from exitfsm.profit import Ledger
from exitfsm.values import stamp
from exitfsm.words import WORDS as _WORDS
from exitfsm.words import level_in_words, levels_in_words

if TYPE_CHECKING:
    from exitfsm.events import Recorded


def in_words(before: Position | None, after: Position | None, event: Event) -> str:
    """What happened and why, made harmless for a terminal; the arguments are those of `exitfsm.words.in_words`."""
    return screen.clean(words.in_words(before, after, event))


class Printer:
    """One line for each step of a run, in the words of `exitfsm history`: what a manager calls with each event."""

    def __init__(self) -> None:
        self._before: dict[str, Position] = {}
        #: Of the positions whose whole log has come by.
        self._ledgers: dict[str, Ledger] = {}

    def __call__(self, position: Position | None, recorded: Recorded) -> None:
        """The next event, and its position as it stands."""
        stream, event = recorded.stream_id, recorded.event
        before, after, ledger = self._before.get(stream), None, None
        if position is not None:
            after = self._before[stream] = _after(before, position, event)
            if isinstance(event, PositionOpened):
                self._ledgers[stream] = Ledger()
            ledger = self._ledgers.get(stream)
            if ledger is not None:
                ledger.add(before, event, after)
        said = screen.clean(words.in_words(before, after, event, ledger.profit() if ledger is not None else None))
        where = screen.clean(position.symbol) if position is not None else "account"
        at = stamp(datetime.fromtimestamp(recorded.at_ns // 10**9, UTC))
        screen.emit(f"{at}  {where:<10} {type(event).__name__:<24} {said}\n")
        sys.stdout.flush()


def _after(before: Position | None, position: Position, event: Event) -> Position:
    """The position after one event of several that a commit may have brought; as it is, where what was is not known."""
    from exitfsm.position import evolve

    if before is not None or isinstance(event, PositionOpened):
        return evolve(before, event)
    return position


__all__ = ["_WORDS", "Printer", "in_words", "level_in_words", "levels_in_words"]
