"""Carrying out what a person says of the scope: `adopt`, `ignore`, and what a `flatten` needs of both.

Rules of this room: as of `desk`. What is said is stored before it takes effect; what a `flatten --all-positions` took
in is managed for that alone, and no more once it is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exitfsm.control.deciding import Said, held_on, of_symbol, signed
from exitfsm.control.protocol import ALL_POSITIONS, NOT_DONE, Request
from exitfsm.errors import ExitFsmError
from exitfsm.events import CommandGiven, ScopeChanged
from exitfsm.kinds import ScopeHow
from exitfsm.others.choosing import Choosing
from exitfsm.others.entries import Entries, bots_ids
from exitfsm.outside import log
from exitfsm.ports import EXIT_WAITS
from exitfsm.scope import why_not
from exitfsm.values import canonical_symbol, plain, same_symbol

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager
    from exitfsm.manager.parts import Parts


class Scoping:
    """Takes symbols in and out for one manager, and clears the way of a `flatten`."""

    def __init__(self, manager: ExitManager) -> None:
        self._manager = manager

    @property
    def _parts(self) -> Parts:
        return self._manager._at_work

    # --- adopt and ignore ---------------------------------------------------------------------------------------------

    async def adopt(self, request: Request, who: str) -> list[Said]:
        """Take symbols into what is managed, whatever is configured; what is held of them is watched."""
        said, taken_in = [], []
        for subject in request.subjects:
            symbol = self._symbol(subject)
            if symbol is None:
                said.append(Said(f"{subject}: it is no symbol; nothing was done", NOT_DONE))
            elif self._is_managed(symbol):
                of = "what the bot's ids bought of " if self._parts.context.scoped.scope.ids else ""
                said.append(Said(f"{symbol}: {of}it is managed already; nothing was done"))
            elif (failed := await self._choose(symbol, ScopeHow.ADOPTED, request, who)) is not None:
                said.append(failed)
            else:
                taken_in.append(symbol)
        try:
            await self._manager.sync() if taken_in else None
        except ExitFsmError as error:
            return said + [Said(f"{s}: managed from now on; not watched yet: {error}", NOT_DONE) for s in taken_in]
        return said + [self._after_adopting(symbol) for symbol in taken_in]

    def _after_adopting(self, symbol: str) -> Said:
        held = of_symbol(self._manager.positions(), symbol)
        if held:
            what = " and ".join(f"{plain(p.remaining_qty)} {p.side} at {plain(p.entry_price)}" for p in held)
            return Said(f"{symbol}: managed from now on; {what} are watched")
        rows = [row for row in self._parts.context.scoped.rows if same_symbol(row.symbol, symbol)]
        if rows:
            return Said(f"{symbol}: managed from now on; what is held of it is watched as soon as it can be named")
        return Said(f"{symbol}: managed from now on; nothing of it is held")

    async def ignore(self, request: Request, who: str) -> list[Said]:
        """Take symbols out of what is managed, whatever is configured; what is held of them is held on, unwatched."""
        said = []
        for subject in request.subjects:
            symbol = self._symbol(subject)
            if symbol is None:
                said.append(Said(f"{subject}: it is no symbol; nothing was done", NOT_DONE))
                continue
            before = of_symbol(self._manager.positions(), symbol)
            not_so = why_not(symbol, self._parts.context.scoped.scope, watched=bool(before))
            if not_so and not before:
                said.append(Said(f"{symbol}: it is not managed already ({not_so}); nothing was done"))
            elif (failed := await self._choose(symbol, ScopeHow.IGNORED, request, who)) is not None:
                said.append(failed)
            else:
                what = " and ".join(f"{plain(p.remaining_qty)} {p.side}" for p in before)
                left = (
                    f"{what} are held on, and nobody watches them" if before else "what is bought of it is not watched"
                )
                said.append(Said(f"{symbol}: not managed from now on; {left}"))
        return said

    def _symbol(self, subject: str) -> str | None:
        try:
            return self._parts.context.memory.orders.known_spelling(canonical_symbol(subject))
        except ValueError:
            return None

    def _is_managed(self, symbol: str) -> bool:
        """True where all that is held of it is managed, and not for a `flatten` alone."""
        scope = self._parts.context.scoped.scope
        chosen = scope.choices.of(symbol)
        if chosen is not None:
            return chosen.managed and not chosen.command
        return not scope.handed and not why_not(symbol, scope, watched=False)

    async def _choose(self, symbol: str, how: ScopeHow, request: Request, who: str) -> Said | None:
        """Store it; what is said where that could not be."""
        now = self._parts.context.given.time.now()
        change = ScopeChanged(symbol=symbol, how=how, by=who, at=now, why=request.reason)
        try:
            await self._stored(change)
        except ExitFsmError as error:
            return Said(f"{symbol}: nothing was done: {error}", NOT_DONE)
        return None

    async def _stored(self, change: ScopeChanged) -> None:
        context = self._parts.context
        for recorded in await Choosing(context.ground, context.scoped).choose(change):
            context.alarms.announce(None, recorded)
        if change.how == ScopeHow.ADOPTED:
            context.memory.kept.begin_anew(change.symbol)

    # --- for a flatten ------------------------------------------------------------------------------------------------

    async def clear_way(self, given: CommandGiven) -> list[Said]:
        """Cancel the bot's entries, and take in what is not managed where that was meant; what fails is said."""
        EXIT_WAITS.set(True)  # in this task: nothing of this waits behind what others ask
        said: list[Said] = []
        for work in (self._cancel_entries, self._take_all_in):
            try:
                said += await work(given)
            except ExitFsmError as error:
                what = "entries were not canceled" if work == self._cancel_entries else "not all is taken in"
                said.append(Said(f"{what}: {error}; it is tried again", NOT_DONE))
        return said

    async def _cancel_entries(self, _: CommandGiven) -> list[Said]:
        context = self._parts.context
        if not bots_ids(context.scoped.scope, context.ground.live.entry_id_prefix):
            return []
        read = await context.books.positions()
        ends = await Entries(context.ground, context.scoped).cancel(read.rows)
        said = []
        for order, is_over in ends:
            name = f"{order.symbol}: entry order {order.client_order_id}"
            log.warning("entry_canceled id=%s symbol=%s over=%s", order.client_order_id, order.symbol, is_over)
            over = Said(f"{name} is canceled")
            said.append(over if is_over else Said(f"{name} was to be canceled, and may work on", NOT_DONE))
        return said

    async def _take_all_in(self, given: CommandGiven) -> list[Said]:
        if not wants_all(given):
            return []
        context, said, seen = self._parts.context, [], set()
        await context.books.positions()
        for one in context.scoped.outside():
            symbol = context.memory.orders.known_spelling(one.row.symbol)
            if context.scoped.scope.ids:
                said.append(Said(held_on(symbol, one.qty), NOT_DONE))
                continue
            said.append(Said(f"{symbol}: {plain(one.qty)} taken in for this ({one.why})"))
            if symbol not in seen:
                seen.add(symbol)
                change = ScopeChanged(
                    symbol=symbol, how=ScopeHow.ADOPTED, by=signed(given.by, given.command_id),
                    at=context.given.time.now(), why="flatten --all-positions", command=given.command_id,
                )  # fmt: skip
                await self._stored(change)
        return said

    async def end_passing(self) -> None:
        """What was taken in for a `flatten` is managed no more: it is over."""
        context = self._parts.context
        for one in context.scoped.scope.choices.passing:
            now = context.given.time.now()
            change = ScopeChanged(
                symbol=one.symbol,
                how=ScopeHow.RESTORED,
                by=one.by,
                at=now,
                why="the flatten is over",
                command=one.command,
            )
            await self._stored(change)


def wants_all(given: CommandGiven | None) -> bool:
    """True for a `flatten` of what is not managed, too."""
    return given is not None and ALL_POSITIONS in given.subjects
