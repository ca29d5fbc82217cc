"""`exitfsm preflight`: what a program can check before exits run on an Alpaca account.

Nothing is sent and nothing is written. A check says yes, no, or that it cannot tell; what only a person can judge is
left to the list in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.text import Text

from exitfsm.cli import screen
from exitfsm.cli.alpaca import connected, masked
from exitfsm.cli.codes import FINDING
from exitfsm.cli.configuring import configured
from exitfsm.cli.options import AccountOption, ConfigFile, JsonFlag, LiveFlag
from exitfsm.cli.service import FEEDS
from exitfsm.errors import ConfigError, ExitFsmError, StoreMissing
from exitfsm.events import Event, ExitCompleted, FillsRecorded, PositionOpened
from exitfsm.order_ids import looks_like_exit
from exitfsm.policy import ExitPolicy, rules_by_section, rules_on
from exitfsm.values import BrokerPosition, plain

if TYPE_CHECKING:
    from exitfsm_alpaca import Access, AlpacaBroker

    from exitfsm.config import ExitConfig

#: How far this machine's clock may be from Alpaca's, in seconds.
SKEW_MAX_S = 2.0
#: How long a stream may take to connect.
STREAM_S = 15.0


class Check(NamedTuple):
    """One thing that was looked at. `ok` is None where it cannot be told."""

    name: str
    ok: bool | None
    text: str


def check_all(
    *,
    config: Path | None,
    store: str,
    live: bool = False,
    account: str | None = None,
    feed: str = "iex",
    paper_store: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Check]:
    """Every check; those after one that makes them pointless are left out."""
    import asyncio

    checks: list[Check] = []
    settings = _configuration(config, checks)
    if feed not in FEEDS:
        checks.append(Check("feed", False, f"--feed: {feed} is none of Alpaca's; there are {', '.join(FEEDS)}"))
    try:
        access, broker, name = connected(live=live, account=account, environment=environment)
    except ExitFsmError as error:
        checks.append(Check("account", False, str(error)))
        return [*checks, *_evidence(paper_store)]
    try:
        checks.append(_account(broker, name))
        checks += _guarded("clock", lambda: _clock(broker))
        checks += _guarded("positions", lambda: _positions(broker, settings))
        checks += _guarded("managed", lambda: _managed(broker, settings, store))
        checks.append(_store(store, name))
        checks += _bars(settings, store)
        checks += asyncio.run(_streams(access, broker, feed))
    finally:
        broker.close()
    return [*checks, *_evidence(paper_store)]


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except ExitFsmError as error:
        yield Check(name, False, str(error))


def _configuration(path: Path | None, checks: list[Check]) -> ExitConfig | None:
    try:
        settings = configured(path)
    except ConfigError as error:
        checks.append(Check("configuration", False, str(error)))
        return None
    checks += policy_checks(settings.policy)
    return settings


def policy_checks(policy: ExitPolicy) -> list[Check]:
    """What the settings of the exits say, rule by rule."""
    on = [rule.name for rule in rules_on(policy)]
    stops = bool(policy.plan.entry_stops)
    briefs = [brief for rule in rules_by_section(policy) if (brief := rule.brief(policy))]
    figures = f"{', '.join(briefs)}; on: {', '.join(on) or 'nothing'}"
    return [
        Check("enabled", policy.enabled, "exits are on" if policy.enabled else "enabled: false triggers nothing"),
        Check("thresholds", stops, figures if stops else f"no stop is on; {figures}"),
    ]


def _account(broker: AlpacaBroker, name: str) -> Check:
    shown = broker.account()
    blocks = ("trading_blocked", "account_blocked", "trade_suspended_by_user")
    stopped = [flag for flag in blocks if shown.get(flag)]
    ok = shown.get("status") == "ACTIVE" and not stopped
    kind, number = name.split(":")[1:]
    text = f"{kind} account {masked(number)}, {str(shown.get('status')).lower()}"
    return Check("account", ok, f"{text}; {', '.join(stopped)}" if stopped else text)


def _clock(broker: AlpacaBroker) -> Iterator[Check]:
    before = datetime.now(UTC)
    at, is_open = broker.clock()
    after = datetime.now(UTC)
    skew = abs((at - (before + (after - before) / 2)).total_seconds())
    yield Check("clock", skew <= SKEW_MAX_S, f"{skew:.1f} s from Alpaca's (at most {SKEW_MAX_S:.0f} s)")
    session = broker.session("SPY", datetime.now(UTC))
    agree = session.is_open == is_open
    when = (
        f"closes {session.close:%Y-%m-%d %H:%M} UTC"
        if session.close
        else f"opens {session.next_open:%Y-%m-%d %H:%M} UTC"
    )
    yield Check(
        "hours", True if agree else None, when if agree else f"calendar and clock disagree; by the calendar it {when}"
    )


def _positions(broker: AlpacaBroker, settings: ExitConfig | None) -> Iterator[Check]:
    """Each position must be readable, have a price and a first fill, and nothing may stand in its exit's way."""
    from exitfsm.holdings import first_since_flat

    held = list(broker.positions())
    days = settings.live.lookback_days if settings is not None else 30
    fills = broker.fills(datetime.now(UTC) - timedelta(days=days))
    faults = []
    for p in held:
        if not (p.qty.is_finite() and p.avg_entry_price.is_finite() and p.avg_entry_price > 0):
            faults.append(f"{p.symbol} has no readable quantity or entry price")
        elif first_since_flat([f for f in fills if f.symbol == p.symbol], p.side, p.qty) is None:
            faults.append(f"{p.symbol} was opened more than {days} days ago, or by no fill: it would not be protected")
    text = "; ".join(faults) or f"{screen.plural(len(held), 'position')}, each with entry price and first fill"
    yield Check("positions", not faults, text)
    yield _in_the_way(broker, held)


