"""What a broker's books prove: pure functions below the engine, asked by the live manager and by the simulation alike.

Frozen data in (executions, reads of positions, records, what is watched), conclusions out. Rules of this room: no
clock, no I/O, no randomness, no task, no log, and nothing that is remembered: what must be remembered is handed in and
handed back. A shell reads, asks here what it means, and tells the position.

- `executions`: when a position began, at which average, and what others sold of it.
- `reads`: what a read of positions means for one that is watched.
- `symbols`: two spellings of one instrument.
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
from exitfsm.holdings.reads import (
    NEVER,
    Closed,
    Conclusion,
    Count,
    Evidence,
    Executions,
    Expected,
    Holds,
    Missing,
    Need,
    Nothing,
    Read,
    agreed_qty,
    agreement,
    count,
    executions_of,
    expect,
    is_older,
    is_silent,
    known,
    last_qty,
    net,
    position_read,
    weigh,
)
from exitfsm.holdings.symbols import bare, known_spelling, same_symbol

__all__ = [
    "NEVER",
    "ORDER_PREFIX",
    "Closed",
    "Conclusion",
    "Count",
    "Evidence",
    "Executions",
    "Expected",
    "Holds",
    "Missing",
    "Need",
    "Nothing",
    "Read",
    "agreed_qty",
    "agreement",
    "average_entry",
    "bare",
    "count",
    "entered_anew",
    "executions_of",
    "expect",
    "first_since_flat",
    "is_older",
    "is_price",
    "is_silent",
    "is_since",
    "known",
    "known_spelling",
    "last_qty",
    "net",
    "net_traded",
    "next_epoch_start",
    "position_read",
    "report_from_executions",
    "same_symbol",
    "sold_by_others",
    "surplus",
    "weigh",
]
