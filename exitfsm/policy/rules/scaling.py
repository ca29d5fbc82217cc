"""Percentages at which to look again after an exit, and what is said of a price in the settings of all positions."""

from __future__ import annotations

from decimal import Decimal

from exitfsm.values import plain


def scaled(value: Decimal, by: str) -> str:
    """A percentage scaled, kept below the 100 at which a level would be no price."""
    return plain(min(value * Decimal(by), Decimal(99)))


def of_all(price: Decimal) -> str:
    """What is said of a price that the configuration gives to every position."""
    return (
        f"{plain(price)} is a price, and these settings are for every position: give it to one with set-policy, "
        "watch(policy=) or change_policy(); one that has it on the wrong side of its entry goes by the percentage"
    )
