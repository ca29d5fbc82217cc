"""The lifecycle as a picture, with the path that a position took.

Rules of this room: every edge is a row of `TABLE` that changes the state, and every such row is an edge; only where the
boxes stand is decided here. Edges that were not taken are faint; those of trouble show only when they were taken, and
`unprotected` only for those that were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from exitfsm.audit import Step
from exitfsm.events import (
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    PositionReleased,
    ProtectionLost,
)
from exitfsm.lifecycle import MEANING, TABLE, State
from exitfsm.report.markup import number, t, tag, void

WIDTH, HEIGHT = 1160, 266
#: The height without the row of `unprotected`, which is drawn only for those that ever were.
_HEIGHT_CALM = 166
#: The height of the way back above the first row, drawn for those that were sold in parts.
_ABOVE = 44
_W, _H = 128.0, 38.0
#: Where the middle of each box stands.
PLACES: dict[State, tuple[float, float]] = {
    State.MONITORING: (84, 36),
    State.PENDING: (330, 36),
    State.SUBMITTED: (576, 36),
    State.PARTIAL: (822, 36),
    State.FILLED: (1068, 36),
    State.REJECTED: (453, 138),
    State.CANCELING: (822, 138),
    State.CLOSED: (1068, 138),
    State.UNPROTECTED: (207, 240),
}
_VERBS: dict[type[Event], str] = {
    ExitTriggered: "trigger",
    OrderAccepted: "accept",
    FillsRecorded: "fill",
    CancelRequested: "cancel",
    CancelRefused: "cancel refused",
    ExitPostponed: "postponed",
    ExitEscalated: "escalate",
    OrderEnded: "ended",
    ExitRetried: "retry",
    ExitCompleted: "complete",
    PositionClosedElsewhere: "closed",
    ProtectionLost: "lost",
    PositionReleased: "release",
    ExitWithdrawn: "withdraw",
    LegCompleted: "part sold",
}
_Pair = tuple[State, State]
_Point = tuple[float, float]
#: Numbers shown on an edge before it says how many more there are.
NUMBERS_MAX = 3


class Edge(NamedTuple):
    """A way from state to state: its path, where its label stands, and whether it shows only when taken."""

    source: State
    target: State
    path: str
    label: tuple[float, float]
    rare: bool


def pairs() -> list[_Pair]:
    """Every change of state that the table knows, in its order."""
    found: dict[_Pair, None] = {}
    for row in TABLE:
        if row.source is not None and row.source is not row.target:
            found[row.source, row.target] = None
    return list(found)


def machine(steps: Sequence[Step]) -> str:
    """The picture with the path that these steps took."""
    taken: dict[_Pair, list[Step]] = defaultdict(list)
    inside: dict[State, int] = defaultdict(int)
    for s in steps:
        if s.after is not None:
            inside[s.after.state] += 1
            if s.before is not None and s.moved:
                taken[s.before.state, s.after.state].append(s)
    last = steps[-1].after
    current = last.state if last is not None else None
    drawn = edges()
    parts = [_markers()]
    parts += [_edge(edge, taken.get((edge.source, edge.target), [])) for edge in drawn]
    calm = State.UNPROTECTED not in inside
    above = _ABOVE if (State.PARTIAL, State.MONITORING) in taken else 0
    drawn_states = [state for state in State if not (calm and state is State.UNPROTECTED)]
    parts += [_box(state, inside.get(state, 0), state is current) for state in drawn_states]
    return tag(
        "svg",
        tag("title", "The lifecycle of an exit, with the path taken"),
        *parts,
        class_="machine",
        id="machine",
        viewBox=f"0 {-above} {WIDTH} {(_HEIGHT_CALM if calm else HEIGHT) + above}",
        role="img",
    )


def _box(state: State, count: int, current: bool) -> str:
    x, y = PLACES[state]
    classes = " ".join(["state", *(["seen"] if count else []), *(["current"] if current else [])])
    return tag(
        "g",
        tag("title", t(f"{state}: {MEANING[state]}")),
        void("rect", x=number(x - _W / 2), y=number(y - _H / 2), width=number(_W), height=number(_H), rx="9"),
        tag("text", t(state), x=number(x), y=number(y + 4.5)),
        class_=classes,
        data_state=str(state),
    )


def _edge(edge: Edge, taken: Sequence[Step]) -> str:
    verbs = list(dict.fromkeys(_VERBS[type(s.recorded.event)] for s in taken if type(s.recorded.event) in _VERBS))
    classes = " ".join(["edge", *(["rare"] if edge.rare else []), *(["taken"] if taken else [])])
    x, y = edge.label
    verb = "/".join(verbs)
    return tag(
        "g",
        void("path", d=edge.path, marker_end="url(#tip)"),
        tag("text", t(label(verb, [s.version for s in taken])), x=number(x), y=number(y)),
        class_=classes,
        data_e=",".join(str(s.version) for s in taken),
        data_verb=verb,
    )


def label(verb: str, versions: Sequence[int]) -> str:
    """What stands on an edge: `retry #20, #24 +3`."""
    if not versions:
        return ""
    shown = ", ".join(f"#{version}" for version in versions[:NUMBERS_MAX])
    more = f" +{len(versions) - NUMBERS_MAX}" if len(versions) > NUMBERS_MAX else ""
    return f"{verb} {shown}{more}"


def _markers() -> str:
    shape = void("path", d="M0 0 8 4 0 8Z")
    marker = tag(
        "marker", shape, id="tip", viewBox="0 0 8 8", refX="7", refY="4", markerWidth="8", markerHeight="8",
        markerUnits="userSpaceOnUse", orient="auto",
    )  # fmt: skip
    return tag("defs", marker)


# --- ways -------------------------------------------------------------------------------------------------------------


def edges() -> list[Edge]:
    """Every way, routed: along a row from side to side, over a box in between, and from row to row."""
    anchors = _anchors()
    labels: list[_Point] = []
    found = []
    for pair in pairs():
        points = _route(pair, anchors)
        spot = _spot(points, labels)
        labels.append(spot)
        rare = State.UNPROTECTED in pair or State.CLOSED in pair or pair == (State.CANCELING, State.SUBMITTED)
        found.append(Edge(*pair, _path(points), spot, rare))
    return found


def _route(pair: _Pair, anchors: dict[tuple[_Pair, State], float]) -> list[_Point]:
    """The points of a way: two of a straight one, four of a curve."""
    source, target = pair
    (x1, y1), (x2, y2) = PLACES[source], PLACES[target]
    if y1 == y2 and not _between(pair):
        sign = 1 if x2 > x1 else -1
        shift = 0.0 if (target, source) not in pairs() else -9.0 if sign > 0 else 9.0
        return [(x1 + sign * _W / 2, y1 + shift), (x2 - sign * (_W / 2 + 2), y1 + shift)]
    if y1 == y2:
        top = y1 - _H / 2
        return [(x1, top), (x1, top - 52), (x2, top - 52), (x2, top - 2)]
    down = y2 > y1
    ax, bx = x1 + anchors[pair, source], x2 + anchors[pair, target]
    a = y1 + (_H / 2 if down else -_H / 2)
    b = y2 - (_H / 2 + 2 if down else -_H / 2 - 2)
    bend = (b - a) * 0.55
    return [(ax, a), (ax, a + bend), (bx, b - bend), (bx, b)]


def _path(points: Sequence[_Point]) -> str:
    texts = [f"{number(x)} {number(y)}" for x, y in points]
    return f"M{texts[0]}L{texts[1]}" if len(points) == 2 else f"M{texts[0]}C{' '.join(texts[1:])}"


def _spot(points: Sequence[_Point], others: Sequence[_Point]) -> _Point:
    """Where the label of a way stands: near its middle, over no box and no other label."""
    if len(points) == 2:
        (x1, y), (x2, _) = points
        return (x1 + x2) / 2, y - 7
    places = [_on_curve(points, part) for part in (0.5, 0.4, 0.6, 0.3, 0.7, 0.22, 0.78, 0.15, 0.85)]
    return next((place for place in places if _is_free(place, others)), places[0])


def _on_curve(points: Sequence[_Point], part: float) -> _Point:
    rest = 1 - part
    weights = (rest**3, 3 * rest**2 * part, 3 * rest * part**2, part**3)
    x, y = (sum(w * p[axis] for w, p in zip(weights, points, strict=True)) for axis in (0, 1))
    return x, y + 4


def _is_free(place: _Point, others: Sequence[_Point]) -> bool:
    x, y = place
    boxes = any(abs(x - bx) < _W / 2 + 36 and abs(y - 4 - by) < _H / 2 + 8 for bx, by in PLACES.values())
    return not boxes and not any(abs(x - ox) < 76 and abs(y - oy) < 14 for ox, oy in others)


def _between(pair: _Pair) -> bool:
    """True when another box stands between the two on their row."""
    (x1, y1), (x2, _) = PLACES[pair[0]], PLACES[pair[1]]
    return any(y == y1 and min(x1, x2) < x < max(x1, x2) for x, y in PLACES.values())


def _anchors() -> dict[tuple[_Pair, State], float]:
    """How far from the middle of a box each way leaves or meets it, so that no two share a point."""
    sides: dict[tuple[State, bool], list[tuple[float, int, _Pair]]] = defaultdict(list)
    for order, pair in enumerate(pairs()):
        (x1, y1), (x2, y2) = PLACES[pair[0]], PLACES[pair[1]]
        if y1 != y2:
            sides[pair[0], y2 > y1].append((x2, order, pair))
            sides[pair[1], y1 > y2].append((x1, order, pair))
    found: dict[tuple[_Pair, State], float] = {}
    for (state, _), ways in sides.items():
        room = _W - 28
        for place, (_, _, pair) in enumerate(sorted(ways)):
            found[pair, state] = (place + 0.5) / len(ways) * room - room / 2
    return found
