"""What is decided, to the letter: stories, and all that they write into the log, change in memory and owe the broker.

The log is permanent, and people read its texts when money is at stake: nothing in it changes unnoticed. What the
stories lead to is kept in `decisions.txt`; when a change is meant, `python tests/test_decisions.py` writes it anew, and
the difference is there to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from decision_edges import EDGES
from decision_levels import LEVELS
from decision_starts import Story
from decision_stories import STORIES

from exitfsm.events import tag_of
from exitfsm.position import ExitOrder, Position, account_hash, decide, epoch_of, levels, owed, wake_band
from exitfsm.testing.given import (
    T0,
    Scenario,
    Told,
    given,
    holds,
    opened,
    timer,
)

KEPT = Path(__file__).with_name("decisions.txt")
D = Decimal
ALL: list[Story] = [*STORIES, *EDGES, *LEVELS]


def lines(start: Scenario, messages: list[Told]) -> Iterator[str]:
    """What the messages lead to: events, changed fields, what is owed at once and a day later, and the quiet band."""
    s = start
    before: dict[str, str] = fields_of(start.position)
    for one in messages:
        message = one(s.now) if callable(one) else one
        s = s.when(message)
        yield f"  {type(message).__name__} by {message.by}"
        for event in s.news:
            yield f"    {tag_of(event)} {body(event)}"
        now = fields_of(s.position)
        changes = [f"{name}={value}" for name, value in now.items() if before.get(name, unsaid(name)) != value]
        yield f"    = {', '.join(changes) or 'as before'}"
        before = now
        yield f"    owes {owes(s.now, message.at)}; {watches(s.now, message.at)}"


def fields_of(p: Position | None) -> dict[str, str]:
    """All fields but the policy, those of each order by its number, and what is computed of them, as text."""
    if p is None:
        return {}
    found: dict[str, Any] = {}
    for name in p.__struct_fields__:
        if name in ("stops", "exit"):
            found |= {f"{name}.{field}": value for field, value in msgspec.structs.asdict(getattr(p, name)).items()}
        elif name == "orders":
            found |= {f"#{o.attempt}.{field}": v for o in p.orders for field, v in msgspec.structs.asdict(o).items()}
        elif name not in ("policy", "version"):
            found[name] = getattr(p, name)
    for name in ("own_policy", "stops.operator"):  # said where they are
        if not found[name]:
            del found[name]
    found |= {n: getattr(p, n) for n in ("sold_qty", "remaining_qty", "leaves_qty", "avg_exit_price")}
    return {name: short(msgspec.json.encode(value)) for name, value in found.items()}


def unsaid(name: str) -> str | None:
    """What need not be said of an order that is new; None for what must be."""
    if name in UNSAID:
        return UNSAID[name]
    number, _, field = name.partition(".")
    return NEW_ORDER.get(field) if number.startswith("#") else None


def body(event: Any) -> str:
    """The event as it is stored; a policy as its digest."""
    changed = {"policy": event.policy.digest()} if hasattr(event, "policy") else {}
    plain = {name: getattr(event, name) for name in event.__struct_fields__} | changed
    plain = {name: value for name, value in plain.items() if value is not msgspec.UNSET}
    return short(msgspec.json.encode(plain))


def owes(p: Position, at: datetime) -> str:
    """What the broker is owed at once, with an unknown outcome, and a day later."""
    times = {"now": owed(p, at), "unsure": owed(p, at, outcome_unknown=True), "later": owed(p, at + timedelta(days=1))}
    said = {
        when: f"{type(a).__name__} {short(msgspec.json.encode(a))}" if a else "nothing" for when, a in times.items()
    }
    different = [f", {when} {what}" for when, what in said.items() if what != said["now"]]
    return said["now"] + "".join(different)


def watches(p: Position, at: datetime) -> str:
    """The levels that stand, and between which prices nothing happens."""
    if p.state.terminal:
        return "over"
    band = wake_band(p, at)
    quiet = "every bar" if band is None else f"{band.lower}..{band.upper} until {band.until and band.until - T0}"
    target, stops = levels(p, at)
    return f"{[f'{x.rule} {x.price}' for x in [*stops, *([target] if target else [])]]} {quiet}".replace("'", "")


def short(encoded: bytes) -> str:
    """Ids by their number, times by their distance from the opening, without quotes."""
    text = encoded.decode().replace(given(opened()).now.position_id, "P").replace('"', "")
    text = re.sub(r"xf1-[0-9a-f]{32}-(\d+)", r"#\1", text)

    def since(found: re.Match[str]) -> str:
        return f"{(datetime.fromisoformat(found[0]) - T0).total_seconds():+g}s"

    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|\+00:00)", since, text)


#: Of a position that is not sold in parts nothing is said of parts.
UNSAID = {"exit.keep_qty": "0", "exit.leg": "", "parts": "{base_qty:null,done:0,orders:0}"}
NEW_ORDER = {
    field: short(msgspec.json.encode(default))
    for field, default in zip(
        ExitOrder.__struct_fields__[-len(ExitOrder.__struct_defaults__) :], ExitOrder.__struct_defaults__, strict=True
    )
}


def told() -> str:
    """All stories, as they are kept."""
    parts = [line for name, start, messages in ALL for line in (name, *lines(start, messages))]
    return "\n".join(parts) + "\n"


def kept() -> dict[str, str]:
    """Each story as it is kept, by its name."""
    found = re.split(r"^(?=\S)", KEPT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part for part in found if part}


@pytest.mark.parametrize(("name", "start", "messages"), ALL, ids=[name for name, _, _ in ALL])
def test_what_is_decided_is_what_was_decided(name: str, start: Scenario, messages: list[Told]) -> None:
    assert "\n".join([name, *lines(start, messages)]) + "\n" == kept()[name]


def test_nothing_is_kept_that_is_not_told() -> None:
    assert list(kept()) == [name for name, _, _ in ALL]


def test_nothing_is_decided_of_a_position_that_there_is_not() -> None:
    assert decide(None, timer(1)) == ()
    assert decide(None, holds(1)) == ()


def test_the_names_that_enter_every_id_never_change() -> None:
    assert account_hash("PA3ABCDEF") == "bff0faed331b"
    assert epoch_of(T0) == "20240102T143000Z"
    assert epoch_of(T0.replace(microsecond=5)) == "20240102T143000.000005Z"


if __name__ == "__main__":
    KEPT.write_text(told(), encoding="utf-8")
