"""An event in words, on one line that is safe to print."""

from __future__ import annotations

from exitfsm import words
from exitfsm.cli.screen import clean
from exitfsm.events import Event
from exitfsm.position import Position
from exitfsm.words import WORDS as _WORDS
from exitfsm.words import level_in_words, levels_in_words


def in_words(before: Position | None, after: Position | None, event: Event) -> str:
    """What happened and why, made harmless for a terminal; the arguments are those of `exitfsm.words.in_words`."""
    return clean(words.in_words(before, after, event))


__all__ = ["_WORDS", "in_words", "level_in_words", "levels_in_words"]
