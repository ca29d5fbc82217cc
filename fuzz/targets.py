"""What reads from outside, one function for each place: bytes in, and nothing out but the errors that are documented.

    one_input(data: bytes) -> None

A target fails by any other exception, by what it asserts, or by not coming back. They need nothing but the library, so
that the suite can run a slice of them (`tests/test_fuzz.py`); `__main__` has them run for long, by atheris.
"""

from __future__ import annotations

import atexit
import json
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from exitfsm_alpaca import broker as alpaca_broker
from exitfsm_alpaca import rest as alpaca_rest
from exitfsm_alpaca import words as alpaca_words

from exitfsm.audit import verify
from exitfsm.audit.anchors import read_anchors
from exitfsm.bars import read_bars
from exitfsm.broker import lists, market, orders
from exitfsm.broker.spellings import SPELLINGS
from exitfsm.config import load_config
from exitfsm.control import protocol
from exitfsm.errors import BrokerError, ConfigError, FeedError, IllegalTransition, StoreError
from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS, Event, tag_of
from exitfsm.policy import PriceGuard, bar_fault
from exitfsm.position import Position, evolve
from exitfsm.store import ExitStore
from exitfsm.store.mapping import GENESIS, EventMapper, chain_hash
from exitfsm.values import Bar, canonical_symbol
from exitfsm.words import in_words
from fuzz.drawing import Drawn

NOW = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)


@cache
def _folder() -> Path:
    """A folder in memory where there is one, for what is read from files."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="exitfsm-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


# --- files ------------------------------------------------------------------------------------------------------------


def config(data: bytes) -> None:
    """A configuration: mistakes, or settings that are the same when they are read again from what they say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = load_config(_file("trading.yaml", data))
        except ConfigError as error:
            mistakes = error.mistakes
        else:
            assert load_config(found.as_dict()) == found
            return
        assert mistakes
        assert all("\n" not in line for line in mistakes)


def bars(data: bytes) -> None:
    """A file of bars: an error, or bars that are what they would be if they were made with care."""
    try:
        for bar in read_bars(_file("bars.csv", data)):
            again = Bar(bar.symbol, bar.timestamp, bar.open, bar.high, bar.low, bar.close, bar.volume)
            assert _shown(again) == _shown(bar)
            _judged(bar)
    except FeedError:
        return


def _shown(bar: Bar) -> str:
    """All that a bar holds; NaN is NaN here."""
    return repr((bar.symbol, bar.timestamp, *bar._key(), bar.floor, bar.ceiling))


def _judged(bar: Bar) -> None:
    """A bar can be shown, and a reason for refusing it can be said, whatever is in it."""
    assert repr(bar)
    fault = bar_fault(bar, PriceGuard(), reference=Decimal(100), previous_at=None, received_at=NOW)
    assert (fault is not None) or bar.floor > 0


def anchors(data: bytes) -> None:
    """A file of anchors."""
    with suppress(StoreError):
        read_anchors(_file("anchors", data))


def control(data: bytes) -> None:
    """What reaches the socket of a manager, or comes back from one: refused, or the same when it is said again."""
    line = data.split(b"\n", 1)[0]
    for read in (protocol.request_of, protocol.answer_of):
        with suppress(protocol.Malformed):
            said: Any = read(line)
            assert read(protocol.line_of(said)) == said


# --- brokers ----------------------------------------------------------------------------------------------------------

_NAMES = tuple(dict.fromkeys(name for names in SPELLINGS.values() for name in names))


def _said(data: bytes, names: tuple[str, ...]) -> Any:
    """JSON where it is some, else an object made of the bytes."""
    if data[:1] == b"{":
        with suppress(ValueError, RecursionError):
            return json.loads(data)
    return Drawn(data).record(names)


def broker(data: bytes) -> None:
    """What a bot's own broker says, by every reader of it."""
    said = _said(data[1:], _NAMES)
    if data[:1] >= b"\x80":
        said = list(said.values()) if isinstance(said, dict) else said
    for read in _READERS:
        with suppress(BrokerError, ValueError):
            read(said)


def _a_bar(said: Any) -> None:
    bar = market.bar_of(said, "AAPL")
    _judged(bar)
    assert bar.volume is not None


def _a_report(said: Any) -> None:
    report = orders.report_of(said, now=NOW, client_order_id="xf1-a-1")
    if report is not None:
        assert report.at.tzinfo is not None
        assert len(report.text) <= 500


def _a_position(said: Any) -> None:
    held = market.position_of(said, "AAPL")
    if held is not None:
        assert held.qty > 0
        assert canonical_symbol(held.symbol) == held.symbol


def _a_fill(said: Any) -> None:
    fill = lists.fill_of(said)
    if fill is not None:
        assert fill.qty >= 0


_READERS: tuple[Callable[[Any], Any], ...] = (
    _a_bar, _a_report, _a_position, _a_fill, market.session_of, market.is_bar, orders.is_order_update,
    orders.says_unknown,
)  # fmt: skip

