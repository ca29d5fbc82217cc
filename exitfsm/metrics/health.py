"""Whether all is well: a function of what stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from exitfsm.kinds import ALARMS, AlarmKind, Severity
from exitfsm.lifecycle import State
from exitfsm.outside import harmless
from exitfsm.position import Position
from exitfsm.values import Alarm

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager


class Health(NamedTuple):
    """Why all is not well, one line each; empty when it is."""

    reasons: tuple[str, ...]

    @property
    def is_well(self) -> bool:
        """True where a person need not look."""
        return not self.reasons


def verdict(
    *, stopped: str | None, is_reconciled: bool, positions: Iterable[Position], alarms: Iterable[Alarm]
) -> Health:
    """The health of a manager.

    Args:
        stopped: why it does nothing; None where it is at work.
        is_reconciled: whether the broker's books have been compared since the start.
        positions: what is open.
        alarms: what is active. A critical one says that something is not protected, or not watched: a stale stream, a
            store that fails.
    """
    reasons = [stopped] if stopped is not None else []
    if stopped is None and not is_reconciled:
        reasons.append("not reconciled: the broker's positions have not been compared since the start")
    reasons += [f"unprotected: {p.symbol}" for p in positions if p.state is State.UNPROTECTED]
    reasons += [f"{alarm.kind}: {alarm.text}" for alarm in alarms if _is_critical(alarm)]
    return Health(tuple(harmless(reason) for reason in reasons))


def _is_critical(alarm: Alarm) -> bool:
    """That something is not protected is said by the positions; an alarm of a kind that is not known here counts."""
    if alarm.kind == AlarmKind.PROTECTION_LOST:
        return False
    return alarm.kind not in ALARMS or ALARMS[AlarmKind(alarm.kind)].severity is Severity.CRITICAL


def health_of(manager: ExitManager) -> Health:
    """The health of a manager now, from its memory; may be asked from any thread."""
    parts = manager._made
    stopped: str | None = None
    if parts is None:
        stopped = "not started"
    elif manager.lost_to is not None:
        stopped = f"stopped: {manager.lost_to}"
    elif not parts.running:
        stopped = "stopped"
    is_reconciled = parts is not None and parts.running and parts.reconciler.is_done
    return verdict(stopped=stopped, is_reconciled=is_reconciled, positions=manager.positions(), alarms=manager.alarms())
