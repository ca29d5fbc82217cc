"""`AlpacaBroker`: the `Broker` port on Alpaca's trading API, with plain methods that any number of threads may call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from threading import Lock
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from exitfsm import (
    EXIT_WAITS,
    AssetRules,
    BrokerError,
    BrokerPosition,
    Capabilities,
    ExecutionReport,
    Fill,
    IdMemory,
    Order,
    OrderRefused,
    OrderType,
    Session,
    TimeInForce,
    exactly,
    logger,
)
from exitfsm_alpaca import troubles, words
from exitfsm_alpaca.access import Access
from exitfsm_alpaca.fills import FillsLog
from exitfsm_alpaca.rest import PER_MINUTE, TIMEOUT_S, Budget, KeysRefused, Refused, Rest
from exitfsm_alpaca.troubles import Troubles

log = logger("exitfsm.alpaca")

_STEP = Decimal("0.000000001")
#: What Alpaca can do, and on what grounds.
#:
#: - A repeated client order id is refused, also that of an order that is over: recorded. For how long is not
#:   documented; assumed is: for longer than an exit lasts.
#: - Look-up by client order id finds orders that are over: recorded.
#: - A sell of more than is held is refused while something is held. From flat it is a short sale, and whether
#:   `position_intent` prevents that is not documented: so not `reduce_only`.
#: - A fill can cross a cancel until the order's own record is final; that a fill followed such a record was never seen,
#:   but no bound is documented. The window is an assumption. What a fill within it changes is seen by the fresh read of
#:   the position before the next attempt, and what it would sell too much is refused while something is held.
#: - A DAY order that is sent while the market is closed waits at Alpaca for the next open: documented, and recorded.
#: - Nine decimals; a quantity that is not whole is DAY only; pairs know gtc and ioc: documented, recorded.
ALPACA = Capabilities(
    ids_refused=IdMemory.FOREVER,
    lookup_sees_closed=True,
    reduce_only=False,
    reserves=True,
    late_fills=True,
    late_fill_window_s=5,
    queues_orders=True,
    stocks=AssetRules(
        qty_step=_STEP,
        order_types=(OrderType.MARKET, OrderType.LIMIT),
        times_in_force=(TimeInForce.DAY, TimeInForce.GTC),
        fractional_times_in_force=(TimeInForce.DAY,),
    ),
    crypto=AssetRules(
        qty_step=_STEP,
        price_tick=Decimal(0),
        price_tick_below_1=Decimal(0),
        order_types=(OrderType.MARKET, OrderType.LIMIT),
        times_in_force=(TimeInForce.GTC, TimeInForce.IOC),
        fractional_times_in_force=(TimeInForce.GTC, TimeInForce.IOC),
        always_open=True,
    ),
)
#: How many replacements of an order are followed.
REPLACEMENTS_MAX = 20
ORDERS_PAGE = 500
#: How often it is looked whether the account is blocked, in seconds.
ACCOUNT_EVERY_S = 40.0
#: Pages of orders that are read for one list.
PAGES_MAX = 20
_NOT_FOUND = 40410000
_EASTERN = ZoneInfo("America/New_York")
_CALENDAR_DAYS = 14


class AlpacaBroker:
    """One Alpaca account as a `Broker`.

    Args:
        access: keys and addresses.
        timeout_s: seconds for the connection, and for each piece of an answer.
        requests_per_minute: what this program may ask of the account's limit, which all its programs share.
        reserve: how many of them are for orders and for what an exit waits for; most of them when None.
        capabilities: what to declare, where you know better, or trust less.
    """

    def __init__(
        self,
        access: Access,
        *,
        timeout_s: tuple[float, float] = TIMEOUT_S,
        requests_per_minute: int = PER_MINUTE,
        reserve: int | None = None,
        capabilities: Capabilities = ALPACA,
    ) -> None:
        self.capabilities = capabilities
        self.access = access
        self._rest = Rest(access, Budget(requests_per_minute, reserve), timeout_s)
        #: What is wrong now; the streams note theirs here, too.
        self.noticed = Troubles()
        self._account_read = -ACCOUNT_EVERY_S
        self._fills = FillsLog(self._rest, self.noticed)
        self._calendar: tuple[date, list[tuple[datetime, datetime]]] | None = None
        self._lock = Lock()

    @classmethod
    def from_environment(cls, *, live: bool = False) -> AlpacaBroker:
        """With the keys and addresses of the environment; see `Access.from_environment`."""
        return cls(Access.from_environment(live=live))

    def close(self) -> None:
        """Close the connections: idle ones now, those of calls that are under way when these end."""
        self._rest.close()

    # --- the port -----------------------------------------------------------------------------------------------------

    def positions(self) -> Sequence[BrokerPosition]:
        """All open positions. One whose figures cannot be read is there as NaN, one that is none as Alpaca shows it."""
        found: list[Any] = []
        rows = words.rows(self._rest.get("/positions"), "the list of positions")
        if rows and not any(isinstance(source, Mapping) for source in rows):
            raise BrokerError("the list of positions is not understood")  # that is no empty one
        for source in rows:
            try:
                found.append(words.position_of(words.mapping(source, "a position")))
            except BrokerError:
                found.append(source)  # the manager cannot read it either, and says so: it may be any symbol's
        self.noticed.keep_only("class", troubles.of_classes(rows))
        return found

    def submit(self, order: Order) -> ExecutionReport:
        """Send one order, once.

        Raises:
            OrderRefused: Alpaca said no.
            NotSent: it was turned away before it could take effect.
            BrokerError: not known; a duplicate id is one of these cases.
        """
        try:
            answer = self._rest.post("/orders", words.order_body(order))
        except Refused as refused:
            raise words.refusal_of(refused) from None
        report = words.report_of(words.mapping(answer, "the answer to an order"))
        if report.client_order_id != order.client_order_id or report.broker_order_id is None:
            raise BrokerError("the answer to an order is about another one")
        return report

    def order(self, client_order_id: str) -> ExecutionReport | None:
        """What Alpaca knows of an order, also of one that somebody replaced; None when it does not know the id."""
        found = self._found(client_order_id)
        if found is None:
            return None
        chain = self._chain(found)
        return words.report_of(found) if len(chain) == 1 else self._replaced(chain)

    def open_orders(self) -> Sequence[ExecutionReport]:
        """All working orders of the account, oldest first; of one with an unknown status no more than that it works.

        One that does not even say its id is there as Alpaca shows it: who proves that nothing works must know of it.
        """
        found: list[Any] = []
        unreadable, listed = {}, self._listed("open", None)
        for source in listed:
            report, why = words.working(source)
            found.append(report if report is not None else source)
            if why is not None:
                name = words.name_of_order(source)
                unreadable[name] = f"working order {name} cannot be read ({why}): what it has filled is not known"
        if listed and not any(isinstance(report, ExecutionReport) for report in found):
            raise BrokerError("the list of orders is not understood")  # that is no empty one
        self.noticed.keep_only("order", unreadable)
        return found

    def order_ids(self, since: datetime) -> Sequence[str]:
        """The client order ids of all orders that were sent since a time, whatever became of them.

        Raises:
            BrokerError: no answer, or an order without an id: it might be the one that is looked for.
        """
        return [words.client_id(words.mapping(source, "an order")) for source in self._listed("all", since)]

    def troubles(self) -> Sequence[str]:
        """What is wrong at the moment, a sentence each: keys, account, streams, and what cannot be read or watched."""
        if time.monotonic() - self._account_read >= ACCOUNT_EVERY_S:
            self._account_read = time.monotonic()
            try:
                self.noticed.keep_only("account", troubles.of_account(self.account()))
                self.noticed.note("keys", None)
            except KeysRefused as error:
                self.noticed.note("keys", f"{error}: nothing is read and nothing is sent, so that NO exit leaves")
            except BrokerError as error:
                log.warning("account_not_read error=%s", error)  # where it goes on, nothing can be reconciled
        return self.noticed.all()

    def cancel(self, client_order_id: str, *, broker_order_id: str | None = None) -> None:
        """Ask for a cancel; one that is under way is enough. By `broker_order_id` that order is meant, and no other.

        Raises:
            OrderRefused: there is nothing to cancel (`not_cancelable`).
        """
        waits = EXIT_WAITS.set(True)  # the look-ups for it, too: what is canceled makes way for an exit
        try:
            self._cancel(client_order_id, broker_order_id)
        finally:
            EXIT_WAITS.reset(waits)

    def _cancel(self, client_order_id: str, broker_order_id: str | None) -> None:
        if broker_order_id is None:
            found = self._found(client_order_id)
            if found is None:
                raise OrderRefused("not_cancelable", f"order {client_order_id} is not known")
            broker_order_id = str(self._chain(found)[-1].get("id"))
        try:
            self._rest.delete(f"/orders/{quote(broker_order_id, safe='')}")
        except Refused as refused:
            if "pending_cancel" not in refused.message:
                raise OrderRefused("not_cancelable", refused.message) from None

    def fills(self, since: datetime) -> Sequence[Fill]:
        """Executions of the account since a time, oldest first."""
        return self._fills.since(since)

    def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours around a moment, by the exchange's calendar, half days included; pairs never close."""
        if self.capabilities.rules(symbol).always_open:
            return Session(is_open=True)
        sessions = self._sessions(at)
        close = next((end for start, end in sessions if start <= at < end), None)
        if close is not None:
            return Session(is_open=True, close=close)
        return Session(is_open=False, next_open=next((start for start, _ in sessions if start > at), None))

    # --- beside the port ----------------------------------------------------------------------------------------------

    def account(self) -> Mapping[str, Any]:
        """The account, as Alpaca shows it."""
        return words.mapping(self._rest.get("/account"), "the account")

    def account_name(self) -> str:
        """The name under which an account's positions are kept: paper and live are never the same."""
        account = self.account()
        number = account.get("account_number") or account.get("id")
        if not number:
            raise BrokerError("the account has no number")
        return f"alpaca:{'live' if self.access.live else 'paper'}:{number}"

    def clock(self) -> tuple[datetime, bool]:
        """Alpaca's time, and whether it says that the market is open."""
        shown = words.mapping(self._rest.get("/clock"), "the clock")
        at = words.moment(shown, "timestamp")
        if at is None or not isinstance(shown.get("is_open"), bool):
            raise BrokerError("the clock is not understood")
        return at, bool(shown["is_open"])

    # --- inside -------------------------------------------------------------------------------------------------------

    def _found(self, client_order_id: str) -> Mapping[str, Any] | None:
        """An order by our id; None when Alpaca says that it does not know it."""
        query = {"client_order_id": client_order_id}
        try:
            answer = self._rest.get("/orders:by_client_order_id", query)
        except Refused as refused:
            if refused.code == _NOT_FOUND:
                return None
            raise
        found = words.mapping(answer, "the answer to a look-up")
        if found.get("client_order_id") != client_order_id:
            raise BrokerError("the answer to a look-up is about another order")
        return found

    def _listed(self, status: str, since: datetime | None) -> list[Any]:
        """All orders of a status that were sent since a time, oldest first, page by page."""
        found: dict[str, Any] = {}
        after = since
        for _ in range(PAGES_MAX):
            query: dict[str, Any] = {"status": status, "limit": ORDERS_PAGE, "direction": "asc", "nested": "false"}
            if after is not None:
                query["after"] = after.isoformat()
            page = words.rows(self._rest.get("/orders", query), "the list of orders")
            known = len(found)
            found |= {words.name_of_order(source): source for source in page}
            if len(page) < ORDERS_PAGE or len(found) == known:
                return list(found.values())
            last = words.moment(words.mapping(page[-1], "an order"), "submitted_at", "created_at")
            after = last - timedelta(milliseconds=1) if last is not None else after
        raise BrokerError(f"more than {PAGES_MAX * ORDERS_PAGE} orders are listed")

    def _chain(self, found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """An order and the orders that replaced it, one after another."""
        chain = [found]
        while chain[-1].get("status") == "replaced":
            successor = chain[-1].get("replaced_by")
            if not successor or len(chain) > REPLACEMENTS_MAX:
                raise BrokerError(f"order {found.get('client_order_id')} was replaced, by which one is not known")
            answer = self._rest.get(f"/orders/{quote(str(successor), safe='')}")
            chain.append(words.mapping(answer, "the order that replaced another"))
        return chain

    @exactly
    def _replaced(self, chain: Sequence[Mapping[str, Any]]) -> ExecutionReport:
        """A replaced order under its own id: it stands as the newest does, and has filled what all of them executed.

        Whether a successor's figures include those before it is not documented, so the executions are counted. Their
        list may lag behind the orders: what any of these says it has filled is the least that was.

        Raises:
            BrokerError: the executions do not amount to what was filled yet.
        """
        first, newest = chain[0], chain[-1]
        ids = {str(order.get("id")) for order in chain}
        began = words.moment(first, "created_at", "submitted_at") or datetime.now(UTC) - timedelta(days=1)
        made = [fill for fill in self.fills(began - timedelta(seconds=1)) if fill.broker_order_id in ids]
        filled = sum((fill.qty for fill in made), Decimal(0))
        value = sum((fill.qty * fill.price for fill in made), Decimal(0))
        if filled < max(words.number(order, "filled_qty") or Decimal(0) for order in chain):
            raise BrokerError(f"the executions of order {first['client_order_id']}, which was replaced, lag behind it")
        return words.report_of(
            newest,
            client_order_id=str(first["client_order_id"]),
            filled_qty=filled,
            avg_fill_price=(value / filled).quantize(_STEP).normalize() if filled else None,
            text="replaced at Alpaca by another hand",
        )

    def _sessions(self, at: datetime) -> list[tuple[datetime, datetime]]:
        """The sessions from the day before a moment on, read once a day."""
        day = at.astimezone(_EASTERN).date()
        with self._lock:
            if self._calendar is None or self._calendar[0] != day:
                query = {"start": str(day - timedelta(days=1)), "end": str(day + timedelta(days=_CALENDAR_DAYS))}
                found = words.listed(self._rest.get("/calendar", query), "the calendar")
                self._calendar = day, [_hours(source) for source in found]
            return self._calendar[1]


def _hours(source: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """Open and close of one day of the calendar, whose times are New York's."""
    try:
        day = date.fromisoformat(str(source["date"]))
        opens, closes = (time_of_day.fromisoformat(str(source[name])) for name in ("open", "close"))
        start, end = (datetime.combine(day, when, _EASTERN).astimezone(UTC) for when in (opens, closes))
    except (KeyError, ValueError, OverflowError):
        raise BrokerError("a day of the calendar is not understood") from None
    return start, end
