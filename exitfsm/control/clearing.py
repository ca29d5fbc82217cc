"""Commands of a person who has looked: `release` and `acknowledge`, each for what it has not reached yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exitfsm.control.deciding import Said, Trail, after_release, cannot_be_released, meant, share_of
from exitfsm.control.protocol import NOT_DONE, Request
from exitfsm.errors import ExitFsmError
from exitfsm.lifecycle import State
from exitfsm.position import Position

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager


class Clearing:
    """Carries them out on one manager."""

    def __init__(self, manager: ExitManager) -> None:
        self._manager = manager

    async def release(self, request: Request, who: str, trail: Trail) -> list[Said]:
        """Hand unprotected positions back to the rules."""
        said = []
        for subject in request.subjects:
            share = share_of(subject, self._manager.positions(), trail)
            said += share.said
            for p in share.positions:
                said.append(await self._release_one(p, who))
        return said

    async def _release_one(self, p: Position, who: str) -> Said:
        if p.state is not State.UNPROTECTED:
            return cannot_be_released(p)
        try:
            await self._manager.release(p, who)
        except ExitFsmError as error:
            return Said(f"{p.symbol}: not released: {error}", NOT_DONE)
        now = next((q for q in self._manager.positions() if q.position_id == p.position_id), None)
        return after_release(p, now)

    async def acknowledge(self, request: Request, who: str, trail: Trail) -> list[Said]:
        """Take alarms down."""
        said = []
        for subject in request.subjects:
            active = self._manager._at_work.context.alarms.active
            alarms = {key: of for key, of in dict(active).items() if not trail.is_older(of[1].raised_at)}
            found = meant(subject, alarms, self._manager.positions())
            before = [effect.line for effect in trail.effects if effect.is_of(subject)]
            said += before
            if not found and not before:
                said.append(Said(f"{subject}: no active alarm of this id, symbol or place; nothing was done", NOT_DONE))
            for alarm_id in found:
                await self._manager.acknowledge(alarm_id, who)
                said.append(Said(f"acknowledged: {alarms[alarm_id][1].kind} ({alarm_id})"))
        return said
