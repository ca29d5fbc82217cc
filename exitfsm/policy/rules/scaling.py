"""Percentages at which to look again after an exit."""

from __future__ import annotations

from decimal import Decimal

from exitfsm.values import plain


def scaled(value: Decimal, by: str) -> str:
    """A percentage scaled, kept below the 100 at which a level would be no price."""
    return plain(min(value * Decimal(by), Decimal(99)))
