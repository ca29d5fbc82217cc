"""Write the reference pages from the code: states, events, order words, alarms, configuration, command line, tables.

    python docs/generate.py           write docs/reference/*.md
    python docs/generate.py --check   write nothing; exit 1 when a page is stale

A page that is made here is never edited by hand; the tests fail while one is stale.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import sys
from pathlib import Path
from typing import get_type_hints

from msgspec.structs import fields

from exitfsm import fix, kinds, projections
from exitfsm.config import reference_table
from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS, Event, tag_of
from exitfsm.lifecycle import MEANING, TABLE, State, mermaid
from exitfsm.projections import meaning
from exitfsm.store.sqlite.layout import TYPES as SQLITE_TYPES

HERE = Path(__file__).parent / "reference"
MADE = "<!-- made by docs/generate.py; do not edit -->\n\n"


def cell(text: str) -> str:
    """Text that stays inside one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def states() -> str:
    """The lifecycle: states, diagram, rows."""
    out = [MADE + "# States\n\nWhere a position stands, and which event leads where. The whole lifecycle is the one"]
    out += ["table in `exitfsm.lifecycle`; this page is made from it.\n", "| state | meaning |", "|---|---|"]
    out += [f"| `{state}` | {cell(MEANING[state])} |" for state in State]
    out += [
        "",
        "## Diagram",
        "",
        "Events that stay in a state are left out.",
        "",
        "```mermaid",
        mermaid().rstrip(),
        "```",
    ]
    out += ["", "## Every row", "", "| from | event | to | why |", "|---|---|---|---|"]
    for row in TABLE:
        out.append(f"| {row.source or '(nothing)'} | `{row.event.__name__}` | {row.target} | {cell(row.why)} |")
    return "\n".join(out) + "\n"


def _type_name(hint: object) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    for prefix in ("decimal.", "datetime.", "exitfsm.values.", "exitfsm.policy.", "typing."):
        text = text.replace(prefix, "")
    return text.replace("NoneType", "None")


def _event(event: type[Event]) -> list[str]:
    out = ["", f"### {event.__name__}", "", f"Stored as `{tag_of(event)}`.", "", inspect.getdoc(event) or "", ""]
    hints = get_type_hints(event)
    if fields(event):
        out += ["| field | type | default |", "|---|---|---|"]
    for field in fields(event):
        default = "" if field.required else f"`{field.default!r}`"
        out.append(f"| `{field.name}` | {cell(_type_name(hints[field.name]))} | {cell(default)} |")
    return out


def events() -> str:
    """Every event with its fields."""
    out = [MADE + "# Events\n\nWhat can happen, past tense, permanent. Each is stored as JSON:"]
    out += ['`{"at": nanoseconds since 1970 UTC, "by": who told, "body": {"event": its name on disk, …}}`.']
    out += ["Decimals are text, times are RFC 3339 in UTC.", "", "## Of a position"]
    for event in POSITION_EVENTS:
        out += _event(event)
    out += ["", "## Of the account"]
    for event in ACCOUNT_EVENTS:
        out += _event(event)
    return "\n".join(out) + "\n"


def _words(title: str, table: tuple[fix.Word, ...]) -> list[str]:
    out = ["", f"## {title}", "", "| code | FIX | ours | what it means here | also spelled |", "|---|---|---|---|---|"]
    for word in table:
        others = ", ".join(f"`{other}`" for other in word.others.split())
        out.append(
            f"| {word.code} | {word.name} | {f'`{word.status}`' if word.status else ''} | {word.meaning} | {others} |"
        )
    return out


def order_words() -> str:
    """A broker's words about an order, and ours."""
    out = [MADE + "# Order words", "", " ".join((inspect.getdoc(fix) or "").split("\n\n")[1].split()), ""]
    out += ["Case, spaces, hyphens and underscores do not matter: `PartiallyFilled` and `partially_filled` are one. A"]
    out += ["single character is a code only in a field that FIX names (`OrdStatus`, `ord_status`, `39`; `ExecType`,"]
    out += ["`exec_type`, `150`)."]
    out += _words("OrdStatus (39)", fix.ORD_STATUS) + _words("ExecType (150)", fix.EXEC_TYPE)
    out += ["", "## Refusals", ""]
    rows = [
        (
            fix.CANCEL_REJECTED,
            "`cancel_rejected`: a cancel was refused, whatever the status beside it, unless the order is over",
        ),
        (fix.REPLACE_REJECTED, "`new`: somebody's request to change the order was refused, and it works as it did"),
        (fix.UNKNOWN_ORDER, "no record of the order: it is looked up; it may still arrive"),
        (fix.DUPLICATE_ORDER, "no record of the order: a repetition was refused, so that it exists; it is looked up"),
        (fix.DUPLICATE_OF_VERBAL, "another order does the same: no further attempt, and an alarm"),
    ]
    out += ["| word, or reason of a reject | what it means here |", "|---|---|"]
    out += [f"| {', '.join(f'`{word}`' for word in words.split())} | {meaning} |" for words, meaning in rows]
    return "\n".join(out) + "\n"


