"""A position and its exit, as pure functions.

- `evolve(position, event)` folds what happened; it never fails on a stored event. `replay` folds a whole stream.
- `decide(position, message)` weighs what a position is told and returns events, or nothing.
- `owed(position, now)` says what the broker must be told or asked next: the state is the outbox.
- `client_order_id(position_id, attempt, form)` names an order so that any machine arrives at the same name.

No clock, no randomness, no I/O: the same messages give the same events, byte for byte, on any machine.
"""

from exitfsm.order_ids import client_order_id, is_exit_of
from exitfsm.position.alarming import BY_ITSELF
from exitfsm.position.deciding import decide
from exitfsm.position.evaluating import Verdict, evaluate, levels, wake_band
from exitfsm.position.folding import SPLIT_RATIO, evolve, fold, replay
from exitfsm.position.looks import Judged, judged, judged_by, new_in, price_for, whole
from exitfsm.position.order import ExitOrder
from exitfsm.position.owing import Action, Cancel, LookUp, ReadPosition, Submit, may_owe, order_of, owed
from exitfsm.position.reports import EMPTY_S, READS_MIN, held_within, is_over, is_proved_over
from exitfsm.position.rule_states import NO_STATES, RuleStates, fold_bar, fold_bars, refolded, restored, saved
from exitfsm.position.state import (
    NO_EXIT,
    Exit,
    Position,
    account_hash,
    account_in,
    entered_at,
    epoch_of,
    part_of,
    position_id,
    scope_mark,
    symbol_in,
)
from exitfsm.position.watching import fault_of

__all__ = [
    "BY_ITSELF",
    "EMPTY_S",
    "NO_EXIT",
    "NO_STATES",
    "READS_MIN",
    "SPLIT_RATIO",
    "Action",
    "Cancel",
    "Exit",
    "ExitOrder",
    "Judged",
    "LookUp",
    "Position",
    "ReadPosition",
    "RuleStates",
    "Submit",
    "Verdict",
    "account_hash",
    "account_in",
    "client_order_id",
    "decide",
    "entered_at",
    "epoch_of",
    "evaluate",
    "evolve",
    "fault_of",
    "fold",
    "fold_bar",
    "fold_bars",
    "held_within",
    "is_exit_of",
    "is_over",
    "is_proved_over",
    "judged",
    "judged_by",
    "levels",
    "may_owe",
    "new_in",
    "order_of",
    "owed",
    "part_of",
    "position_id",
    "price_for",
    "refolded",
    "replay",
    "restored",
    "saved",
    "scope_mark",
    "symbol_in",
    "wake_band",
    "whole",
]
