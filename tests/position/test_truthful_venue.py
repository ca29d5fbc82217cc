"""A position against a venue that is truthful, and a world that is not kind."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from positions import (
    LIMIT,
    canceling,
    expired,
    filled,
    monitoring,
    partial,
    pending,
    resting,
    second,
    submitted,
    unprotected,
)

from exitfsm.events import (
    AlarmRaised,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitRetried,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    PositionReleased,
    ProtectionLost,
)
from exitfsm.lifecycle import State, advance
from exitfsm.messages import (
    Contradiction,
    ForceExit,
    GiveWay,
    Message,
    Recover,
    Release,
    Report,
)
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.position import (
    READS_MIN,
    Cancel,
    LookUp,
    ReadPosition,
    Submit,
    decide,
    fold,
    owed,
    replay,
)
from exitfsm.testing.given import (
    BROKER,
    after,
    given,
    holds,
    like,
    opened,
    order_id,
    policy,
    refused,
    reported,
    seen,
    timer,
    triggered,
)
from exitfsm.values import ExecutionReport, OrderStatus


@dataclass
class Booked:
    """One order as the venue has it."""

    id: str
    qty: int
    filled: int = 0
    status: OrderStatus = OrderStatus.NEW
    ended_at: float = 0


class World:
    """A venue, a shell around one position, and between them a network that loses, delays, doubles and reorders.

    The venue refuses a repeated id for ever, may still fill in the five seconds after a cancel, and says so. The shell
    does what is owed, as it is owed, and after a crash knows nothing but the log.
    """

    def __init__(self, rules: Any) -> None:
        self.log: list[Event] = [opened(policy=rules)]
        self.p = replay(self.log)
        self.held = 10
        self.orders: dict[str, Booked] = {}
        self.said: list[tuple[str, OrderStatus, int]] = []
        self.on_the_way: list[tuple[str, int]] = []
        self.at = 60.0
        self.unknown = False
        self.reads = (-1, 0)

    # the venue

    def live(self) -> list[Booked]:
        return [o for o in self.orders.values() if not o.status.terminal]

    def arrive(self, order_id: str, qty: int) -> None:
        if order_id not in self.orders:
            self.orders[order_id] = Booked(order_id, qty)
            self.say(self.orders[order_id])

    def say(self, order: Booked) -> None:
        self.said.append((order.id, order.status, order.filled))

    def fill(self, order: Booked, qty: int) -> None:
        qty = min(qty, order.qty - order.filled)
        order.filled += qty
        self.held -= qty
        if not order.status.terminal:
            order.status = OrderStatus.FILLED if order.filled == order.qty else OrderStatus.PARTIALLY_FILLED
        self.say(order)

    def end(self, order: Booked, status: OrderStatus) -> None:
        order.status, order.ended_at = status, self.at
        self.say(order)

    # the shell

    def tell(self, message: Message) -> None:
        events = decide(self.p, message, BROKER)
        state: State = self.p.state
        for event in events:
            state = advance(state, type(event))
        self.log += events
        after_it = fold(self.p, events)
        assert after_it is not None
        if after_it.client_order_id != self.p.client_order_id:
            self.unknown = False
        self.p = after_it

    def hear(self, order_id: str, status: OrderStatus, filled: int) -> None:
        if order_id == self.p.client_order_id:
            self.unknown = False
        report = ExecutionReport(
            client_order_id=order_id,
            status=status,
            at=after(self.at),
            filled_qty=Decimal(filled),
            avg_fill_price=Decimal(99) if filled else None,
        )
        self.tell(Report(at=after(self.at), report=report))

    def look_up(self, order_id: str) -> None:
        order = self.orders.get(order_id)
        if order is not None:
            self.hear(order.id, order.status, order.filled)
        elif order_id == self.p.client_order_id:
            self.unknown = False  # this venue refuses a repeated id, so the same order may be sent again

    def act(self, luck: int) -> None:
        action = owed(self.p, after(self.at), outcome_unknown=self.unknown)
        match action:
            case Submit(order=order):
                self.unknown = True
                if luck == 0:
                    self.on_the_way.append((order.client_order_id, int(order.qty)))  # and the answer never comes
                    return
                self.arrive(order.client_order_id, int(order.qty))
                if luck == 1:
                    return  # it arrived, and the answer is lost
                self.look_up(order.client_order_id)
            case LookUp(client_order_id=order_id):
                if luck:
                    self.look_up(order_id)
            case Cancel(client_order_id=order_id):
                order = self.orders.get(order_id)
                if luck and order is not None and not order.status.terminal:
                    self.end(order, OrderStatus.PENDING_CANCEL if luck == 1 else OrderStatus.CANCELED)
            case ReadPosition():
                reads = self.reads[1] + 1 if self.reads[0] == self.held else 1
                self.reads = (self.held, reads)
                known = self.orders.get(self.p.client_order_id or "")
                if self.p.state is State.REJECTED and known is not None:
                    self.hear(known.id, known.status, known.filled)
                self.tell(holds(self.held, self.at, reads=reads, record=known.status if known else None)(self.p))
            case None:
                pass

    # what may happen

    def happen(self, what: str, number: int) -> None:
        live = self.live()
        match what:
            case "act":
                self.act(number % 4)
            case "bar":
                self.tell(seen((99, 102, 100)[number % 3], self.at))
            case "fill" if live:
                self.fill(live[0], 1 + number % 10)
            case "late_fill":
                lately = [o for o in self.orders.values() if o.status is OrderStatus.CANCELED]
                if lately and self.at - lately[-1].ended_at < 5:
                    self.fill(lately[-1], 1 + number % 3)
            case "end" if live:
                self.end(live[0], (OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.CANCELED)[number % 3])
            case "deliver" if self.said:
                self.hear(*self.said[-1 - number % len(self.said)])
            case "arrive" if self.on_the_way:
                self.arrive(*self.on_the_way.pop(number % len(self.on_the_way)))
            case "time":
                self.at += (1, 4, 31, 600)[number % 4]
                self.tell(timer(self.at, 60))
            case "crash":
                self.p, self.unknown, self.reads = replay(self.log), True, (-1, 0)
            case "exit":
                self.tell(ForceExit(at=after(self.at)))
        self.check()

    def check(self) -> None:
        assert self.held >= 0, "more was sold than was held"
        assert len(self.live()) <= 1, "two orders work at the venue"
        assert sum(o.filled for o in self.orders.values()) == 10 - self.held
        if self.p.state.terminal:
            assert self.held == 0
        assert self.p.state is not State.CLOSED, "nobody trades by hand here"
        if self.p.state is State.FILLED:
            assert self.p.sold_qty == 10, "the record of each order was read before the next one, and before the end"

    def become_kind(self) -> None:
        """Nothing more is lost or delayed: every order is looked up, and time goes on."""
        for _ in range(60):
            if self.p.state.terminal or self.p.state is State.UNPROTECTED:
                return
            if self.p.state is State.MONITORING:
                self.happen("exit", 0)
            for order in list(self.orders.values()):
                self.hear(order.id, order.status, order.filled)
            self.happen("act", 3)
            self.happen("fill", 9)
            self.happen("time", 2)
        raise AssertionError(f"it is stuck in {self.p.state}")


WHAT = (*["act"] * 4, *["deliver"] * 3, *["fill"] * 2, "bar", "late_fill", "end", "arrive", "time", "crash", "exit")
HAPPENINGS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 11)), min_size=20, max_size=80)


@for_all(st.sampled_from([policy(), LIMIT]), HAPPENINGS)
def test_whatever_the_network_does_nothing_is_sold_twice_and_it_ends_flat_or_alarmed(
    rules: Any, happenings: list[tuple[str, int]]
) -> None:
    live_through(World(rules), happenings)


def test_a_thousand_unkind_worlds_and_nothing_is_sold_twice() -> None:
    rng = random.Random(43)
    ends = set()
    for number in range(1000):
        happenings = [(rng.choice(WHAT), rng.randrange(12)) for _ in range(60)]
        world = World((policy(), LIMIT)[number % 2])
        live_through(world, happenings)
        ends.add((world.p.state, world.p.attempt))
    assert {(State.FILLED, 1), (State.FILLED, 3), (State.UNPROTECTED, 2)} <= ends


def live_through(world: World, happenings: list[tuple[str, int]]) -> None:
    """All that happens, then a kind world; it ends flat, or unprotected and alarmed."""
    world.happen("bar", 1 if world.p.policy is LIMIT else 0)
    for what, number in happenings:
        world.happen(what, number)
    world.become_kind()
    if world.p.state is State.UNPROTECTED:
        assert any(isinstance(e, AlarmRaised) and e.kind == "protection_lost" for e in world.log)
    assert replay(world.log) == world.p


def test_given_less_than_a_step_is_left_when_it_looks_flat_less_than_three_times_then_it_is_kept() -> None:
    broker = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal("0.1")))
    s = given(opened(qty="6.25")).at(broker).when(seen(99), reported("filled", "6.2", 99))
    for reads in range(1, READS_MIN):
        s.when(holds(0, reads=reads)).then().owes(ReadPosition)
    s.when(holds(0)).then(like(PositionClosedElsewhere, how="by_hand", remaining_qty=Decimal("0.05")))


def test_given_orders_of_which_one_has_no_price_then_the_average_is_unknown_and_else_it_is_over_all() -> None:
    two = expired.when(holds(6, at=200), reported("new", attempt=2, at=201))
    assert two.now.avg_exit_price == Decimal(99)
    both = two.when(reported("partially_filled", 2, 102, attempt=2, at=202))
    assert both.now.avg_exit_price == Decimal(100)
    assert two.when(reported("partially_filled", 2, attempt=2, at=202)).now.avg_exit_price is None
    assert monitoring.now.avg_exit_price is None


def test_given_an_order_that_is_not_ours_when_it_is_over_then_a_person_can_go_on() -> None:
    theirs = {"symbol": "MSFT"}
    s = submitted.when(reported("new", **theirs)).then(ProtectionLost, AlarmRaised).has(order_live=True)
    s.when(reported("new", **theirs)).then().has(order_live=True)
    s.when(reported("canceled", 0, **theirs)).then(
        OrderEnded(
            client_order_id=order_id(1), how="canceled", filled_qty=Decimal(0), at=after(61), next_attempt_at=None
        )
    ).has(order_live=False).is_in("unprotected")
    submitted.when(reported("rejected", 0, refusal="halted", text="no", **theirs)).then(
        ProtectionLost, like(OrderEnded, how="rejected", refusal="halted", text="no"), AlarmRaised
    )


def test_given_an_order_that_is_over_when_its_price_is_told_later_then_it_is_recorded_once() -> None:
    s = submitted.when(reported("partially_filled", 4), reported("expired", 4)).has(avg_exit_price=None)
    s = s.when(reported("expired", 4, 99)).then(like(FillsRecorded, filled_qty=Decimal(4), avg_fill_price=Decimal(99)))
    s.is_in("rejected").when(reported("expired", 4, 99)).then()


def test_given_a_refused_order_when_it_fills_beside_the_next_one_then_that_is_ended_and_a_person_is_told() -> None:
    s = pending.when(refused(), holds(10, at=200), reported("new", attempt=2, at=201))
    s = s.when(reported("partially_filled", 3, 99, attempt=1, at=202))
    s.then(
        ProtectionLost,
        like(OrderAccepted, client_order_id=order_id(1)),
        FillsRecorded(client_order_id=order_id(1), filled_qty=Decimal(3), avg_fill_price=Decimal(99), at=after(202)),
        like(CancelRequested, client_order_id=order_id(1)),
        like(CancelRequested, client_order_id=order_id(2)),
        AlarmRaised,
    ).is_in("unprotected").has(remaining_qty=Decimal(7))


def test_given_a_refused_order_that_works_after_all_then_nothing_is_over_before_it_is() -> None:
    s = pending.when(refused(), reported("partially_filled", 2, 99, at=70))
    s.has(live_orders=(order_id(1),), remaining_qty=Decimal(8)).owes(Cancel)
    for _ in range(3):
        s.when(holds(0, reads=3)).then()
    s.when(Release(at=after(300), qty=Decimal(8), entry_price=Decimal(100), who="op")).then(
        like(AlarmRaised, kind="not_done")
    )
    s.when(ForceExit(at=after(300), qty=Decimal(8))).then(like(AlarmRaised, kind="not_done"))
    over = s.when(reported("canceled", 3, 99, at=80))
    over.then(FillsRecorded, like(OrderEnded, how="canceled", filled_qty=Decimal(3))).has(live_orders=())
    over.when(holds(0, reads=3)).then(PositionClosedElsewhere).is_in("closed")
    over.when(Release(at=after(300), qty=Decimal(7), entry_price=Decimal(100), who="op")).then(PositionReleased).is_in(
        "monitoring"
    )


def test_given_an_earlier_order_that_was_refused_and_works_after_all_then_nothing_is_over_before_it_is() -> None:
    s = pending.when(refused(), holds(10, at=200), reported("new", attempt=2, at=201))
    s = s.when(reported("new", attempt=1, at=202))
    s = s.when(reported("canceled", 0, attempt=2, at=203)).has(live_orders=(order_id(1),)).owes(Cancel)
    s.when(holds(0, reads=3)).then()
    s.when(ForceExit(at=after(300), qty=Decimal(10))).then(like(AlarmRaised, kind="not_done"))
    s.when(Release(at=after(300), qty=Decimal(10), entry_price=Decimal(100), who="op")).then(
        like(AlarmRaised, kind="not_done")
    )
    part = s.when(reported("partially_filled", 4, 99, attempt=1, at=204)).then(FillsRecorded)
    part.when(reported("canceled", None, attempt=1, at=205)).then()  # with how much filled? It is looked up
    done = part.when(reported("done_for_day", 4, attempt=1, at=205, leaves_qty=Decimal(0)))
    done.then(like(OrderEnded, how="expired")).has(live_orders=())
    part.when(reported("rejected", None, attempt=1, at=205)).then(like(OrderEnded, filled_qty=Decimal(4)))
    over = part.when(reported("canceled", 6, 99, attempt=1, at=205))
    over.then(FillsRecorded, like(OrderEnded, client_order_id=order_id(1), how="canceled"))
    over.has(live_orders=(), remaining_qty=Decimal(4))
    over.when(holds(0, reads=3)).then(PositionClosedElsewhere).is_in("closed")
    over.when(ForceExit(at=after(300), qty=Decimal(4))).then(ExitRetried).is_in("pending")
    part.when(reported("filled", 10, 99, attempt=1, at=205)).then(FillsRecorded, OrderEnded).when(holds(0)).then(
        ExitCompleted
    )


@pytest.mark.parametrize("how", ["released", "over"])
def test_given_a_refused_order_when_it_works_after_its_exit_was_given_up_or_over_then_it_is_ended(how: str) -> None:
    s = pending.when(refused())
    if how == "released":
        s = s.when(
            Contradiction(at=after(65), why="it cannot be"),
            Release(at=after(300), qty=Decimal(10), entry_price=Decimal(100), who="op"),
        ).is_in("monitoring")
    else:
        s = s.when(holds(0, reads=3)).is_in("closed")
    s = s.when(reported("new", at=400))
    s.then(ProtectionLost, OrderAccepted, CancelRequested, AlarmRaised).is_in("unprotected").owes(Cancel)


def test_given_orders_with_ids_of_the_brokers_own_then_each_is_known_by_it() -> None:
    s = pending.when(refused()).has(broker_order_ids={})
    s = s.when(holds(10, at=200), reported("new", attempt=2, at=201, broker_order_id="b2"))
    s = s.when(reported("new", attempt=1, at=202, broker_order_id="b1"))
    s.has(broker_order_ids={"b1": order_id(1), "b2": order_id(2)})


def test_given_the_next_attempt_when_another_machine_has_sent_it_then_it_is_taken_over() -> None:
    def found(attempt: int, qty: int, at: float, status: str = "new", **fields: Any) -> Recover:
        report = ExecutionReport(
            client_order_id=order_id(attempt), status=OrderStatus(status), at=after(150), qty=Decimal(qty), **fields
        )
        return Recover(at=after(at), attempt=attempt, report=report)

    taken = expired.when(found(2, 6, 200)).then(like(ExitRetried, attempt=2, qty=Decimal(6)), OrderAccepted)
    taken.is_in("submitted").has(sold_elsewhere=Decimal(0))
    assert taken.now.exit.budget_spent == 0
    assert partial.when(reported("rejected", 4)).when(found(2, 6, 200)).now.exit.budget_spent == 1
    expired.when(found(2, 6, 200, "expired", filled_qty=Decimal(2))).is_in("rejected").has(remaining_qty=Decimal(4))
    larger = expired.when(found(2, 7, 200)).is_in("unprotected")
    larger.has(attempt=2, order_qty=Decimal(7), cancel_asked=True).owes(Cancel)
    unsaid = expired.when(
        Recover(at=after(200), attempt=2, report=msgspec.structs.replace(found(2, 6, 200).report, qty=None))
    )
    unsaid.is_in("submitted").has(order_qty=Decimal(6))
    expired.when(found(2, 6, 200), reported("expired", 0, at=201)).when(found(2, 6, 300)).then()  # an old answer
    expired.when(found(2, 6, 81)).then()  # not due
    expired.when(found(3, 6, 200)).then()
    last = given(opened(policy=policy(partial_fills={"max_resubmit_attempts": 0})), triggered())
    last = last.when(reported("rejected", 4, at=80)).when(found(2, 6, 200)).has(attempt=2)
    assert last.now.exit.budget_spent == 0


def test_given_another_exit_that_waits_when_a_limit_order_rests_then_it_gives_way() -> None:
    way = GiveWay(at=after(70), why="a stop waits for it")
    for s in (resting, resting.when(reported("partially_filled", 4, 102))):
        asked = s.when(way).then(like(ExitEscalated, why="a stop waits for it")).is_in("canceling")
        asked.when(way).then()
        asked.when(reported("cancel_rejected", at=75)).when(way).then()  # the broker will not
        alarmed = s.when(Contradiction(at=after(65), why="it cannot be"))
        alarmed.when(way).then(like(CancelRequested, why="a stop waits for it")).when(way).then()
    for s in (monitoring, pending, submitted, partial, expired, filled, unprotected):
        s.when(way).then()


def test_given_an_unprotected_position_when_its_refused_order_works_then_it_is_ended_and_a_person_is_told() -> None:
    s = pending.when(refused(), Contradiction(at=after(65), why="it cannot be"), reported("new", at=70))
    s.then(OrderAccepted, CancelRequested, like(AlarmRaised, kind="refused_order_works")).owes(Cancel)
    earlier = second.when(Contradiction(at=after(202), why="it cannot be"))
    earlier.when(reported("new", attempt=1, at=203)).then()  # it had been accepted, so that this is old news


def test_given_an_unprotected_position_when_more_was_filled_than_known_then_what_could_sell_too_much_is_ended() -> None:
    s = second.when(reported("new", attempt=2, at=201), Contradiction(at=after(202), why="it cannot be"))
    late = s.when(reported("expired", 5, 99, attempt=1, at=203))
    late.then(
        like(FillsRecorded, client_order_id=order_id(1), filled_qty=Decimal(5)),
        like(CancelRequested, client_order_id=order_id(2)),
    ).is_in("unprotected").has(remaining_qty=Decimal(5))
    # Of an order that was cut by as much, nothing need be ended.
    fewer = s.when(reported("new", 0, qty=Decimal(5), attempt=2, at=203))
    fewer.when(reported("expired", 5, 99, attempt=1, at=204)).then(FillsRecorded)
    over = unprotected.when(reported("partially_filled", 11, 99, at=203))
    over.then(like(FillsRecorded, filled_qty=Decimal(11)), like(AlarmRaised, kind="oversold"))
    over.has(remaining_qty=Decimal(-1))
    over.when(reported("partially_filled", 11, 99, at=204)).then()


def test_given_an_order_that_works_when_a_repetition_of_its_request_is_refused_then_it_works_on() -> None:
    for s in (submitted, partial, canceling):
        s.when(refused()).then().has(order_live=True)
    pending.when(refused()).then(like(OrderEnded, how="refused")).has(order_live=False)
    unprotected.when(refused()).then(like(OrderEnded, how="refused")).has(order_live=False)
