"""The picture of a position: price, entry, target, the stepped stop, and a mark for everything that happened.

Rules of this room: a string of SVG from a `Story`, the same bytes for the same story. Its elements carry classes and
never colours: the style sheet has them, so that light, dark and print need no second picture. What the script moves has
an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

from exitfsm.audit import Step
from exitfsm.events import (
    AlarmRaised,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    LegCompleted,
    OrderEnded,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    StopMoved,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.report.axes import PriceAxis, TimeAxis, duration
from exitfsm.report.markup import number, t, tag, void
from exitfsm.report.story import Standing, Story, price_of
from exitfsm.values import EXACT, Side, plain

WIDTH, HEIGHT = 1160, 420
LEFT, RIGHT, TOP, BOTTOM = 12.0, 1046.0, 18.0, 384.0
#: Marks nearer to each other than this, of one kind, are drawn as one.
_NEAR = 5.0
#: Event class -> the kind of its mark; an event without one only moves the cursor.
_KINDS: dict[type[Event], str] = {
    PositionOpened: "entry",
    PositionResized: "change",
    PolicyChanged: "change",
    PositionReleased: "change",
    UnitChanged: "change",
    StopMoved: "stop",
    TriggerRefused: "refused",
    ExitTriggered: "trigger",
    ExitRetried: "retry",
    ExitEscalated: "bad",
    CancelRequested: "bad",
    OrderEnded: "bad",
    FillsRecorded: "fill",
    LegCompleted: "done",
    ExitCompleted: "done",
    PositionClosedElsewhere: "done",
    ProtectionLost: "alarm",
    AlarmRaised: "alarm",
}
_SHAPES = {
    "entry": "M0 4 6 15-6 15Z",
    "change": "M0-5 5 0 0 5-5 0Z",
    "stop": "M-2.4 0a2.4 2.4 0 1 0 4.8 0a2.4 2.4 0 1 0-4.8 0",
    "trigger": "M0-4 6-15-6-15Z",
    "retry": "M-4-4H4V4H-4Z",
    "bad": "M-4-4 4 4M4-4-4 4",
    "refused": "M-4-4 4 4M4-4-4 4",
    "fill": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "done": "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0-11 0M-2.6 0-.6 2.2 3-2.4",
    "alarm": "M0-7 6.5 5H-6.5ZM0-3V1M0 2.6V3.4",
}


class Mark(NamedTuple):
    """Something to see at a place, and the event it leads to."""

    kind: str
    x: float
    y: float
    version: int
    said: str


class Chart:
    """The picture of one story."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self._times = TimeAxis(self._known_times(), LEFT + 6, RIGHT - 6)
        self._prices = PriceAxis(self._known_prices(), TOP, BOTTOM)
        self._last = next((s for s in reversed(story.standing) if s.entry is not None), Standing(story.until))

    def x_of(self, step: Step) -> float:
        """Where an event stands."""
        return round(self._times.x(step.at), 1)

    def svg(self) -> str:
        """The whole picture."""
        parts = [
            *self._grid(),
            *self._levels(),
            *self._candles(),
            *self._refused(),
            tag(
                "rect", id="ahead", class_="ahead", x=number(RIGHT), y=number(TOP), width="0", height=_span(TOP, BOTTOM)
            ),
            *self._marks(),
            *self._labels(),
            self._cursor(),
        ]
        what = f"Price of {self.story.position.symbol} with entry, target, stop and every event"
        return tag(
            "svg",
            tag("title", t(what)),
            *parts,
            class_="chart",
            id="chart",
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            preserveAspectRatio="xMidYMid meet",
        )

    # --- what there is to show ----------------------------------------------------------------------------------------

    def _known_times(self) -> Iterator[datetime]:
        yield self.story.until
        for step in self.story.steps:
            yield step.at
        for candle in self.story.candles:
            yield candle.at
        for standing in self.story.standing:
            yield standing.at

    def _known_prices(self) -> Iterator[float]:
        """What the picture must hold. A target far away is named at the edge instead of making all else flat."""
        p = self.story.position
        yield float(p.entry_price)
        for candle in self.story.candles:
            yield candle.low
            yield candle.high
        for standing in self.story.standing:
            if standing.stop is not None:
                yield float(standing.stop)
        for step in self.story.steps:
            price = price_of(step)
            if price is not None:
                yield float(price)
        if not self.story.candles:
            yield from (float(standing.target) for standing in self.story.standing if standing.target is not None)

    def _grid(self) -> Iterator[str]:
        taken = [y for _, y, _ in self._placed()]
        for y, label in self._prices.ticks(8):
            yield void("path", class_="grid", d=f"M{number(LEFT)} {number(y)}H{number(RIGHT)}")
            if not any(abs(y - other) < 16 for other in taken):
                yield tag("text", t(label), class_="tick", x=number(RIGHT + 8), y=number(y + 4))
        for x, label in self._times.ticks(9):
            yield tag(
                "text", t(label), class_="tick mid", x=number(min(max(x, LEFT + 34), RIGHT - 10)), y=number(BOTTOM + 20)
            )
        for broken in self._times.breaks:
            yield void("path", class_="break", d=f"M{number(broken.x)} {number(TOP)}V{number(BOTTOM)}")
            if len(self._times.breaks) <= 12:
                yield tag(
                    "text", t(duration(broken.length)), class_="tick mid", x=number(broken.x), y=number(BOTTOM - 6)
                )

    def _candles(self) -> Iterator[str]:
        """All candles in four paths: what rose and what fell, bodies and wicks."""
        candles = self.story.candles
        if not candles:
            return
        xs = [self._times.x(candle.at) for candle in candles]
        apart = min((b - a for a, b in pairwise(xs) if b > a), default=8.0)
        half = max(0.5, min(3.5, apart * 0.36))
        wicks: dict[bool, list[str]] = {True: [], False: []}
        bodies: dict[bool, list[str]] = {True: [], False: []}
        for x, c in zip(xs, candles, strict=True):
            up = c.close >= c.open
            wicks[up].append(f"M{number(x)} {number(self._y(c.high))}V{number(self._y(c.low))}")
            top, bottom = self._y(max(c.open, c.close)), self._y(min(c.open, c.close))
            height = max(bottom - top, 0.8)
            left = f"M{number(x - half)} {number(top)}"
            bodies[up].append(f"{left}h{number(2 * half)}v{number(height)}h{number(-2 * half)}Z")
        for up, name in ((True, "up"), (False, "down")):
            if wicks[up]:
                yield void("path", class_=f"wick {name}", d="".join(wicks[up]))
                yield void("path", class_=f"body {name}", d="".join(bodies[up]))

    def _y(self, price: float) -> float:
        return self._prices.y(price)

    def _refused(self) -> Iterator[str]:
        """Refused bars, at the edge where their price is off the picture."""
        drawn = -_NEAR
        for bar in self.story.refused:
            x = self._times.x(bar.at)
            if x - drawn < _NEAR:
                continue
            drawn = x
            said = f"refused: {bar.price} ({bar.reason})"
            shape = void("path", d=_SHAPES["refused"])
            yield tag("g", tag("title", t(said)), shape, class_="mark refused", transform=_at(x, self._edge(bar.price)))

    def _edge(self, price: str) -> float:
        try:
            value = float(price)
        except ValueError:
            return BOTTOM - 8
        return min(max(self._y(value), TOP + 8), BOTTOM - 8) if isfinite(value) else BOTTOM - 8

    # --- levels -------------------------------------------------------------------------------------------------------

    def _levels(self) -> Iterator[str]:
        """The stop as a staircase with what it protects against shaded, the target, and the entry."""
        floor = BOTTOM if self.story.position.side is Side.LONG else TOP
        yield from (
            void("path", class_="risk", d=f"{path}V{number(floor)}H{number(start)}Z")
            for start, path in self._stairs([s.stop for s in self.story.standing])
        )
        for name, levels in (
            ("stop", [s.stop for s in self.story.standing]),
            ("target", [s.target for s in self.story.standing]),
            ("entry", [s.entry for s in self.story.standing]),
        ):
            path = "".join(path for _, path in self._stairs(levels))
            if path:
                yield void("path", class_=name, d=path)

    def _stairs(self, levels: Sequence[Decimal | None]) -> list[tuple[float, str]]:
        """Paths that step from level to level, each with where it begins; where there is no level there is no path."""
        found: list[tuple[float, list[str]]] = []
        down = False
        for standing, level in zip(self.story.standing, levels, strict=True):
            x = self._times.x(standing.at)
            if down:
                found[-1][1].append(f"H{number(x)}")
            if level is not None:
                y = number(self._y(float(level)))
                if down:
                    found[-1][1].append(f"V{y}")
                else:
                    found.append((x, [f"M{number(x)} {y}"]))
            down = level is not None
        if down:
            found[-1][1].append(f"H{number(self._times.x(self.story.until))}")
        return [(start, "".join(parts)) for start, parts in found]

    def _labels(self) -> Iterator[str]:
        """Prices of entry, stop and target at the right; a target that is off the picture is named at its edge."""
        target = self._last.target
        if target is not None and not self._prices.inside(float(target)):
            above = float(target) > self._prices.high
            y = TOP + 12 if above else BOTTOM - 8
            said = f"target {_short(target)} {'↑' if above else '↓'}"
            yield tag("text", t(said), class_="away", x=number(LEFT + 6), y=number(y))
        for name, y, said in self._placed():
            wide = number(10 + 6.7 * len(said))
            yield void(
                "rect", class_=f"label {name}", x=number(RIGHT + 4), y=number(y - 9), width=wide, height="18", rx="4"
            )
            yield tag("text", t(said), class_="label", x=number(RIGHT + 9), y=number(y + 4))

    def _placed(self) -> list[tuple[str, float, str]]:
        """The labels with their places, pushed apart where they would cover each other."""
        last = self._last
        wanted = [("entry", self.story.position.entry_price)]
        if last.stop is not None:
            wanted.append(("stop", last.stop))
        if last.target is not None and self._prices.inside(float(last.target)):
            wanted.append(("target", last.target))
        placed: list[tuple[str, float, str]] = []
        for name, price in sorted(wanted, key=lambda one: -one[1]):
            y = min(max(self._y(float(price)), TOP + 8), BOTTOM - 8)
            placed.append((name, max(y, placed[-1][1] + 20) if placed else y, f"{name} {_short(price)}"))
        return placed

    # --- events -------------------------------------------------------------------------------------------------------

    def _marks(self) -> Iterator[str]:
        for mark in self._thinned(list(self._all_marks())):
            link = tag(
                "a",
                tag("title", t(mark.said)),
                void("circle", class_="hit", r="9"),
                void("path", d=_SHAPES[mark.kind]),
                href=f"#e{mark.version}",
                class_=f"mark {mark.kind}",
                transform=_at(mark.x, mark.y),
                data_e=mark.version,
                tabindex="-1",
            )
            yield link

    def _all_marks(self) -> Iterator[Mark]:
        y = self._y(float(self.story.position.entry_price))
        for step in self.story.steps:
            event = step.recorded.event
            kind = _KINDS.get(type(event))
            price = price_of(step)
            if price is not None:
                y = self._y(float(price))
            if kind is None:
                continue
            place = y
            if kind == "refused":
                place = self._edge(event.price) if isinstance(event, TriggerRefused) else y
            elif kind == "alarm":
                place = y - 22
            elif kind == "bad":
                place = y - 13
            place = min(max(place, TOP + 8), BOTTOM - 8)
            yield Mark(kind, self._times.x(step.at), place, step.version, f"#{step.version} {type(event).__name__}")

    def _thinned(self, marks: Sequence[Mark]) -> Iterator[Mark]:
        """Of marks of one kind on one spot only the first is drawn."""
        last: dict[str, Mark] = {}
        for mark in marks:
            before = last.get(mark.kind)
            if before is not None and abs(mark.x - before.x) < _NEAR and abs(mark.y - before.y) < _NEAR:
                continue
            last[mark.kind] = mark
            yield mark

    def _cursor(self) -> str:
        return tag(
            "g",
            void("path", class_="cursor", d=f"M0 {number(TOP)}V{number(BOTTOM)}"),
            void("path", class_="knob", d=f"M-5 {number(TOP - 8)}H5L0 {number(TOP)}Z"),
            id="cursor",
            transform=_at(self.x_of(self.story.steps[-1]), 0),
        )


def _short(price: Decimal) -> str:
    """A price as it fits on a label; the table has every digit."""
    return plain(price.quantize(Decimal("0.0001"), context=EXACT))


def _span(top: float, bottom: float) -> str:
    return number(bottom - top)


def _at(x: float, y: float) -> str:
    return f"translate({number(x)} {number(y)})"
