"""When a broker fails again and again, sends are spaced out until one gets through."""

from __future__ import annotations


class Breaker:
    """Counts failures in a row; when there are too many, sends are spaced out until one gets through.

    It never stops a send for good, and look-ups do not ask it. Times are monotonic seconds.
    """

    def __init__(self, failures_max: int, probe_s: float) -> None:
        self._failures_max, self._probe_s = failures_max, probe_s
        self._probed_at: float | None = None
        self.failures, self.is_open = 0, False

    def restore(self, is_open: bool) -> None:
        """It was left like this by the life before."""
        self.is_open = is_open

    def allows(self, monotonic: float) -> bool:
        """True when a send may go out now; while open, one for each probe interval."""
        return not self.is_open or self._probed_at is None or monotonic - self._probed_at >= self._probe_s

    def sends(self, monotonic: float) -> None:
        """A send goes out now; while open, it is the probe."""
        if self.is_open:
            self._probed_at = monotonic

    def failed(self) -> bool:
        """One more failure; True when it opened the breaker."""
        self.failures += 1
        was_open, self.is_open = self.is_open, self.is_open or self.failures >= self._failures_max
        return self.is_open and not was_open

    def succeeded(self) -> bool:
        """The broker answered; True when that closed the breaker."""
        self.failures, self._probed_at = 0, None
        was_open, self.is_open = self.is_open, False
        return was_open
