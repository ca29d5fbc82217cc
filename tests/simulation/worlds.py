"""What kind of account it is: rows in lots, rows of another account, orders of others, second orders of one id.

Drawn by a randomness of its own, so that a day without any of it is the same day as before. Each thing is counted like
a fault, and what the manager has to make of it is judged here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from msgspec.structs import replace

from exitfsm.events import Event, ExitTriggered, LegCompleted, LegWidened, OrderEnded, PositionResized
from exitfsm.position import Position
from exitfsm.position.parting import BY_HAND
from exitfsm.values import BrokerPosition, ExecutionReport, Order, OrderSide, Side, WorkingOrder, plain
from simulation.faults import Faults
from simulation.instruments import in_units
from simulation.trace import Trace
from simulation.venue import Venue

#: The name of the account that is managed, and of the other one.
OWN, OTHER = "simulated", "another"
#: How long a closing order of others works, and how fresh one may be that a send need not know of: a list is behind.
WORKS_S, UNKNOWN_S = (20.0, 90.0), 60.0
#: How likely it is that somebody has a symbol closed, at each bar; that there are two orders of an
#: id, in each list; and that one order is listed twice.
OTHERS_CHANCE, TWIN_CHANCE, REPEAT_CHANCE = 0.03, 0.15, 0.2
#: How likely a closing order of others fills; else it is withdrawn.
OTHERS_FILL = 0.4
#: How likely an update comes in a word that nobody knows.
WORD_CHANCE = 0.06
#: An entry is no further from the price than so many times, however often the symbol was split.
UNIT_OFF = Decimal(9)
#: So many answers may list a second order of one id, for so many seconds, before it must have been canceled.
LISTED_MAX, LISTED_MAX_S = 5, 180.0


class Account(NamedTuple):
    """What this day's account shows beside the positions themselves."""

    lots: bool = False
    accounts: bool = False
    twins: bool = False
    foreign: bool = False
    repeats: bool = False
    empty: bool = False
    splits: bool = False
    refusals: bool = False
    words: bool = False
    fees: bool = False
    multiples: bool = False
    looks: bool = False
    hours: bool = False
    quotes: bool = False
    night: bool = False
    settings: bool = False
    neighbour: bool = False
    ids: bool = False
    parts: bool = False


#: What such days count, beside the faults of any day.
KINDS = (
    *("rows in lots", "rows of another account", "positions become empty", "positions empty for a while"),
    *("a second order of one id", "an order listed twice", "unknown status word"),
    *("a stop of others", "a limit of others", "an order of others that closes", "a trade of another bot"),
    *("refused for a while", "refused for good", "split during an exit", "split that meets an exit"),
    *("a fee taken in the base", "an average in whole contracts", "other rules at a restart"),
    *("a look at a bar that forms", "a look that comes again", "a look at a bar of an hour"),
    *("a price without a bar", "a price out of session"),
    *("a part is decided", "a part is sold", "several parts in one order", "a part is widened", "a part ends short"),
    *("bought or sold between parts", "a part by hand"),
)


def draw_account(rng: random.Random) -> Account:
    """One day's account.

    Scope by ids is not drawn: it is there to be asked for, as what it finds is not mended yet.
    """
    return Account(*(rng.random() < 0.4 for _ in Account._fields))._replace(ids=False)


