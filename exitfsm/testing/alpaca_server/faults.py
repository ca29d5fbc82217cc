"""What can go wrong on the way: one HTTP fault for one request, before or after it took effect; and the rate limit."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["status", "html", "empty", "garbage", "hang", "reset", "slow", "redirect"]


@dataclass
class Fault:
    """One thing that goes wrong with requests that match.

    Attributes:
        kind: an error status with a JSON body; an HTML page, an empty body or broken JSON (with that status); no answer
            at all; a connection that is cut; an answer that comes late; a redirect.
        when: before the request takes effect, or after.
        method, path, query: which requests; `path` and `query` are regular expressions that must be found in theirs.
        times: how many requests.
        status, body: of the answer.
        seconds: how long it hangs or how late it is.
    """

    kind: Kind
    when: Literal["before", "after"] = "before"
    method: str = "POST"
    path: str = "/v2/orders"
    times: int = 1
    status: int = 500
    body: str = '{"code":50010000,"message":"internal server error occurred"}'
    seconds: float = 30.0
    query: str = ""

    def matches(self, method: str, path: str, query: str = "") -> bool:
        """True when this fault is due for a request."""
        is_meant = re.search(self.path, path) is not None and re.search(self.query, query) is not None
        return self.times > 0 and self.method in (method, "*") and is_meant


@dataclass
class Faults:
    """The faults that are planned, in the order in which they were."""

    planned: list[Fault] = field(default_factory=list)

    def due(self, method: str, path: str, query: str = "") -> Fault | None:
        """The fault for this request, if there is one; it is used up."""
        for fault in self.planned:
            if fault.matches(method, path, query):
                fault.times -= 1
                return fault
        return None


class RateLimit:
    """So many requests in a minute: a bucket that fills evenly."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._tokens = float(per_minute)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Spend one; False when there is none."""
        now = time.monotonic()
        self._tokens = min(float(self.per_minute), self._tokens + (now - self._at) * self.per_minute / 60)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def left(self) -> int:
        """Requests that may be made now."""
        return int(self._tokens)
