"""What of an account is managed: which symbols, whose purchases, and how much of a row that is.

Pure functions, as in `holdings`: no clock, no I/O, nothing that is remembered. `managed`: which rows are managed, and
why not; `owned`: what of a holding the orders of certain ids have bought.
"""

# ruff: noqa: F401  these names are the room's own, for all who ask it
# mypy: implicit-reexport

from exitfsm.scope.managed import (
    Others,
    Share,
    beyond_exits,
    bought_by_others,
    capped,
    described_scope,
    guards_of,
    handed_rows,
    is_named,
    part_rows,
    shares,
    two_managers,
    unclear_scope,
    why_not,
)
from exitfsm.scope.owned import (
    Owned,
    accounted,
    at_most,
    begin,
    bought_of,
    is_in_scope,
    is_nameless,
    is_ours_to_watch,
    lasts_unwatched,
    owned,
    text_of_new,
    weigh_new,
)
