"""Commands that change the levels of positions: `set-stop`, `set-policy`, `reload`.

What they mean is decided in the core, and what is said of them is in its words; here they are carried out, each on the
positions that it means and has not reached yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exitfsm.config.changes import changed, parse_change
from exitfsm.control.deciding import Said, Trail, share_of
from exitfsm.control.protocol import NOT_DONE, THOSE_OF_ALL, Request
from exitfsm.errors import ConfigError
from exitfsm.position import Position
from exitfsm.position.adjusting import fires_at
from exitfsm.values import decimal_of, plain

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager
    from exitfsm.others.settings import Outcome, Settings


class Adjusting:
    """Carries them out on one manager."""

    def __init__(self, manager: ExitManager) -> None:
        self._manager = manager

    async def set_stop(self, request: Request, who: str, trail: Trail) -> list[Said]:
        """Put the stop at a price."""
        settings, told = self._manager._settings
        price, why = decimal_of(request.given[0]), request.reason
        said, positions = self._meant(request, trail)
        if positions:
            outcomes = await told.run(lambda: settings.move_stop(positions, price, who, why))
            said += [_said(one, _beyond(settings, one)) for one in outcomes]
        return said

    async def set_policy(self, request: Request, who: str, trail: Trail) -> list[Said]:
        """Give settings to one position, or have it go by those for all again."""
        settings, told = self._manager._settings
        said, positions = self._meant(request, trail)
        own = request.given != (THOSE_OF_ALL,)
        try:
            changes = dict(map(parse_change, request.given)) if own else {}
            asked = [(p, changed(p.policy, changes) if own else settings.policy) for p in positions]
            for _, policy in asked:
                settings.check(policy)
        except ConfigError as error:
            return [*said, *(Said(f"nothing was changed: {mistake}", NOT_DONE) for mistake in error.mistakes)]
        if asked:
            said += [_said(one) for one in await told.run(lambda: settings.change(asked, own, who, request.reason))]
        return said

    async def reload(self, _: Request, who: str) -> list[Said]:
        """Read the configuration anew."""
        try:
            return [Said(line) for line in await self._manager.reload(who=who)]
        except ConfigError as error:
            return [Said(f"nothing was changed: {mistake}", NOT_DONE) for mistake in error.mistakes]

    def _meant(self, request: Request, trail: Trail) -> tuple[list[Said], list[Position]]:
        shares = [share_of(subject, self._manager.positions(), trail) for subject in request.subjects]
        positions = {p.position_id: p for share in shares for p in share.positions}
        return [one for share in shares for one in share.said], list(positions.values())


def _said(outcome: Outcome, more: str = "") -> Said:
    return Said(outcome.line + more, NOT_DONE if outcome.why_not else 0)


def _beyond(settings: Settings, outcome: Outcome) -> str:
    """What is said of a stop that the last price has reached already."""
    stop, last = outcome.after.stops.operator, settings.last_price(outcome.after.symbol)
    if outcome.why_not or stop is None or last is None or not fires_at(outcome.after, stop, last):
        return ""
    return f"; the last price {plain(last)} is beyond it: it exits at the next price"