def _managed(broker: AlpacaBroker, settings: ExitConfig | None, store: str) -> Iterator[Check]:
    """What of each position is managed and what is not, in the words that the start has for it."""
    from exitfsm.others.scope import scope_of
    from exitfsm.scope import bought_of, described_scope, is_nameless
    from exitfsm.store import ExitStore
    from exitfsm.values import bare

    if settings is None:
        return
    scope, watched = scope_of(settings.manage), set[str]()
    with suppress(ExitFsmError), ExitStore(store, read_only=True) as opened:  # else another check says why not
        watched = {bare(row.symbol) for row in opened.open_positions()}
    fills = broker.fills(datetime.now(UTC) - timedelta(days=settings.live.lookback_days))
    if scope.ids and is_nameless(fills):
        text = "manage.owner: ids needs executions that name client order ids, and these name none"
        yield Check("managed", False, f"{text}; set manage.owner: handed, and hand what the bot buys to watch()")
        return
    rows = [row for row in broker.positions() if row.qty.is_finite()]
    said = [
        described_scope(row, scope, watched=bare(row.symbol) in watched, ours=bought_of(row, fills, scope))
        for row in rows
    ]
    yield Check("managed", True, "; ".join(said) or "nothing is held")


def _in_the_way(broker: AlpacaBroker, held: list[BrokerPosition]) -> Check:
    """Orders that hold what an exit would sell make Alpaca refuse it."""
    by_symbol = {p.symbol: p for p in held}
    orders = [r for r in broker.open_orders() if r.symbol in by_symbol and not looks_like_exit(r.client_order_id)]
    found = {f"{r.symbol} ({r.side} {screen.number(r.qty)}, id {r.client_order_id})" for r in orders}
    found |= {
        f"{p.symbol} (only {plain(p.qty_available)} free)"
        for p in held
        if p.qty_available is not None and p.qty_available < p.qty
    }
    text = f"working orders in held symbols: {', '.join(sorted(found))}" if found else "no other order in a held symbol"
    return Check("other orders", not found, text)


def _store(store: str, name: str) -> Check:
    """The store must be this account's, and nobody else may be writing it."""
    from exitfsm.position import account_hash
    from exitfsm.store import ExitStore, shown

    where = shown(store)
    try:
        with ExitStore(store, read_only=True, account=account_hash(name)) as opened:
            known = opened.meta.get("account", "")
            alarms = opened.alarms()
    except StoreMissing:
        return Check("store", True, f"{where} does not exist yet")
    except ExitFsmError as error:
        return Check("store", False, str(error))
    if known not in ("", account_hash(name)):
        return Check("store", False, f"{where} was written for another account: give each account its own")
    if alarms:
        return Check("store", False, f"{where} has {screen.plural(len(alarms), 'standing alarm')}: see exitfsm status")
    return Check("store", True, f"{where} belongs to this account" if known else f"{where} is nobody's yet")


