"""Recipes: what it takes to add an event and a command, as the lines that go into each file of the package.

They are tried out on a copy of the package (`test_recipes.py`), so that the list of files is true. The sample is a note
that a person makes on a position: it is kept with its time and name, and changes nothing.

A recipe is {file: [(anchor, lines)]}: the lines come before the line that is the anchor, or begins with it.
"""

from __future__ import annotations

#: In the words of the line that is the anchor: the function that changes nothing.
AS_THE_NEXT = "<the same>"
Recipe = dict[str, list[tuple[str, str]]]

#: An event. Its fields and its name on disk are permanent; then: where it may happen, what it changes, what is said.
EVENT: Recipe = {
    "events.py": [
        (
            "class TradingPaused(",
            '''class NoteTaken(Event, frozen=True, tag="note_taken.v1"):
    """A person wrote something down about the position."""

    text: str
    by: str
    at: datetime


''',
        ),
        ("    | AlarmAcknowledged", "    | NoteTaken\n"),
    ],
    "lifecycle.py": [
        ("from exitfsm.events import", "from exitfsm.events import NoteTaken\n"),
        ("    *_rows(State, AlarmRaised)", "    *_rows(State, NoteTaken),\n"),
    ],
    "position/folding.py": [
        ("from exitfsm.events import", "from exitfsm.events import NoteTaken\n"),
        ("    PositionOpened: lambda", f"    NoteTaken: {AS_THE_NEXT}\n"),
    ],
    "words.py": [
        ("from exitfsm.events import", "from exitfsm.events import NoteTaken\n"),
        ("    AlarmAcknowledged: lambda", '    NoteTaken: lambda _, __, e: f"{e.text} ({e.by})",\n'),
    ],
    "__init__.py": [
        ("from exitfsm.events import", "from exitfsm.events import NoteTaken\n"),
        ('    "AlarmRaised"', '    "NoteTaken",\n'),
    ],
}

#: A command, on top of the event that follows from it: what is told, what is decided, and the engine's table.
COMMAND: Recipe = {
    "messages.py": [
        (
            "class Acknowledge(",
            '''class TakeNote(Message, frozen=True):
    """An operator writes something down."""

    by: ClassVar[str] = "operator"
    text: str
    who: str = "operator"


''',
        ),
    ],
    "position/operating.py": [
        ("from exitfsm.events import", "from exitfsm.events import NoteTaken\n"),
        ("from exitfsm.messages import", "from exitfsm.messages import TakeNote\n"),
        (
            "def on_acknowledge(",
            '''def on_take_note(p: Position, m: TakeNote, broker: Capabilities) -> list[Event]:
    """Keep what is said."""
    return [NoteTaken(text=m.text, by=m.who, at=m.at)]


''',
        ),
    ],
    "position/deciding.py": [
        ("from exitfsm.messages import", "from exitfsm.messages import TakeNote\n"),
        ("from exitfsm.position.operating import", "from exitfsm.position.operating import on_take_note\n"),
        ("    Acknowledge: on_acknowledge", "    TakeNote: on_take_note,\n"),
    ],
    "__init__.py": [
        ("from exitfsm.messages import", "from exitfsm.messages import TakeNote\n"),
        ('    "Acknowledge"', '    "TakeNote",\n'),
    ],
}
#: What else goes with either, outside the package.
BESIDE = (
    "a command that a person gives: a method of Operators (manager/intake.py), and its door in manager/manager.py",
    "docs/reference/events.md and states.md, written by `python3 dev docs`",
    "tests/corpus: a store of its own, frozen, with its digest in tests/test_corpus.py",
    "tests/decisions.txt, written anew; a line for it in tests/test_words.py and tests/test_lifecycle.py",
)


def apply(recipe: Recipe, package: str, read: dict[str, str]) -> dict[str, str]:
    """The files of the package with the recipe's lines in them.

    Raises:
        AssertionError: an anchor is not there.
    """
    made = {}
    for file, pieces in recipe.items():
        lines = read[file].splitlines(keepends=True)
        for anchor, text in pieces:
            places = [n for n, line in enumerate(lines) if line.startswith(anchor)]
            assert places, f"{package}/{file} has no line that begins with {anchor!r}"
            as_is = lines[places[0]].partition(": ")[2].partition("  #")[0].rstrip()
            lines.insert(places[0], text.replace(AS_THE_NEXT, as_is))
        made[file] = "".join(lines)
    return made
