"""Orders of which it is not known whether they are there: looked up by the ids that they must have, or in the list.

Rules of this room: what cannot be found out is said; no answer is made up for one that did not come.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

from exitfsm.broker.calls import BrokerCalls
from exitfsm.errors import BrokerError
from exitfsm.order_ids import DEFAULT_FORM, FIRST_FORM, client_order_id
from exitfsm.outside import log
from exitfsm.ports import IdMemory
from exitfsm.values import ExecutionReport

#: Attempts that are looked up one after another.
ATTEMPTS_MAX = 50
_ID = r"\W{0,2}(?:orig_?)?(?:client_?order_?id|clordid|cl_ord_id|cloid|orderlinkid)\W{0,2}"
#: What a venue says of an id that has not the form of its ids, and nothing else: Binance, OKX, Kraken, Bybit.
_MALFORMED = re.compile(
    rf"characters found in parameter {_ID}|parameter {_ID} error|invalid arguments:{_ID}|{_ID}(?:is )?too long",
    re.IGNORECASE,
)


class Found(NamedTuple):
    """The newest exit order that the broker knows for a position: which of its orders, its record, and its ids' form.

    No order: none is known, and the form is the one that its ids are to have; empty for the broker's own.
    """

    attempt: int = 0
    order: ExecutionReport | None = None
    form: str = ""


async def find_exit(calls: BrokerCalls, name: str, symbol: str, *, is_safe: bool, is_new: bool) -> Found | None:
    """The newest exit order of a position without a record: by ids of its form, and by those of earlier versions.

    None where that cannot be found out.

    Args:
        calls: the broker.
        name: of the position.
        symbol: of the position.
        is_safe: a repeated id is refused, and the executions show no exit: it may be adopted unasked.
        is_new: it was opened in this life: no earlier version has sent an exit for it.
    """
    broker = calls.capabilities
    form = broker.form(symbol)
    found = await _probed(calls, name, form, is_safe)
    if found is None or found.order is not None or is_new or form == FIRST_FORM:
        return found
    # Under another form a repeated order is not refused for its id: what guards there is the quantity.
    before = await _probed(calls, name, FIRST_FORM, is_safe and broker.reduce_only, is_likely=form == DEFAULT_FORM)
    return found if before is not None and before.order is None else before


async def _probed(calls: BrokerCalls, name: str, form: str, is_safe: bool, *, is_likely: bool = True) -> Found | None:
    """The newest exit order by ids of one form; `is_likely`: the venue may take such ids."""
    newest = Found(form=form)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            report = await calls.order(client_order_id(name, attempt, form))
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


async def working_orders(calls: BrokerCalls, *, is_first: bool) -> list[ExecutionReport]:
    """All working orders of the account; asked again where the answer to the first question is missing or empty.

    Nothing is remembered then: an exit that works would not be seen, and a second one sent.
    """
    if is_first:
        with suppress(BrokerError):
            if orders := await calls.open_orders():
                return orders
    return await calls.open_orders()


__all__ = ["Found", "find_exit", "there_after_all", "working_orders"]
