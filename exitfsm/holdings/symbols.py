"""Spellings of one instrument: a pair comes with and without its slash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exitfsm.values import canonical_symbol


def same_symbol(one: str, other: str) -> bool:
    """True for two spellings of one instrument."""
    if one == other or ("/" in one) == ("/" in other):
        return one == other
    return bare(one) == bare(other)


def bare(symbol: str) -> str:
    """The spelling without a slash, by which two spellings are compared."""
    return symbol.replace("/", "")


def known_spelling(symbol: str, watched: Iterable[str], pairs: Mapping[str, str]) -> str:
    """The spelling under which a symbol's bars come: that of one watched, or of `pairs`, by those without a slash."""
    known = next((one for one in watched if same_symbol(one, symbol)), None)
    return known or pairs.get(symbol) or canonical_symbol(symbol)
