"""The table of events: who, what, why, what it changed, what it follows from; long idle stretches folded.

Rules of this room: a row is made here, whether it is shown or folded. A folded stretch lies in an inert template, which
costs nothing until it is opened; its summary says what is in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from exitfsm.audit import Step
from exitfsm.events import RefusalEnded, StopMoved, TriggerRefused
from exitfsm.lifecycle import NOTHING
from exitfsm.report.markup import t, tag
from exitfsm.report.story import Story
from exitfsm.values import plain, stamp

#: A log of at most so many events is shown whole.
WHOLE_MAX = 60
#: A stretch of fewer events without a change of state is never folded.
FOLD_MIN = 8
#: Most events in one fold, so that opening it is quick.
FOLD_MAX = 250
#: Of a log that has more than twice as many rows to show, the middle is folded too.
SHOWN_ENDS = 400
_HEAD = ("#", "UTC", "Event", "Who", "Why", "State", "Cause", "Hash")
_COLUMNS = len(_HEAD)


class Fold(NamedTuple):
    """A folded stretch, by the versions of its first and last event."""

    first: int
    last: int


def folds(steps: Sequence[Step]) -> list[Fold]:
    """The stretches to fold, each of at most `FOLD_MAX` events.

    That is what changes no state, but for the first and the last event of each stretch; and where even what changes the
    state is too much to show at once, all but the beginning and the end.
    """
    if len(steps) <= WHOLE_MAX:
        return []
    hidden = [False] * len(steps)
    start = 0
    for index in range(len(steps) + 1):
        if index == len(steps) or steps[index].moved:
            if index - start - 2 >= FOLD_MIN:
                hidden[start + 1 : index - 1] = [True] * (index - start - 2)
            start = index + 1
    shown = [index for index, is_hidden in enumerate(hidden) if not is_hidden]
    for index in shown[SHOWN_ENDS:-SHOWN_ENDS]:
        hidden[index] = True
    return _runs(steps, hidden)


def _runs(steps: Sequence[Step], hidden: Sequence[bool]) -> list[Fold]:
    """What is hidden, as folds of even size."""
    found: list[Fold] = []
    for is_hidden, group in groupby(zip(steps, hidden, strict=True), key=lambda pair: pair[1]):
        versions = [step.version for step, _ in group]
        if is_hidden:
            parts = -(-len(versions) // FOLD_MAX)
            size = -(-len(versions) // parts)
            found += [
                Fold(versions[i], versions[min(i + size, len(versions)) - 1]) for i in range(0, len(versions), size)
            ]
    return found


def table(story: Story) -> str:
    """The whole table."""
    head = tag("thead", tag("tr", *(tag("th", t(name), scope="col") for name in _HEAD)))
    return tag("table", head, *_bodies(story), class_="events", id="events")


def _bodies(story: Story) -> Iterator[str]:
    at = 0
    wrong = {violation.version for violation in story.violations}
    rows = [_row(story, index, step.version in wrong) for index, step in enumerate(story.steps)]
    for fold in folds(story.steps):
        first, last = fold.first - 1, fold.last
        yield tag("tbody", *rows[at:first])
        inside = tag("template", *rows[first:last])
        yield tag("tbody", _summary(story.steps[first:last], fold), inside, class_="fold", data_fold=fold.first)
        at = last
    yield tag("tbody", *rows[at:])


def _row(story: Story, index: int, wrong: bool) -> str:
    step, recorded = story.steps[index], story.steps[index].recorded
    name = type(recorded.event).__name__
    cause = tag("a", t(f"#{step.cause}"), href=f"#e{step.cause}") if step.cause is not None else t("·")
    cells = (
        tag("td", tag("a", t(step.version), href=f"#e{step.version}"), class_="n"),
        tag("td", *_time(step), class_="time"),
        tag("td", t(name), class_="event"),
        tag("td", tag("span", t(recorded.by), class_="who"), class_="by"),
        tag("td", t(step.words), class_="why"),
        tag("td", *_moved(step), class_="moved"),
        tag("td", cause, class_="n"),
        tag("td", tag("code", t(story.hashes[index][:8]), title=story.hashes[index]), class_="hash"),
    )
    kind = [_kind(step), *(["moves"] if step.moved else []), *(["wrong"] if wrong else [])]
    return tag("tr", *cells, id=f"e{step.version}", class_=" ".join(filter(None, kind)) or None)


def _kind(step: Step) -> str:
    """What the row is coloured by."""
    name = type(step.recorded.event).__name__
    if name in ("ProtectionLost", "AlarmRaised"):
        return "alarm"
    if name in ("OrderEnded", "CancelRequested", "ExitEscalated", "TriggerRefused"):
        return "trouble"
    return ""


def _time(step: Step) -> tuple[str, ...]:
    day, _, clock = stamp(step.at).removesuffix("Z").partition("T")
    whole, _, fraction = clock.partition(".")
    return (tag("span", t(day), class_="day"), t(f" {whole}"), *([t(f".{fraction[:3]}")] if fraction else []))


def _moved(step: Step) -> tuple[str, ...]:
    if step.after is None:
        return (t("·"),)
    if not step.moved:
        return (tag("span", t(step.after.state), class_="same"),)
    before = step.before.state if step.before is not None else NOTHING
    return (t(f"{before} → "), tag("b", t(step.after.state)))


def _summary(steps: Sequence[Step], fold: Fold) -> str:
    """A row that stands for a stretch, and opens it."""
    counts = Counter(type(s.recorded.event).__name__ for s in steps)
    said = ", ".join(f"{count:,} × {name}" for name, count in counts.most_common())
    stops = [s.recorded.event.stop for s in steps if isinstance(s.recorded.event, StopMoved)]
    if len(stops) > 1:
        said += f"; stop {plain(stops[0])} → {plain(stops[-1])}"
    refused = [s.recorded.event for s in steps if isinstance(s.recorded.event, TriggerRefused | RefusalEnded)]
    if refused:
        said += f"; refused as {', '.join(sorted({event.reason for event in refused}))}"
    first, last = stamp(steps[0].at)[:19].replace("T", " "), stamp(steps[-1].at)[:19].replace("T", " ")
    moves = sum(s.moved for s in steps)
    what = f"{moves:,} of them changes of state" if moves else "no change of state"
    text = f"{len(steps):,} events, #{fold.first}–#{fold.last}, {first} to {last}, {what}: {said}"
    button = tag("button", t("▸"), class_="open", type="button", aria_expanded="false", aria_label="show these events")
    return tag("tr", tag("td", button, " ", tag("span", t(text)), colspan=_COLUMNS), class_="summary")
