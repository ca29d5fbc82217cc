"""Shrinking: the fewest faults with which a day still fails, as far as a bounded number of tries finds them."""

from __future__ import annotations

from collections.abc import Callable

#: Whether the day still fails without these faults.
Fails = Callable[[frozenset[int]], bool]


def shrink(faults: int, fails: Fails, tries: int) -> frozenset[int]:
    """Leave out more and more faults, in halves, then quarters and so on; returns the numbers that can be left out.

    Args:
        faults: how many there were: they are numbered from 1.
        fails: runs the day again without some.
        tries: how often it may be run.
    """
    out: frozenset[int] = frozenset()
    size = faults
    while size >= 1:
        for start in range(1, faults + 1, size):
            more = out | frozenset(range(start, min(start + size, faults + 1)))
            if more == out:
                continue
            if tries == 0:
                return out
            tries -= 1
            if fails(more):
                out = more
        size //= 2
    return out


def ranges(numbers: frozenset[int]) -> str:
    """Numbers as the command line takes them: `3,17,40-90`."""
    parts: list[str] = []
    ordered = sorted(numbers)
    start = 0
    for n, number in enumerate(ordered):
        if n + 1 == len(ordered) or ordered[n + 1] != number + 1:
            first = ordered[start]
            parts.append(str(first) if first == number else f"{first}-{number}")
            start = n + 1
    return ",".join(parts)
