"""Deterministic simulation: the real manager, store and decide code, in a world made from a seed.

    python3 dev simulation --seed 1 --days 10 --json

One thread, simulated time, a simulated network, venue and disk, and everything in the fault table that such a world can
make happen. The same seed gives the same bytes, in any process. Every step is checked against the venue's own books and
the durable log; after the faults everything must be flat or alarmed within a bound.

It belongs to this project's tests and is not shipped: it reaches into the parts of the manager and of the store. What
bots and adapters of others test with is `exitfsm.testing`.
"""

from simulation.day import Day, DayResult
from simulation.faults import CLAIMED, ROWS
from simulation.oracle import CHECKS

__all__ = ["CHECKS", "CLAIMED", "ROWS", "Day", "DayResult"]
