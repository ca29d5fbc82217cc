"""`exitfsm run --broker alpaca`: the live manager on an Alpaca account, paper unless live is asked for and confirmed.

Keys come from the environment only, and nothing here prints, logs or stores them.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from exitfsm.cli import screen
from exitfsm.cli.configuring import configured
from exitfsm.cli.service import (
    FEEDS,
    JsonLines,
    Notices,
    Rereading,
    banner,
    beat,
    check_port,
    each_minute,
    minute_line,
    print_json,
    steered,
)
from exitfsm.cli.serving import Served
from exitfsm.cli.words import Printer
from exitfsm.errors import ConfigError, ExitFsmError, StoreLocked
from exitfsm.values import Alarm

if TYPE_CHECKING:
    import asyncio

    from exitfsm_alpaca import Access, AlpacaBars, AlpacaBroker

    from exitfsm.config import ExitConfig
    from exitfsm.events import Recorded
    from exitfsm.manager import ExitManager
    from exitfsm.ports import Session
    from exitfsm.position import Position

#: How often the symbols whose bars are wanted are brought in line with what is held.
WATCH_S = 0.5
#: How long the market's hours are waited for, for what is said at the start, in seconds.
HOURS_S = 3.0
_NO_ADAPTER = "the Alpaca adapter needs alpaca-py: pip install exitfsm[alpaca]"


def connected(
    *, live: bool, account: str | None, environment: Mapping[str, str] | None = None
) -> tuple[Access, AlpacaBroker, str]:
    """Keys and addresses out of the environment, the broker, and the account's name in the store.

    Args:
        live: real money.
        account: the account's number; needed with `live`, and checked wherever it is given.
        environment: the process's own when None.

    Raises:
        ConfigError: a key or address is missing or wrong, or the account is not the one that was named.
        BrokerError: Alpaca does not answer.
    """
    try:
        from exitfsm_alpaca import Access, AlpacaBroker

        access = Access.from_environment(environment, live=live)
        broker = AlpacaBroker(access)
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("alpaca", "requests"):
            raise
        raise ConfigError([_NO_ADAPTER]) from None
    name = broker.account_name()
    number = name.rsplit(":", 1)[1]
    if account is not None and account != number:
        raise ConfigError([f"the keys belong to account {masked(number)}, not to {screen.clean(account)}"])
    if live and account is None:
        raise ConfigError(
            [f"--live trades real money: confirm it with --account and the number of account {masked(number)}"]
        )
    return access, broker, name


def masked(number: str) -> str:
    """An account's number, but for its last digits."""
    return "…" + screen.clean(number[-3:])