def alarms() -> str:
    """Every kind of alarm, and the other closed sets of words."""
    out = [MADE + "# Alarms and other kinds\n\nAn alarm says that a person must look: see [handle alarms]"]
    out += ["(../how-to/handle-alarms.md). The words are stored; none is ever renamed or removed.", ""]
    out += ["| severity | what it means |", "|---|---|"]
    out += [f"| {severity} | {cell(text)} |" for severity, text in kinds.SEVERITY.items()]
    out += ["", "## Alarms", "", "| kind | severity | what it means | what to do | ends by itself when |"]
    out += ["|---|---|---|---|---|"]
    for kind, said in kinds.ALARMS.items():
        ends = cell(kinds.ENDS_WHEN.get(kind, ""))
        out.append(f"| `{kind}` | {said.severity} | {cell(said.means)} | {cell(said.do)} | {ends} |")
    for title, words in (
        ("How an exit order ended", kinds.ORDER_ENDS),
        ("How a position ended", kinds.POSITION_ENDS),
        ("What a person said of a symbol and the scope", kinds.SCOPE_HOW),
        ("Why nothing was decided on a bar", kinds.BAR_REFUSALS),
        ("Who acted", kinds.WHO),
    ):
        out += ["", f"## {title}", "", "| word | what it means |", "|---|---|"]
        out += [f"| `{word}` | {cell(text)} |" for word, text in words.items()]
    return "\n".join(out) + "\n"


def config() -> str:
    """Every setting."""
    out = [
        MADE
        + "# Configuration\n\nThe `exit_manager` section of the bot's YAML file. What is not set takes its default;"
    ]
    out += ["what is not known is an error. `exitfsm config check FILE` names every mistake with its line.", ""]
    out += ["| setting | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for row in reference_table():
        out.append(f"| `{row.key}` | {cell(row.type)} | {cell(row.default)} | {cell(row.allowed)} | {cell(row.doc)} |")
    return "\n".join(out) + "\n"


def _help(*command: str) -> str:
    from exitfsm.cli import main

    os.environ.update(COLUMNS="100", TERM="dumb", NO_COLOR="1")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main([*command, "--help"])
    return said.getvalue().rstrip()


def cli() -> str:
    """The help of every command."""
    import typer

    from exitfsm.cli.app import app

    out = [MADE + "# Command line", "", "Exit codes: 0 all is well, 1 something was found, 2 wrong usage or input.", ""]
    out += ["```text", _help(), "```"]
    group = typer.main.get_command(app)
    for name, command in getattr(group, "commands", {}).items():
        below = list(getattr(command, "commands", {}))
        for path in [(name,), *((name, sub) for sub in below)]:
            out += ["", f"## exitfsm {' '.join(path)}", "", "```text", _help(*path), "```"]
    return "\n".join(out) + "\n"


def sql() -> str:
    """The tables that people query."""
    query = "SELECT symbol, exit_type, filled_qty, avg_fill_price FROM exit_orders"
    out = [MADE + "# Tables for SQL", "", "The read models of a store. They are written in the transaction that stores"]
    out += [
        "the events, so that they are never behind. Query them, and write nothing: `exitfsm verify` compares them with"
    ]
    out += ["the events. Numbers have about 15 digits; the events have all. Times are ISO 8601 in UTC."]
    out += ["[A store on PostgreSQL](postgresql.md) has the same tables.", ""]
    out += ["```console", f"$ sqlite3 -readonly exits.db '{query}'", "```"]
    for name, columns in meaning.COLUMNS.items():
        out += ["", f"## {name}", "", meaning.TABLES[name], "", "| column | kind | what it means |", "|---|---|---|"]
        kinds_of = projections.KINDS[name]
        shown = {"place": "integer", "number": "number", "integer": "integer", "text": "text"}
        out += [f"| `{column}` | {shown[kinds_of[column]]} | {cell(text)} |" for column, text in columns.items()]
    statements = projections.ddl(SQLITE_TYPES)
    out += ["", "## The statements", "", "As SQLite has them:", "", "```sql", *(f"{one};" for one in statements), "```"]
    return "\n".join(out) + "\n"


PAGES = {
    "states.md": states,
    "events.md": events,
    "order-words.md": order_words,
    "alarms.md": alarms,
    "config.md": config,
    "sql.md": sql,
    "cli.md": cli,
}


def stale() -> list[str]:
    """The names of pages that differ from what the code says."""
    found = []
    for name, make in PAGES.items():
        path = HERE / name
        if not path.exists() or path.read_text(encoding="utf-8") != make():
            found.append(name)
    return found


def main(arguments: list[str]) -> int:
    """Write or check the pages."""
    if "--check" in arguments:
        for name in (names := stale()):
            print(f"docs/reference/{name} is stale: run python3 dev docs", file=sys.stderr)
        return 1 if names else 0
    HERE.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