async def _streams(access: Access, broker: AlpacaBroker, feed: str) -> list[Check]:
    """Both streams must come up. No symbol's bars are waited for: there may be no trades."""
    from exitfsm_alpaca import AlpacaBars, AlpacaUpdates

    async def nothing(*_: object) -> None:
        """Nobody listens here."""

    async with AlpacaUpdates(access, broker, nothing, nothing) as updates, AlpacaBars(access, feed=feed) as bars:
        bars.watch(["SPY"])
        listening = await _soon(lambda: updates.listening)
        connected_ = await _soon(lambda: bars.is_connected("SPY"))
    return [
        Check("trade updates", listening, "subscribed" if listening else f"no subscription within {STREAM_S:.0f} s"),
        Check(
            "market data", connected_, f"{feed} connected" if connected_ else f"no connection within {STREAM_S:.0f} s"
        ),
    ]


async def _soon(what: Callable[[], bool]) -> bool:
    import asyncio

    deadline = asyncio.get_running_loop().time() + STREAM_S
    while not what() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    return what()


def _bars(settings: ExitConfig | None, store: str) -> list[Check]:
    """Bars that are recorded need a file of their own where the store is none."""
    from exitfsm.store import is_url

    if settings is None or not settings.record_bars or settings.bars or not is_url(store):
        return []
    return [Check("bars", False, "record_bars has no place beside a store on a server: set bars: PATH as well")]


def _evidence(path: str | None) -> list[Check]:
    """What a paper run has shown: fills, partial fills, and a cooldown that was kept."""
    from exitfsm.store import ExitStore, shown

    names = ("paper run", "fills", "partial fills", "cooldown")
    if path is None:
        return [Check(name, None, "not shown: give the store of a paper run with --paper-store") for name in names]
    try:
        with ExitStore(path, read_only=True) as store:
            streams = [[r.event for r in store.stream(name)] for name in store.stream_ids()]
    except ExitFsmError as error:
        return [Check("paper run", False, str(error))]
    exits = [events for events in streams if any(isinstance(e, ExitCompleted) for e in events)]
    parts = [events for events in exits if sum(isinstance(e, FillsRecorded) for e in events) > 1]
    kept, broken = _cooldowns(streams)
    return [
        Check("paper run", bool(streams), f"{screen.plural(len(streams), 'stream')} in {shown(path)}"),
        Check("fills", bool(exits), f"{screen.plural(len(exits), 'exit')} filled and proved flat"),
        Check("partial fills", True if parts else None, f"{len(parts)} of them in parts"),
        Check("cooldown", False if broken else True if kept else None, f"kept {kept} times, broken {broken} times"),
    ]


def _cooldowns(streams: list[list[Event]]) -> tuple[int, int]:
    """How often a symbol was entered again after its cooldown, and how often within it."""
    ended: dict[str, list[tuple[datetime, datetime]]] = {}
    opened: list[PositionOpened] = []
    for events in streams:
        if not events or not isinstance(events[0], PositionOpened):
            continue
        opened.append(events[0])
        for event in events:
            if isinstance(event, ExitCompleted):
                ended.setdefault(events[0].symbol, []).append((event.filled_at, event.cooldown_until))
    kept = broken = 0
    for position in opened:
        before = [until for at, until in ended.get(position.symbol, []) if at < position.opened_at]
        if before:
            kept += max(before) <= position.opened_at
            broken += max(before) > position.opened_at
    return kept, broken


def show(checks: list[Check], *, as_json: bool) -> None:
    """The checks, one line each."""
    if as_json:
        screen.emit_json([check._asdict() for check in checks])
        return
    marks = {True: ("ok  ", "green"), False: ("NO  ", "bold red"), None: ("?   ", "yellow")}
    for check in checks:
        text, style = marks[check.ok]
        screen.out().print(Text.assemble((text, style), f"{check.name:<14} ", screen.clean(check.text)), soft_wrap=True)


# --- the command ------------------------------------------------------------------------------------------------------


def preflight(
    *,
    config: ConfigFile = None,
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="The store of the run to come.")] = "exits.db",
    live: LiveFlag = False,
    account: AccountOption = None,
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
    checks = check_all(config=config, store=store, live=live, account=account, feed=feed, paper_store=paper_store)
    show(checks, as_json=as_json)
    if any(check.ok is False for check in checks):
        raise typer.Exit(FINDING)
