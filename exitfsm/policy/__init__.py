"""What makes a position exit: the rules with their settings, and the exact prices they compile to.

Rules of this room: settings are data (they are stored inside events, so a field may be added with a default but never
removed, renamed or given another default), levels are pure functions of them, and every level is exact. Long and short
are mirror images everywhere. A rule is a file in `rules`, with everything that is asked of it (`rule.Rule`), and one
line in `RULES`; whoever is no rule iterates that list and names none.

Each field carries its own documentation and bounds in a `Spec`; the configuration reader, the JSON Schema and the
reference page are made from these, so that a setting is described in one place only.
"""

from exitfsm.policy.differences import Difference, differences
from exitfsm.policy.exit_policy import LATER, ExitPolicy, PartialFills, typed
from exitfsm.policy.fixed import cannot_be, fitted, rescaled
from exitfsm.policy.guard import (
    AHEAD_MAX,
    BEFORE_ENTRY,
    ORDER_FAULTS,
    PRICE_FAULTS,
    Fault,
    PriceGuard,
    age_max,
    bar_fault,
    is_ahead,
    is_jump,
    silence_max_s,
)
from exitfsm.policy.listed import (
    BY_LEVEL,
    MOVING,
    RULES,
    TIMED,
    Plan,
    bars_before_entry,
    order_terms,
    rules_by_section,
    rules_off,
    rules_on,
)
from exitfsm.policy.prices import Level, away, pct_of, reached
from exitfsm.policy.rule import NOTHING_FOLDED, Folded, Held, OrderTerms, Rule, UserRule, held_s
from exitfsm.policy.rules.atr_levels import AtrLevels, average_true_range, range_at_entry, same_range
from exitfsm.policy.rules.break_even import BreakEven
from exitfsm.policy.rules.custom_rule import CustomRule
from exitfsm.policy.rules.custom_rules import CustomRules, OneRule
from exitfsm.policy.rules.end_of_session import EndOfSession
from exitfsm.policy.rules.profit_taking import ProfitTaking
from exitfsm.policy.rules.stop_loss import StopLoss
from exitfsm.policy.rules.target_ladder import LadderStep, TargetLadder
from exitfsm.policy.rules.targets import Target, Targets, Then
from exitfsm.policy.rules.time_limit import TimeLimit
from exitfsm.policy.rules.trailing_stop import TrailingStop
from exitfsm.policy.settings import Section, Spec

__all__ = [
    "AHEAD_MAX",
    "BEFORE_ENTRY",
    "BY_LEVEL",
    "LATER",
    "MOVING",
    "NOTHING_FOLDED",
    "ORDER_FAULTS",
    "PRICE_FAULTS",
    "RULES",
    "TIMED",
    "AtrLevels",
    "BreakEven",
    "CustomRule",
    "CustomRules",
    "Difference",
    "EndOfSession",
    "ExitPolicy",
    "Fault",
    "Folded",
    "Held",
    "LadderStep",
    "Level",
    "OneRule",
    "OrderTerms",
    "PartialFills",
    "Plan",
    "PriceGuard",
    "ProfitTaking",
    "Rule",
    "Section",
    "Spec",
    "StopLoss",
    "Target",
    "TargetLadder",
    "Targets",
    "Then",
    "TimeLimit",
    "TrailingStop",
    "UserRule",
    "age_max",
    "average_true_range",
    "away",
    "bar_fault",
    "bars_before_entry",
    "cannot_be",
    "differences",
    "fitted",
    "held_s",
    "is_ahead",
    "is_jump",
    "order_terms",
    "pct_of",
    "range_at_entry",
    "reached",
    "rescaled",
    "rules_by_section",
    "rules_off",
    "rules_on",
    "same_range",
    "silence_max_s",
    "typed",
]
