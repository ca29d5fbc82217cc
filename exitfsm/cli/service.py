"""`exitfsm run` as a service: what it says at the start and each minute, systemd's notices, logs as JSON, steering.

Rules of this room: nothing here may end a run, or hold it up. What cannot be said is left unsaid; where nobody can
steer, that is a warning, and positions are watched all the same.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from exitfsm.cli import screen
from exitfsm.errors import ConfigError, ExitFsmError
from exitfsm.events import tag_of
from exitfsm.lifecycle import State
from exitfsm.outside import harmless, log
from exitfsm.values import plain, stamp

if TYPE_CHECKING:
    import asyncio

    from exitfsm.events import Recorded
    from exitfsm.manager import ExitManager
    from exitfsm.ports import Session
    from exitfsm.position import Position

#: How often a line says on a terminal that all goes on, in seconds.
LINE_S = 60.0
#: What Alpaca calls its feeds of stock data.
FEEDS = ("iex", "sip", "delayed_sip")


# --- systemd ----------------------------------------------------------------------------------------------------------


class Notices:
    """What systemd is told of a service (`Type=notify`), where it asks to be.

    Args:
        environment: the process's own when None.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(given.get("WATCHDOG_USEC", ""), given.get("WATCHDOG_PID", ""))

    def say(self, **words: str) -> None:
        """One notice, such as `READY="1"`; where nobody listens, nothing."""
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{name}={harmless(value)}" for name, value in words.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(text.encode(), address)


def _watchdog_s(microseconds: str, pid: str) -> float | None:
    """How soon systemd must hear that we live; None where it need not."""
    if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1e6 or None


async def beat(notices: Notices, manager: ExitManager) -> None:
    """Tell systemd's watchdog that we live, twice as often as it asks: a loop that hangs does not, and is restarted."""
    import asyncio

    if notices.watchdog_s is None:
        return
    while True:
        try:
            status = minute_line(manager, None)
        except Exception as error:  # the manager lives all the same, and must not be ended for a line
            status = f"it lives, and cannot say what it watches: {type(error).__name__}"
        notices.say(WATCHDOG="1", STATUS=status)
        await asyncio.sleep(notices.watchdog_s / 2)


# --- what people see --------------------------------------------------------------------------------------------------


def hours_in_words(hours: Session | None) -> str:
    """Whether the market is open, and until when."""
    if hours is None:
        return "the market's hours are not known"
    if hours.is_open:
        return f"the market is open until {stamp(hours.close)}" if hours.close else "the market is open"
    return f"the market is closed until {stamp(hours.next_open)}" if hours.next_open else "the market is closed"


def banner(manager: ExitManager, where: str, feed: str, hours: Session | None, steering: str) -> list[str]:
    """What a run begins with: what it watches, by which streams, when the market opens, and how it is steered."""
    from exitfsm.control.telling import scope_lines

    held, scope = manager.positions(), scope_lines(manager)
    of = f"what is managed of {where}" if scope else f"everything that {where} holds"
    lines = [f"watching {screen.plural(len(held), 'position')}: {of}"]
    lines += [f"  {_held_in_words(p)}" for p in held]
    lines += [f"  {line}" for line in scope]
    lines += [f"bars: Alpaca's feed {feed}; order updates: Alpaca's stream; {hours_in_words(hours)}"]
    lines += [f"ALARM active since {stamp(a.raised_at)}: {a.kind}: {a.text}" for a in manager.alarms()]
    lines += [steering]
    return [screen.clean(line) for line in lines]


def _held_in_words(p: Position) -> str:
    cost = plain(p.entry_price * p.remaining_qty)
    state = "" if p.state is State.MONITORING else f", {p.state}"
    return f"{p.symbol} {p.side} {plain(p.remaining_qty)} at {plain(p.entry_price)} ({cost}){state}"


def minute_line(manager: ExitManager, hours: Session | None) -> str:
    """One line that says that all goes on, or what does not."""
    from exitfsm.control.telling import waiting_line

    held, waiting = manager.positions(), waiting_line(manager)
    exiting = [p for p in held if p.state.exiting]
    lost = [p.symbol for p in held if p.state is State.UNPROTECTED]
    parts = [f"watching {screen.plural(len(held), 'position')}"]
    parts += [f"{screen.plural(len(exiting), 'exit')} under way, the oldest for {_oldest(exiting)}"] * bool(exiting)
    parts += [waiting] * bool(waiting)
    parts += [f"UNPROTECTED: {' '.join(lost)}"] * bool(lost)
    parts += [screen.plural(len(manager.alarms()), "active alarm")] * bool(manager.alarms())
    parts += [hours_in_words(hours)] * (hours is not None and not hours.is_open)
    return screen.clean(", ".join(parts))


