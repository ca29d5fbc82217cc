"""What every broker must pass: numbered cases for the promises that an exit rests on.

    class TestMyBroker(BrokerConformance):
        @pytest.fixture
        def bench(self): return MyBench()

A `Bench` is the broker under test together with the hands that move its market. A case for which those hands are
missing (part-fill this order, lose this answer) is skipped and says so; nothing else is. Cases stand on their own, may
run in any order, and leave an account flat only if the bench does. The marker is `conformance`.

Numbers are names: a case that is dropped leaves its number unused.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
import pytest_asyncio

from exitfsm.broker.calls import Known
from exitfsm.errors import BrokerError, NotSent, OrderRefused
from exitfsm.order_ids import client_order_id, form_mistake
from exitfsm.ports import Capabilities, IdMemory, Session
from exitfsm.testing.asking import AsManagersDo, OwnIds
from exitfsm.values import (
    EXACT,
    ZERO,
    BrokerPosition,
    ExecutionReport,
    Fill,
    Order,
    OrderSide,
    OrderStatus,
    OrderType,
    Side,
    rounded,
)

_LATER = timedelta(days=365)


class CannotDo(Exception):
    """The bench has no hands for this: the case is skipped."""


class Bench:
    """A broker and its market.

    Attributes:
        broker: what is tested: anything that a manager takes, by the port's names or its own, plain or async.
        symbol: what is traded; at `price`, which an order rests above at `far_price`.
        qty, fraction: sizes that the venue takes: a plain one, and one with as many decimals as it knows.
        patience_s: how long an effect may take to show.
        holds_twice: a second order for what the first has reserved may be tried.
    """

    broker: Any
    symbol = "AAPL"
    price = Decimal(100)
    far_price = Decimal(150)
    qty = Decimal(10)
    fraction = Decimal("1.123456789")
    patience_s = 2.0
    holds_twice = True

    async def connect(self) -> None:
        """Connect the broker before a case, in its event loop. Nothing to do where it does so by itself."""

    async def disconnect(self) -> None:
        """Undo `connect`, after it."""

    async def hold(self, qty: Decimal, side: Side = Side.LONG) -> None:
        """See to it that exactly this position is held."""
        raise NotImplementedError

    async def trade(self) -> None:
        """Let the market trade: what works at market is filled. Nothing to do where it does so by itself."""

    async def fill_part(self, client_order_id: str, qty: Decimal) -> None:
        """Fill so much of a working order, at `price`."""
        raise CannotDo(f"fill {qty} of order {client_order_id}")

    async def expire(self) -> None:
        """End the session: DAY orders expire."""
        raise CannotDo("end the session")

    async def lose(self, method: str, when: Literal["before", "after"]) -> None:
        """Lose the next request of a port method, or the answer to it."""
        raise CannotDo(f"lose a request of {method}, {when} its effect")

    async def unplug(self) -> None:
        """Let the next request find nobody to connect to, until `plug`."""
        raise CannotDo("cut the connection")

    async def plug(self) -> None:
        """Undo `unplug`."""

    async def short(self) -> None:
        """Allow short positions, or say that there are none."""

    # --- what the cases use -------------------------------------------------------------------------------------------

    async def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the port as a manager would: by the broker's own names, in a thread where it is plain.

        Raises:
            ConfigError: no manager would take this broker; the text says what to do.
        """
        if method in ("order", "cancel"):  # a manager knows the symbol of each order, also of one that never left
            self._known.setdefault(args[0], Known(None, self.symbol))
        with closing(self._manager()) as asked:
            if not asked.has(method):
                pytest.skip(f"the broker has no method for {method}")
            return await getattr(asked, method)(*args)

    def takes_our_id(self, method: str) -> bool:
        """True when this method names an order by our id; one of which only that is known can be asked about."""
        with closing(self._manager()) as asked:
            return asked.takes_our_id(method)

    def _manager(self) -> AsManagersDo:
        """The broker as a manager sees it; what it has learned of the orders' own ids stays."""
        return AsManagersDo(self.broker, self._known)

    @property
    def _known(self) -> OwnIds:
        """What is known of orders; made at the first look, for a bench need not call our `__init__`."""
        return self.__dict__.setdefault("_own_ids", OwnIds())  # type: ignore[no-any-return]

    def exit_order(self, qty: Decimal | None = None, **changes: Any) -> Order:
        """An order that closes what is held, with a new id, at market."""
        fields: dict[str, Any] = {
            "client_order_id": self.new_id(),
            "symbol": self.symbol,
            "side": OrderSide.SELL,
            "qty": self.qty if qty is None else qty,
            "time_in_force": self.capabilities.rules(self.symbol).times_in_force[0],
        }
        return Order(**(fields | changes))

    def new_id(self) -> str:
        """An id that was never sent, of the form in which a manager would send it."""
        return client_order_id(uuid.uuid4().hex, 1, self.capabilities.form(self.symbol))

    def resting(self, qty: Decimal | None = None, **changes: Any) -> Order:
        """The same with a limit that the market does not reach."""
        return self.exit_order(qty, order_type=OrderType.LIMIT, limit_price=self.far_price, **changes)

    @property
    def capabilities(self) -> Capabilities:
        """What the broker declares."""
        with closing(self._manager()) as asked:
            return asked.capabilities

    async def position(self) -> BrokerPosition | None:
        """What the broker shows for the symbol."""
        held: list[BrokerPosition] = list(await self.ask("positions"))
        return next((p for p in held if p.symbol == self.symbol), None)

    async def held(self) -> Decimal:
        """Net quantity that the broker shows: negative when short."""
        p = await self.position()
        return ZERO if p is None else p.qty * p.side.sign

    async def order(self, client_order_id: str) -> ExecutionReport:
        """What the broker knows of an order that it must know."""
        report = await self.ask("order", client_order_id)
        assert isinstance(report, ExecutionReport), f"order {client_order_id} is not known"
        return report

    async def knows_nothing_of(self, client_order_id: str) -> bool:
        """True where the broker says that it does not know this id, or cannot be asked about one of ours."""
        return not self.takes_our_id("order") or await self.ask("order", client_order_id) is None

    async def until(self, what: Callable[[], Any]) -> Any:
        """The first answer of `what` that is true; the last one when patience ends."""
        deadline = time.monotonic() + self.patience_s
        while True:
            answer = await what()
            if answer or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.02)

    async def status(self, client_order_id: str, *wanted: OrderStatus) -> ExecutionReport:
        """The order's record once it has one of these statuses."""

        async def look() -> ExecutionReport | None:
            report = await self.order(client_order_id)
            return report if report.status in wanted else None

        report = await self.until(look)
        assert report is not None, f"{(await self.order(client_order_id)).status}, not {' or '.join(wanted)}"
        assert isinstance(report, ExecutionReport)
        return report

    async def average(self, report: ExecutionReport) -> Decimal | None:
        """The average price of what an order filled: by its record, else by executions; None where neither says it."""
        if report.avg_fill_price is not None:
            return report.avg_fill_price
        with closing(self._manager()) as asked:
            if not asked.has("fills"):
                return None
        found: list[Fill] = list(await self.ask("fills", datetime.now(UTC) - _LATER * 20))
        names = {report.broker_order_id, report.client_order_id} - {None}
        mine = [f for f in found if {f.broker_order_id, f.client_order_id} & names]
        qty = sum((f.qty for f in mine), ZERO)
        return rounded(EXACT.divide(sum((f.qty * f.price for f in mine), ZERO), qty)) if qty else None

    async def filled(self, client_order_id: str) -> ExecutionReport:
        """The order's record once it is filled."""
        await self.trade()
        return await self.status(client_order_id, OrderStatus.FILLED)


