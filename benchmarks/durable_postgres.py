"""What a durable decision costs on PostgreSQL: `durable.py --store postgresql`.

Held against a bare commit of the same rows into the same tables by psycopg, in a pipeline, statement by statement, on
the same server; and against a bare commit by sqlite3 on the same disk. The server is the one of the tests; its files
lie where those of the benchmarks do.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lives import T0, place
from side_by_side import Table

from exitfsm.store import ExitStore

if TYPE_CHECKING:
    from durable import Rows

_GOAL = 1.3
_REST = 50


@contextmanager
def _server() -> Iterator[Any]:
    """The server that the tests start, with its files where the benchmarks' files are."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from postgres_server import server  # a helper of the tests, found by its folder

    with server(disk=place()) as running:
        yield running


class BareServer:
    """The bare twin of a store on a server: the same tables with the same rows in them."""

    def __init__(self, url: str, schema: str, fill: Callable[[ExitStore], object]) -> None:
        import psycopg

        with ExitStore(f"{url}exitfsm_schema={schema}") as store:
            fill(store)
        self._db = psycopg.connect(url.rstrip("?&"), autocommit=True)
        self._db.execute(f"SET search_path = {schema}".encode())

    def commit(self, rows: Rows) -> float:
        """One commit, in one round trip; returns its seconds."""
        begun = time.perf_counter()
        with self._db.pipeline():
            cursor = self._db.cursor()
            cursor.execute("BEGIN")
            for sql, params in rows:
                text = _ours(sql).replace("?", "%s").encode()
                for row in params:
                    cursor.execute(text, row, prepare=True)
            cursor.execute("COMMIT")
        return time.perf_counter() - begun

    def close(self) -> None:
        """End the session."""
        self._db.close()


def _ours(sql: str) -> str:
    """SQL that names columns, where SQLite's order of them is another one."""
    return sql.replace(
        "INTO stored_events VALUES",
        "INTO stored_events (notification_id, originator_id, originator_version, topic, state) VALUES",
    )


def measure(table: Table) -> None:
    """Fill the table."""
    place().mkdir(exist_ok=True)
    with _server() as server, tempfile.TemporaryDirectory(dir=place()) as folder:
        for way, url in (("over TCP", f"{server.url}?"), ("over its socket", f"{server.local_url}&")):
            here = Path(folder, way.replace(" ", "-"))
            here.mkdir()
            _decisions(table, way, url, here)


def _decisions(table: Table, way: str, url: str, folder: Path) -> None:
    from durable import DECISIONS, Bare, bar, open_positions, rows_of

    at, name = T0 + timedelta(minutes=1), "tcp" if "TCP" in way else "local"
    rows = rows_of(lambda engine: [engine.on_bar(bar(n, at)) for n in range(DECISIONS)], DECISIONS)
    ours: list[float] = []
    bare_server: list[float] = []
    bare_file: list[float] = []
    server, file = (
        BareServer(url, f"bare_{name}", lambda store: open_positions(store, DECISIONS)),
        Bare(folder / "bare.db", DECISIONS),
    )
    with ExitStore(f"{url}exitfsm_schema=ours_{name}") as store:
        engine = open_positions(store, DECISIONS)
        for number in range(DECISIONS):
            if number % _REST == 0:
                store.settle()

            def decide(number: int = number) -> float:
                begun = time.perf_counter()
                engine.on_bar(bar(number, at))
                return time.perf_counter() - begun

            for turn in range(3):  # each comes first now and then
                way_now = (turn + number) % 3
                if way_now == 0:
                    ours.append(decide())
                elif way_now == 1:
                    bare_server.append(server.commit(rows[number]))
                else:
                    bare_file.append(file.commit(rows[number]))
        assert store.verify_chain() is None
        assert store.verify_read_models() == []
    server.close()
    file.close()
    for part, goal in ((0.5, _GOAL), (0.99, None)):
        took, theirs, files = (sorted(times)[int(len(times) * part)] * 1e6 for times in (ours, bare_server, bare_file))
        what = f"a durable decision on PostgreSQL {way}, of a bare psycopg commit, p{part * 100:.0f}"
        table.figure(what, took / theirs, "×", at_most=goal, measured=f"{took:,.0f} µs against {theirs:,.0f} µs")
        what = f"the same, of a bare sqlite3 commit, p{part * 100:.0f}"
        table.figure(what, took / files, "×", measured=f"{took:,.0f} µs against {files:,.0f} µs")


__all__ = ["BareServer", "measure"]
