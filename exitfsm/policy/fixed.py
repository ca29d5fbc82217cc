"""Levels that a policy names as prices: on which side of an entry they may be, and what a new unit makes of them.

Rules of this room: a price is of one position. One on the wrong side of its entry would end it at the next bar: who
gives it to a position is refused, and where it came with the settings of all it is left out, so that the percentage
counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from exitfsm.policy.exit_policy import ExitPolicy
from exitfsm.policy.listed import RULES, rules_on
from exitfsm.values import EXACT, Side, plain, significant, tradable

#: The rules whose level may be named as a price.
_PRICED = tuple(rule for rule in RULES if rule.price_side)


def has_prices(policy: ExitPolicy) -> bool:
    """True where a level is named as a price."""
    return any(rule.of(policy).price is not msgspec.UNSET for rule in _PRICED)


def cannot_be(policy: ExitPolicy, side: Side, entry: Decimal) -> list[str]:
    """What is wrong with the prices that a policy names, for a position with this entry; empty where nothing is."""
    return [text for _, text in _wrong(policy, side, entry)]


def fitted(policy: ExitPolicy, side: Side, entry: Decimal) -> ExitPolicy:
    """The policy without prices that cannot be levels of a position with this entry: the percentages count there."""
    if not has_prices(policy):
        return policy
    wrong = {name for name, _ in _wrong(policy, side, entry)}
    return replace(policy, **{name: replace(getattr(policy, name), price=msgspec.UNSET) for name in sorted(wrong)})


def rescaled(policy: ExitPolicy, factor: Decimal) -> ExitPolicy:
    """The policy in a unit of which there are `factor` times as many: its prices are divided by that."""
    if not has_prices(policy) or not factor:
        return policy
    changed = {}
    for rule in _PRICED:
        section = rule.of(policy)
        if isinstance(section.price, Decimal):
            changed[rule.name] = replace(section, price=significant(EXACT.divide(section.price, factor)))
    return replace(policy, **changed)


def _wrong(policy: ExitPolicy, side: Side, entry: Decimal) -> Iterator[tuple[str, str]]:
    """The sections whose price cannot be a level, each with why."""
    for rule in _PRICED:
        name, price, sign = rule.name, rule.of(policy).price, rule.price_side * side.sign
        if not isinstance(price, Decimal):
            continue
        above = next((other.name for other in rules_on(policy) if name in other.stands_in_for), "")
        if above:
            yield name, f"{name}.price: it does not count while {above} sets the {rule.noun}: switch one of the two off"
        elif not (tradable(price) and price > 0):
            yield name, f"{name}.price: {price} is no price; it must be a finite number above 0"
        elif not (price - entry) * sign > 0:
            where = "above" if sign > 0 else "below"
            text = f"the {rule.noun} of a {side} must be {where} its entry at {plain(entry)}, and {plain(price)} is not"
            yield name, f"{name}.price: {text}"
