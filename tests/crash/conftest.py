"""The crash tests live in the same worlds as those of the manager."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "manager"))  # harness
