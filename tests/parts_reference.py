"""An independent, slow reading of exits in parts, in exact fractions: it shares no code with the library."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from exitfsm import Bar, Side, load_config
from exitfsm.simulate import simulate

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
Exit = tuple[int, str, int | None, Fraction, Fraction, Fraction]


def bars_of(seed: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Settings and (open, close) of each bar, of a market that moves more than it should."""
    rng = random.Random(f"parts {seed}")
    count = rng.randint(1, 4)
    at = [sorted(rng.sample(range(2, 30), count))][0]
    shares = [rng.choice([10, 20, 25]) for _ in at]
    if rng.random() < 0.5:
        shares[-1] = 100 - sum(shares[:-1])
    targets = []
    for index, pct in enumerate(at):
        target: dict[str, Any] = {"at_pct": str(Decimal(pct) / 10), "sell_pct": shares[index]}
        if rng.random() < 0.5:
            target["then"] = {"stop": rng.choice(["entry", "0.1", "-0.5"])}
        targets.append(target)
    settings = {"targets": targets, "stop_loss": {"threshold_pct": rng.choice(["1", "2"])}, "qty": rng.randint(1, 40)}
    price, bars = 1000, []
    for _ in range(80):
        opened = price + rng.randint(-2, 2)
        price = opened + rng.randint(-6, 7)
        bars.append((str(Decimal(opened) / 10), str(Decimal(price) / 10)))
    return settings, bars


def reference(settings: dict[str, Any], bars: list[tuple[str, str]], side: Side) -> list[Exit]:
    """Each exit: bar that filled it, reason, part, quantity, price, what is left."""
    sign, step = (1 if side is Side.LONG else -1), Fraction(1, 10**9)
    entry = Fraction(bars[0][1])
    left = Fraction(settings["qty"])
    base, done, moved = left, 0, None
    out: tuple[str, int | None, Fraction] | None = None
    found: list[Exit] = []
    targets = settings["targets"]
    whole = sum(t["sell_pct"] for t in targets) == 100

    def level(pct: Fraction) -> Fraction:
        return entry * (100 + sign * pct) / 100

    for number, (opened, closed) in enumerate(bars[1:], 1):
        if out is not None:
            reason, index, qty = out
            left -= qty
            found.append((number, reason, index, qty, Fraction(opened), left))
            out = None
            if index is not None:
                for target in targets[done:index]:
                    stop = target.get("then", {}).get("stop")
                    if stop is not None and left:
                        price = level(Fraction(0 if stop == "entry" else stop))
                        moved = price if moved is None or sign * price > sign * moved else moved
                done = index
            if not left:
                return found
        close = Fraction(closed)
        fixed = level(-Fraction(settings["stop_loss"]["threshold_pct"]))
        if sign * close <= sign * fixed:
            out = ("stop_loss", None, left)
        elif moved is not None and sign * close <= sign * moved:
            out = ("break_even", None, left)
        else:
            prices = [level(Fraction(t["at_pct"])) for t in targets]
            reached = [i for i, price in enumerate(prices, 1) if i > done and sign * close >= sign * price]
            if reached:
                last = reached[-1]
                parts = [base * t["sell_pct"] / 100 // step * step for t in targets[done:last]]
                qty = left if whole and last == len(targets) else min(sum(parts), left)
                out = ("profit_take", last, qty)
    return found


def simulated(settings: dict[str, Any], bars: list[tuple[str, str]], side: Side) -> list[Exit]:
    """The same by the library."""
    config = load_config({name: value for name, value in settings.items() if name != "qty"})
    made = [
        Bar(
            symbol="AAPL", timestamp=T0 + timedelta(minutes=number), open=Decimal(opened), close=Decimal(closed),
            high=max(Decimal(opened), Decimal(closed)), low=min(Decimal(opened), Decimal(closed)), volume=Decimal(1),
        )
        for number, (opened, closed) in enumerate(bars)
    ]  # fmt: skip
    result = simulate(made, config, qty=Decimal(settings["qty"]), side=side)
    return [
        (
            int((e.filled_at - T0).total_seconds()) // 60, str(e.reason), e.part, Fraction(e.qty),
            Fraction(e.avg_fill_price), Fraction(e.remaining_qty),
        )
        for e in result.exits
        if e.filled_at is not None and e.avg_fill_price is not None
    ]  # fmt: skip
