"""The oracle: what must hold after every step, judged by the venue's own books and by the log as it lies on the disk.

It knows nothing of what the manager has in mind. Each check carries the number of its invariant and is counted, so that
a run shows how often it was put to the test. The first thing that does not hold ends the day (`Violation`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NoReturn

from exitfsm.audit.invariants import Invariants
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    Event,
    ExitCompleted,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PolicyChanged,
    PositionClosedElsewhere,
    ProtectionLost,
    Recorded,
)
from exitfsm.lifecycle import LOOKUP, State
from exitfsm.position import Position, client_order_id, entered_at, evolve
from exitfsm.values import ZERO, Order, plain
from simulation.faults import Faults
from simulation.instruments import is_pair
from simulation.loop import Violation, World
from simulation.venue import EXCUSED_S, Venue, seconds_of

#: What is checked here, beside the audit's checks of the log (which go by the same numbers).
CHECKS: dict[str, str] = {
    "I1": "the books: never two live exit orders in a symbol, never more sold than held, no position crossed zero",
    "I2": "no figure is recorded that the venue did not have, and none is taken back without a correction",
    "I3": "an order that leaves has its one id, and its intent was durable before",
    "I4": "no attempt is decided while the venue may still fill the one before it",
    "I5": "an end that is recorded is one at the venue, or was told by it",
    "I6": "the evidence of an exit is a sound bar that was published",
    "I7": "what an attempt sells is what the ended ones left over, by the venue's own figures",
    "I8": "no exit order works at the venue when its position is over",
    "I9": "without protection there is an alarm in the log",
    "I10": "what the store holds after a crash is what was committed before it, and memory is what the log says",
    "I11": "no order leaves after its end is on record, or when it is not to be sent any more",
    "I12": "an order closes the side it was opened for, in its own symbol",
    "I13": "an order's quantity is finite, positive and whole",
    "I14": "what is called a residue is less than can be sold",
    "I15": "the policy of a position never changes without a word in the log",
    "I16": "reconciling twice changes nothing the second time",
    "I17": "no order leaves for a market that has been closed for long, where its hours could be read",
    "I18": "a position that is called flat was flat, and has sold what it says, by the venue's records",
    "I19": "the log folds by the lifecycle's own table, and the same run gives the same bytes",
    "I20": "of several reasons the first in the order of precedence won",
    "I31": "no exit leaves beside a closing order of others, where both together would sell more than is held",
    "I32": "nothing is called closed by other hands that no other hands closed",
    "I34": "what is adopted is all of what is held",
    "I36": "nothing is watched that cannot be sold, and no order ends by a refusal that is said to pass",
    "I37": "no position vanishes by lists that are empty for less than five minutes",
    "I39": "the entry of what is watched is in the unit of its price, and a unit that never changed is not unclear",
    "I41": "what is another bot's is neither watched nor sold",
    "I44": "what the bot bought beside an exit is no contradiction where executions are listed",
}


#: From this age on the entry of a position is no price to hold another one against.
OLD_S = 300.0


#: How long a bar is.
BAR_S = 20.0
#: So long after a process has heard of the close it may still act by a price of then.
CLOSE_KNOWN_S = 20.0
#: News of an order may come while it is on its way to the wire through a thread, which takes this long at most.
THREAD_S = 0.05


@dataclass(slots=True)
class Life:
    """One position as its durable log tells it, since when its order is over, and until when one was to be sent.

    Attributes:
        began: when the world saw it open: its own time of that may be of a clock that was wrong.
    """

    position: Position
    began: float = 0.0
    audit: Invariants = field(default_factory=Invariants)
    over_at: float = 0.0
    pending_until: float = 0.0


class Oracle:
    """What one day's world must keep to.

    Attributes:
        checks: how often each invariant was put to the test.
        lives: by disk, then by stream.
        exits, closed: the positions that ended by our orders, and by other hands.
    """

    def __init__(self, world: World, venue: Venue, faults: Faults) -> None:
        self._world, self._venue, self._faults = world, venue, faults
        self.checks: Counter[str] = Counter()
        self.lives: dict[str, dict[str, Life]] = {}
        self.exits: set[str] = set()
        self.closed: set[str] = set()
        self.events = 0
        #: The same without the ends of alarms, which come by themselves when what they say is over.
        self.changes = 0
        #: By disk: the number of the newest durable event.
        self.newest: dict[str, int] = {}
        #: Published bars by symbol and time: what an exit may rest on.
        self.bars: dict[tuple[str, datetime], Decimal] = {}
        self.absurd: dict[tuple[str, datetime], Decimal] = {}
        #: The same of bars that form, look by look, of prices without bars, and of prices while the market is closed.
        self.looks: dict[tuple[str, datetime], set[Decimal]] = {}
        self.quotes: dict[str, set[Decimal]] = {}
        self.night: dict[tuple[str, datetime], Decimal] = {}
        #: True where exits of ours may have left that no process on record here knows of.
        self.others_may_exit = False
        self.lists_fills = True
        #: Told by disk and symbol since when a process has heard that the market is closed; never where it has not.
        self.closed_heard_at: Callable[[str, str], float] = lambda disk, symbol: float("inf")
        #: From when to when the clock of a machine was wrong; the last one may still be.
        self.clocks_wrong: list[tuple[datetime, datetime | None]] = []
        self.sent: dict[str, float] = {}
        #: Of which orders a correction was told, and whether the process that was told still lives.
        self.told: dict[str, Callable[[], bool]] = {}
        #: By disk: the order ids whose intent was ever durable, and the positions they belong to.
        self._durable: dict[str, dict[str, str]] = {}
        #: The quantity of each intent: the venue may have changed the order since.
        self._intended: dict[tuple[str, str], Decimal] = {}
        self._intended_at: dict[tuple[str, str], float] = {}
        self._most: dict[str, Decimal] = {}

    def fail(self, invariant: str, what: str) -> NoReturn:
        """It does not hold.

        Raises:
            Violation: always.
        """
        # Raised inside a process it would be taken for a failure of whatever was called there.
        self._world.broken = self._world.broken or f"{invariant}: {what}"
        raise Violation(self._world.broken)

    # --- the log ------------------------------------------------------------------------------------------------------

    def committed(self, disk: str, recorded: list[Recorded]) -> None:
        """A transaction is durable."""
        lives = self.lives.setdefault(disk, {})
        self.newest[disk] = recorded[-1].sequence
        for r in recorded:
            self.events += 1
            self.changes += not isinstance(r.event, AlarmAcknowledged)
            if r.stream_id.startswith("account:"):
                continue
            self._fold(disk, lives, r)

    def _fold(self, disk: str, lives: dict[str, Life], r: Recorded) -> None:
        life = lives.get(r.stream_id)
        before = life.position if life is not None else None
        version = before.version if before is not None else 0
        self.checks["I19"] += 1
        if r.version != version + 1:
            self.fail("I19", f"{r.stream_id} goes from version {version} to {r.version}")
        following = LOOKUP.get((before.state if before is not None else None, type(r.event)))
        after = evolve(before, r.event)
        if following is None or after.state is not following:
            self.fail("I19", f"{type(r.event).__name__} in {before.state if before is not None else 'nothing'}")
        if life is None:
            life = lives[r.stream_id] = Life(after, self._world.time)
        for found in life.audit.check(before, r, after):
            self.fail(found.invariant, f"{r.stream_id} event {r.version}: {found.what}")
        life.position = after
        if before is not None and before.order_live and not after.order_live:
            life.over_at = self._world.time
        if before is not None and before.state is State.PENDING and after.state is not State.PENDING:
            life.pending_until = self._world.time
        if before is not None:
            self._against_the_venue(disk, before, r.event, after)

    def _against_the_venue(self, disk: str, before: Position, event: Event, after: Position) -> None:
        match event:
            case ExitTriggered():
                self._triggered(disk, before, event)
            case ExitRetried():
                self._retried(disk, before, event)
            case FillsRecorded():
                self._figures(event.client_order_id, event.filled_qty)
            case OrderAccepted():
                self.checks["I5"] += 1
                if self._venue.booked(event.client_order_id) is None:
                    self.fail("I5", f"{event.client_order_id} is called accepted and never came to the venue")
            case OrderEnded():
                self._ended(event)
            case ExitCompleted():
                self._completed(before)
            case PositionClosedElsewhere():
                self._closed(disk, before, event)
            case ProtectionLost():
                self.checks["I9"] += 1
                self._is_contradicted(before, event)
            case AlarmRaised():
                self.checks["I9"] += 1
            case _:
                pass
        self.checks["I15"] += 1
        if after.policy != before.policy and not isinstance(event, PolicyChanged):
            self.fail("I15", f"{before.position_id} has other rules after {type(event).__name__}")

        if isinstance(event, PolicyChanged) and before.trail_stop is not None and after.trail_stop is not None:
            looser = (before.trail_stop - after.trail_stop) * before.side.sign
            if looser > 0:
                self.fail("I15", f"the trail of {before.position_id} is looser after a change of its rules")

    def _is_contradicted(self, p: Position, e: ProtectionLost) -> None:
        """What our orders sold and what is held agree where all that is held was bought since the position began.

        Left out: what a fee takes, and what anybody else than the bot has traded, taken back or split.
        """
        venue, since = self._venue, self.opened_s(p) - 1
        others = max(venue.names_lost_at[p.symbol], venue.disturbed_at[p.symbol]) >= since or self.others_may_exit
        if others or not self.lists_fills or is_pair(p.symbol) or not e.why.startswith("our orders sold"):
            return
        self.checks["I44"] += 1
        opening = (f for f in venue.executions if f.symbol == p.symbol and f.side is not p.side.exit_side)
        bought = sum((f.qty for f in opening if f.at >= entered_at(p)), ZERO)
        if bought - p.sold_qty == abs(venue.held(p.symbol)) and p.sold_qty <= p.qty:
            self.fail("I44", f"{p.position_id} is unprotected: {e.why}; and the bot bought {plain(bought)} since then")

    def _triggered(self, disk: str, before: Position, e: ExitTriggered) -> None:
        self.checks["I20"] += 1
        self._durable.setdefault(disk, {})[e.client_order_id] = before.position_id
        self._intended[disk, e.client_order_id] = e.qty
        self._intended_at[disk, e.client_order_id] = self._world.time
        if e.bar_at is None:
            return
        self.checks["I6"] += 1
        close = self.bars.get((before.symbol, e.bar_at))
        if e.trigger_price in self.looks.get((before.symbol, e.bar_at), ()):
            return
        if e.trigger_price in self.quotes.get(before.symbol, ()):
            return
        if (before.symbol, e.bar_at) in self.night:
            self._out_of_session(disk, before, e.bar_at)
            return
        if close is None and self._is_first_price(before, e.bar_at):
            return
        if close is None or close != e.trigger_price:
            said = plain(close) if close is not None else "no sound bar"
            self.fail("I6", f"{before.position_id} exits at {plain(e.trigger_price)}, and the venue published {said}")

    def _out_of_session(self, disk: str, before: Position, at: datetime) -> None:
        """A price of the night decides nothing, where the process had heard of the close for long enough."""
        self.checks["I6"] += 1
        if seconds_of(at) + BAR_S > self._venue.open_again_at:
            return  # a part of the bar lies in the session that follows
        if seconds_of(at) - self.closed_heard_at(disk, before.symbol) > CLOSE_KNOWN_S:
            self.fail("I6", f"{before.position_id} exits by a price at {at:%H:%M:%S}, and the market is closed")

    def _is_first_price(self, p: Position, at: datetime) -> bool:
        """True for an absurd price that had nothing to be held against: the first one of a position that is old.

        Or looked it, to a machine whose clock was wrong when it was opened.
        """
        if (p.symbol, at) not in self.absurd:
            return False
        if any(since <= p.opened_at and (until is None or p.opened_at <= until) for since, until in self.clocks_wrong):
            return True
        if (at - p.opened_at).total_seconds() <= OLD_S:
            return False
        return not any(symbol == p.symbol and p.opened_at < when < at for symbol, when in self.bars)

    def _retried(self, disk: str, before: Position, e: ExitRetried) -> None:
        self._durable.setdefault(disk, {})[e.client_order_id] = before.position_id
        self._intended[disk, e.client_order_id] = e.qty
        self._intended_at[disk, e.client_order_id] = self._world.time
        self.checks["I4"] += 1
        for order_id in sorted(self._orders(before)):
            booked = self._venue.booked(order_id)
            if booked is not None and booked.live:
                self.fail("I4", f"{e.client_order_id} is decided while {order_id} is {booked.status}")
        self.checks["I7"] += 1
        if e.qty > before.remaining_qty:
            self.fail("I7", f"{e.client_order_id} is to sell {plain(e.qty)} of {plain(before.remaining_qty)} left")

    def _figures(self, order_id: str, filled: Decimal) -> None:
        self.checks["I2"] += 1
        booked = self._venue.booked(order_id)
        truth = booked.filled if booked is not None else ZERO
        most = self._most[order_id] = max(truth, self._most.get(order_id, ZERO))
        if filled > most and not self._disturbed(order_id):
            self.fail("I2", f"{plain(filled)} of {order_id} is recorded, and the venue filled {plain(truth)}")

    def _ended(self, e: OrderEnded) -> None:
        self.checks["I5"] += 1
        booked = self._venue.booked(e.client_order_id)
        if e.how in self._venue.unsettled.get(e.client_order_id, ()):
            pass  # that was told, and is not so: what follows from it is judged
        elif e.how == "refused":
            given_up = not self._venue.capabilities.lookup_sees_closed  # on an operator's word, where no record shows
            if booked is not None and (booked.live or not given_up):
                self.fail("I5", f"{e.client_order_id} is called refused, and the venue has it ({booked.status})")
        else:
            wrong = booked is not None and e.how in ("rejected", "expired") and booked.status != e.how
            if booked is None or booked.live or wrong:
                said = booked.status if booked is not None else "unknown"
                self.fail("I5", f"{e.client_order_id} is called {e.how}, and is {said} at the venue")
        if booked is not None:
            self._figures(e.client_order_id, e.filled_qty)

    def _completed(self, before: Position) -> None:
        self.exits.add(before.position_id)
        self._over(before)
        self.checks["I18"] += 1
        sold, untold = ZERO, False
        for order_id in self._orders(before):
            booked = self._venue.booked(order_id)
            sold += booked.filled if booked is not None else ZERO
            untold = untold or self._nobody_told(order_id)
        # A late fill of which no news came yet counts as sold elsewhere, until its own record says better.
        known = before.sold_qty <= sold <= before.sold_qty + before.sold_elsewhere
        unseen = ("refused", "canceled")  # a person gave an order up, or it filled late, and no record shows it
        if not self._venue.capabilities.lookup_sees_closed and any(o.ended_how in unseen for o in before.orders[:-1]):
            return
        if not known and not untold and not self._recently(before.symbol):
            self.fail("I18", f"{before.position_id} says {plain(before.sold_qty)} sold, the venue {plain(sold)}")

    def _closed(self, disk: str, before: Position, e: PositionClosedElsewhere) -> None:
        self.closed.add(before.position_id)
        self._over(before)
        if e.how == "residue":
            self.checks["I14"] += 1
            # A reverse split may have left less than the log says.
            left = min(e.remaining_qty, abs(self._venue.held(before.symbol)))
            if left >= self._venue.least(before.symbol):
                self.fail("I14", f"{plain(left)} of {before.position_id} could be sold")

        else:
            self._was_flat(disk, before)
        held = self._venue.held(before.symbol) * before.side.sign
        never_flat = self._venue.flat_until.get(before.symbol, 0.0) <= self.opened_s(before)
        self.checks["I37"] += 1
        if e.how == "vanished" and never_flat and held >= self._venue.least(before.symbol):
            self.fail("I37", f"{before.position_id} is said to have vanished, and {plain(held)} is held as ever")
        if e.how in ("by_hand", "external"):
            self._was_closed_by_others(before)

    def _was_closed_by_others(self, p: Position) -> None:
        """Where all that is known of a symbol is still known, other hands have traded it since the position began.

        Or an exit of ours that went through is on its record.
        """
        venue, opened = self._venue, self.opened_s(p) - EXCUSED_S
        if venue.names_lost_at[p.symbol] >= opened or self.others_may_exit or venue.bought_on_at[p.symbol] >= opened:
            return
        if not self.lists_fills and not venue.capabilities.lookup_sees_closed and self._filled_in_silence(p):
            return  # a late fill of ours, of which this venue's books say nothing any more
        self.checks["I32"] += 1
        if venue.disturbed_at[p.symbol] < opened:
            self.fail("I32", f"{p.position_id} is called closed by other hands, and nobody else traded {p.symbol}")

    def _filled_in_silence(self, p: Position) -> bool:
        """True where an exit has sold more than its position was told."""
        known = ((self._venue.booked(order.client_order_id), order) for order in p.orders)
        return any(booked is not None and booked.filled > order.filled_qty for booked, order in known)

    def _was_flat(self, disk: str, p: Position) -> None:
        """What other hands closed has been flat since it was opened, unless more was bought, or is held beside it."""
        self.checks["I18"] += 1
        venue, opened = self._venue, self.opened_s(p)
        held = venue.held(p.symbol) * p.side.sign
        beside = any(
            life.position.symbol == p.symbol and not life.position.state.terminal and stream != p.position_id
            for stream, life in self.lives[disk].items()
        )
        known = not beside and venue.bought_on_at[p.symbol] < opened and not self._recently(p.symbol)
        if held >= venue.least(p.symbol) and known and venue.flat_until.get(p.symbol, 0.0) <= opened:
            self.fail("I18", f"{p.position_id} is called closed by other hands, and {plain(held)} is held as ever")

    def _over(self, before: Position) -> None:
        self.checks["I8"] += 1
        for order_id in self._orders(before):
            booked = self._venue.booked(order_id)
            if booked is not None and booked.live:
                self.fail("I8", f"{before.position_id} is over, and {order_id} is {booked.status}")

    def _orders(self, p: Position) -> list[str]:
        return [o.client_order_id for o in p.orders]

    def _disturbed(self, order_id: str) -> bool:
        booked = self._venue.booked(order_id)
        return booked is not None and self._recently(booked.order.symbol)

    def _nobody_told(self, order_id: str) -> bool:
        """A fill of the order was taken back, and the news was lost, or the process that had it."""
        return order_id in self._venue.taken_back and not self.told.get(order_id, bool)()

    def _recently(self, symbol: str) -> bool:
        """Fills were taken back, or others traded, so that the figures of before may still be under way."""
        return self._venue.disturbed_at[symbol] > self._world.time - EXCUSED_S

    def opened_s(self, p: Position) -> float:
        """Since when a position is there, in the world's seconds."""
        known = (lives.get(p.position_id) for lives in self.lives.values())
        began = [life.began for life in known if life is not None]
        return min([seconds_of(p.opened_at), *began])

    def is_watched(self, order_id: str) -> bool:
        """True for an order of a position that is open in one of the stores."""
        open_now = (life.position for lives in self.lives.values() for life in lives.values())
        return any(order_id in self._orders(p) for p in open_now if not p.state.terminal)

    # --- orders -------------------------------------------------------------------------------------------------------

    def leaves(self, disk: str, order: Order, *, knows_hours: bool) -> None:
        """An order leaves a process; `knows_hours`: which has heard of the close."""
        self.checks["I3"] += 1
        order_id = order.client_order_id
        life = self.lives.get(disk, {}).get(self._durable.get(disk, {}).get(order_id, ""))
        if life is None:
            self.fail("I3", f"{order_id} leaves, and its intent is not durable")
        p = life.position
        if (
            order_id != client_order_id(p.position_id, p.attempt, p.id_form)
            or order.qty != self._intended[disk, order_id]
        ):
            self.fail("I3", f"{order_id} for {plain(order.qty)} is not attempt {p.attempt} of {p.position_id}")
        self.checks["I11"] += 1
        if not p.order_live and life.over_at < self._world.time - THREAD_S:
            self.fail("I11", f"{order_id} leaves while {p.position_id} is {p.state}, and it is over")
        if p.state is not State.PENDING and life.pending_until < self._world.time - THREAD_S:
            self.fail("I11", f"{order_id} leaves while {p.position_id} is {p.state}: it is not to be sent any more")
        self.checks["I12"] += 1
        if order.side is not p.side.exit_side or order.position_side is not p.side:
            self.fail("I12", f"{order_id} is a {order.side} for a position that is {p.side}")
        self.checks["I13"] += 1
        step = self._venue.capabilities.rules(order.symbol).qty_step or Decimal(1)
        parts = order.qty % step != 0 and order.qty >= self._venue.least(order.symbol)
        if not (order.qty.is_finite() and order.qty > 0) or parts:  # of what is less the venue is to say so itself
            self.fail("I13", f"{order_id} is for {order.qty}")
        self.checks["I17"] += 1
        venue = self._venue
        closed_for = self._world.time - venue.close_at
        if not venue.is_open and closed_for > 60 and not venue.capabilities.queues_orders and knows_hours:
            self.fail("I17", f"{order_id} leaves {closed_for:.0f} s after the close")
        if any(order_id in self._durable[other] for other in self._durable if other != disk):
            self._faults.seen(32)  # both machines decided it
        self.sent.setdefault(order_id, self._world.time)

    def waited_s(self, disk: str, order_id: str) -> float:
        """How long the first send of an order has waited since its intent was durable; 0 for a repeated one."""
        now = self._world.time
        return 0.0 if order_id in self.sent else now - self._intended_at.get((disk, order_id), now)

    def arrives(self, order: Order) -> None:
        """An order arrives at the venue, whose books check it."""
        self.checks["I1"] += 1
        if order.client_order_id not in self.sent:
            self.fail("I3", f"{order.client_order_id} arrives and never left")

    def sent_at(self, order_id: str) -> float:
        """When an order first left its process."""
        return self.sent.get(order_id, 0.0)

    # --- memory, and the file -----------------------------------------------------------------------------------------

    def remembered(self, disk: str, p: Position) -> None:
        """A manager holds a position in memory."""
        life = self.lives.get(disk, {}).get(p.position_id)
        if life is not None and life.position.version == p.version:
            self.checks["I10"] += 1
            if life.position != p:
                self.fail("I10", f"{p.position_id} is remembered as another than the log says")

    def at_rest(self, disk: str, positions: list[Position]) -> None:
        """Between two steps, a manager holds these open positions."""
        self.checks["I10"] += 1
        lives = self.lives.get(disk, {})
        for p in positions:
            life = lives.get(p.position_id)
            if life is None or life.position != p:
                said = f"version {life.position.version}" if life is not None else "nothing"
                self.fail("I10", f"{p.position_id} is remembered at version {p.version}, and the log says {said}")
        still_open = [stream for stream, life in lives.items() if not life.position.state.terminal]
        if len(still_open) != len(positions):
            self.fail("I10", f"{len(still_open)} positions are open in the log of {disk}, {len(positions)} in memory")

    def opened(self, disk: str, newest: int) -> None:
        """A store is opened again, and its newest event is the one of this number."""
        self.checks["I10"] += 1
        committed = self.newest.get(disk, 0)
        if newest != committed:
            self.fail("I10", f"disk {disk} ends at event {newest}, and {committed} had been committed")

    def forget(self, disk: str) -> None:
        """A store was lost, or set aside."""
        self.lives.pop(disk, None)
        self.newest.pop(disk, None)

    def reread(self, disk: str, recorded: list[Recorded], *, lost: bool) -> None:
        """What a store holds when it is opened again; after lost power it may be less than was committed."""
        lives: dict[str, Life] = {}
        self.newest[disk] = recorded[-1].sequence if recorded else 0
        for r in recorded:
            if r.stream_id.startswith("account:"):
                continue
            life = lives.get(r.stream_id)
            before = life.position if life is not None else None
            after = evolve(before, r.event)
            if life is None:
                life = lives[r.stream_id] = Life(after, self._world.time)
            life.audit.check(before, r, after)
            life.position = after
        known = self.lives.get(disk, {})
        self.checks["I10"] += 1
        if not lost:
            for stream in sorted(known.keys() | lives.keys()):
                if stream not in known or stream not in lives or known[stream].position != lives[stream].position:
                    self.fail("I10", f"{stream} is not on the disk as it was committed")
        self.lives[disk] = lives
