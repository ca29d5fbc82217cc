"""The exit orders of a position whose record may be lost: looked up by the ids that they must have."""

from __future__ import annotations

from typing import NamedTuple

from exitfsm.broker.calls import BrokerCalls
from exitfsm.errors import BrokerError
from exitfsm.order_ids import client_order_id
from exitfsm.outside import logger
from exitfsm.values import ExecutionReport

log = logger("exitfsm")

#: Attempts that are looked up one after another.
ATTEMPTS_MAX = 50


class Found(NamedTuple):
    """The newest exit order that the broker knows for a position: which of its orders, its record, and its ids' form.

    No order: none is known, and the form is the one that its ids are to have; empty for the broker's own.
    """

    attempt: int = 0
    order: ExecutionReport | None = None
    form: str = ""


async def probed(calls: BrokerCalls, name: str, form: str, is_safe: bool) -> Found | None:
    """The newest exit order of a position under ids of this form; None where that cannot be found out.

    Args:
        calls: the broker.
        name: of the position.
        form: of its ids.
        is_safe: what was found until a look-up failed may be taken for all there is.
    """
    newest = Found(form=form)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            report = await calls.order(client_order_id(name, attempt, form))
        except BrokerError as error:
            log.warning("probe_failed position=%s attempt=%s error=%s", name, attempt, error)
            return newest if is_safe else None
        if report is None:
            return newest
        newest = Found(attempt, report, form)
    return newest


__all__ = ["Found", "probed"]
