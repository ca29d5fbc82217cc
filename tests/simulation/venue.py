"""The simulated venue: the books, and a market that fills, rejects, halts and expires as the seed has it.

The books are the oracle's: they record what truly happened, and they check what may never happen. What the venue
declares of itself (`Capabilities`) is what it does: where it declares a window for late fills none comes after it, and
where it says that it refuses oversized orders it does.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from exitfsm.errors import OrderRefused
from exitfsm.ports import Capabilities, Session
from exitfsm.testing.books import Booked, Books
from exitfsm.values import ZERO, BrokerPosition, ExecutionReport, Fill, Order, OrderSide, OrderStatus, OrderType, plain
from simulation.faults import Faults
from simulation.instruments import FEE, is_pair
from simulation.loop import World
from simulation.past import Past
from simulation.trace import Trace

#: When the first session opens.
OPENING = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
#: How long after a trade by other hands an order may still be too large, because nobody could know yet.
EXCUSED_S = 60.0
#: Until when a late fill comes at a venue that declares no bound; the person who clears up waits for longer.
LATE_MAX_S = 30.0
#: How old a record, or a list, may be that is behind.
BEHIND_MAX_S = 3.0
#: After so long at most the market looks again at an order of which an update told an end that its record denies, or
#: whose end was taken back.
WORKS_ON_S = 40.0
NIGHT_S = 300.0


def seconds_of(at: datetime) -> float:
    """A time of the venue's as the world's seconds."""
    return (at - OPENING).total_seconds()


class Venue(Books):
    """A venue in simulated time.

    Args:
        world: whose time it lives in.
        rng: the market's randomness.
        faults: what goes wrong today.
        trace: told of everything.
        capabilities: what it declares, and does.
        sent_at: when an exit order first left the process that decided it.
        close_at: when the session ends, in the world's seconds; the next one begins a short night later.

    Attributes:
        on_updates: called when there is news of orders.
        refuses: asked whether an order of ours is refused just now.
        names_lost_at: by symbol; exit orders that left before this have names that no process knows any more.
    """

    def __init__(
        self,
        world: World,
        rng: random.Random,
        faults: Faults,
        trace: Trace,
        capabilities: Capabilities,
        sent_at: Callable[[str], float],
        close_at: float,
    ) -> None:
        super().__init__(lambda: OPENING + timedelta(seconds=world.time), capabilities)
        self._world, self._rng, self._faults, self._trace = world, rng, faults, trace
        self._sent_at = sent_at
        self.close_at = close_at
        self.open_again_at = close_at + NIGHT_S
        self.on_updates: Callable[[], None] = lambda: None
        self.refuses: Callable[[Order], OrderRefused | None] = lambda _: None
        self.names_lost_at: dict[str, float] = defaultdict(lambda: -1e9)
        #: Orders of which one copy was refused while another was still under way: who sent them had every reason to
        #: think that they do not exist.
        self.refused_before_a_copy: set[str] = set()
        #: Orders of which a fill was taken back.
        self.taken_back: set[str] = set()
        #: Orders of which an end was told that was none, or was taken back: which words for it were told.
        self.unsettled: dict[str, set[str]] = {}
        #: Orders that work again: until when that could not be known.
        self.final_at: dict[str, float] = {}
        #: By symbol: until when nothing, or the other side, was held before what is held now.
        self.flat_until: dict[str, float] = {}
        #: By symbol: when how much came to be held, without a sign; the newest few.
        self.held_lately: dict[str, deque[tuple[float, Decimal]]] = defaultdict(lambda: deque(maxlen=20))
        #: By symbol: when it was last bought on, so that more was held than before.
        self.bought_on_at: dict[str, float] = defaultdict(lambda: -1e9)
        #: Until when no order can be looked up.
        self.look_ups_out_until = -1.0
        #: What the venue keeps of the purchase that is being booked, and whether executions tell of it.
        self._fee, self.tells_fees = ZERO, True
        #: Whether executions name our id of their order, or the broker's alone.
        self.tells_names = True
        self.past = Past(lambda: world.time)
        self.halted: dict[str, float] = {}
        #: When other hands last changed what is held of a symbol.
        self.disturbed_at: dict[str, float] = defaultdict(lambda: -1e9)
        #: Requests about an order that have left and not arrived. While another one is, none is refused by chance:
        #: a refusal is taken as proof that the order does not exist, and the other one would make it exist after all.
        self.under_way: Counter[str] = Counter()

    def seconds(self) -> float:
        """The world's seconds."""
        return self._world.time

    # --- hours --------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """True during a session."""
        return self._world.time < self.close_at or self._world.time >= self.open_again_at

    def least(self, symbol: str) -> Decimal:
        """What is less cannot be sold; the least part of a share where every part can."""
        return self.capabilities.rules(symbol).qty_min or Decimal("0.000000001")

    def held_within(self, symbol: str, seconds: float) -> set[Decimal]:
        """What was held of a symbol at any time in so many seconds before now, without a sign."""
        since, found = self._world.time - seconds, set[Decimal]()
        for at, held in reversed(self.held_lately[symbol]):
            found.add(held)
            if at <= since:  # this one was held when that time began
                break
        return found

    def is_flat(self, symbol: str) -> bool:
        """True where nothing is held that could be sold."""
        return abs(self.held(symbol)) < self.least(symbol)

    @property
    def late_bound_s(self) -> float:
        """How long after an order's end it may still fill, or work again."""
        window = self.capabilities.late_fill_window_s
        return LATE_MAX_S if window is None else float(window)

    def others_may_trade(self, symbol: str) -> bool:
        """True while a person can trade by hand."""
        return self.is_open and self.halted.get(symbol, 0.0) <= self._world.time

    def session(self) -> Session:
        """What the venue tells of its hours."""
        now = self._world.time
        if now < self.close_at:
            return Session(is_open=True, close=OPENING + timedelta(seconds=self.close_at))
        if now < self.open_again_at:
            return Session(is_open=False, next_open=OPENING + timedelta(seconds=self.open_again_at))
        return Session(is_open=True, close=OPENING + timedelta(seconds=self.open_again_at + 86_400))

    def end_session(self, early: bool) -> None:
        """The market closes: orders for the day are over."""
        for booked in self.working():
            if booked.ours:
                self._faults.seen(22)
                if early:
                    self._faults.seen(42)
            self.expire(booked.order)
        self._tell_all()

    # --- what comes over the network ----------------------------------------------------------------------------------

    def take_exit(self, order: Order) -> ExecutionReport:
        """An exit order arrives; see `Books.take`."""
        alone = self.under_way[order.client_order_id] == 0
        hidden = self.booked(order.client_order_id) is not None and not self.capabilities.lookup_sees_closed
        if alone and not hidden and self._faults.happens("refused", 8, order.client_order_id):
            self._note_refused_copy(order)
            kind = self._rng.choice(("halted", "not_tradable", "margin", "rate"))
            if kind in ("halted", "rate"):
                self._faults.seen(58)
            raise OrderRefused(kind, "not now")
        refusal_now = self.refuses(order) if alone and not hidden else None
        if refusal_now is not None:
            self._note_refused_copy(order)
            raise refusal_now
        if not self.is_open and not self.capabilities.queues_orders:
            self._faults.seen(58)
            raise OrderRefused("market_closed", "the market is closed")
        try:
            report = self.take(order)
        except OrderRefused as refusal:
            if not alone:
                self.refused_before_a_copy.add(order.client_order_id)
            if refusal.kind == "duplicate_id" and self._faults.happens("duplicate told", 7, order.client_order_id):
                self._tell_of_copy(order, refusal.text)
            first = self.booked(order.client_order_id)
            held = refusal.kind == "duplicate_id" and first is not None and first.live and not hidden
            if held and self._faults.happens("held by the first copy", 59, order.client_order_id):
                self.unsettled.setdefault(order.client_order_id, set()).add("refused")
                raise OrderRefused("insufficient_qty", "the first copy holds it") from None
            raise
        self._tell_all()
        self._world.after(self._pace(), self._match, order.client_order_id)
        return report

    def _note_refused_copy(self, order: Order) -> None:
        """An order is refused that may be here already: the word is about a copy, and the record may be behind."""
        if self.booked(order.client_order_id) is not None:
            self.unsettled.setdefault(order.client_order_id, set()).add("refused")

    def take_cancel(self, client_order_id: str) -> None:
        """A request to cancel arrives."""
        booked = self.booked(client_order_id)
        if booked is not None and not booked.live and booked.ours:
            self._faults.seen(18)
        if self._faults.happens("cancel refused", None, client_order_id):
            raise OrderRefused("not_cancelable", "not now")
        self.cancels = "pending" if self._faults.happens("cancel pending", None, client_order_id) else "at_once"
        self.ask_cancel(client_order_id)
        if self.cancels == "pending":
            self._world.after(self._rng.uniform(0.1, 20), self._resolve_cancel, client_order_id)
        else:
            self._after_cancel(client_order_id)
        self._tell_all()

    def _resolve_cancel(self, client_order_id: str) -> None:
        booked = self.booked(client_order_id)
        if booked is None or not booked.live:
            return
        if booked.ours and booked.filled < booked.order.qty and self._rng.random() < 0.3 and self._can_fill(booked):
            part = max(Decimal(1), booked.leaves // 2)
            if part < booked.leaves:
                self._faults.seen(17)
                self._fill(booked, part)
        if self._rng.random() < 0.1:
            self.refuse_cancel(booked.order)
        else:
            self.end_cancel(booked.order)
            self._after_cancel(client_order_id)
        self._tell_all()

    def fills_since(self, since: datetime) -> list[Fill]:
        """Executions since a time."""
        listed = self.executions[bisect_left(self.executions, since, key=lambda fill: fill.at) :]
        return listed if self.tells_names else [replace(fill, client_order_id=None) for fill in listed]

    # --- the market ---------------------------------------------------------------------------------------------------

    def _pace(self) -> float:
        if self._faults.happens("fill slow"):
            return self._rng.uniform(2, 90)
        return self._rng.uniform(0.01, 0.4)

    def _can_fill(self, booked: Booked) -> bool:
        order = booked.order
        if not booked.live or not self.is_open or self.halted.get(order.symbol, 0.0) > self._world.time:
            return False
        if order.order_type is OrderType.LIMIT and order.limit_price is not None:
            price = self.prices[order.symbol]
            return price >= order.limit_price if order.side is OrderSide.SELL else price <= order.limit_price
        return True

    def on_price(self, symbol: str) -> None:
        """A new price: what could not fill may fill now."""
        for booked in self.working():
            if booked.order.symbol == symbol and booked.ours and self._can_fill(booked):
                self._world.after(self._pace(), self._match, booked.order.client_order_id)

    def _match(self, client_order_id: str) -> None:
        """The market looks at an order."""
        booked = self.booked(client_order_id)
        if booked is None or not self._can_fill(booked):
            return
        faults, leaves = self._faults, booked.leaves
        if booked.filled == 0 and faults.happens("rejected", None, client_order_id):
            self.reject(booked.order, self._rng.choice(("halted", "not_tradable", "margin", "risk")), "after all")
        elif faults.happens("ended by the venue", None, client_order_id):
            self.end_cancel(booked.order)
            self._after_cancel(client_order_id)
        elif faults.happens("end denied", None, client_order_id):
            self._deny_end(booked)
        elif leaves > 1 and faults.happens("part then nothing", 16, client_order_id):
            self._fill(booked, self._part(leaves))
            self._world.after(self._rng.uniform(30, 240), self._match, client_order_id)
        elif leaves > 1 and faults.happens("fill in parts", None, client_order_id):
            self._fill(booked, self._part(leaves))
            self._world.after(self._rng.uniform(0.01, 3), self._match, client_order_id)
        else:
            self._fill(booked, leaves)
        self._tell_all()

    def _part(self, leaves: Decimal) -> Decimal:
        return Decimal(self._rng.randint(1, int(leaves) - 1)) if leaves >= 2 else leaves

    def _fill(self, booked: Booked, qty: Decimal, *, late: bool = False) -> None:
        self.fill(booked.order, qty, late=late)
        self._trace("venue", f"fills {plain(qty)} of {booked.order.client_order_id}{' late' if late else ''}")

    def _after_cancel(self, client_order_id: str) -> None:
        """A fill may still be on its way, as far as the venue declares that."""
        booked = self.booked(client_order_id)
        if booked is None or not booked.ours or booked.leaves <= 0 or not self.capabilities.late_fills:
            return
        if client_order_id in self.unsettled:
            return  # the bound runs from the end that was told first: nobody can know of another one
        window = self.capabilities.late_fill_window_s
        if window == 0:
            return
        bound = self.late_bound_s * 0.95
        if self._faults.happens("late fill", None, client_order_id):
            self._world.after(self._rng.uniform(0, bound), self._fill_late, client_order_id)
        else:
            self._world.after(self._rng.uniform(0, bound), self._take_end_back, client_order_id, self._world.time)

    def _fill_late(self, client_order_id: str) -> None:
        booked = self.booked(client_order_id)
        if booked is None or booked.live or booked.leaves <= 0:
            return
        symbol = booked.order.symbol
        size = min(booked.leaves, self._part(booked.leaves), self.held(symbol) * booked.order.position_side.sign)
        if size <= 0 or not self.is_open or self._disturbed(symbol, self._world.time):
            return
        self._faults.seen(20)
        self._fill(booked, size, late=True)
        self._tell_all()

    # --- what is told and is not so -----------------------------------------------------------------------------------

    def _tell_of_copy(self, order: Order, text: str) -> None:
        """The refusal of a repeated request is told as an update of its own, under the id that it repeats."""
        refused = ExecutionReport(
            client_order_id=order.client_order_id,
            status=OrderStatus.REJECTED,
            at=self.now(),
            filled_qty=ZERO,
            symbol=order.symbol,
            side=order.side,
            qty=order.qty,
            text=text,
        )
        self._tell_beside(refused)

    def _deny_end(self, booked: Booked) -> None:
        """An update tells of an end, and the order works on; its record says so."""
        words = [OrderStatus.CANCELED, OrderStatus.EXPIRED, *([] if booked.filled else [OrderStatus.REJECTED])]
        self.tell_denied_end(booked, self._rng.choice(words))
        self._world.after(self._rng.uniform(0.5, WORKS_ON_S), self._match, booked.order.client_order_id)

    def tell_denied_end(self, booked: Booked, status: OrderStatus) -> None:
        """An update tells that an order has ended so, and it has not."""
        self._tell_all()
        self.unsettled.setdefault(booked.order.client_order_id, set()).add(status.value)
        self.deny_end(booked.order, status)
        self._trace("venue", f"calls {booked.order.client_order_id} {status}, and it works")
        self.on_updates()

    def _take_end_back(self, client_order_id: str, ended_at: float) -> None:
        """A canceled order works again: before the bound until which it may fill late, and where it can still fill."""
        booked = self.booked(client_order_id)
        if booked is None or booked.live or booked.leaves <= 0 or not self.is_open:
            return
        symbol = booked.order.symbol
        held = self.held(symbol) * booked.order.position_side.sign
        if held < booked.leaves or self.live_exits(symbol) or self._disturbed(symbol, self._world.time):
            return
        since = self.past.ended_at(client_order_id)  # another end than that one has bounds of its own
        if since is None or since > ended_at + 1 or not self._faults.happens("end taken back", None, client_order_id):
            return
        self._tell_all()
        self.take_back_end(booked)
        if self._rng.random() < 0.5:
            self.updates.clear()  # and nobody is told
        self._tell_all()
        self._world.after(self._rng.uniform(0.5, WORKS_ON_S), self._match, client_order_id)

    def take_back_end(self, booked: Booked) -> None:
        """An order that had ended works again; the news of it waits to be told."""
        order_id = booked.order.client_order_id
        self.unsettled.setdefault(order_id, set()).add(booked.status.value)
        # Whoever waits for the bound reckons from when he heard of the end, and may have read its record before that.
        self.final_at[order_id] = (self.past.ended_at(order_id) or self._world.time) + self.late_bound_s + BEHIND_MAX_S
        self.reopen(booked.order)
        self.past.note(booked)
        self._trace("venue", f"takes the end of {booked.order.client_order_id} back")

    def _tell_beside(self, report: ExecutionReport) -> None:
        """Tell what is in no record."""
        self._tell_all()
        self.updates.append(report)
        self.on_updates()

    # --- events -------------------------------------------------------------------------------------------------------

    def halt(self, symbol: str, seconds: float) -> None:
        """Trading in a symbol stops for a while."""
        self.halted[symbol] = self._world.time + seconds
        for booked in self.live_exits(symbol):
            self.suspend(booked.order)
            self._world.after(seconds + 1, self._match, booked.order.client_order_id)
            self._faults.seen(25)
        self._tell_all()

    def take_back(self, booked: Booked) -> None:
        """A fill of an exit is taken back."""
        self.disturbed_at[booked.order.symbol] = self._world.time
        self.taken_back.add(booked.order.client_order_id)
        self.bust(booked.order, self._part(booked.filled) if booked.filled > 1 else booked.filled)
        self._tell_all()

    def by_hand(self, symbol: str, qty: Decimal) -> None:
        """A person closes `qty` of what is held."""
        held = self.held(symbol)
        side = OrderSide.SELL if held > 0 else OrderSide.BUY
        self.disturbed_at[symbol] = self._world.time
        self.trade_by_hand(symbol, side, qty)
        self._trace("person", f"trades {side} {plain(qty)} {symbol}")

    def end_by_split(self, booked: Booked) -> None:
        """An order of the old unit is canceled: nothing of it fills any more."""
        if booked.live:
            self.end_cancel(booked.order)
            self._tell_all()

    def changed_by_others(self, symbol: str) -> None:
        """What is held of a symbol is another quantity now, and no exit did that."""
        self.disturbed_at[symbol] = self._world.time
        for booked in self.live_exits(symbol):
            booked.disturbed = True

    def _execute(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal, booked: Booked | None) -> Fill:
        """As the books do; of a pair that is bought a part is kept as a fee."""
        if not is_pair(symbol) or side is OrderSide.SELL or self.held(symbol) < 0:
            return super()._execute(symbol, side, qty, price, booked)
        fee = qty * FEE
        self._fee = fee
        fill = super()._execute(symbol, side, qty, price, booked)
        self.executions[-1] = fill = replace(fill, base_fee=fee if self.tells_fees else ZERO)
        self._faults.count("a fee taken in the base")
        return fill

    def _move(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal) -> None:
        before, fee = self.held(symbol), self._fee
        self._fee = ZERO
        super()._move(symbol, side, qty - fee, price)
        held = self.held(symbol)
        self.held_lately[symbol].append((self._world.time, abs(held)))
        if abs(before) < self.least(symbol) or before * held < 0:
            self.flat_until[symbol] = self._world.time
        elif abs(held) > abs(before):
            self.bought_on_at[symbol] = self._world.time

    def _tell_all(self) -> None:
        for report in self.updates:
            booked = self.booked(report.client_order_id)
            if booked is not None and booked.ours:
                self.past.note(booked)
        if self.updates:
            self.on_updates()

    # --- what may never happen ----------------------------------------------------------------------------------------

    def _disturbed(self, symbol: str, since: float) -> bool:
        return self.disturbed_at[symbol] > since - EXCUSED_S

    def _check_size(self, order: Order) -> None:
        """As the books check it; an order that left before anybody could know of another's trade is excused.

        So is one that left before its name was lost, or of which another copy was refused: that there is no second exit
        then is the doing of a venue that refuses what is not there. So is, beside an order that works again, one that
        left before the bound had passed until which that can happen.
        """
        sent_at = self._sent_at(order.client_order_id)
        lost_at = self.names_lost_at[order.symbol] if self.capabilities.reduce_only else -1e9
        others = [
            b
            for b in self.live_exits(order.symbol)
            if sent_at > self.final_at.get(b.order.client_order_id, -1e9)
            and self._sent_at(b.order.client_order_id) >= lost_at  # of this one nobody can know, and the venue guards
        ]
        unknowable = sent_at < self.names_lost_at[order.symbol] or order.client_order_id in self.refused_before_a_copy
        if others and not (self.capabilities.reduce_only and unknowable):
            names = ", ".join(b.order.client_order_id for b in others)
            self._broken(f"S2: {order.client_order_id} came for {order.symbol} while {names} may still fill")
        step = self.capabilities.rules(order.symbol).qty_step
        if step > 0 and order.qty % step != 0:
            raise OrderRefused("quantity", f"{plain(order.qty)} is no multiple of {plain(step)}")
        there = max(ZERO, self.held(order.symbol) * order.position_side.sign)
        if self.capabilities.reduce_only and order.qty > self._free(order.symbol, order.position_side):
            raise OrderRefused("insufficient_qty", f"requested {plain(order.qty)}, held {plain(there)}")
        if order.qty > there and not self._disturbed(order.symbol, sent_at):
            self._broken(f"S1: {order.client_order_id} sells {plain(order.qty)} {order.symbol}, {plain(there)} is held")

    def _book(self, order: Order, *, ours: bool) -> Booked:
        booked = super()._book(order, ours=ours)
        booked.disturbed = ours and self._disturbed(order.symbol, self._world.time)
        return booked

    def positions_now(self) -> list[BrokerPosition]:
        """The positions as they truly are."""
        return self.snapshot()

    def order_now(self, client_order_id: str) -> ExecutionReport | None:
        """The record of an order, as far as this venue shows it."""
        booked = self.booked(client_order_id)
        if booked is None or not (booked.live or self.capabilities.lookup_sees_closed):
            return None
        return booked.report()

    def order_before(self, client_order_id: str, at: float) -> tuple[bool, ExecutionReport | None]:
        """The record of an order at a time, and whether an answer that is behind may say so.

        What is final is shown: an end after which the declared bound for late fills has passed, a fill that was taken
        back, and, where only working orders are shown, that there is one.
        """
        report, ended_at = self.past.before(client_order_id, at)
        if client_order_id in self.taken_back:
            return False, None
        if report is None:
            return self.capabilities.lookup_sees_closed, None
        if ended_at is not None and self._world.time > ended_at + self.late_bound_s:
            return False, None
        return True, report if ended_at is None or self.capabilities.lookup_sees_closed else None

    def open_orders_now(self) -> list[ExecutionReport]:
        """All working orders."""
        return [booked.report() for booked in self.working()]

    def open_orders_before(self, at: float) -> list[ExecutionReport]:
        """The working orders at a time: those of others are shown as they are."""
        found = {report.client_order_id: report for report in self.open_orders_now()}
        for order_id in self.past.changed_since(at):
            report, ended_at = self.past.before(order_id, at)
            found.pop(order_id, None)
            if report is not None and ended_at is None:
                found[order_id] = report
        return list(found.values())

    def newest_is_final(self, fill: Fill) -> bool:
        """True for a fill that came after the end of its order, once the declared bound for such fills has passed."""
        ended_at = self.past.ended_at(fill.client_order_id or "")
        if ended_at is None or seconds_of(fill.at) <= ended_at:
            return False
        return self._world.time > ended_at + self.late_bound_s

    def status_of(self, client_order_id: str) -> OrderStatus | None:
        """The status of an order; None for one that never came."""
        booked = self.booked(client_order_id)
        return booked.status if booked is not None else None