class Worlds:
    """The account of one day.

    Args:
        account: what it shows.
        rng: for nothing but this.
        fail: told of what does not hold.

    Attributes:
        is_watched: asked whether an order is of a position that somebody watches: of any other there is an alarm, and
            which of two is too many nobody decides.
        is_alarmed: asked whether an alarm names an order.
        lists_nothing: asked whether the list of positions is empty just now, whatever is held.
        checks: how often what is judged here was put to the test.
        prefix: how the ids of the bot's own orders begin; some closing orders of others have it, too.
        slept_until: when a process that had been starved went on: what it hears then is old.
        contracts: symbols whose average entry is shown in whole contracts.
    """

    def __init__(
        self,
        account: Account,
        rng: random.Random,
        venue: Venue,
        faults: Faults,
        trace: Trace,
        fail: Callable[[str, str], None],
    ) -> None:
        self.account, self._rng, self._venue, self._faults, self._trace = account, rng, venue, faults, trace
        self._fail = fail
        self.lists_nothing: Callable[[], bool] = lambda: False
        self.is_watched: Callable[[str], bool] = lambda _: True
        self.is_alarmed: Callable[[str], bool] = lambda _: True
        self.contracts: frozenset[str] = frozenset()
        self.checks: Counter[str] = Counter()
        self.slept_until, self.prefix = -UNKNOWN_S, ""
        #: Second orders that are listed, by the broker's own id; how often each was, and which were canceled.
        self._twins: dict[str, ExecutionReport] = {}
        self._listed: Counter[str] = Counter()
        self._gone: set[str] = set()
        self._since_listed: dict[str, float] = {}
        self._count = 0
        #: Since when closing orders of others work, by their id.
        self._since: dict[str, float] = {}
        self._rests: dict[str, bool] = {}

    # --- what is shown ------------------------------------------------------------------------------------------------

    def rows(self, answer: list[Any]) -> list[Any]:
        """The positions, as this account shows them; an answer that is none, or a row that is broken, stays so."""
        truth = [row for row in answer if isinstance(row, BrokerPosition)]
        if truth and self.lists_nothing():
            return []
        shown, broken = list(truth), [row for row in answer if not isinstance(row, BrokerPosition)]
        if self.account.lots and self._faults.on:
            shown = [lot for row in shown for lot in self._lots(row)]
        if self.contracts:
            shown = [in_units(row) if row.symbol in self.contracts else row for row in shown]
        if self.account.accounts:
            shown = [replace(row, account=OWN) for row in shown]
            if truth:
                self._faults.count("rows of another account")
            shown += [self._others(row) for row in truth[:3]]
            self._rng.shuffle(shown)
        return [*broken, *shown]

    def _lots(self, row: BrokerPosition) -> list[BrokerPosition]:
        first = Decimal(int(row.qty / 2)) if row.qty.is_finite() else Decimal(0)
        if first <= 0 or first == row.qty:
            return [row]
        self._faults.count("rows in lots")
        return [replace(row, qty=first), replace(row, qty=row.qty - first)]

    def _others(self, row: BrokerPosition) -> BrokerPosition:
        qty = Decimal(self._rng.randint(1, 500))
        return replace(row, account=OTHER, qty=qty, side=self._rng.choice((Side.LONG, Side.SHORT)))

    def orders(self, listed: list[Any]) -> list[Any]:
        """The working orders, as this account lists them; what cannot be read is listed as it is."""
        truth = [report for report in listed if isinstance(report, ExecutionReport)]
        unreadable = [one for one in listed if not isinstance(one, ExecutionReport)]
        shown = [*map(self._typed, truth), *unreadable]
        if self.account.repeats:
            shown += [one for one in shown if self._faults.drawn(self._rng, "an order listed twice", REPEAT_CHANCE)]
        if not self.account.twins:
            return shown
        working = {report.client_order_id: report for report in truth if report.client_order_id not in self._since}
        out = self._venue.seconds() < self._venue.look_ups_out_until
        for report in truth:
            if (
                not out
                and report.client_order_id.startswith("xf")
                and self._faults.on
                and self._rng.random() < TWIN_CHANCE
            ):
                self._count += 1
                own = f"twin-{self._count}"
                # Earlier, at the same time or later: which one is ours is known by the record alone.
                hours = timedelta(hours=self._count % 3 - 1)
                self._twins[own] = replace(report, broker_order_id=own, at=report.at + hours)
                self._faults.count("a second order of one id")
                self._trace("venue", f"has {report.client_order_id} twice: {own}")
        for own, twin in list(self._twins.items()):
            if twin.client_order_id not in working:
                continue  # the list does not show its first one: then it is none too many
            self._listed[own] += 1
            since = self._since_listed.setdefault(own, self._venue.seconds())
            if self._listed[own] > LISTED_MAX and self._venue.seconds() - since > LISTED_MAX_S:
                self._is_known(own, twin.client_order_id)
            shown.append(twin)
        return shown

    def _is_known(self, own: str, order_id: str) -> None:
        """A second order has been listed for long: it must have gone, or be in an alarm where nobody watches."""
        if self.is_watched(order_id):
            self._fail("W2", f"{order_id} works twice and nobody cancels {own}")
        if not self.is_alarmed(order_id):
            self._fail("W2", f"{order_id} works twice beside no position, and no alarm says so")

    def _typed(self, report: ExecutionReport) -> ExecutionReport:
        if report.client_order_id not in self._since:
            return report
        said = {name: getattr(report, name) for name in report.__struct_fields__}
        price = self._venue.prices.get(report.symbol or "")
        if self._rests[report.client_order_id]:
            return WorkingOrder(**said, order_type="limit", limit_price=price)
        return WorkingOrder(**said, order_type="stop", stop_price=price)

    def look_ups_fail(self) -> None:
        """While no order can be looked up there is no second one: a lost store could not find out which was first."""
        self._gone.update(self._twins)
        self._twins.clear()

    def canceled(self, broker_order_id: str) -> None:
        """One of two orders of an id is canceled by the broker's own, or an exit that works on after its position."""
        first = next((b for b in self._venue.working() if b.broker_order_id == broker_order_id), None)
        if self._twins.pop(broker_order_id, None) is not None:
            self._gone.add(broker_order_id)
        elif broker_order_id in self._gone:
            pass  # who has not heard the answer asks again
        elif first is not None and self.is_watched(first.order.client_order_id):
            self._fail("W2", f"{broker_order_id} is canceled as surplus, and is not")

    def is_told_in_other_words(self, report: ExecutionReport) -> bool:
        """True for an update that comes in words for an order's state that nobody knows."""
        order_id = report.client_order_id
        return self.account.words and self._faults.drawn(self._rng, "unknown status word", WORD_CHANCE, 60, order_id)

    def note_part(self, event: Event, p: Position | None) -> None:
        """Count what happens to a part of a position."""
        match event:
            case ExitTriggered(leg=str(leg)):
                self._faults.count("a part by hand" if leg == BY_HAND else "a part is decided")
                if p is not None and leg.isdecimal() and int(leg) > p.parts.done + 1:
                    self._faults.count("several parts in one order")
            case LegCompleted():
                self._faults.count("a part is sold")
            case LegWidened():
                self._faults.count("a part is widened")
            case OrderEnded() if p is not None and p.keep_qty > 0:
                self._faults.count("a part ends short")
            case PositionResized() if p is not None and p.parts.done:
                self._faults.count("bought or sold between parts")
            case _:
                pass

    def opened(self, symbol: str, qty: Decimal, entry: Decimal) -> None:
        """A position was opened: of what can be sold, and at a price in the unit of prices."""
        if self.contracts and symbol in self.contracts:
            self._faults.count("an average in whole contracts")
        price = self._venue.prices[symbol]
        self.checks["I39"] += 1
        self.checks["I36"] += 1
        if not price / UNIT_OFF < entry < price * UNIT_OFF:
            self._fail("I39", f"{symbol} is watched with an entry of {plain(entry)}, and its price is {plain(price)}")
        if qty < self._venue.least(symbol):
            self._fail("I36", f"{plain(qty)} {symbol} is watched, and cannot be sold")

    def adopted(self, symbol: str, qty: Decimal) -> None:
        """A position was opened, and no other one of its symbol is watched: no part of what is held is left out."""
        self.checks["I34"] += 1
        held, now = abs(self._venue.held(symbol)), self._venue.seconds()
        changed = max(self._venue.bought_on_at[symbol], self._venue.disturbed_at[symbol], self.slept_until)
        lately = self._venue.held_within(symbol, UNKNOWN_S)
        residues = 10 if self.account.ids else 1  # what several exits left is not known as the bot's any more
        if held - qty >= self._venue.least(symbol) * residues and qty not in lately and now - changed > UNKNOWN_S:
            self._fail("I34", f"{qty} of {symbol} is watched, and {held} is held")

    # --- what others do -----------------------------------------------------------------------------------------------

    def others_trade(self, symbols: Sequence[str], after: Callable[..., None]) -> None:
        """Now and then somebody has a closing order work at the venue."""
        if not self.account.foreign or not self._faults.on or not self._venue.is_open:
            return
        for symbol in symbols:
            held = self._venue.held(symbol)
            is_free = all(booked.order.symbol != symbol for booked in self._venue.working())
            if held == 0 or self._rng.random() >= OTHERS_CHANCE or not is_free:
                continue
            side = OrderSide.SELL if held > 0 else OrderSide.BUY
            self._count += 1
            own = f"{self.prefix}x-{self._count}" if self.prefix and self._rng.random() < 0.3 else f"web-{self._count}"
            order = self._venue.place(symbol, side, abs(held), client_order_id=own, tell=False)
            self._since[own] = self._venue.seconds()
            self._rests[own] = self._rng.random() < 0.4
            self._faults.count("a limit of others" if self._rests[own] else "a stop of others")
            self._trace("person", f"has {own} close {symbol}")
            fills = self._rng.random() < OTHERS_FILL
            after(self._rng.uniform(*WORKS_S), self._filled if fills else self._withdrawn, order)

    def _withdrawn(self, order: Order) -> None:
        booked = self._venue.booked(order.client_order_id)
        if booked is not None and booked.live:
            self._venue.end_cancel(order)

    def _filled(self, order: Order) -> None:
        """What it closes is closed by others: where that is still held, and no exit of ours works beside it."""
        venue, booked = self._venue, self._venue.booked(order.client_order_id)
        if booked is None or not booked.live:
            return
        held = venue.held(order.symbol) * (1 if order.side is OrderSide.SELL else -1)
        if held < order.qty or venue.live_exits(order.symbol) or not venue.others_may_trade(order.symbol):
            self._withdrawn(order)
            return
        venue.disturbed_at[order.symbol] = venue.seconds()
        venue.fill(order)
        venue.on_updates()
        self._faults.count("an order of others that closes")
        self._trace("person", f"has {order.client_order_id} filled")

    def exit_begins(self, symbol: str) -> None:
        """An exit was decided: counted where a closing order of others works."""
        others = (booked.order for booked in self._venue.working() if booked.order.client_order_id in self._since)
        if self._since and any(order.symbol == symbol for order in others):
            self._faults.count("an exit beside a closing order of others")

    def check_alone(self, order: Order) -> None:
        """No exit leaves beside a closing order of others, where the venue would sell more than is held by both."""
        if self._venue.capabilities.reduce_only:
            return
        self.checks["I31"] += 1
        for booked in self._venue.working():
            theirs = booked.order
            since = self._since.get(theirs.client_order_id)
            if since is None or theirs.symbol != order.symbol or theirs.side is not order.side:
                continue
            there = self._venue.held(order.symbol) * order.position_side.sign
            if self._venue.seconds() - since > UNKNOWN_S and booked.leaves + order.qty > there:
                self._fail("I31", f"{order.client_order_id} leaves beside {theirs.client_order_id}: both would sell")


def in_other_words(report: ExecutionReport) -> dict[str, Any]:
    """An update in a shape of the broker's own, with a word for the state that is in no table."""
    return {
        "client_order_id": report.client_order_id,
        "status": "frozen solid",
        "symbol": report.symbol,
        "side": str(report.side),
        "qty": str(report.qty),
        "filled_qty": str(report.filled_qty or 0),
    }
