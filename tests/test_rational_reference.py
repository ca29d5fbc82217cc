"""The simulation against an independent, slow reading of the same rules in exact fractions, on real bars.

The reference shares no code with the library: it reads the files itself, decides in `Fraction`s bar by bar, and must
arrive at the same exits, at the same prices, at the same times.
"""

from __future__ import annotations

import csv
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from exitfsm_csv import read_bars

from exitfsm import Side, load_config
from exitfsm.simulate import simulate

BARS = Path(__file__).resolve().parents[2] / "shared" / "data" / "bars"
pytestmark = pytest.mark.skipif(not BARS.is_dir(), reason=f"the real bars are not here: {BARS}")

COOLDOWN = timedelta(seconds=300)
Exit = tuple[str, str, datetime, Fraction, datetime, Fraction, datetime, Fraction]


class Rules(NamedTuple):
    """Percentages: target, stop, and (activation, trail, step) of the trailing stop."""

    target: str
    stop: str
    trail: tuple[str, str, str] | None = None


RULES = [
    Rules("2", "1"),
    Rules("1", "0.5"),
    Rules("0.37", "0.21"),
    Rules("5", "2", ("0.2", "0.3", "0.1")),
    Rules("5", "1", ("0.1", "0.15", "0")),
]


def rows() -> list[dict[str, str]]:
    merged = []
    for place, path in enumerate(sorted(BARS.glob("*.csv"))):
        with path.open(newline="") as file:
            merged += [(row["timestamp"], place, row) for row in csv.DictReader(file)]
    return [row for _, _, row in sorted(merged, key=lambda entry: entry[:2])]


def reference(rules: Rules, side: Side, on_range: bool) -> list[Exit]:
    sign = 1 if side is Side.LONG else -1
    held: dict[str, dict[str, Any]] = {}
    exits: list[Exit] = []
    jumped: dict[str, list[Fraction]] = {}
    for row in rows():
        symbol, at = row["symbol"], datetime.fromisoformat(row["timestamp"])
        opened, high, low, close = (Fraction(row[name]) for name in ("open", "high", "low", "close"))
        p = held.get(symbol)
        if p is None or p["until"] is not None:
            if p is None or at >= p["until"]:
                held[symbol] = {"entry": close, "at": at, "last": close, "out": None, "trail": None, "until": None}
                jumped[symbol] = []
            continue
        if p["out"] is not None:
            exits.append((symbol, p["out"][0], p["at"], p["entry"], p["out"][1], p["out"][2], at, opened))
            p["until"] = at + COOLDOWN
            continue
        if any(price > p["last"] * Fraction("1.3") or price * Fraction("1.3") < p["last"] for price in (close, opened)):
            jumped[symbol].append(p["last"] / close)
            if len(jumped[symbol]) == 3:  # Apple's shares, of which each became seven
                assert all(abs(ratio - 7) < Fraction("0.02") for ratio in jumped[symbol])
                p["until"] = at + COOLDOWN
            continue
        p["last"] = close
        worst, best = ((low, high) if sign > 0 else (high, low)) if on_range else (close, close)
        stop = p["entry"] * (100 - sign * Fraction(rules.stop)) / 100
        target = p["entry"] * (100 + sign * Fraction(rules.target)) / 100
        if sign * worst <= sign * stop:
            p["out"] = ("stop_loss", at, worst)
        elif p["trail"] is not None and sign * worst <= sign * p["trail"]:
            p["out"] = ("trailing_stop", at, worst)
        elif sign * best >= sign * target:
            p["out"] = ("profit_take", at, best)
        elif rules.trail is not None:
            activation, distance, step = map(Fraction, rules.trail)
            moved = best * (100 - sign * distance) / 100
            if p["trail"] is None:
                due = sign * best >= sign * p["entry"] * (100 + sign * activation) / 100
            else:
                due = moved != p["trail"] and sign * moved >= sign * p["trail"] * (100 + sign * step) / 100
            if due:
                p["trail"] = moved
    return exits


@pytest.mark.parametrize("on_range", [False, True], ids=["close", "range"])
@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_the_simulation_decides_as_exact_fractions_do(rules: Rules, side: Side, on_range: bool) -> None:
    settings: dict[str, Any] = {
        "evaluate_on": "range" if on_range else "close",
        "profit_taking": {"threshold_pct": rules.target},
        "stop_loss": {"threshold_pct": rules.stop},
    }
    if rules.trail is not None:
        activation, distance, step = rules.trail
        settings["trailing_stop"] = {
            "enabled": True, "activation_pct": activation, "trail_pct": distance, "step_pct": step
        }  # fmt: skip
    result = simulate(
        read_bars(*sorted(BARS.glob("*.csv"))), load_config(settings), side=side, qty=Decimal(10), re_enter=True
    )
    found = [
        (
            e.symbol,
            str(e.reason),
            e.opened_at,
            Fraction(e.entry_price),
            e.triggered_at,
            Fraction(str(e.trigger_price)),
            e.filled_at,
            Fraction(str(e.avg_fill_price)),
        )
        for e in result.exits
    ]
    expected = reference(rules, side, on_range)
    assert len(expected) > 4
    assert sorted(found) == sorted(expected)
