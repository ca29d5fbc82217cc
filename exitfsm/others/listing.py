"""The list of working orders: others' are noted, exits of ours are told to their positions, surplus ones are ended."""

from __future__ import annotations

from exitfsm import holdings
from exitfsm.broker.probing import working_orders
from exitfsm.holdings import bare
from exitfsm.kinds import AlarmKind
from exitfsm.order_ids import looks_like_exit
from exitfsm.others.ground import Ground
from exitfsm.outside import logged
from exitfsm.values import ExecutionReport


class Listing:
    """Reads the list of working orders, and tells what is in it."""

    def __init__(self, ground: Ground) -> None:
        self._calls, self._orders, self._time, self._is_ours = ground.calls, ground.orders, ground.time, ground.is_ours
        self._mark = ground.scope.mark
        self._positions, self._engine, self.raise_alarm = ground.positions, ground.engine, ground.raise_alarm
        #: Working orders that look like exits of ours, as the newest list shows them, until they are passed on.
        self._listed: list[ExecutionReport] = []
        #: Ids under which the newest list shows two orders, and a look-up is to say which one is ours.
        self._twice: frozenset[str] = frozenset()
        #: How often in a row the list of working orders did not show an orphan order that it had shown.
        self._absent: dict[str, int] = {}

    async def read(self, *, is_first: bool) -> None:
        """Note the working orders of the account: those of others, and orphan orders that look like ours."""
        self._orders.not_listed()
        began = self._time.monotonic()
        orders = None
        with logged("open_orders_failed error=%s"):
            orders = await working_orders(self._calls, is_first=is_first)
        if orders is None:
            if not self._calls.has("open_orders"):
                self._orders.wait_for_no_list()  # it has none, or has just said that it is not implemented
            return
        orders = await self._without_twins(orders)
        orders = [self._orders.under_our_id(report) for report in orders]
        self._orders.forget_foreign(before=began)
        self._listed = [report for report in orders if await self._is_ours(report.client_order_id)]
        # Known before anything is adopted that could send a second one.
        orphans = {
            report.client_order_id: bare(report.symbol)
            for report in self._listed
            if report.symbol is not None and await self._positions.owner_of(report.client_order_id) is None
        }
        gone = {key: symbol for key, symbol in self._orders.orphans.items() if key not in orphans}
        gone_and_working = {key: symbol for key, symbol in gone.items() if await self._may_work(key)}
        self._orders.listed(list(self._listed), orphans | gone_and_working)
        self._absent = {key: times for key, times in self._absent.items() if key in gone}
        exits = {report.client_order_id for report in self._listed}
        for report in orders:
            if report.client_order_id not in exits:
                self._orders.note_foreign(report, self._time.monotonic())

    async def leaves_of(self, due: dict[str, str]) -> dict[str, str]:
        """Read the list, and pass on what it says of these orders of ours; returns those that it does not show."""
        await self.read(is_first=False)
        shown = [r for r in self._listed if r.client_order_id in due and r.client_order_id not in self._twice]
        for report in shown:
            await self._positions.report(report)
        told = {report.client_order_id for report in shown}
        return {order_id: owner for order_id, owner in due.items() if order_id not in told}

    async def _may_work(self, order_id: str) -> bool:
        """False for an orphan order that the list of working orders does not show any more, once that is proved."""
        times = self._absent[order_id] = self._absent.get(order_id, 0) + 1
        with logged("look_up_failed id=%s error=%s", order_id):
            report = await self._calls.order(order_id) if self._calls.asks_by_our_id else None
            return holdings.may_still_work(report, times)
        return True

    async def tell(self) -> None:
        """Working orders that look like exits of ours: reports for their positions, and alarms where there is none."""
        listed, self._listed = self._listed, []
        for report in listed:
            order_id = report.client_order_id
            owner = await self._positions.owner_of(order_id)
            if owner is not None:
                self._orders.orphans.pop(order_id, None)
                if order_id not in self._twice:
                    await self._positions.report(report)
                if owner not in self._engine.positions:
                    await self._after_its_end(owner, report)
            else:
                alarm = holdings.orphan(report, list(self._engine.positions.values()))
                await self.raise_alarm(alarm.kind, alarm.text)

    # --- what should not work -----------------------------------------------------------------------------------------

    async def _without_twins(self, orders: list[ExecutionReport]) -> list[ExecutionReport]:
        """The same without second orders of one id: those are an alarm at once, and canceled.

        Where it is not known which one is ours, and a look-up can say it, a position is told nothing by this list.
        """
        ours = [r.client_order_id for r in orders if looks_like_exit(r.client_order_id, self._mark)]
        known = {order_id: self._orders.known(order_id).broker_order_id for order_id in ours}
        surplus = holdings.twins(orders, known)
        for report, is_sure in surplus:
            text = f"order {report.client_order_id} of {report.symbol} works twice at the broker"
            if is_sure:
                await self._end(report, kind=AlarmKind.TWIN_ORDERS, text=text)
            else:
                await self.raise_alarm(AlarmKind.TWIN_ORDERS, f"{text}: which one is ours is not known yet")
        unclear = (one.report.client_order_id for one in surplus if not one.is_sure)
        self._twice = frozenset(unclear if self._calls.asks_by_our_id else ())
        second = [report for report, _ in surplus]
        return [report for report in orders if report not in second]

    async def _after_its_end(self, position_id: str, report: ExecutionReport) -> None:
        """An exit works whose position has ended: it would open a position of its own."""
        record: ExecutionReport | None = report
        if self._calls.asks_by_our_id:
            record = None
            with logged("look_up_failed id=%s error=%s", report.client_order_id):
                record = await self._calls.order(report.client_order_id)
        p = self._engine.positions.get(position_id)
        ended_at = self._orders.ended_at(report.symbol or "")
        if p is None and holdings.works_after_its_end(record, ended_at, self._time.now()):
            text = f"order {report.client_order_id} of {report.symbol} works, and its position {position_id} has ended"
            await self._end(report, kind=AlarmKind.EXIT_WORKS_ON, text=text)

    async def _end(self, report: ExecutionReport, *, kind: str, text: str) -> None:
        """Say what works and should not, and cancel it: by the broker's own id alone, for ours may name another."""
        own = report.broker_order_id
        if own is None or not self._calls.cancels_by_its_own_id:
            await self.raise_alarm(kind, f"{text}: cancel order {own or 'without an id of the broker'} there by hand")
            return
        await self.raise_alarm(kind, f"{text}: order {own} is canceled")
        with logged("surplus_not_canceled id=%s error=%s", own):
            await self._calls.cancel(report.client_order_id, own, report.symbol)
