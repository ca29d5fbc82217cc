"""`exitfsm run --broker alpaca`: the live manager on an Alpaca account, paper unless live is asked for and confirmed.

Keys come from the environment only, and nothing here prints, logs or stores them.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exitfsm.cli import FINDING, running, screen
from exitfsm.cli.bar_files import AdjustedFlag, SymbolOption, TimezoneOption
from exitfsm.cli.configuring import configured
from exitfsm.cli.options import JsonFlag, quantity
from exitfsm.cli.words import in_words
from exitfsm.errors import ConfigError, StoreLocked
from exitfsm.values import Alarm, Side, stamp

if TYPE_CHECKING:
    import asyncio

    from exitfsm_alpaca import Access, AlpacaBars, AlpacaBroker

    from exitfsm.config import ExitConfig
    from exitfsm.events import Recorded
    from exitfsm.manager import ExitManager
    from exitfsm.position import Position

#: How often the symbols whose bars are wanted are brought in line with what is held.
WATCH_S = 0.5
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
    access, broker, name = connected(live=live, account=account, environment=environment)
    _log_to_stderr()
    if not settings.policy.enabled:
        screen.warn("exits are off (enabled: false): positions are tracked, and nothing will be triggered")
    where = "LIVE, real money" if live else "paper"
    screen.emit(f"exitfsm on Alpaca ({where}), account {masked(name)}, store {screen.store(store)}; stop with Ctrl-C\n")
    try:
        asyncio.run(_Session(access, broker, name, settings, store, feed, strategy, standby=standby).run())
    finally:
        broker.close()
    screen.emit("stopped; what is under way goes on with the next start\n")


class _Session:
    """One run: the manager with its streams, from start to stop."""

    def __init__(
        self,
        access: Access,
        broker: AlpacaBroker,
        name: str,
        settings: ExitConfig,
        store: str,
        feed: str,
        strategy: str,
        *,
        standby: bool,
    ) -> None:
        from exitfsm_alpaca import AlpacaBars, AlpacaUpdates

        from exitfsm.manager import ExitManager

        self._standby = standby
        self._manager = ExitManager(
            *(broker, store, None, settings, strategy),
            account=name,
            on_event=_Printer(),
            on_alarm=_on_alarm,
            standby=standby,
        )
        self._updates = AlpacaUpdates(access, broker, self._manager.on_order_update, self._manager.sync)
        max_age_s = settings.policy.price_guard.max_age_seconds  # what is older would be refused anyway
        self._bars = AlpacaBars(access, feed=feed, backfill_max_s=max_age_s)

    async def run(self) -> None:
        import asyncio

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # a system without them stops by KeyboardInterrupt
                loop.add_signal_handler(number, stop.set)
        if self._standby and not await self._is_owner(stop):
            return
        async with self._manager, self._updates, self._bars:
            screen.emit(f"watching {screen.plural(len(self._manager.positions()), 'position')}\n")
            sys.stdout.flush()
            work = [
                asyncio.create_task(_watch(self._manager, self._bars)),
                asyncio.create_task(_feed(self._manager, self._bars)),
            ]
            waiting = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([*work, waiting], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*work, waiting):
                    task.cancel()
                ends = await asyncio.gather(*work, waiting, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _is_owner(self, stop: asyncio.Event) -> bool:
        """Wait until the manager is started and the store is ours; False where it was stopped before."""
        import asyncio

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


class _Printer:
    """One line for each step, in the words of `exitfsm history`."""

    def __init__(self) -> None:
        self._before: dict[str, Position] = {}

    def __call__(self, position: Position | None, recorded: Recorded) -> None:
        stream, event = recorded.stream_id, recorded.event
        said = in_words(self._before.get(stream), position, event)
        if position is not None:
            self._before[stream] = position
        where = screen.clean(position.symbol) if position is not None else "account"
        at = stamp(datetime.fromtimestamp(recorded.at_ns // 10**9, UTC))
        screen.emit(f"{at}  {where:<10} {type(event).__name__:<24} {said}\n")
        sys.stdout.flush()


def _on_alarm(alarm: Alarm) -> None:
    screen.complain(f"ALARM {alarm.kind}: {alarm.text}")


def _log_to_stderr() -> None:
    """Warnings of ours to stderr; alarms are said by themselves, and the SDK's words about a connection repeat ours."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(lambda r: not r.name.startswith("alpaca") and not r.getMessage().startswith("alarm "))
    logging.getLogger().addHandler(handler)


