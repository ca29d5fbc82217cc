"""A recorded day: a script of what happens outside the manager, played in the simulation's own world without chance.

Seeds make other days whenever the simulation learns something; a script stays the day that it is. It is text, one
happening a line, with its time in seconds from the start of the world; `#` begins a comment. First come the day's
surroundings:

    broker forgets closed ids                           one of the simulation's brokers; `good` where none is named
    machines two machines                               one; two processes; two machines
    config live.sync_seconds 60                         a setting, in place of the simulation's default
    executions not listed                               the broker lists no executions
    threads                                             the broker's methods are plain functions

and then what happens, in order of time:

     0.0   start                                        every process, or the one that is named (`start m1`)
     0.0   price S1 100                                 the market's price, of which no bar tells
    10.0   enter long 17 S1 watched                     the bot enters, at once; `watched`: and names it to the manager
    11.0   enter long 5 S1                              it buys on
    16.0   bar S1 97                                    a bar that closes there
    16.0   bar S1 9.7 absurd                            a bad print: a bar at a price that the market never had
    20.0   by hand sell 5 S1                            somebody trades, and tells nobody
    22.5   fill S1/1 6 late                             the first exit order of S1 fills 6 (or `all` that it has left);
                                                        `late`: though it is over
    23.0   end S1/1 canceled                            the venue ends it: canceled, expired or rejected
    24.0   deny S1/1 expired                            an update says so, and it works on
    25.0   reopen S1/1                                  the venue takes its end back
    26.0   slow answer fills 1.5                        the next answer to this method takes so many seconds longer
    26.0   slow request submit 6                        the next request of it does
    30.0   fault update lost                            the next time that this fault can happen, it does; `fault 3 …`:
                                                        the next three times
    31.0   kill m1                                      a process dies; it starts again where the script says so
    31.0   lose                                         the stores are lost, while no process is up
    31.0   outage 60                                    for so many seconds no order can be looked up
    32.0   close 300                                    the market closes, and opens again after so many seconds
    33.0   clock m1 40                                  the clock of a process is so many seconds ahead
    40.0   stop                                         nothing happens any more: the last checks

Nothing else happens: orders fill when the script says so, an update arrives 0.02 s after its cause, a request and an
answer are under way for 0.02 s each.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal, DecimalException
from typing import Any, NamedTuple

from exitfsm.values import Bar, Order, OrderSide, OrderStatus, Side
from simulation.day import Day
from simulation.faults import CHANCES, Faults
from simulation.process import Process
from simulation.profile import BROKERS, OTHERS, Profile
from simulation.trace import Trace
from simulation.venue import Venue
from simulation.wire import Line

#: How long a request and an answer are under way.
WAY_S = 0.02
_MACHINES = ("one", "two processes", "two machines")
_ENDS = {"canceled": OrderStatus.CANCELED, "expired": OrderStatus.EXPIRED, "rejected": OrderStatus.REJECTED}


class Happening(NamedTuple):
    """One line of a script: what happens when, and where it is written."""

    line: int
    at: float
    what: tuple[str, ...]


class Script(NamedTuple):
    """A recorded day as it is written down.

    Attributes:
        surroundings: the lines before the first happening, as words.
        happenings: in order of time.
        symbols: all that have a price.
    """

    surroundings: list[tuple[int, tuple[str, ...]]]
    happenings: list[Happening]
    symbols: list[str]


def read(text: str) -> Script:
    """A script from its text.

    Raises:
        ValueError: a line is none of those that there are, or out of order; with its number, and what to write.
    """
    surroundings: list[tuple[int, tuple[str, ...]]] = []
    happenings: list[Happening] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        words = tuple(raw.partition("#")[0].split())
        if not words:
            continue
        if not words[0][0].isdigit():
            if happenings:
                raise ValueError(f"line {number}: a happening begins with its time in seconds, not with {words[0]!r}")
            surroundings.append((number, words))
            continue
        at = float(words[0])
        if happenings and at < happenings[-1].at:
            raise ValueError(f"line {number}: {words[0]} lies before the line above it; write them in order of time")
        if len(words) < 2 or words[1] not in _HAPPENS:
            raise ValueError(f"line {number}: what happens is one of {', '.join(_HAPPENS)}: {raw.strip()!r}")
        happenings.append(Happening(number, at, words[1:]))
    if not happenings or happenings[-1].what != ("stop",):
        raise ValueError("the last line of a script is: TIME stop")
    symbols = sorted({h.what[1] for h in happenings if h.what[0] == "price" and len(h.what) > 1})
    return Script(surroundings, happenings, symbols)


class _Middle(random.Random):
    """No chance: always the middle."""

    def random(self) -> float:
        """The middle of all numbers."""
        return 0.5


class _Scripted(Faults):
    """The faults that the script names, each the next time that it can happen."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(_Middle(), trace)
        self.next: Counter[str] = Counter()

    def happens(self, kind: str, row: int | None = None, about: str = "") -> bool:
        """True when the script wants it now."""
        if not self.next[kind]:
            return False
        self.next[kind] -= 1
        self.number += 1
        self.kinds[kind] += 1
        if row is not None:
            self.counts[row] += 1
        self._trace("fault", f"#{self.number} {kind} {about}")
        return True


