"""What a broker's books prove: pure functions below the engine, asked by the live manager and by the simulation alike.

Frozen data in (executions, reads of positions, records, what is watched), conclusions out. Rules of this room: no
clock, no I/O, no randomness, no task, no log, and nothing that is remembered: what must be remembered is handed in and
handed back. A shell reads, asks here what it means, and tells the position.

- `executions`: when a position began, at which average, and what others sold of it.
"""

from exitfsm.holdings.executions import (
    ORDER_PREFIX,
    average_entry,
    entered_anew,
    first_since_flat,
    is_price,
    is_since,
    net_traded,
    next_epoch_start,
    report_from_executions,
    sold_by_others,
    surplus,
)

__all__ = [
    "ORDER_PREFIX",
    "average_entry",
    "entered_anew",
    "first_since_flat",
    "is_price",
    "is_since",
    "net_traded",
    "next_epoch_start",
    "report_from_executions",
    "sold_by_others",
    "surplus",
]
