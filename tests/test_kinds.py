"""Closed sets of words: each has its meaning, and everything that is raised or recorded is among them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import exitfsm
from exitfsm import kinds
from exitfsm.errors import NotSent, RateLimited
from exitfsm.kinds import ALARMS, BAR_REFUSALS, ORDER_ENDS, POSITION_ENDS, SEVERITY, WHO, AlarmKind, BarRefusal, By
from exitfsm.messages import Message

PACKAGE = Path(exitfsm.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
#: What raises an alarm, and where the kind stands among its arguments.
RAISES = {
    "alarm": (0, 1),
    "raise_alarm": (0,),
    "raise_soon": (0,),
    "note": (0,),  # what could not be read, which is then raised
    "_note": (0,),
    "alarm_without_store": (0,),
    "_alarm": (0,),  # the same, handed to what watches the store
    "Alarm": (0,),
    "figures": (1,),
}


@pytest.mark.parametrize(
    ("words", "meanings"),
    [
        (kinds.Severity, SEVERITY),
        (AlarmKind, ALARMS),
        (kinds.OrderEnd, ORDER_ENDS),
        (kinds.PositionEnd, POSITION_ENDS),
        (kinds.ScopeHow, kinds.SCOPE_HOW),
        (BarRefusal, BAR_REFUSALS),
        (By, WHO),
    ],
)
def test_each_word_has_its_meaning(words: type, meanings: dict[str, object]) -> None:
    assert list(meanings) == list(words)  # type: ignore[call-overload]  # the members of an enum
    assert all(meanings.values())


def test_a_kind_of_alarm_is_its_stored_word_and_says_what_to_do() -> None:
    assert AlarmKind.PROTECTION_LOST == "protection_lost"
    assert f"{AlarmKind.PROTECTION_LOST}" == "protection_lost"
    assert all(kind.meaning.means and kind.meaning.do for kind in AlarmKind)


def _word(node: ast.expr) -> str | None:
    """The word that an argument is: a text, or a member of the enum."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Attribute(value=ast.Name(id="AlarmKind"), attr=name):
            return AlarmKind[name].value
    return None


def raised_in(source: str) -> Iterator[str]:
    """Every kind of alarm that code raises by its name: an argument `kind=`, or the place where a kind stands."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [keyword.value for keyword in node.keywords if keyword.arg == "kind"]
        given += [node.args[place] for place in RAISES.get(name, ()) if place < len(node.args)]
        # A text with a space is what is said, not a kind.
        yield from (word for argument in given if (word := _word(argument)) and " " not in word)


def test_every_kind_of_alarm_that_is_raised_is_in_the_list() -> None:
    raised = {word for path in SOURCES if "testing" not in path.parts for word in raised_in(path.read_text("utf-8"))}
    assert raised <= set(AlarmKind)
    # Those of waits are named in a table, by state.
    waits = {"submit_unresolved", "order_stalled", "cancel_unresolved", "retry_stalled"}
    assert raised | waits == set(AlarmKind), "a kind that nobody raises"


def test_the_search_finds_texts_and_members() -> None:
    code = """
alarm(p, "one", "what is said", at)
self._alarms.raise_soon(AlarmKind.SPLIT, f"{x}")
RaiseAlarm(at=at, kind="two", text="t")
"""
    assert set(raised_in(code)) == {"one", "split", "two"}


def test_whoever_tells_a_position_something_is_in_the_list() -> None:
    told = Message.__subclasses__()
    assert told
    assert all(isinstance(message.by, By) for message in told)


def test_the_reasons_of_refused_bars_are_made_from_the_list_alone() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Fault"), args=[ast.Constant(), *_]):
                    raise AssertionError(f"{path.name}:{node.lineno}: a reason that is a text of its own")


def test_a_rate_limit_says_for_how_long_it_holds_and_is_a_request_that_never_left() -> None:
    limited = RateLimited("too many", 1.5)
    assert (str(limited), limited.for_s) == ("too many", 1.5)
    assert isinstance(limited, NotSent)
