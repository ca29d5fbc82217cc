"""What a broker's books prove: pure functions below the engine, asked by the live manager and by the simulation alike.

Frozen data in (executions, reads of positions, records, what is watched), conclusions out. Rules of this room: no
clock, no I/O, no randomness, no task, no log, and nothing that is remembered: what must be remembered is handed in and
handed back. A shell reads, asks here what it means, and tells the position.

- `reads`: what a read of positions means for one that is watched, and for a price that jumped; `executions`: what
  executions say of it.
- `adopting`: the name and the price of a position that nobody watches; `entering`: what may be entered.
- `residues`: what the venue would not take, and whether that is so.
- `crossing`: which trade brought a holding to the other side.
- `sides`: both sides of a symbol, which are two holdings in hedge mode, and a contradiction anywhere else.
- `rows`: which rows of a read are ours, and what they come to.
- `leaving`: whether an exit order may leave; `beside`: which exit of a holding goes first.
- `orders`: what is said of single orders, ours and others'; `working`: what of those that work is in the way of an
  exit, or one too many.
"""

# ruff: noqa: F401  these names are the room's own, for all who ask it
# mypy: implicit-reexport

from exitfsm.holdings.adopting import (
    TRIES_MAX, Adopt, Alarm, Opening, Tries, adopt, described, entry, faults, first_fills, is_free_of_exits,
    is_safe_unprobed, known_spelling, name, names_by_price, still_held, stops_begin_anew, tried,
)  # fmt: skip
from exitfsm.holdings.beside import (
    FRESH_S, Beside, another_goes_first, awaits_record, late_fills_s, order_to_prove, wait_began, was_reported_over,
)  # fmt: skip
from exitfsm.holdings.crossing import crossing_of
from exitfsm.holdings.entering import Account, entry_block, may_enter
from exitfsm.holdings.executions import (
    average_entry, entered_anew, first_since_flat, is_since, net_traded, next_epoch_start,
    report_from_executions, say_closed, sold_by_others, surplus,
)  # fmt: skip
from exitfsm.holdings.leaving import Blocked, Intent, Permit, Send, Short, Wait, may_send, more_than_held
from exitfsm.holdings.orders import (
    UNKNOWN_MAX, LookUps, brings_fills, end_of_live, execution_of, in_question, is_unresolved, leaves_open,
    looked_up, may_be_ours, may_resend, may_still_work, not_found, not_there, opened_since_exit, orphan, our_id,
    precedes_a_change, record_of_ended, record_of_live, says_no_quantity,
)  # fmt: skip
from exitfsm.holdings.reads import (
    NEVER, Closed, Conclusion, Count, Evidence, Executions, Expected, Holds, Jumped, Meaning, Missing, Need, Nothing,
    Read, agreed_qty, agreement, count, executions_of, expect, is_missing_for_good, is_shared, is_silent, jumped_rows,
    known, last_qty, may_have_exited, meaning_of, net, position_read, row_of, weigh,
)  # fmt: skip
from exitfsm.holdings.residues import residue_doubted, residues, too_little, unwatched, was_bought
from exitfsm.holdings.rows import OwnRows, own_rows
from exitfsm.holdings.sides import (
    Executed, OnSide, Watching, concerns, contradicting, meant, of_side, on_side, watching_of,
)  # fmt: skip
from exitfsm.holdings.units import in_prices
from exitfsm.holdings.working import (
    Pass, blocked_by, blocking, closing, gives_way, is_guarded, rests, twins, waits_for, works_after_its_end,
)  # fmt: skip
from exitfsm.holdings.watching import Looks, leaving_of
from exitfsm.position.attempting import is_price
from exitfsm.values import bare, rows_of, same_symbol
