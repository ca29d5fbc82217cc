"""What happened in a simulated day: every line goes into the digest of the run, and into print where it is wanted.

And what of the library's own log must not be there.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable

from exitfsm.errors import BrokerError, StoreError

#: Lines that are kept for the story of a violation.
KEPT = 400
#: What only a defect writes into the log of the process.
DEFECTS = ("owed_crashed", "tick_crashed", "after_group_crashed", "task_failed", "listener_failed")


class Trace:
    """The lines of a day.

    Args:
        now: the world's time in seconds.
        show: told each line; None shows nothing.
    """

    def __init__(self, now: Callable[[], float], show: Callable[[str], None] | None = None) -> None:
        self._now = now
        self._show = show
        self._hash = hashlib.sha256()
        self.lines: deque[str] = deque(maxlen=KEPT)
        self.count = 0

    def __call__(self, actor: str, what: str) -> None:
        """`actor` did `what`, now."""
        line = f"{self._now():12.6f} {actor:<8} {what}"
        self._hash.update(line.encode())
        self.lines.append(line)
        self.count += 1
        if self._show is not None:
            self._show(line)

    def digest(self) -> str:
        """SHA-256 of all lines so far, in hex."""
        return self._hash.hexdigest()


class Defects(logging.Handler):
    """Keeps what the library logs when it has met a defect of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self.deaf = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, if it is one."""
        told = isinstance(record.args, tuple) and any(isinstance(a, (BrokerError, StoreError)) for a in record.args)
        if str(record.msg).startswith(DEFECTS) and not told and not self.deaf:
            error = record.exc_info[1] if record.exc_info else ""
            self.found.append(f"{record.getMessage()} {error!r}")
