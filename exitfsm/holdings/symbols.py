"""Spellings of one instrument: a pair comes with and without its slash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exitfsm.values import bare, canonical_symbol

__all__ = ["bare", "known_spelling", "same_symbol"]


def same_symbol(one: str, other: str) -> bool:
    """True for two spellings of one instrument."""
    if one == other or ("/" in one) == ("/" in other):
        return one == other
    return bare(one) == bare(other)


def known_spelling(symbol: str, watched: Iterable[str], pairs: Mapping[str, str]) -> str:
    """The spelling under which a symbol's bars come: that of one watched, or of `pairs`, by those without a slash."""
    known = next((one for one in watched if same_symbol(one, symbol)), None)
    return known or pairs.get(symbol) or canonical_symbol(symbol)