class _Still(Venue):
    """A venue at which nothing moves but what the script moves."""

    def _match(self, client_order_id: str) -> None:
        """The market looks at an order when the script says so."""

    def _resolve_cancel(self, client_order_id: str) -> None:
        """A cancel is pending until the script ends the order."""


class _ScriptedLine(Line):
    """A connection that is as slow as the script says."""

    #: By way and method: by how many seconds the next ones are slower. The script's, for every process.
    slower: dict[tuple[str, str], deque[float]]

    def way_there(self, method: str, about: str) -> list[float]:
        """The time it takes anyway, and what the script wants more; lost and repeated ones are faults of the script."""
        ways = super().way_there(method, about)
        more = self._more("request", method)
        return [WAY_S + more for _ in ways]

    def way_back(self, method: str, about: str) -> float | None:
        """The same for the answer."""
        return WAY_S + self._more("answer", method)

    def _more(self, way: str, method: str) -> float:
        waiting = self.slower[way, method]
        return waiting.popleft() if waiting else 0.0


class RecordedDay(Day):
    """A day that is played from a script.

    Args:
        text: the script; see the module.
        show: told each line of the trace.

    Raises:
        ValueError: the script cannot be read; the text says which line and what to write.
    """

    venue_class = _Still

    def __init__(self, text: str, *, show: Callable[[str], None] | None = None) -> None:
        self.script = read(text)
        self._slower: dict[tuple[str, str], deque[float]] = defaultdict(deque)
        rngs: dict[str, random.Random] = {name: _Middle() for name in ("day", "faults", "net", "venue", "bot")}
        profile = _profile(self.script)
        self._set_up(0, profile, rngs, self.script.happenings[-1].at + 86_400, show, _Scripted)
        self.symbols = self.script.symbols

    def _line(self, loop: Any, name: str) -> Line:
        line = _ScriptedLine(
            self.world, self._net, self.faults, self.trace, self.venue, loop, name,
            lists_fills=self.profile.lists_fills, lists_ids=False, worlds=self.worlds,  # ids were recorded before
            on_submit=self._on_submit, on_answer=self._on_answer,
        )  # fmt: skip
        line.slower = self._slower
        return line

    def _session(self) -> None:
        for process in self.processes:
            process.on_death = lambda _: None
        for h in self.script.happenings:
            self._run_until(h.at)
            try:
                _HAPPENS[h.what[0]](self, *h.what[1:])
            except (TypeError, KeyError, IndexError, ValueError, DecimalException) as error:
                raise ValueError(f"line {h.line}: {' '.join(h.what)!r} cannot happen at {h.at}: {error}") from error

    def _aftermath(self) -> None:
        self.faults.on = False

    # --- what happens -------------------------------------------------------------------------------------------------

    def _named(self, name: str) -> list[Process]:
        found = [p for p in self.processes if name in ("", p.name)]
        if not found:
            raise ValueError(f"there is no process {name}")
        return found

    def do_start(self, name: str = "") -> None:
        """A process starts, or all of them."""
        for process in self._named(name):
            self._start(process)

    def do_kill(self, name: str = "") -> None:
        """A process dies, or all of them."""
        for process in self._named(name):
            process.kill_after(0)

    def do_lose(self) -> None:
        """The stores are lost."""
        self._run_until(self.world.time)  # what is dead is buried first
        for disk in self.disks:
            self._lose(disk)

    def do_outage(self, seconds: str) -> None:
        """No order can be looked up for a while."""
        self.venue.look_ups_out_until = self.world.time + float(seconds)

    def do_close(self, seconds: str) -> None:
        """The market closes for a while."""
        self.venue.close_at = self.world.time
        self.venue.open_again_at = self.world.time + float(seconds)
        self.venue.end_session(early=True)

    def do_clock(self, name: str, seconds: str) -> None:
        """The clock of a process is ahead, or behind, from now on."""
        for process in self._named(name):
            process.clock.offset_s = float(seconds)
        self.oracle.clocks_wrong.append((self.venue.now(), None))

    def do_price(self, symbol: str, price: str) -> None:
        """The market's price."""
        self.venue.price(symbol, price)

    def do_bar(self, symbol: str, close: str, absurd: str = "") -> None:
        """A bar that closes at a price; `absurd`: a bad print, and the market stays where it is."""
        at, before, after = self.venue.now(), self.venue.prices[symbol], Decimal(close)
        if absurd:
            before = self.oracle.absurd[symbol, at] = after
        else:
            self.venue.price(symbol, after)
            self.oracle.bars[symbol, at] = after
        for process in self.processes:
            process.feed([Bar(symbol, at, before, max(before, after), min(before, after), after)])

    def do_enter(self, side: str, qty: str, symbol: str, watched: str = "") -> None:
        """The bot enters, or buys on."""
        bought = OrderSide.BUY if Side(side) is Side.LONG else OrderSide.SELL
        order = self.venue.place(symbol, bought, qty, tell=False)
        self.trace("bot", f"enters {side} {qty} {symbol}")
        self.venue.fill(order)
        if watched:
            opened = (symbol, side, Decimal(qty), self.venue.prices[symbol], self.venue.now())
            for process in self.processes:
                if process.manager is not None:
                    process.command(process.manager.watch, *opened)
        self._spread()

    def do_by(self, _hand: str, side: str, qty: str, symbol: str) -> None:
        """Somebody trades by hand."""
        self.venue.disturbed_at[symbol] = self.world.time
        self.venue.trade_by_hand(symbol, side, qty)
        self.trace("person", f"trades {side} {qty} {symbol}")

    def do_fill(self, order: str, qty: str, late: str = "") -> None:
        """An exit order fills, in part or `all` that it has left."""
        self.venue.fill(self._order(order), None if qty == "all" else qty, late=bool(late))
        self.trace("venue", f"fills {qty} of {order} {late}")
        self.venue._tell_all()

    def do_end(self, order: str, status: str) -> None:
        """An exit order ends."""
        self.venue._end(self.venue._find(self._order(order)), _ENDS[status])
        self.trace("venue", f"ends {order}: {status}")
        self.venue._tell_all()

    def do_deny(self, order: str, status: str) -> None:
        """An update tells of an end that the record denies."""
        booked = self.venue._find(self._order(order))
        self.venue.tell_denied_end(booked, _ENDS[status])

    def do_reopen(self, order: str) -> None:
        """The venue takes the end of an exit order back."""
        self.venue.take_back_end(self.venue._find(self._order(order)))
        self.venue._tell_all()

    def do_slow(self, way: str, method: str, seconds: str) -> None:
        """The next request, or answer, of a method is slower."""
        if way not in ("request", "answer"):
            raise ValueError(f"slow is a request or an answer, not {way}")
        self._slower[way, method].append(float(seconds))

    def do_fault(self, *kind: str) -> None:
        """A fault happens the next time that it can, or the next so many times."""
        times, words = (int(kind[0]), kind[1:]) if kind[0].isdigit() else (1, kind)
        name = " ".join(words)
        if name not in CHANCES:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(CHANCES)}")
        faults = self.faults
        assert isinstance(faults, _Scripted)
        faults.next[name] += times

    def do_stop(self) -> None:
        """It is over."""

    def _order(self, name: str) -> Order:
        """The exit order that `S1/2` names: the second one of S1 that the venue took."""
        symbol, _, number = name.partition("/")
        taken = [order for order in self.venue.orders if order.symbol == symbol]
        if not 0 < int(number) <= len(taken):
            raise ValueError(f"the venue has taken {len(taken)} exit orders of {symbol}")
        return taken[int(number) - 1]


