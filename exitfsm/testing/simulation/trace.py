"""What happened in a simulated day: every line goes into the digest of the run, and into print where it is wanted."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

#: Lines that are kept for the story of a violation.
KEPT = 400


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
