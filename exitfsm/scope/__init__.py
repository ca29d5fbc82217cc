"""What of an account is managed: which symbols, whose purchases, and how much of a row that is.

Pure functions, as in `holdings`: no clock, no I/O, nothing that is remembered. `managed`: which rows are managed, and
why not.
"""

# ruff: noqa: F401  these names are the room's own, for all who ask it
# mypy: implicit-reexport

from exitfsm.scope.managed import (
    Others,
    Share,
    beyond_exits,
    bought_by_others,
    described_scope,
    handed_rows,
    is_named,
    shares,
    two_managers,
    unclear_scope,
    why_not,
)  # fmt: skip
