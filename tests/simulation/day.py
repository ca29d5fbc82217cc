"""One simulated day: a bot with its market, its machines and its people, and the real manager in the middle.

The day has a session in which everything goes wrong that the seed wants, a short night, and then a time without faults,
in which every position must become flat, or be an alarm in the log, within a bound.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from exitfsm import audit
from exitfsm.errors import StoreError
from exitfsm.events import AlarmRaised, ExitRetried, ExitTriggered, PositionOpened, Recorded
from exitfsm.position import Position
from exitfsm.store import ExitStore
from exitfsm.testing.books import Booked
from exitfsm.values import ZERO, Bar, Order, Side, plain
from simulation.disk import Disk
from simulation.faults import Faults
from simulation.happenings import Happenings
from simulation.instruments import contracts, declared, in_whole_shares, is_pair, names
from simulation.loop import ProcessLoop, Violation, World
from simulation.neighbour import Neighbour
from simulation.oracle import BAR_S, THREAD_S, Oracle
from simulation.people import Bot, Person
from simulation.prices import Tape, kinds, other_rules
from simulation.process import Process
from simulation.profile import Profile, draw, draw_sides, in_parts, limits
from simulation.trace import Defects, Trace
from simulation.venue import Venue
from simulation.wire import Line
from simulation.worlds import Account, Worlds, in_other_words

#: How the client order ids of the bot's own orders begin.
BOT = "bot-"
#: With few orders in a minute, an exit that leaves so long after its decision has waited for its turn.
TURN_S = 10.0
#: How long after the faults stopped every position must be flat, or be an alarm.
BOUND_S = 1800.0


class DayResult(NamedTuple):
    """What came of a day.

    Attributes:
        violation: the first thing that did not hold; None when all did.
        story: the last lines of the trace, where there is a violation.
        settled_s: how long after the faults stopped everything was flat or alarmed.
    """

    number: int
    profile: Profile
    exits: int
    closed: int
    events: int
    rows: Counter[int]
    kinds: Counter[str]
    checks: Counter[str]
    deaths: int
    faults: int
    settled_s: float
    digest: str
    lines: int
    violation: str | None
    story: list[str]


class Day:
    """One day.

    Args:
        seed, number: name the day; the same ones give the same bytes.
        without: numbers of faults that do not happen.
        symbols, minutes, broker: fixed where given.
        show: told each line of the trace.
        account: what the account shows and others do there; by default nothing of it.
    """

    venue_class: type[Venue] = Venue
    _account: Account | None = None
    _of_account = random.Random(0)

    def __init__(
        self,
        seed: int,
        number: int,
        *,
        without: Collection[int] = (),
        symbols: int | None = None,
        minutes: int | None = None,
        broker: str | None = None,
        show: Callable[[str], None] | None = None,
        account: Account | None = None,
    ) -> None:
        self._account, self._of_account = account, random.Random(f"{seed}/{number}/account")
        rngs = {name: random.Random(f"{seed}/{number}/{name}") for name in ("day", "faults", "net", "venue", "bot")}
        profile = draw(rngs["day"], symbols, minutes, broker)
        end = profile.minutes * 60.0
        close_at = end * rngs["day"].uniform(0.5, 0.95) if profile.early else end

        def drawn(trace: Trace) -> Faults:
            faults = Faults(rngs["faults"], trace, without)
            limits(profile, faults)
            return faults

        self._set_up(number, profile, rngs, close_at, show, drawn)

    def _set_up(
        self,
        number: int,
        profile: Profile,
        rngs: Mapping[str, random.Random],
        close_at: float,
        show: Callable[[str], None] | None,
        faults_of: Callable[[Trace], Faults],
    ) -> None:
        """The world of a day, before anything happens in it."""
        self.number, self.profile = number, profile
        self.rng = rngs["bot"]
        self.world = World(self.profile.grain_s)
        self.trace = Trace(lambda: self.world.time, show)
        self.faults = faults_of(self.trace)
        self.end = self.profile.minutes * 60.0
        self.oracle: Oracle
        shown = self._shown()
        if shown.ids:
            self.faults.never("split")  # of a part of an account nobody sees one, as the page of assumptions says
        self.symbols = names(self.profile.symbols, pairs=shown.fees)
        capabilities, of_contracts = self.profile.capabilities, contracts(self.symbols) if shown.multiples else []
        if shown.parts:
            capabilities = in_whole_shares(capabilities)
        if shown.fees or of_contracts:
            capabilities = declared(capabilities, of_contracts)
        self.venue = self.venue_class(
            self.world, rngs["venue"], self.faults, self.trace, capabilities, self._sent_at, close_at
        )
        self.oracle = Oracle(self.world, self.venue, self.faults)
        around = (self.venue, self.faults, self.trace)
        self._neighbour = Neighbour(self.world, *around, self._of_account, self.oracle.fail, lives_here=shown.neighbour)
        self.venue.tells_fees = self.profile.symbols % 2 == 0
        self.venue.tells_names = self.profile.symbols % 3 != 0 or shown.ids
        self.worlds = Worlds(shown, self._of_account, *around, self.oracle.fail)
        self.happenings = Happenings(self.world, *around, self._of_account, self.oracle.fail)
        self.happenings.empty, self.happenings.splits, self.happenings.refusals = (
            shown.empty, shown.splits, shown.refusals,
        )  # fmt: skip
        self.worlds.checks = self.happenings.checks = self._neighbour.checks = self.oracle.checks
        self.worlds.prefix = self.profile.config.get("live", {}).get("entry_id_prefix", "")
        self.worlds.contracts = frozenset(of_contracts)
        self.worlds.lists_nothing, self.worlds.is_watched = self.happenings.lists_nothing, self.oracle.is_watched
        self.worlds.is_alarmed = self._is_alarmed
        self.happenings.on_split = self._was_split
        self.venue.on_updates = self._spread
        sides = draw_sides(self.rng, self.symbols)
        sides |= {symbol: Side.LONG for symbol in self.symbols if is_pair(symbol)}
        self.folder = Path(
            tempfile.mkdtemp(prefix="exitfsm-day-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        self.config = self._configured(shown)
        self._net = rngs["net"]
        self._make_machines()
        two = self.profile.machines == "two machines"
        people = (self.world, self.venue, self.faults, self.trace, self.rng, self.processes)
        told = kinds(self.symbols, looks=shown.looks, hours=shown.hours, quotes=shown.quotes)
        self.tape = Tape(told, self.world, *around, self.oracle, self._of_account, self.processes)
        self.oracle.lists_fills = self.profile.lists_fills
        self.oracle.others_may_exit = self.profile.machines == "two machines"
        self.oracle.closed_heard_at = self._closed_heard_at
        self._bot = Bot(
            *people, sides=sides, spread=self._spread, in_parts=not two, watches=self.profile.bot_watches
        )  # fmt: skip
        self._person = Person(*people, symbols=self.symbols, trades=not two)
        self._person.parts = self._of_account if shown.parts else None
        self._cut_until: dict[str, float] = {}
        self._no_stream: dict[str, bool] = {}
        self._refused_until: dict[str, float] = {}
        self._split: set[str] = set()
        self._lost_files = self._lost_in_outage = 0
        self.settled_s = 0.0

    def _shown(self) -> Account:
        """What others do is not done where two machines know nothing of each other.

        Nor are fees taken in the base: with a residue a symbol is never flat, and the two may name what is bought next
        differently. Nor is anything sold in parts: an order at the broker does not say whether it is a part, so that
        the other one cannot know what is left (docs/laboratory.md).
        """
        account = self._account or Account()
        by_ids = account.ids and account.neighbour and self.profile.lists_fills
        account = account._replace(ids=by_ids, splits=account.splits and not by_ids)
        if self.profile.machines != "two machines":
            return account
        apart = account._replace(foreign=False, twins=False, empty=False, splits=False, refusals=False, ids=False)
        return apart._replace(fees=False, parts=False)

    def _configured(self, shown: Account) -> dict[str, Any]:
        """What is configured, with what the account of this day asks for."""
        config = dict(self.profile.config)
        if shown.hours:
            config["live"] = {**config.get("live", {}), "bar_seconds": 3600}
        if shown.night and self._of_account.random() < 0.25:
            config["session"] = {**config.get("session", {}), "trade": "extended"}
        if shown.parts:
            config["targets"] = in_parts(self._of_account)
            del config["profit_taking"]
        if shown.ids:
            config["manage"] = {"owner": "ids", "ids": [BOT]}
        elif shown.neighbour:
            config["manage"] = {"ignore": self._neighbour.symbols}
        return config

    def _make_machines(self) -> None:
        two = self.profile.machines == "two machines"
        self.disks = [self._disk(name) for name in (("A", "B") if two else ("A",))]
        names = ["m1", "m2"] if self.profile.machines != "one" else ["m1"]
        self.processes = [
            Process(
                name, self.world, self._net, self.faults, self.trace, self.disks[-1] if n else self.disks[0],
                self.oracle, self._line, lambda: self.config, plain=self.profile.plain,
            )
            for n, name in enumerate(names)
        ]  # fmt: skip
        for process in self.processes:
            process.on_death = self._died

    def _disk(self, name: str) -> Disk:
        return Disk(name, self.folder, self.world, self._net, self.faults, self.trace, self._committed)

    def _line(self, loop: ProcessLoop, name: str) -> Line:
        return Line(
            self.world, self._net, self.faults, self.trace, self.venue, loop, name,
            lists_fills=self.profile.lists_fills, lists_ids=self.profile.lists_ids, worlds=self.worlds,
            on_submit=self._on_submit, on_answer=self._on_answer,
        )  # fmt: skip

    # --- the day ------------------------------------------------------------------------------------------------------

    def run(self) -> DayResult:
        """All of it."""
        violation: str | None = None
        heard = Defects()
        logger = logging.getLogger("exitfsm")
        level, propagate = logger.level, logger.propagate
        logger.addHandler(heard)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        self._heard = heard
        try:
            self._session()
            self._aftermath()
            self._last_checks()
        except (Violation, AssertionError) as error:
            violation = str(error) or repr(error)
        finally:
            logger.removeHandler(heard)
            logger.setLevel(level)
            logger.propagate = propagate
            self._clear_away()
        if violation is not None:
            self.trace("oracle", f"VIOLATION {violation}")
        return DayResult(
            number=self.number,
            profile=self.profile,
            exits=len(self.oracle.exits),
            closed=len(self.oracle.closed - self.oracle.exits),
            events=self.oracle.events,
            rows=self.faults.counts,
            kinds=self.faults.kinds,
            checks=self.oracle.checks,
            deaths=sum(p.deaths for p in self.processes),
            faults=self.faults.number,
            settled_s=self.settled_s,
            digest=self.trace.digest(),
            lines=self.trace.count,
            violation=violation,
            story=list(self.trace.lines) if violation is not None else [],
        )

    def _session(self) -> None:
        world = self.world
        for symbol in self.symbols:
            self.venue.price(symbol, Decimal(self.rng.randint(8000, 12000)) / 100)
        for n, process in enumerate(self.processes):
            world.after(n * self.rng.uniform(0, 40), self._start, process)
        world.after(BAR_S, self._minute)
        world.after(20.0, self._person.look)
        world.at(self.venue.close_at, self.venue.end_session, self.profile.early)
        self._run_until(self.end)

    def _run_until(self, end: float) -> None:
        while self.world.time < end:
            self.world.run_until(min(end, self.world.time + 30))
            self._no_defects()

    def _no_defects(self) -> None:
        if self._heard.found:
            self.oracle.fail("a defect was logged", self._heard.found[0])
        if self.world.failures:
            self.oracle.fail("nobody handled", self.world.failures[0])

    # --- the processes ------------------------------------------------------------------------------------------------

    def _start(self, process: Process) -> None:
        if not process.loop.dead and process.manager is not None:
            return
        try:
            started = process.start()
        except StoreError as error:
            # A person sets the file aside, and lets it begin anew.
            self.trace(process.name, f"cannot open its store: {error}".replace(str(self.folder), ""))
            self._lose(process.disk)
            self.world.after(5, self._start, process)
            return
        if not started:
            self.world.after(self.rng.uniform(20, 90), self._start, process)
            return
        if process.store is not None:
            self.oracle.opened(process.disk.name, process.store.chain_head()[0])

    def _died(self, process: Process) -> None:
        disk = process.disk
        lost = disk.lost_power
        if lost:
            disk.lost_power = False
            with ExitStore(disk.path) as left:
                self.oracle.reread(disk.name, list(left.events()), lost=True)
            self._names_are_lost()
            self.oracle.others_may_exit = True
        if self._lost_in_outage < 4 and process.exiting() and self.faults.happens("store lost, look-ups out", 39):
            self._lost_in_outage += 1
            self._lose(disk)
            self._look_ups_fail()
        elif self._lost_files < 3 and self.faults.happens("store lost", 39):
            self._lost_files += 1
            self._lose(disk)
        elif self._lost_files < 3 and self.faults.happens("store damaged", 37):
            self._lost_files += 1
            disk.damage()
        if self.faults.happens("other configuration", 51 if process.exiting() else None):
            self.config = {**self.config, "stop_loss": {"threshold_pct": self.rng.choice((0.8, 1.0, 1.5))}}
        if self.worlds.account.settings and self.faults.drawn(
            self._of_account, "other rules at a restart", 0.6, 51 if process.exiting() else None
        ):
            self.config = other_rules(self.config, self._of_account)
        self.world.after(self.rng.uniform(0.2, 40) if self.faults.on else 1.0, self._start, process)

    def _look_ups_fail(self) -> None:
        """For a while no order can be looked up."""
        self.venue.look_ups_out_until = self.world.time + self._net.uniform(10, 120)
        self.worlds.look_ups_fail()

    def _lose(self, disk: Disk) -> None:
        """The store is gone."""
        disk.lose()
        self.oracle.forget(disk.name)
        self.oracle.others_may_exit = True
        self._names_are_lost()

    def _names_are_lost(self) -> None:
        """With what was recorded, where the executions that the names are made of are not listed, or do not add up."""
        for symbol in self.symbols if not self.profile.lists_fills else sorted(self._split):
            self.venue.names_lost_at[symbol] = self.world.time

    def _committed(self, disk: Disk, recorded: list[Recorded]) -> None:
        self.oracle.committed(disk.name, recorded)
        lives = self.oracle.lives[disk.name]
        for r in recorded:
            self.happenings.committed(r.event)
            if isinstance(r.event, AlarmRaised) and r.event.kind == "unit_unclear":
                self._unit_is_unclear(lives[r.stream_id].position, [life.position for life in lives.values()])
            self.worlds.note_part(r.event, lives[r.stream_id].position if r.stream_id in lives else None)
            if isinstance(r.event, ExitTriggered | ExitRetried):
                self.happenings.exit_begins(lives[r.stream_id].position.symbol)
                self.worlds.exit_begins(lives[r.stream_id].position.symbol)
        for opened in (lives[r.stream_id].position for r in recorded if isinstance(r.event, PositionOpened)):
            self._neighbour.check(opened.symbol, "is watched")
            self.worlds.opened(opened.symbol, opened.qty, opened.entry_price)
            ours = [p for life in lives.values() if (p := life.position).symbol == opened.symbol]
            if [p for p in ours if not p.state.terminal] == [opened]:
                self.worlds.adopted(opened.symbol, opened.qty)

    def _unit_is_unclear(self, p: Position, known: Sequence[Position]) -> None:
        """Where nobody traded since the position was opened, and nothing was split, its unit is clear.

        But where more is held than is watched: the average is that of both.
        """
        self.oracle.checks["I39"] += 1
        venue, opened = self.venue, self.oracle.opened_s(p)
        changes = (venue.bought_on_at, venue.disturbed_at, venue.flat_until)
        traded = any(at.get(p.symbol, 0.0) > opened + 1 for at in changes)
        # What an exit beside it has sold leaves an average that is of both.
        traded = traded or any(at > opened + 1 for at, _ in venue.held_lately[p.symbol])
        watched = sum((q.remaining_qty for q in known if q.symbol == p.symbol and not q.state.terminal), ZERO)
        if p.symbol not in self._split and not traded and abs(venue.held(p.symbol)) <= watched:
            self.oracle.fail("I39", f"the unit of {p.symbol} is called unclear, and never changed")

    def _on_submit(self, line: Line, order: Order, arrived: bool) -> None:
        self._neighbour.check(order.symbol, f"is sold by {order.client_order_id}")
        if arrived:
            self.oracle.arrives(order)
            self.worlds.check_alone(order)
        else:
            # What was heard before the close says when it is due, but a clock may be wrong: unheard, it counts as open.
            # What is heard at this very moment comes after what was decided.
            heard_at, now = line.hours_heard.get(order.symbol, -1.0), self.world.time
            if self.profile.tight and self.oracle.waited_s(self._disk_of(line), order.client_order_id) > TURN_S:
                self.faults.count("waited for its turn")
            self.oracle.leaves(self._disk_of(line), order, knows_hours=self.venue.close_at <= heard_at < now - THREAD_S)
            self.happenings.exit_begins(order.symbol)

    def _on_answer(self, line: Line, order_id: str) -> None:
        if self.faults.happens("killed at the answer", 10, order_id):
            self._process_of(line).kill_after(self._net.randint(1, 4))

    def _sent_at(self, order_id: str) -> float:
        return self.oracle.sent_at(order_id)

    def _closed_heard_at(self, disk: str, symbol: str) -> float:
        """Since when a process of this disk has heard that the market is closed, where that matters."""
        if self.config.get("session", {}).get("trade") == "extended":
            return float("inf")
        lines = [p.line for p in self.processes if p.disk.name == disk and p.line is not None and p.up]
        return max((line.closed_heard.get(symbol, float("inf")) for line in lines), default=float("inf"))

    def _disk_of(self, line: Line) -> str:
        return self._process_of(line).disk.name

    def _process_of(self, line: Line) -> Process:
        return next(p for p in self.processes if p.name == line.name)

    # --- the stream of updates ----------------------------------------------------------------------------------------

    def _spread(self) -> None:
        """The venue's news go out to every process."""
        news, self.venue.updates = self.venue.updates, []
        faults, rng, now = self.faults, self._net, self.world.time
        for process in self.processes:
            if self._has_no_stream(process):
                faults.seen(56)
                continue
            if faults.happens("stream cut"):
                self._cut_until[process.name] = now + rng.uniform(5, 120)
            for report in news:
                about = report.client_order_id
                if self._cut_until.get(process.name, 0.0) > now:
                    faults.seen(15)
                    continue
                if faults.happens("update lost", 15, about):
                    continue
                delay = 0.02
                if faults.happens("update late", 14, about):
                    delay += rng.uniform(0.05, 30)
                if self.worlds.is_told_in_other_words(report):
                    self.world.after(delay, process.hear_unknown, in_other_words(report))
                    continue
                self.world.after(delay, process.hear, report)
                if faults.happens("update twice", 13, about):
                    self.world.after(delay + rng.uniform(0, 3), process.hear, report)

    def _has_no_stream(self, process: Process) -> bool:
        """Decided once for each process: from the first update on its stream is there, or never."""
        if process.name not in self._no_stream:
            self._no_stream[process.name] = self.faults.happens("stream never up", None, process.name)
        return self._no_stream[process.name] and self.faults.on

    def _is_refused(self, symbol: str) -> bool:
        """True while a symbol's market data is refused: nobody sees its price for some minutes."""
        if self.faults.happens("symbol refused", None, symbol):
            self._refused_until[symbol] = self.world.time + self.rng.randint(3, 12) * BAR_S
        refused = self.world.time < self._refused_until.get(symbol, 0.0)
        if refused:
            self.faults.seen(57)
        return refused

    # --- the market, once a minute ------------------------------------------------------------------------------------

    def _minute(self) -> None:
        self.world.after(BAR_S, self._minute)
        venue, faults, rng = self.venue, self.faults, self.rng
        if not venue.is_open or not faults.on:
            if self.worlds.account.night and faults.on:
                self.tape.at_night(self.symbols)
            return
        bars: list[Bar] = []
        moves: list[tuple[str, Decimal, Decimal]] = []
        for symbol in self.symbols:
            if self.tape.tells(symbol):
                moves.append((symbol, venue.prices[symbol], self._moved(symbol)))
            else:
                bars += self._bar(symbol)
            venue.on_price(symbol)
        self.tape.tell(moves)
        self.trace("market", f"bar {len(bars)}")
        for process in self.processes:
            self.world.after(rng.uniform(0.02, 0.3), process.feed, bars)
        for symbol in self.symbols:
            self._events_of(symbol)
        self._neighbour.minute()
        self.worlds.others_trade(self.symbols, self.world.after)
        self.happenings.minute(self.symbols)
        for process in self.processes:
            self._troubles_of(process)
        if faults.happens("look-ups out", 30):
            self._look_ups_fail()
        for at_s in (2, 7, 13):  # soon after an exit it is flat again, and may enter anew before the next bar
            self.world.after(at_s + rng.uniform(0, 2), self._bot.enter_what_is_flat)

    def _moved(self, symbol: str) -> Decimal:
        """The market's price of a symbol moves; where to."""
        rng, price = self.rng, self.venue.prices[symbol]
        step = rng.choice((0.1, 0.5, 1.2, 1.6, 2.3, 2.8, 3.5))
        away = float(price) / 100 - 1
        up = rng.random() < 0.5 - away
        close = (price * (1 + Decimal(str(step if up else -step)) / 100)).quantize(Decimal("0.01"))
        self.venue.price(symbol, close)
        return close

    def _bar(self, symbol: str) -> list[Bar]:
        faults, rng, now = self.faults, self.rng, self.venue.now()
        price, close = self.venue.prices[symbol], self._moved(symbol)
        good = Bar(symbol, now, price, max(price, close), min(price, close), close)
        if faults.happens("price absurd", 44, symbol):
            absurd = rng.choice((float("nan"), 0, -3, close * 10, close / 10))
            self.oracle.absurd[symbol, now] = Decimal(str(absurd))
            return [Bar(symbol, now, absurd, absurd, absurd, absurd)]
        self.oracle.bars[symbol, now] = close
        if self._is_refused(symbol):
            return []
        if faults.happens("bar late", 43, symbol):
            for process in self.processes:
                self.world.after(rng.uniform(30, 400), process.feed, [good])
            return []
        return [good, good] if faults.happens("bar twice", 43, symbol) else [good]

    def _events_of(self, symbol: str) -> None:
        """What happens to a symbol beside its price."""
        venue, faults, rng = self.venue, self.faults, self.rng
        if faults.happens("halt", None, symbol):
            venue.halt(symbol, rng.uniform(20, 400))
        held = venue.held(symbol)
        if held == 0:
            return
        free = not venue.live_exits(symbol)
        if is_pair(symbol) and venue.is_flat(symbol):
            return
        if abs(held) >= 2 and (free or not venue.capabilities.reduce_only) and venue.others_may_trade(symbol):
            if faults.happens("sold by hand", 27, symbol):
                venue.by_hand(symbol, Decimal(rng.randint(1, int(abs(held)) - 1)))
            elif faults.happens("closed by hand", 26, symbol):
                venue.by_hand(symbol, abs(held))
        if free and venue.others_may_trade(symbol) and faults.happens("sold past zero", 26, symbol):
            self._sell_past_zero(symbol)
        held = venue.held(symbol)
        may_split = free and not is_pair(symbol) and (held % 2 == 0 or venue.capabilities.stocks.qty_min > 0)
        if may_split and faults.happens("split", 23, symbol):
            ratio = rng.choice((Decimal(2), Decimal("0.5"), Decimal(4)))
            venue.split(symbol, ratio)
            self._was_split(symbol)
        filled = self._filled(symbol)
        if filled is not None and faults.happens("fill taken back", 21, symbol):
            self.oracle.told.pop(filled.order.client_order_id, None)
            venue.take_back(filled)

    def _was_split(self, symbol: str) -> None:
        self._split.add(symbol)
        self.venue.changed_by_others(symbol)

    def _sell_past_zero(self, symbol: str) -> None:
        """A person closes more than is held, and notices that some time later."""
        held, over = self.venue.held(symbol), Decimal(self.rng.randint(1, 20))
        self.venue.by_hand(symbol, abs(held) + over)
        self.world.after(self.rng.uniform(30, 240), self._buy_back, symbol, held > 0)

    def _buy_back(self, symbol: str, was_long: bool) -> None:
        """What a person sold too much is bought back, unless that is over already."""
        held = self.venue.held(symbol)
        if held == 0 or (held > 0) is was_long:
            return
        if self.venue.live_exits(symbol) or not self.venue.others_may_trade(symbol):
            self.world.after(20, self._buy_back, symbol, was_long)
        else:
            self.venue.by_hand(symbol, abs(held))

    def _filled(self, symbol: str) -> Booked | None:
        """The newest exit order of the position under watch that has filled something."""
        life = self._watched(symbol)
        if life is None:
            return None
        booked = (self.venue.booked(order.client_order_id) for order in reversed(life.orders))
        return next((b for b in booked if b is not None and b.filled > 0), None)

    def _watched(self, symbol: str) -> Position | None:
        manager = self.processes[0].manager
        if manager is None or not self.processes[0].up:
            return None
        return next((p for p in manager.positions() if p.symbol == symbol), None)

    def _troubles_of(self, process: Process) -> None:
        faults, rng = self.faults, self.rng
        if not process.up or process.manager is None:
            return
        self.oracle.at_rest(process.disk.name, process.manager.positions())
        if faults.happens("starved", 53, process.name):
            process.loop.asleep_until = self.worlds.slept_until = self.world.time + rng.uniform(2, 90)
        if faults.happens("clock set", 41, process.name):
            process.clock.offset_s = rng.choice((-3600.0, -40.0, 40.0, 3600.0))
            began = self.venue.now()
            self.oracle.clocks_wrong.append((began, None))
            self.world.after(rng.uniform(60, 300), self._set_right, process, began)
        if faults.happens("killed", None, process.name):
            process.kill_after(rng.randint(1, 400))

    def _set_right(self, process: Process, began: datetime) -> None:
        process.clock.offset_s = 0.0
        self.oracle.clocks_wrong = [
            (t, self.venue.now() if t == began else until) for t, until in self.oracle.clocks_wrong
        ]

    # --- after the faults ---------------------------------------------------------------------------------------------

    def _aftermath(self) -> None:
        """No more faults: everything must be flat or alarmed within the bound."""
        self._run_until(self.venue.open_again_at + 1)
        self.faults.on = False
        self.trace("world", "no more faults")
        self.world.after(40, self._all_stop)
        began = self.world.time
        while True:
            self._run_until(self.world.time + 10)
            open_still = self._open_still()
            if not open_still and self.world.time > began + 70:
                break
            if self.world.time - began > BOUND_S:
                self.oracle.fail("L1", f"not flat and not alarmed {BOUND_S:.0f} s after the faults: {open_still[0]}")
        self.settled_s = self.world.time - began

    def _all_stop(self) -> None:
        """Prices move against everything that is held, so that everything is stopped out."""
        if self.world.time > self.venue.open_again_at + BOUND_S:
            return
        self.world.after(BAR_S, self._all_stop)
        bars = []
        for symbol in self.symbols:
            price, held = self.venue.prices[symbol], self.venue.held(symbol)
            cent = Decimal("0.01") if price >= 1 else Decimal("0.000001")  # after many splits a cent is no small step
            close = (price * (Decimal("0.97") if held > 0 else Decimal("1.03"))).quantize(cent)
            self.venue.price(symbol, close)
            self.oracle.bars[symbol, self.venue.now()] = close
            bars.append(Bar(symbol, self.venue.now(), price, max(price, close), min(price, close), close))
            self.venue.on_price(symbol)
        for process in self.processes:
            process.feed(bars)

    def _open_still(self) -> list[str]:
        """Positions that are neither flat nor alarmed."""
        found: list[str] = []
        if not any(p.up for p in self.processes):
            return ["no process is up"]
        alarms = self._alarms()
        watched: dict[str, list[Position]] = {}
        for process in self.processes:
            for p in process.manager.positions() if process.manager is not None and process.up else ():
                watched.setdefault(p.symbol, []).append(p)
        for symbol in self.symbols:
            held = self.venue.held(symbol)
            mine = watched.get(symbol, [])
            if not mine and abs(held) < self.venue.least(symbol):
                continue
            ids = {p.position_id for p in mine}
            if any(
                stream in ids or (stream.startswith("account:") and _names(text, symbol)) for stream, text in alarms
            ):
                continue
            states = ", ".join(f"{p.position_id} {p.state} {plain(p.remaining_qty)}" for p in mine)
            found.append(f"{symbol} holds {plain(held)}: {states or 'nobody watches'}")
        return found

    def _alarms(self) -> list[tuple[str, str]]:
        """The alarms that the stores hold, standing or acknowledged."""
        return [
            (row.stream_id, row.text)
            for process in self.processes
            if process.store is not None and process.up
            for row in process.store.alarms(standing_only=False)
        ]

    def _is_alarmed(self, order_id: str) -> bool:
        """True where an alarm names an order, and while no process is up: then no store is open to be asked."""
        return not any(p.up for p in self.processes) or any(order_id in text for _, text in self._alarms())

    def _last_checks(self) -> None:
        self.venue.verify()
        for process in self.processes:
            if process.up and process.manager is not None:
                if self._open_still_any():
                    continue
                before = self.oracle.changes
                self.oracle.checks["I16"] += 1
                for _ in range(2):
                    process.command(process.manager.sync)
                    self._run_until(self.world.time + 1)
                    if self.oracle.changes != before:
                        self.oracle.fail("I16", "reconciling with nothing open changed something")
        for process in self.processes:
            process.stop()
        self._run_until(self.world.time + 60)
        for disk in self.disks:
            for store in disk.stores:
                store.close()
            if disk.path.exists():
                with ExitStore(disk.path) as store:
                    self.oracle.reread(disk.name, list(store.events()), lost=False)
                    verified = audit.verify(store)
                if not verified.ok:
                    self.oracle.fail("the audit", str(verified.findings[0]))
        self._no_defects()

    def _open_still_any(self) -> bool:
        """True where something is watched, or held and in an alarm alone: it is watched once orders are looked up."""
        watched = any(p.manager is not None and p.manager.positions() for p in self.processes)
        return watched or not all(self.venue.is_flat(symbol) for symbol in self.symbols)

    def _clear_away(self) -> None:
        for process in self.processes:
            process.on_death = lambda _: None
            process.kill_after(0)
            process.loop.bury()
        for disk in self.disks:
            disk.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _names(text: str, symbol: str) -> bool:
    """True when an alarm's text is about a symbol."""
    return symbol in text.replace(":", " ").split()
