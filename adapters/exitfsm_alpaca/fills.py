"""The account's executions, read page by page and only once.

An execution never changes, so what was read is kept, and the next read begins where the last one ended: with a good
overlap, because executions can appear a little late, and within one millisecond in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

from exitfsm import BrokerError, Fill, logger
from exitfsm_alpaca import words
from exitfsm_alpaca.rest import Rest
from exitfsm_alpaca.troubles import Troubles

log = logger("exitfsm.alpaca")

PAGE = 100
#: How far before the newest known execution the next read begins.
OVERLAP = timedelta(minutes=30)


class FillsLog:
    """All executions since the earliest time that was asked for. Safe between threads."""

    def __init__(self, rest: Rest, noticed: Troubles) -> None:
        self._rest, self._noticed = rest, noticed
        self._lock = Lock()
        self._from: datetime | None = None
        #: How many reads have begun, and the newest of them that was answered.
        self._begun = self._answered = 0
        self._fills: dict[str, tuple[Fill, tuple[Any, ...]]] = {}

    def since(self, at: datetime) -> list[Fill]:
        """Executions at or after a time, oldest first; who waits together shares a read that began after they came.

        Raises:
            BrokerError: no answer, or one that is not understood.
        """
        before = self._begun
        with self._lock:
            if self._answered <= before or self._from is None or at < self._from:
                self._read_since(at)
            ordered = sorted(self._fills.values(), key=lambda kept: kept[1])
        return [fill for fill, _ in ordered if fill.at >= at]

    def _read_since(self, at: datetime) -> None:
        self._begun += 1
        if self._from is None or at < self._from:
            start = at
            self._fills.clear()
        else:
            newest = max((fill.at for fill, _ in self._fills.values()), default=self._from)
            start = max(self._from, newest - OVERLAP)
        for activity in self._read(start):
            self._keep(activity)
        self._from = at if self._from is None else min(at, self._from)
        self._answered = self._begun

    def _keep(self, activity: Mapping[str, Any]) -> None:
        try:
            fill = words.fill_of(activity)
            # Within one moment the cumulative quantity of an order tells the order of its executions.
            order = (fill.at, fill.broker_order_id or "", words.number(activity, "cum_qty") or 0, fill.fill_id)
        except BrokerError as error:
            self._noticed.note(f"execution/{activity.get('id')}", f"an execution cannot be read: {error}")
            return
        self._fills[fill.fill_id] = fill, order

    def _read(self, start: datetime) -> list[Mapping[str, Any]]:
        """All pages from a time on."""
        found: dict[str, Mapping[str, Any]] = {}
        token = ""  # the name of a page, no password  # nosec B105
        while True:
            after = (start - timedelta(milliseconds=1)).isoformat()
            query: dict[str, Any] = {"after": after, "direction": "asc", "page_size": PAGE}
            if token:
                query["page_token"] = token
            page = words.listed(self._rest.get("/account/activities/FILL", query), "the list of executions")
            known = len(found)
            found |= {str(activity.get("id")): activity for activity in page}
            if len(page) < PAGE or len(found) == known:
                return list(found.values())
            token = str(page[-1].get("id"))