def run_alpaca(
    *,
    config: Path | None,
    store: str,
    live: bool = False,
    account: str | None = None,
    feed: str = "iex",
    strategy: str = "",
    standby: bool = False,
    metrics: int | None = None,
    listen: str | None = None,
    json_logs: bool = False,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run the live manager on an Alpaca account until interrupted.

    Raises:
        ConfigError: the configuration, a key, an address or the account is wrong.
        StoreError: the store belongs to another account, or is written by another process.
        BrokerError: Alpaca does not answer at the start.
    """
    import asyncio

    settings = configured(config)
    if feed not in FEEDS:
        raise ConfigError([f"--feed: {screen.clean(feed)} is none of Alpaca's; there are {', '.join(FEEDS)}"])
    check_port(listen)
    access, broker, name = connected(live=live, account=account, environment=environment)
    _log_to_stderr(as_json=json_logs)
    if not settings.policy.enabled:
        screen.warn("exits are off (enabled: false): positions are tracked, and nothing will be triggered")
    where = "LIVE, real money" if live else "paper"
    say = _quiet if json_logs else screen.emit
    say(f"exitfsm on Alpaca ({where}), account {masked(name)}, store {screen.store(store)}; stop with Ctrl-C\n")
    given = config if config is not None else settings  # a file is read anew at `reload`
    session = _Session(access, broker, name, given, store, feed, strategy, standby=standby, metrics=metrics)
    try:
        asyncio.run(session.run(listen, f"account {masked(name)} ({where})", as_json=json_logs))
    finally:
        broker.close()
    say("stopped; what is under way goes on with the next start\n")


class _Session:
    """One run: the manager with its streams, from start to stop."""

    def __init__(
        self,
        access: Access,
        broker: AlpacaBroker,
        name: str,
        settings: ExitConfig | Path,
        store: str,
        feed: str,
        strategy: str,
        *,
        standby: bool,
        metrics: int | None,
    ) -> None:
        from exitfsm_alpaca import AlpacaBars, AlpacaUpdates

        from exitfsm.manager import ExitManager

        self._standby, self._broker, self._feed_name = standby, broker, feed
        self._served = Served(metrics)
        self._as_json, self._printer = False, Printer()
        self._beating: asyncio.Task[None] | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said when it was read first
            self._manager = ExitManager(
                *(self._served.metered(broker), store, None, settings, strategy),
                account=name,
                on_event=self._served.on_event(self._on_event),
                on_alarm=self._on_alarm,
                standby=standby,
            )
        self._updates = AlpacaUpdates(access, broker, self._manager.on_order_update, self._manager.sync)
        max_age_s = self._manager.config.policy.price_guard.max_age_seconds  # what is older would be refused anyway
        self._bars = AlpacaBars(access, feed=feed, backfill_max_s=max_age_s, noticed=broker.noticed)

    def _on_event(self, position: Position | None, recorded: Recorded) -> None:
        (print_json if self._as_json else self._printer)(position, recorded)

    def _on_alarm(self, alarm: Alarm) -> None:
        if not self._as_json:  # then the log has it
            screen.complain(f"ALARM {alarm.kind}: {alarm.text}")

    async def run(self, listen: str | None, where: str, *, as_json: bool) -> None:
        """Until it is stopped.

        Args:
            listen: a port to be steered on, beside the socket.
            where: what is held, in words.
            as_json: events are lines of JSON.
        """
        import asyncio

        self._as_json = as_json
        stop, notices = asyncio.Event(), Notices()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # a system without them stops by KeyboardInterrupt
                loop.add_signal_handler(number, stop.set)
        rereading = Rereading(self._manager, notices)
        with suppress(NotImplementedError, AttributeError):  # a system without it has `exitfsm reload`
            loop.add_signal_handler(signal.SIGHUP, rereading.begin)
        try:
            if self._standby and not await self._is_owner(stop, notices):
                return
            await self._watched(stop, listen, where, notices)
        finally:
            if self._beating is not None:
                self._beating.cancel()
                await asyncio.gather(self._beating, return_exceptions=True)

    def _ready(self, notices: Notices, status: str) -> None:
        """Systemd hears that it is up, and from then on that it lives."""
        import asyncio

        notices.say(READY="1", STATUS=status)
        if self._beating is None:
            self._beating = asyncio.create_task(beat(notices, self._manager))

    async def _watched(self, stop: asyncio.Event, listen: str | None, where: str, notices: Notices) -> None:
        import asyncio

        async with (
            self._manager as manager,
            steered(manager, stop, listen) as steering,
            self._updates,
            self._bars,
            self._served.on(self._manager),
        ):
            # What is said waits for nothing that watches, and what watches not for what is said.
            work = [
                asyncio.create_task(_watch(self._manager, self._bars)),
                asyncio.create_task(_feed(self._manager, self._bars)),
            ]
            around = [asyncio.create_task(each_minute(manager, self._hours))] * (not self._as_json)
            waiting = asyncio.create_task(stop.wait())
            try:
                lines = banner(manager, where, self._feed_name, await self._hours(), steering)
                (_quiet if self._as_json else screen.emit)("\n".join(lines) + "\n")
                sys.stdout.flush()
                self._ready(notices, minute_line(manager, None))
                await asyncio.wait([*work, waiting], return_when=asyncio.FIRST_COMPLETED)
            finally:
                notices.say(STOPPING="1")
                for task in (*work, *around, waiting):
                    task.cancel()
                ends = await asyncio.gather(*work, *around, waiting, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _hours(self) -> Session | None:
        """The exchange's hours now; None where they cannot be had, or only pairs are held, which trade always."""
        import asyncio

        symbols = [p.symbol for p in self._manager.positions()]
        if symbols and all("/" in symbol for symbol in symbols):
            return None
        try:
            asked = asyncio.to_thread(self._broker.session, "SPY", datetime.now(UTC))
            return await asyncio.wait_for(asked, HOURS_S)
        except (ExitFsmError, TimeoutError):
            return None

    async def _is_owner(self, stop: asyncio.Event, notices: Notices) -> bool:
        """Wait until the manager is started and the store is ours; False where it was stopped before."""
        import asyncio

        self._ready(notices, "standing by")  # it may be so for weeks
        screen.emit("standing by: the store is taken over when its owner ends or falls silent\n")
        sys.stdout.flush()
        starting, stopped = asyncio.create_task(self._manager.start()), asyncio.create_task(stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return False
        await starting
        return True


async def _watch(manager: ExitManager, bars: AlpacaBars) -> None:
    """Have bars of what is held, and of nothing else, until the store is somebody else's.

    Raises:
        StoreLocked: it is.
    """
    import asyncio

    while True:
        if manager.lost_to is not None:
            raise StoreLocked(manager.lost_to)
        bars.watch({p.symbol for p in manager.positions()})
        await asyncio.sleep(WATCH_S)


async def _feed(manager: ExitManager, bars: AlpacaBars) -> None:
    async for batch in bars.batches():
        await manager.on_bars(batch)


def _quiet(_: str) -> None:
    """What is for people is not said to programs."""


def _log_to_stderr(*, as_json: bool) -> None:
    """Warnings of ours to stderr; alarms are said by themselves, and the SDK's words about a connection repeat ours."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonLines() if as_json else plain)
    handler.addFilter(lambda r: not r.name.startswith("alpaca"))
    if not as_json:
        handler.addFilter(lambda r: not r.getMessage().startswith("alarm "))
    logging.getLogger().addHandler(handler)