@pytest.mark.asyncio
@pytest.mark.conformance
class BrokerConformance:
    """The cases. Subclass it and give it a fixture `bench`."""

    @pytest_asyncio.fixture(autouse=True)
    async def _connected(self, bench: Bench) -> AsyncIterator[None]:
        await bench.connect()
        yield
        await bench.disconnect()

    async def test_01_declares_what_it_can_do(self, bench: Bench) -> None:
        """Capabilities are a record, and do not contradict themselves."""
        declared = bench.capabilities
        assert form_mistake(declared.id_form) is None
        rules = declared.rules(bench.symbol)
        assert rules.order_types
        assert rules.times_in_force
        assert rules.fractional_times_in_force
        assert declared.late_fills or not declared.late_fill_window_s

    async def test_02_shows_a_position(self, bench: Bench) -> None:
        """Symbol, side, quantity and entry are those of the account, as exact numbers."""
        await bench.hold(bench.qty)
        p = await bench.position()
        assert p is not None
        assert (p.side, p.qty) == (Side.LONG, bench.qty)
        assert p.avg_entry_price.is_finite()
        assert p.avg_entry_price > 0
        assert p.qty_available in (None, p.qty)

    async def test_03_shows_a_fraction_exactly(self, bench: Bench) -> None:
        """Quantities keep every decimal on the way in and on the way out."""
        await bench.hold(bench.fraction)
        assert await bench.held() == bench.fraction
        rules = bench.capabilities.rules(bench.symbol)
        order = bench.exit_order(bench.fraction, time_in_force=rules.fractional_times_in_force[0])
        await bench.ask("submit", order)
        report = await bench.filled(order.client_order_id)
        assert (report.qty, report.filled_qty) == (bench.fraction, bench.fraction)
        assert await bench.held() == 0

    async def test_04_shows_a_short_position(self, bench: Bench) -> None:
        """A short has a positive quantity and its side; a buy closes it."""
        await _hands(bench.short())
        await bench.hold(bench.qty, Side.SHORT)
        p = await bench.position()
        assert p is not None
        assert (p.side, p.qty) == (Side.SHORT, bench.qty)
        order = bench.exit_order(side=OrderSide.BUY, position_side=Side.SHORT)
        await bench.ask("submit", order)
        await bench.filled(order.client_order_id)
        assert await bench.held() == 0

    async def test_05_shows_nothing_when_flat(self, bench: Bench) -> None:
        """A symbol that is not held is not listed with zero."""
        await bench.hold(ZERO)
        assert await bench.position() is None

    async def test_06_reports_a_submit(self, bench: Bench) -> None:
        """The answer to a submit is about this order and says what was filled: nothing is not unknown."""
        await bench.hold(bench.qty)
        order = bench.resting()
        report: ExecutionReport = await bench.ask("submit", order)
        assert report.client_order_id == order.client_order_id
        assert (report.symbol, report.side, report.qty) == (bench.symbol, OrderSide.SELL, bench.qty)
        assert report.filled_qty == 0
        assert not report.status.terminal
        assert report.broker_order_id
        assert report.at.utcoffset() == timedelta(0)

    async def test_07_finds_a_working_order(self, bench: Bench) -> None:
        """Look-up by client order id finds an order that works."""
        await bench.hold(bench.qty)
        order = bench.resting()
        sent: ExecutionReport = await bench.ask("submit", order)
        found = await bench.order(order.client_order_id)
        assert found.broker_order_id == sent.broker_order_id
        assert (found.symbol, found.side, found.qty, found.filled_qty) == (
            bench.symbol,
            OrderSide.SELL,
            bench.qty,
            ZERO,
        )
        assert not found.status.terminal

    async def test_08_does_not_know_an_unknown_id(self, bench: Bench) -> None:
        """None, and only None, says that an id is not known."""
        if not bench.takes_our_id("order"):
            pytest.skip("looks orders up by the broker's own id: one that it never answered about cannot be found")
        assert await bench.ask("order", bench.new_id()) is None

    async def test_09_lists_working_orders(self, bench: Bench) -> None:
        """A working order is listed, and no longer once it is over."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)

        async def listed() -> bool:
            return order.client_order_id in [r.client_order_id for r in await bench.ask("open_orders")]

        assert await bench.until(listed)
        await bench.ask("cancel", order.client_order_id)
        await bench.status(order.client_order_id, OrderStatus.CANCELED)
        assert not await listed()

    async def test_10_reports_a_fill(self, bench: Bench) -> None:
        """A filled order has its whole quantity and an average price, and the position is gone."""
        await bench.hold(bench.qty)
        order = bench.exit_order()
        await bench.ask("submit", order)
        report = await bench.filled(order.client_order_id)
        assert report.filled_qty == bench.qty
        average = await bench.average(report)
        assert average is not None, "neither the record nor an execution says at which price it was filled"
        assert average > 0

        async def flat() -> bool:
            return await bench.position() is None

        assert await bench.until(flat)

    async def test_11_finds_a_filled_order(self, bench: Bench) -> None:
        """Look-up sees what is over, where that is declared."""
        if not bench.capabilities.lookup_sees_closed:
            pytest.skip("does not declare that look-up sees closed orders")
        await bench.hold(bench.qty)
        order = bench.exit_order()
        await bench.ask("submit", order)
        await bench.filled(order.client_order_id)
        assert (await bench.order(order.client_order_id)).status is OrderStatus.FILLED

    async def test_12_reports_part_fills(self, bench: Bench) -> None:
        """Filled quantity is cumulative, and the position shrinks with it."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        await _hands(bench.fill_part(order.client_order_id, Decimal(3)))
        working = (OrderStatus.PARTIALLY_FILLED, OrderStatus.NEW)  # many venues have one word for both

        async def shown() -> bool:
            return (await bench.status(order.client_order_id, *working)).filled_qty == 3

        assert await bench.until(shown)
        await bench.fill_part(order.client_order_id, Decimal(4))
        report = await bench.order(order.client_order_id)
        assert (report.filled_qty, await bench.average(report)) == (Decimal(7), bench.price)
        assert await bench.held() == bench.qty - 7

    async def test_13_cancels(self, bench: Bench) -> None:
        """A cancel is asked for; the order's own record says when it is over."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        assert await bench.ask("cancel", order.client_order_id) is None
        report = await bench.status(order.client_order_id, OrderStatus.CANCELED)
        assert report.filled_qty == 0
        assert await bench.held() == bench.qty

    async def test_14_keeps_the_fills_of_a_canceled_order(self, bench: Bench) -> None:
        """What was filled before a cancel still counts after it."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        await _hands(bench.fill_part(order.client_order_id, Decimal(4)))
        await bench.ask("cancel", order.client_order_id)
        report = await bench.status(order.client_order_id, OrderStatus.CANCELED)
        assert (report.filled_qty, report.qty) == (Decimal(4), bench.qty)

    async def test_15_will_not_cancel_what_is_over(self, bench: Bench) -> None:
        """A cancel of a filled order is refused, and changes nothing."""
        await bench.hold(bench.qty)
        order = bench.exit_order()
        await bench.ask("submit", order)
        await bench.filled(order.client_order_id)
        with pytest.raises(OrderRefused):
            await bench.ask("cancel", order.client_order_id)
        assert (await bench.order(order.client_order_id)).status is OrderStatus.FILLED

    async def test_16_will_not_cancel_what_it_does_not_know(self, bench: Bench) -> None:
        """A cancel of an unknown order is refused."""
        if not bench.takes_our_id("cancel"):
            pytest.skip("cancels by the broker's own id: one that is not known is not asked for")
        with pytest.raises(OrderRefused):
            await bench.ask("cancel", bench.new_id())

    async def test_17_takes_an_id_once_while_it_works(self, bench: Bench) -> None:
        """The same order sent again is no second order."""
        if bench.capabilities.ids_refused is IdMemory.NEVER:
            pytest.skip("declares that it does not refuse repeated ids")
        await bench.hold(bench.qty)
        half = bench.resting(bench.qty / 2)
        first: ExecutionReport = await bench.ask("submit", half)
        await _not_taken(bench, half)
        working = [r for r in await bench.ask("open_orders") if r.client_order_id == half.client_order_id]
        assert [r.broker_order_id for r in working] == [first.broker_order_id]

    async def test_18_takes_an_id_once_for_ever(self, bench: Bench) -> None:
        """The id of an order that is over is refused too, where that is declared: a position is not sold twice."""
        if bench.capabilities.ids_refused is not IdMemory.FOREVER:
            pytest.skip("does not declare that ids are refused for ever")
        await bench.hold(bench.qty)
        half = bench.exit_order(bench.qty / 2)
        await bench.ask("submit", half)
        await bench.filled(half.client_order_id)
        await _not_taken(bench, half)
        await bench.trade()
        assert await bench.held() == bench.qty / 2

    async def test_19_takes_an_id_once_after_a_cancel(self, bench: Bench) -> None:
        """The id of a canceled order is used up."""
        if bench.capabilities.ids_refused is not IdMemory.FOREVER:
            pytest.skip("does not declare that ids are refused for ever")
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        await bench.ask("cancel", order.client_order_id)
        await bench.status(order.client_order_id, OrderStatus.CANCELED)
        await _not_taken(bench, order)
        assert (await bench.order(order.client_order_id)).status is OrderStatus.CANCELED

    async def test_20_refuses_with_a_class(self, bench: Bench) -> None:
        """More than is held: a definite refusal names its class, and the order does not exist."""
        await bench.hold(bench.qty)
        order = bench.exit_order(bench.qty + 1)
        await _too_much(bench, order)
        assert await bench.knows_nothing_of(order.client_order_id)
        await bench.trade()
        assert await bench.held() == bench.qty

    async def test_21_holds_what_is_reserved(self, bench: Bench) -> None:
        """What one order may sell, another may not."""
        if not bench.holds_twice:
            pytest.skip("this bench does not let a second order be tried")
        await bench.hold(bench.qty)
        await bench.ask("submit", bench.resting())
        await _too_much(bench, bench.exit_order())
        p = await bench.position()
        assert p is not None
        assert p.qty_available in (None, 0)

    async def test_22_lists_fills_in_order(self, bench: Bench) -> None:
        """Executions come oldest first, with quantity and price, and add up to the order."""
        await bench.hold(bench.qty)
        begin = datetime.now(UTC) - _LATER * 20
        before = {f.fill_id for f in await bench.ask("fills", begin)}
        order = bench.resting()
        sent: ExecutionReport = await bench.ask("submit", order)
        await _hands(bench.fill_part(order.client_order_id, Decimal(3)))
        await bench.fill_part(order.client_order_id, Decimal(7))
        found: list[Fill] = list(await bench.ask("fills", begin))
        assert [f.at for f in found] == sorted(f.at for f in found)
        new = [f for f in found if f.fill_id not in before]
        assert sorted(f.qty for f in new) == [3, 7]
        assert {(f.symbol, f.side, f.price, f.broker_order_id) for f in new} == {
            (bench.symbol, OrderSide.SELL, bench.price, sent.broker_order_id)
        }

    async def test_23_lists_fills_since_a_time(self, bench: Bench) -> None:
        """Executions before the time that is asked for are left out; the one that opened a position is found."""
        await bench.hold(bench.qty)
        assert await bench.ask("fills", datetime.now(UTC) + _LATER) == []
        opening = [f for f in await bench.ask("fills", datetime.now(UTC) - _LATER * 20) if f.side is OrderSide.BUY]
        assert opening[-1].symbol == bench.symbol

    async def test_24_tells_the_hours(self, bench: Bench) -> None:
        """Open with its close, or closed with the next open; never both unknown while closed."""
        now = datetime.now(UTC)
        session: Session = await bench.ask("session", bench.symbol, now)
        if session.is_open:
            assert session.close is None or session.close > now
        else:
            assert session.next_open is not None
            assert session.next_open > now

    async def test_25_a_lost_request_is_not_a_refusal(self, bench: Bench) -> None:
        """A submit that never arrived is unknown; the id is not known, and the same order may be sent again."""
        await bench.hold(bench.qty)
        order = bench.exit_order()
        await _hands(bench.lose("submit", "before"))
        with pytest.raises(Exception) as lost:  # noqa: PT011  any error but a refusal
            await bench.ask("submit", order)
        assert not isinstance(lost.value, OrderRefused)
        assert await bench.knows_nothing_of(order.client_order_id)
        await bench.ask("submit", order)
        await bench.filled(order.client_order_id)
        assert await bench.held() == 0

    async def test_26_a_lost_answer_is_unknown(self, bench: Bench) -> None:
        """A submit whose answer is lost is neither refused nor unsent; its id finds the order."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await _hands(bench.lose("submit", "after"))
        with pytest.raises(Exception) as lost:  # noqa: PT011  any error but a refusal
            await bench.ask("submit", order)
        assert not isinstance(lost.value, (OrderRefused, NotSent))
        if bench.takes_our_id("order"):
            assert (await bench.order(order.client_order_id)).qty == bench.qty
        if bench.capabilities.ids_refused is not IdMemory.NEVER:  # else nothing is sent again
            await _not_taken(bench, order)

    async def test_27_a_failed_look_up_is_no_answer(self, bench: Bench) -> None:
        """A look-up that fails raises: it does not say that the order is not known."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        await _hands(bench.lose("order", "before"))
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever it is, it is no answer
            await bench.ask("order", order.client_order_id)
        assert (await bench.order(order.client_order_id)).client_order_id == order.client_order_id

    async def test_28_a_failed_read_is_not_flat(self, bench: Bench) -> None:
        """A read of the positions that fails raises: it does not say that nothing is held."""
        await bench.hold(bench.qty)
        await _hands(bench.lose("positions", "before"))
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever it is, it is no answer
            await bench.ask("positions")
        assert await bench.held() == bench.qty

    async def test_29_a_lost_cancel_can_be_repeated(self, bench: Bench) -> None:
        """A cancel whose answer is lost may be asked for again; the record tells what came of it."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        await _hands(bench.lose("cancel", "after"))
        with pytest.raises(Exception) as lost:  # noqa: PT011  any error but a refusal
            await bench.ask("cancel", order.client_order_id)
        assert not isinstance(lost.value, OrderRefused)
        await bench.status(order.client_order_id, OrderStatus.CANCELED)

    async def test_30_not_sent_means_not_sent(self, bench: Bench) -> None:
        """Nobody to connect to: the broker says that nothing was sent, and the same order may be sent later."""
        await bench.hold(bench.qty)
        order = bench.exit_order()
        await _hands(bench.unplug())
        with pytest.raises(NotSent):
            await bench.ask("submit", order)
        await bench.plug()
        assert await bench.knows_nothing_of(order.client_order_id)
        await bench.ask("submit", order)
        await bench.filled(order.client_order_id)
        assert await bench.held() == 0

    async def test_31_day_orders_expire(self, bench: Bench) -> None:
        """At the end of the session a DAY order is over, with what it filled, and is not called canceled."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        await _hands(bench.expire())
        report = await bench.status(order.client_order_id, OrderStatus.EXPIRED)
        assert report.filled_qty == 0
        assert await bench.held() == bench.qty

    async def test_32_keeps_a_limit(self, bench: Bench) -> None:
        """A limit order does not fill at a price that is worse than its limit."""
        await bench.hold(bench.qty)
        order = bench.resting()
        await bench.ask("submit", order)
        await bench.trade()
        report = await bench.order(order.client_order_id)
        assert not report.status.terminal
        assert report.filled_qty == 0

    async def test_33_may_be_asked_many_things_at_once(self, bench: Bench) -> None:
        """Calls that overlap get their own answers."""
        await bench.hold(bench.qty)
        orders = [bench.resting(bench.qty / 10) for _ in range(5 if bench.holds_twice else 1)]
        sent = await asyncio.gather(*(bench.ask("submit", order) for order in orders))
        assert [r.client_order_id for r in sent] == [o.client_order_id for o in orders]
        found = await asyncio.gather(*(bench.ask("order", o.client_order_id) for o in orders for _ in range(3)))
        assert [r.client_order_id for r in found] == [o.client_order_id for o in orders for _ in range(3)]


async def _not_taken(bench: Bench, order: Order) -> None:
    """Send an order again, which must raise: as a refusal of the duplicate, or as not known."""
    with pytest.raises(BrokerError) as refused:
        await bench.ask("submit", order)
    assert not isinstance(refused.value, NotSent)
    if isinstance(refused.value, OrderRefused):
        assert refused.value.kind == "duplicate_id", "any other kind would say that the order does not exist"


async def _too_much(bench: Bench, order: Order) -> None:
    """Send an order for more than is free to sell: refused as that, unless the broker declares that it may take it."""
    refused: OrderRefused | None = None
    try:
        await bench.ask("submit", order)
    except OrderRefused as error:
        refused = error
    if refused is not None:
        assert refused.kind == "insufficient_qty", "a refusal for want of quantity is to be told as that"
        return
    assert not bench.capabilities.reduce_only, "more than is held was taken, although `reduce_only` is declared"
    pytest.skip("does not declare that it refuses to sell more than is held")


async def _hands(work: Any) -> None:
    """Do something to the market, or skip the case where there are no hands for it."""
    try:
        await work
    except CannotDo as cannot:
        pytest.skip(f"this bench cannot {cannot}")


__all__ = ["Bench", "BrokerConformance", "CannotDo"]
