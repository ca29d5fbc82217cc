"""Orders of which it is not known whether they are there: looked up by the ids that they must have, or in the list.

Rules of this room: what cannot be found out is said; no answer is made up for one that did not come.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from exitfsm.broker.calls import BrokerCalls
from exitfsm.errors import BrokerError
from exitfsm.order_ids import DEFAULT_FORM, FIRST_FORM, client_order_id
from exitfsm.outside import log
from exitfsm.ports import IdMemory
from exitfsm.values import ExecutionReport

#: So many positions without a record are looked up by one list rather than each by its ids.
LISTED_MIN = 3
#: How far the times of orders and of executions may be apart.
CLOCKS = timedelta(minutes=1)
#: Attempts that are looked up one after another.
ATTEMPTS_MAX = 50
_ID = r"\W{0,2}(?:orig_?)?(?:client_?order_?id|clordid|cl_ord_id|cloid|orderlinkid)\W{0,2}"
#: What a venue says of an id that has not the form of its ids, and nothing else: Binance, OKX, Kraken, Bybit.
_MALFORMED = re.compile(
    rf"characters found in parameter {_ID}|parameter {_ID} error|invalid arguments:{_ID}|{_ID}(?:is )?too long",
    re.IGNORECASE,
)


#: Asks for an order by our id; None where it is not there.
LookUp = Callable[[str], Awaitable[ExecutionReport | None]]


class Found(NamedTuple):
    """The newest exit order that the broker knows for a position: which of its orders, its record, and its ids' form.

    No order: none is known, and the form is the one that its ids are to have; empty for the broker's own.
    """

    attempt: int = 0
    order: ExecutionReport | None = None
    form: str = ""


class Sent(NamedTuple):
    """Our ids of all orders that the account was sent since a time, by one list."""

    ids: frozenset[str]
    since: datetime

    def lacks(self, client_order_id: str, first_fill: datetime | None) -> bool:
        """True where an exit of a position of this first fill was not sent under this id: it would be in the list."""
        return first_fill is not None and first_fill >= self.since and client_order_id not in self.ids


async def list_sent(calls: BrokerCalls, positions: int, filled: Iterable[datetime]) -> Sent | None:
    """One list that answers for all positions without a record, where they are more than one; None where it cannot.

    Without it each is looked up, which a broker's rate limit does not allow for hundreds at once.

    Args:
        calls: the broker.
        positions: how many there are.
        filled: when they were filled, for the first time, too.
    """
    first = min(filled, default=None)
    if positions < LISTED_MIN or first is None or not calls.has("order_ids"):
        return None
    try:
        return Sent(await calls.order_ids(first - CLOCKS), first)
    except BrokerError as error:
        log.warning("orders_not_listed error=%s", error)
        return None


async def find_exit(  # noqa: PLR0913  # what is known of it, and what was asked for all
    calls: BrokerCalls,
    name: str,
    symbol: str,
    *,
    is_safe: bool,
    is_new: bool,
    first: datetime | None = None,
    sent: Sent | None = None,
) -> Found | None:
    """The newest exit order of a position without a record: by ids of its form, and by those of earlier versions.

    None where that cannot be found out.

    Args:
        calls: the broker.
        name: of the position.
        symbol: of the position.
        is_safe: a repeated id is refused, and the executions show no exit: it may be adopted unasked.
        is_new: it was opened in this life: no earlier version has sent an exit for it.
        first: when the position was first filled, where that is known.
        sent: the list of what was sent, read after the position was.
    """
    broker = calls.capabilities
    form = broker.form(symbol)

    async def look_up(client_order_id: str) -> ExecutionReport | None:
        if sent is not None and sent.lacks(client_order_id, first):
            return None
        return await calls.order(client_order_id)

    found = await _probed(look_up, name, form, is_safe)
    if found is None or found.order is not None or is_new or form == FIRST_FORM:
        return found
    # Under another form a repeated order is not refused for its id: what guards there is the quantity.
    before = await _probed(look_up, name, FIRST_FORM, is_safe and broker.reduce_only, is_likely=form == DEFAULT_FORM)
    return found if before is not None and before.order is None else before


async def _probed(look_up: LookUp, name: str, form: str, is_safe: bool, *, is_likely: bool = True) -> Found | None:
    """The newest exit order by ids of one form; `is_likely`: the venue may take such ids."""
    newest = Found(form=form)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            report = await look_up(client_order_id(name, attempt, form))
        except BrokerError as error:
            log.warning("probe_failed position=%s attempt=%s error=%s", name, attempt, error)
            is_none = form == FIRST_FORM and not (is_likely and _may_take(error)) and newest.order is None
            return newest if is_safe or is_none else None
        if report is None:
            return newest
        newest = Found(attempt, report, form)
    return newest


def _may_take(error: BrokerError) -> bool:
    """False for the answer of a venue that takes no ids like the one asked for, so that it never took one."""
    return _MALFORMED.search(f"{error} {error.__context__}") is None


async def there_after_all(calls: BrokerCalls, client_order_id: str, *, may_have_left: bool) -> ExecutionReport | None:
    """The record of an order that was just refused, where the refusal was said of another copy of its request.

    What is repeated on the way, or sent again, can be refused because of the first copy: it holds the quantity.

    Args:
        calls: the broker.
        client_order_id: of the order.
        may_have_left: another copy may be on its way.

    Raises:
        BrokerError: it is not known, and may be there.
    """
    try:
        return await calls.order(client_order_id)
    except BrokerError:
        again = calls.capabilities.ids_refused is IdMemory.FOREVER and calls.asks_by_our_id
        if again or may_have_left:
            raise
        return None


async def cancel(calls: BrokerCalls, order_id: str, looks: int, pause: Callable[[], Awaitable[None]]) -> bool:
    """Ask for an order to be canceled; True when its record then shows that it has ended, in one of so many looks."""
    with suppress(BrokerError):
        await calls.cancel(order_id)
        for _ in range(looks):
            record = await calls.order(order_id)
            if record is None or record.status.terminal:
                return True
            await pause()
    return False


async def working_orders(calls: BrokerCalls, *, is_first: bool) -> list[ExecutionReport] | None:
    """All working orders of the account; None where the broker does not list them.

    At first it is asked again where the answer is missing or empty: nothing is remembered then, so that an exit that
    works would not be seen, and a second one sent.
    """
    if not calls.has("open_orders"):
        return None
    if is_first:
        with suppress(BrokerError):
            if orders := await calls.open_orders():
                return orders
    return await calls.open_orders()


__all__ = ["Found", "Sent", "cancel", "find_exit", "list_sent", "there_after_all", "working_orders"]
