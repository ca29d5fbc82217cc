"""What a manager that runs says of itself beside its positions: what is not managed, and what waits; for people.

Rules of this room: as of `desk`. It asks nobody and changes nothing; of a manager that is not started it says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exitfsm.aio.budget import wait_in_words

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager


def scope_lines(manager: ExitManager) -> list[str]:
    """What of the account is not managed, and what a person said of that."""
    if not manager._running:
        return []
    scoped = manager._at_work.context.scoped
    said = [f"said by a person: {one.said}" for one in scoped.scope.choices.all]
    return [*(str(one) for one in scoped.outside()), *said]


def waiting_line(manager: ExitManager) -> str:
    """How many exits wait for the order budget, and until the last of them may leave; empty where none does."""
    waiting, seconds = manager._at_work.executor.waiting() if manager._running else (0, 0.0)
    return wait_in_words(waiting, seconds) if waiting else ""