_HAPPENS: dict[str, Callable[..., None]] = {
    name: getattr(RecordedDay, f"do_{name}")
    for name in (
        "start", "kill", "lose", "outage", "price", "bar", "enter", "by", "fill", "end", "deny", "reopen", "slow",
        "fault", "close", "clock", "stop",
    )
}  # fmt: skip


def _profile(script: Script) -> Profile:
    """The surroundings of a day.

    Raises:
        ValueError: a line is none of those that there are.
    """
    broker, machines, lists_fills, plain = "good", "one", True, False
    config: dict[str, Any] = {"exit_cooldown_seconds": 0}
    for number, words in script.surroundings:
        rest = " ".join(words[1:])
        if words[0] == "broker" and rest in (BROKERS | OTHERS):
            broker = rest
        elif words[0] == "machines" and rest in _MACHINES:
            machines = rest
        elif words == ("executions", "not", "listed"):
            lists_fills = False
        elif words == ("threads",):
            plain = True
        elif words[0] == "config" and len(words) == 3 and words[1].count(".") <= 1:
            _set(config, words[1], words[2])
        else:
            raise ValueError(
                f"line {number}: {' '.join(words)!r} is no surrounding: write `broker NAME` ({', '.join(BROKERS)}), "
                f"`machines NAME` ({', '.join(_MACHINES)}), `config SECTION.SETTING VALUE`, `executions not listed` or "
                "`threads`"
            )
    return Profile(
        broker=broker,
        lists_fills=lists_fills,
        machines=machines,  # type: ignore[arg-type]  # one of those, as was just seen
        plain=plain,
        bot_watches=False,
        symbols=len(script.symbols),
        minutes=0,
        early=False,
        grain_s=0.0,
        config=config,
    )


def _set(config: dict[str, Any], path: str, value: str) -> None:
    section, _, name = path.rpartition(".")
    within = config.setdefault(section, {}) if section else config
    within[name] = float(value) if value.replace(".", "", 1).isdigit() else value
    if isinstance(within[name], float) and within[name].is_integer():
        within[name] = int(within[name])
