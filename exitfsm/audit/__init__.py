"""Audit: the questions that the log answers.

- `verify`: does everything the store says about itself hold? `anchor`: its head, to be kept elsewhere.
- `position_at`, `open_at`: how did things stand at a time?
- `explain`: why did it exit, why did it not? `sentences` says it to people.
- `whatif`: what would another policy have done with the same positions on the same bars?
- `export_jsonl`, `export_csv`: everything, for other programs.

Rules of this room: it reads and changes nothing; it needs no clock and no network; what is not on record it says so.
"""

from exitfsm.audit.anchors import Anchor, anchor, read_anchors
from exitfsm.audit.changes import grid
from exitfsm.audit.explain import explain
from exitfsm.audit.export import export_csv, export_jsonl
from exitfsm.audit.facts import Explanation
from exitfsm.audit.invariants import INVARIANTS, Invariants, Violation
from exitfsm.audit.telling import sentences
from exitfsm.audit.trail import Step, account_at, alarms_at, find, open_at, position_at, positions_at, steps, trail
from exitfsm.audit.verify import Finding, Verification, verify
from exitfsm.audit.whatif import WhatIf, WhatIfPosition, whatif
from exitfsm.config.changes import changed, parse_change

__all__ = [
    "INVARIANTS",
    "Anchor",
    "Explanation",
    "Finding",
    "Invariants",
    "Step",
    "Verification",
    "Violation",
    "WhatIf",
    "WhatIfPosition",
    "account_at",
    "alarms_at",
    "anchor",
    "changed",
    "explain",
    "export_csv",
    "export_jsonl",
    "find",
    "grid",
    "open_at",
    "parse_change",
    "position_at",
    "positions_at",
    "read_anchors",
    "sentences",
    "steps",
    "trail",
    "verify",
    "whatif",
]