def _oldest(exiting: Iterable[Position]) -> str:
    return screen.age(min((p.triggered_at for p in exiting if p.triggered_at), default=None), datetime.now(UTC))


async def each_minute(manager: ExitManager, hours: Callable[[], Awaitable[Session | None]]) -> None:
    """On a terminal, a line a minute."""
    import asyncio

    while sys.stdout.isatty():
        await asyncio.sleep(LINE_S)
        screen.emit(f"{stamp(datetime.now(UTC).replace(microsecond=0))}  {minute_line(manager, await hours())}\n")
        sys.stdout.flush()


# --- for programs -----------------------------------------------------------------------------------------------------


class JsonLines(logging.Formatter):
    """A line of the log as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One object on one line."""
        at = stamp(datetime.fromtimestamp(record.created, UTC))
        said: dict[str, Any] = {"at": at, "level": record.levelname.lower(), "logger": record.name}
        said["text"] = record.getMessage()
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said)


def print_json(position: Position | None, recorded: Recorded) -> None:
    """Each event as a line of JSON on stdout: what a manager calls with it."""
    import msgspec

    at = stamp(datetime.fromtimestamp(recorded.at_ns // 10**9, UTC))
    said = {
        "at": at,
        "kind": "event",
        "event": tag_of(recorded.event),
        "stream": recorded.stream_id,
        "version": recorded.version,
        "by": recorded.by,
        "symbol": position.symbol if position is not None else None,
        "state": str(position.state) if position is not None else None,
        "body": json.loads(msgspec.json.encode(recorded.event)),
    }
    screen.emit(json.dumps(said) + "\n")
    sys.stdout.flush()


# --- the configuration, anew ------------------------------------------------------------------------------------------


class Rereading:
    """Reads the configuration anew, as SIGHUP asks for: a file with a mistake changes nothing, and that is said."""

    def __init__(self, manager: ExitManager, notices: Notices) -> None:
        self._manager, self._notices = manager, notices
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begin to; the signal may come again meanwhile."""
        import asyncio

        task = asyncio.create_task(self.reread())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reread(self) -> None:
        """Read it, and say what came of it; systemd hears of it, too."""
        import time

        self._notices.say(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            lines = await self._manager.reload(who="SIGHUP")
        except ConfigError as error:
            for mistake in error.mistakes:
                log.error("settings_not_changed %s", mistake)
        except (ExitFsmError, RuntimeError) as error:
            log.error("settings_not_changed %s", error)
        else:
            for line in lines:
                log.warning("settings_read %s", line)
        finally:
            self._notices.say(READY="1")


# --- steering ---------------------------------------------------------------------------------------------------------


def check_port(listen: str | None) -> None:
    """See that commands can be taken on a port, where one is given.

    Raises:
        ConfigError: the port is none on this machine, or lacks a token.
    """
    from exitfsm.control.client import TOKEN
    from exitfsm.control.server import address_of

    address_of(listen, os.environ.get(TOKEN, ""))


@asynccontextmanager
async def steered(manager: ExitManager, stop: asyncio.Event, listen: str | None) -> AsyncIterator[str]:
    """Have a started manager listen for commands; gives a line that says where, or why it does not.

    Raises:
        ConfigError: the port is none on this machine, or lacks a token.
    """
    from exitfsm.control import serve
    from exitfsm.control.client import TOKEN

    async with serve(manager, on_stop=stop.set, listen=listen, token=os.environ.get(TOKEN, "")) as server:
        if server.problem:
            screen.warn(f"it cannot be steered as it should (positions are watched all the same): {server.problem}")
        where = [str(server.path)] * (server.path is not None)
        where += [f"127.0.0.1:{server.port}"] * (server.port is not None)
        if where:
            at = " and at ".join(where)
            yield f"steer it: exitfsm pause | exit | flatten … (it listens at {at}); stop it with Ctrl-C"
        else:
            yield "it cannot be steered for now, and tries again; stop it with Ctrl-C"
