"""Whether every exit is the one that the rule asks for, in whole numbers: at each threshold and one tick around it.

The rule is on fractions: a price that is `pct` percent from the entry, or beyond it, ends the position. Held against it
is the engine, through both of its doors, on entries that lie on no grid, for both sides. What is not exact is not worth
a figure: `side_by_side.main` asks this first, and prints nothing else where there is a difference. CASES in the
environment makes it more or fewer of them.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from datetime import timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import NamedTuple

from lives import T0

from exitfsm.engine import Engine
from exitfsm.messages import Open
from exitfsm.policy import ExitPolicy, PriceGuard, ProfitTaking, StopLoss
from exitfsm.position import Submit, account_hash
from exitfsm.store import ExitStore
from exitfsm.values import Bar, Side

#: Entries that are looked at before each script's figures, each at some twelve prices, through both doors.
CASES = int(os.environ.get("CASES", "250"))
TICKS = tuple(Decimal(tick) for tick in ("1", "0.05", "0.01", "0.0001"))
_AT = T0 + timedelta(minutes=1)


class Case(NamedTuple):
    """A position with its thresholds in hundredths of a percent, on a venue with this price step."""

    side: Side
    entry: Decimal
    target_bps: int
    stop_bps: int
    tick: Decimal

    @property
    def policy(self) -> ExitPolicy:
        """Its rules; the price guard is off, for thresholds may lie far away."""
        return ExitPolicy(
            profit_taking=ProfitTaking(threshold_pct=Decimal(self.target_bps).scaleb(-2)),
            stop_loss=StopLoss(threshold_pct=Decimal(self.stop_bps).scaleb(-2)),
            price_guard=PriceGuard(enabled=False),
        )

    def thresholds(self) -> tuple[Fraction, Fraction]:
        """The prices at which the target and the stop are reached, exactly."""
        entry, sign = Fraction(self.entry), self.side.sign
        return (
            entry * (10_000 + sign * self.target_bps) / 10_000,
            entry * (10_000 - sign * self.stop_bps) / 10_000,
        )

    def reason(self, price: Decimal) -> str | None:
        """What the rule says of a price."""
        (target, stop), at, sign = self.thresholds(), Fraction(price), self.side.sign
        if (at - stop) * sign <= 0:
            return "stop_loss"
        return "profit_take" if (at - target) * sign >= 0 else None

    def prices(self) -> Iterator[Decimal]:
        """The ticks at and next to each threshold, and the threshold itself where a decimal can say it."""
        for threshold in self.thresholds():
            ticks = Decimal(threshold.numerator) / Decimal(threshold.denominator) / self.tick
            below, above = (ticks.to_integral_value(way) * self.tick for way in (ROUND_FLOOR, ROUND_CEILING))
            exact = Decimal(threshold.numerator) / Decimal(threshold.denominator)
            near = {below - self.tick, below, above, above + self.tick, (below + above) / 2}
            yield from sorted(price for price in near | {exact} if price > 0)


def cases(count: int) -> Iterator[Case]:
    """Entries, sides, thresholds and price steps; the same for every run."""
    dice = random.Random(7)
    for _ in range(count):
        tick = dice.choice(TICKS)
        on_grid = Decimal(dice.randint(50, 9_999)) * tick
        # The average of fills lies between the ticks.
        entry = on_grid if dice.random() < 0.3 else (on_grid + tick * dice.randint(1, 6) / 7).quantize(Decimal("1e-9"))
        yield Case(dice.choice((Side.LONG, Side.SHORT)), entry, dice.randint(1, 3_000), dice.randint(1, 3_000), tick)


def questions(count: int) -> list[tuple[Case, Decimal]]:
    """Each case at each of its prices."""
    return [(case, price) for case in cases(count) for price in case.prices()]


def answers(asked: list[tuple[Case, Decimal]], *, together: bool) -> list[str | None]:
    """What the engine makes of each bar, told by itself or with all the others: a position and a symbol for each."""
    with ExitStore(":memory:") as store, store.bulk():
        engine = Engine(store)
        opened = [engine.open(opening(number, case)).position_id for number, (case, _) in enumerate(asked)]
        bars = [Bar(symbol(number), _AT, price, price, price, price) for number, (_, price) in enumerate(asked)]
        actions = engine.on_bars(bars) if together else [a for bar in bars for a in engine.on_bar(bar)]
        sent = {action.position_id for action in actions if isinstance(action, Submit)}
        after = [engine.get(position_id) for position_id in opened]
        reasons = [None if p is None or p.reason is None else str(p.reason) for p in after]
        assert sent == {one for one, reason in zip(opened, reasons, strict=True) if reason is not None}
    return reasons


def symbol(number: int) -> str:
    """The symbol of a question."""
    return f"S{number:06d}"


def opening(number: int, case: Case) -> Open:
    """The position of a question."""
    return Open(
        at=T0,
        account=account_hash("benchmark"),
        symbol=symbol(number),
        side=case.side,
        epoch="20240102T143000Z",
        qty=Decimal(10),
        entry_price=case.entry,
        opened_at=T0,
        policy=case.policy,
        source="bot",
    )


def differences(count: int = CASES) -> tuple[int, int]:
    """In how many of how many decisions the engine says something else than the rule."""
    asked = questions(count)
    right = [case.reason(price) for case, price in asked]
    found = [answers(asked, together=together) for together in (False, True)]
    return sum(one != said for way in found for one, said in zip(right, way, strict=True)), 2 * len(asked)


if __name__ == "__main__":
    wrong, asked = differences()
    print(f"{wrong} differences from the rule in {asked:,} decisions")
    sys.exit(1 if wrong else 0)