# --- commands ---------------------------------------------------------------------------------------------------------

_Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file with an exit_manager section.")
]
_Live = Annotated[bool, typer.Option("--live", help="Alpaca: trade real money; needs --account.")]
_Account = Annotated[
    str | None, typer.Option("--account", metavar="NUMBER", help="Alpaca: the account's number, to confirm it.")
]


def run(
    *,
    broker: Annotated[
        str, typer.Option("--broker", metavar="NAME", help="paper: the simulated broker; alpaca: an Alpaca account.")
    ] = "paper",
    config: _Config = None,
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="Where the events are kept.")] = "exits.db",
    live: _Live = False,
    account: _Account = None,
    standby: Annotated[
        bool, typer.Option("--standby", help="Alpaca: wait until the store is free, or its owner has fallen silent.")
    ] = False,
    feed: Annotated[str, typer.Option("--feed", metavar="NAME", help="Alpaca: stock data, iex or sip.")] = "iex",
    strategy: Annotated[str, typer.Option("--strategy", metavar="NAME", help="Alpaca: label of the positions.")] = "",
    bars: Annotated[
        list[Path] | None,
        typer.Option(
            "--bars", metavar="FILE", exists=True, dir_okay=False, help="Paper: file of bars; may be repeated."
        ),
    ] = None,
    qty: Annotated[
        Decimal, typer.Option("--qty", parser=quantity, metavar="NUMBER", help="Paper: quantity of each entry.")
    ] = Decimal(10),
    side: Annotated[Side, typer.Option("--side", help="Paper: which way to enter.")] = Side.LONG,
    re_enter: Annotated[bool, typer.Option("--re-enter", help="Paper: enter again whenever it is allowed.")] = False,
    pace: Annotated[float, typer.Option("--pace", min=0, metavar="SECONDS", help="Paper: wait between bars.")] = 0.0,
    symbol: SymbolOption = None,
    timezone: TimezoneOption = None,
    adjusted: AdjustedFlag = False,
) -> None:
    """Run the live manager on a broker.

    paper: recorded bars go through it, and time follows the bars. alpaca: an account, with the keys of the environment
    (APCA_API_KEY_ID, APCA_API_SECRET_KEY): a paper account, unless --live is given and confirmed by --account.
    """
    if broker == "alpaca":
        run_alpaca(
            config=config, store=store, live=live, account=account, feed=feed, strategy=strategy, standby=standby
        )
        return
    if broker != "paper":
        raise typer.BadParameter(
            f"{broker!r} is no broker that can be run here; use paper or alpaca", param_hint="--broker"
        )
    if live or account is not None:
        raise typer.BadParameter("--live and --account are for --broker alpaca")
    if standby:
        raise typer.BadParameter("a paper run starts from an empty store, which nobody owns: --standby is for alpaca")
    if not bars:
        raise typer.BadParameter("the paper broker needs recorded bars", param_hint="--bars")
    running.run(
        broker=broker,
        bars=bars,
        config=config,
        store=store,
        qty=qty,
        side=side,
        re_enter=re_enter,
        pace=pace,
        symbol=symbol,
        timezone=timezone,
        adjusted=adjusted,
    )


def preflight(
    *,
    config: _Config = None,
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="The store of the run to come.")] = "exits.db",
    live: _Live = False,
    account: _Account = None,
    feed: Annotated[str, typer.Option("--feed", metavar="NAME", help="Stock data, iex or sip.")] = "iex",
    paper_store: Annotated[
        str | None, typer.Option("--paper-store", metavar="STORE", help="The store of a paper run, as evidence.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check an Alpaca account before exits run on it.

    Checks what a program can check. Sends no order, and writes nothing.

    Exit codes: 0 nothing speaks against it, 1 something does, 2 wrong usage.
    """
    from exitfsm.cli.alpaca_checks import check_all, show

    checks = check_all(config=config, store=store, live=live, account=account, feed=feed, paper_store=paper_store)
    show(checks, as_json=as_json)
    if any(check.ok is False for check in checks):
        raise typer.Exit(FINDING)


def register(app: typer.Typer) -> None:
    """Put `run` (for every broker) and `preflight` into the list of commands."""
    app.command("run")(run)
    app.command("preflight")(preflight)