_ALPACA_NAMES = (
    "id", "client_order_id", "status", "symbol", "asset_class", "qty", "filled_qty", "filled_avg_price", "side",
    "updated_at", "submitted_at", "created_at", "filled_at", "canceled_at", "expired_at", "failed_at", "reject_reason",
    "event", "order", "execution_id", "qty_available", "current_price", "avg_entry_price", "price", "transaction_time",
    "order_id", "o", "h", "l", "c", "v", "t", "S", "date", "open", "close", "code", "message", "held_for_orders",
    "related_orders", "existing_order_id",
)  # fmt: skip


def alpaca(data: bytes) -> None:
    """What Alpaca says, by every reader of it."""
    said = _said(data, _ALPACA_NAMES)
    for read in _ALPACA_READERS:
        with suppress(BrokerError):
            read(said)
    code, message, fields = alpaca_rest._body(data.decode("utf-8", "replace"))
    assert code is None or isinstance(code, int)
    for refused in (
        alpaca_rest.Refused(403, code or 0, message, fields),
        alpaca_rest.Refused(422, 0, str(said.get("message")), dict(said)) if isinstance(said, dict) else None,
    ):
        if refused is not None:
            assert str(alpaca_words.refusal_of(refused))


def _an_alpaca_bar(said: Any) -> None:
    bar = alpaca_words.bar_of("AAPL", alpaca_words.mapping(said, "a bar"), NOW)
    _judged(bar)
    assert bar.volume is not None


_ALPACA_READERS: tuple[Callable[[Any], Any], ...] = (
    lambda said: alpaca_words.listed([said], "a list"),
    lambda said: alpaca_words.listed(said, "a list"),
    lambda said: alpaca_words.report_of(alpaca_words.mapping(said, "an order")),
    lambda said: alpaca_words.report_of_update(alpaca_words.mapping(said, "an update")),
    lambda said: alpaca_words.position_of(alpaca_words.mapping(said, "a position")),
    lambda said: alpaca_words.fill_of(alpaca_words.mapping(said, "an activity")),
    lambda said: alpaca_broker._hours(alpaca_words.mapping(said, "a day")),
    _an_alpaca_bar,
)

# --- the log ----------------------------------------------------------------------------------------------------------

TOPICS = tuple(tag_of(kind) for kind in (*POSITION_EVENTS, *ACCOUNT_EVENTS))
STREAM = "AAPL:long:e1:0123456789ab"
#: What figures lead to that nobody ever appended; whoever checks a log takes it for damage.
_UNTRUE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, IllegalTransition)
_ROWS_MAX = 12


def _rows(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Rows of the log, one on a line: `topic state`; a digit stands for one of our topics."""
    for line in data.split(b"\n")[:_ROWS_MAX]:
        topic, _, state = line.partition(b" ")
        name = topic.decode("utf-8", "replace")
        yield (TOPICS[int(name) % len(TOPICS)] if name.isascii() and name.isdigit() and len(name) < 4 else name), state


def log(data: bytes) -> None:
    """Rows of the log: not read, or events that are written as they were read."""
    mapper = EventMapper()
    events: list[Event] = []
    for number, (topic, state) in enumerate(_rows(data), 1):
        try:
            recorded = mapper.recorded(number, STREAM, number, topic, state)
        except StoreError:
            continue
        assert tag_of(recorded.event) == topic
        with suppress(StoreError):  # read is more than is ever written: NaN, other spellings of a number
            encoded = mapper.encode(recorded.at_ns, recorded.by, recorded.event)
            assert mapper.recorded(number, STREAM, number, topic, encoded.state) == recorded
        events.append(recorded.event)
    with suppress(*_UNTRUE):
        position: Position | None = None
        for event in events:
            before, position = position, evolve(position, event)
            assert position.version == (before.version if before is not None else 0) + 1
            in_words(before, position, event)


@cache
def _empty_store() -> bytes:
    path = _folder() / "empty.db"
    with ExitStore(path):
        pass
    return path.read_bytes()


def _with_rows(path: Path, data: bytes) -> None:
    """Rows as somebody writes them who is at the file: with a chain that fits."""
    head = GENESIS
    with closing(sqlite3.connect(path)) as db, db:
        for number, (topic, state) in enumerate(_rows(data), 1):
            row = (STREAM, number, topic, state)
            head = chain_hash(head, number, row)
            db.execute(
                "INSERT INTO stored_events (originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?)", row
            )
            db.execute("INSERT INTO chain (sequence, hash) VALUES (?, ?)", (number, head))


def store(data: bytes) -> None:
    """The file of a store, or rows in an empty one: it is not opened, or it is checked to the end."""
    raw = data.startswith(b"SQLite format 3")
    path = _file("exits.db", data if raw else _empty_store())
    try:
        if not raw:
            _with_rows(path, data)
        with suppress(StoreError), ExitStore(path) as opened:
            verify(opened)
    finally:
        for left in _folder().glob("exits.db*"):
            left.unlink(missing_ok=True)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (config, bars, anchors, control, broker, alpaca, log, store)
}

__all__ = ["TARGETS"]
