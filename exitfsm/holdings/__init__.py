"""What a broker's books prove: pure functions below the engine, asked by the live manager and by the simulation alike.

Frozen data in (executions, reads of positions, records, what is watched), conclusions out. Rules of this room: no
clock, no I/O, no randomness, no task, no log, and nothing that is remembered: what must be remembered is handed in and
handed back. A shell reads, asks here what it means, and tells the position.

- `reads`: what a read of positions means for one that is watched; `executions`: what executions say of it.
- `adopting`: the name and the price of a position that nobody watches; `entering`: what may be entered.
- `sending`: whether an exit order may leave; `orders`: what is said of single orders, ours and others'.
- `splits`: what a price that jumped is, by the books; `symbols`: two spellings of one instrument.
"""

from exitfsm.holdings.adopting import (
    TRIES_MAX, Adopt, Alarm, Opening, Tries, adopt, described, entry, is_free_of_exits, is_safe_unprobed, name,
    names_by_price, still_held, tried, unwatched,
)  # fmt: skip
from exitfsm.holdings.entering import Account, entry_block, may_enter
from exitfsm.holdings.executions import (
    average_entry, entered_anew, first_since_flat, is_price, is_since, net_traded, next_epoch_start,
    report_from_executions, sold_by_others, surplus,
)  # fmt: skip
from exitfsm.holdings.orders import (
    UNKNOWN_MAX, LookUps, brings_fills, end_of_live, execution_of, gives_way, is_unresolved, leaves_open, looked_up,
    may_be_ours, may_resend, may_still_work, opened_since_exit, our_id, precedes_a_change, record_of_ended,
    record_of_live, stranger,
)  # fmt: skip
from exitfsm.holdings.reads import (
    NEVER, Closed, Conclusion, Count, Evidence, Executions, Expected, Holds, Missing, Need, Nothing, Read,
    agreed_qty, agreement, count, executions_of, expect, is_shared, is_silent, known, last_qty, net, position_read,
    weigh,
)  # fmt: skip
from exitfsm.holdings.sending import (
    FRESH_S, Answer, Beside, Leaving, Look, Short, another_goes_first, awaits_record, covered, late_fills_s,
    may_send, more_than_held, order_to_prove, wait_began, was_reported_over,
)  # fmt: skip
from exitfsm.holdings.splits import Jumped, Meaning, meaning_of
from exitfsm.holdings.symbols import bare, known_spelling, same_symbol

__all__ = [
    "FRESH_S", "NEVER", "TRIES_MAX", "UNKNOWN_MAX", "Account", "Adopt", "Alarm", "Answer", "Beside",
    "Closed", "Conclusion", "Count", "Evidence", "Executions", "Expected", "Holds", "Jumped", "Leaving", "Look",
    "LookUps", "Meaning", "Missing", "Need", "Nothing", "Opening", "Read", "Short", "Tries", "adopt", "agreed_qty",
    "agreement", "another_goes_first", "average_entry", "awaits_record", "bare", "brings_fills", "count", "covered",
    "described", "end_of_live", "entered_anew", "entry", "entry_block", "execution_of", "executions_of", "expect",
    "first_since_flat", "gives_way", "is_free_of_exits", "is_price", "is_safe_unprobed", "is_shared", "is_silent",
    "is_since", "is_unresolved", "known", "known_spelling", "last_qty", "late_fills_s", "leaves_open", "looked_up",
    "may_be_ours", "may_enter", "may_resend", "may_send", "may_still_work", "meaning_of", "more_than_held", "name",
    "names_by_price", "net", "net_traded", "next_epoch_start", "opened_since_exit", "order_to_prove", "our_id",
    "position_read", "precedes_a_change", "record_of_ended", "record_of_live", "report_from_executions",
    "same_symbol", "sold_by_others", "still_held", "stranger", "surplus", "tried", "unwatched", "wait_began",
    "was_reported_over", "weigh",
]  # fmt: skip
