"""Carrying commands out on a manager, each once.

A command is stored before anything is done, and its answer after it. One that comes again while it is carried out waits
for the same answer; one that was answered gets that answer. One that was stored and never answered, because the manager
ended in between, is looked for in the log: what it led to names it. Where it led to something, that is the answer;
where it led to nothing, it is carried out now, since whoever could have done it is gone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from exitfsm.aio.tasks import begin_shared, shared
from exitfsm.control.deciding import (
    Books,
    Past,
    Proof,
    Said,
    after_exit,
    after_release,
    cannot_be_released,
    code_of,
    commands_in,
    effects,
    meant,
    not_watched,
    of_symbol,
    proof_of,
    signed,
)
from exitfsm.control.protocol import DONE, NOT_DONE, QUESTIONS, Answer, Request, refused
from exitfsm.errors import ExitFsmError
from exitfsm.events import CommandAnswered, CommandGiven, Event
from exitfsm.lifecycle import State
from exitfsm.outside import log
from exitfsm.position import READS_MIN, Position
from exitfsm.position.operating import is_stuck
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.values import plain, stamp

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager
    from exitfsm.manager.parts import Parts

#: How many answers are kept in memory at least; older ones are read from the log no more.
KEPT = 10_000
#: How long commands that are being carried out are waited for when all ends, in seconds.
END_S = 5.0


class Desk:
    """Takes commands for one manager.

    Args:
        manager: who carries them out; it is started.
    """

    def __init__(self, manager: ExitManager) -> None:
        self._manager = manager
        #: Commands of which the log knew at the start, and all that were stored, by their ids.
        self._past: dict[str, Past] = {}
        self._given: dict[str, CommandGiven] = {}
        self._answers: dict[str, Answer] = {}
        self._running: dict[str, asyncio.Task[Answer]] = {}
        self._verbs: dict[str, Callable[[Request, str], Awaitable[list[Said]]]] = {
            "pause": self._pause,
            "resume": self._resume,
            "exit": self._exit,
            "flatten": self._flatten,
            "release": self._release,
            "acknowledge": self._acknowledge,
            "sync": self._sync,
            "stop": self._stop,
        }

    @property
    def _parts(self) -> Parts:
        """What the manager is made of; `StoreError` where it is stopped. Nowhere else is it reached into."""
        return self._manager._at_work

    async def begin(self) -> None:
        """Know the commands of the past."""
        stream = f"{ACCOUNT_PREFIX}{self._parts.context.given.account}"
        self._past = commands_in(await asyncio.to_thread(self._parts.store.stream, stream))
        self._given = {command_id: past.event for command_id, past in self._past.items()}

    async def end(self) -> None:
        """Let what is being carried out come to its end, and wait no longer than that may take."""
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=END_S)

    # --- once ---------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request, name: str, whence: str) -> Answer:
        """The answer to a command or a question.

        Args:
            name: who asks.
            whence: from which process or address.
        """
        if request.verb in QUESTIONS:
            return await self._guarded(request, self._asked)
        known = self._known(request)
        if known is not None:
            return known
        under_way = self._running.get(request.id)
        if under_way is None:
            under_way = begin_shared(self._carried_out(request, name, whence), "exitfsm-command")
            self._running[request.id] = under_way
            under_way.add_done_callback(lambda _: self._running.pop(request.id, None))
        return await shared(under_way)  # whoever asked may leave: it goes on

    def _known(self, request: Request) -> Answer | None:
        """The first answer to a command that was given before."""
        was, past = self._given.get(request.id), self._past.get(request.id)
        if was is not None and (was.verb, was.subjects) != (request.verb, request.subjects):
            return refused(f"another command was given with this id: {was.verb} {' '.join(was.subjects)}".rstrip())
        answer = self._answers.get(request.id)
        if answer is None and past is not None and past.answered is not None:
            answer = Answer(code=past.answered.code, lines=past.answered.lines)
        return Answer(code=answer.code, lines=answer.lines, data=answer.data, again=True) if answer else None

    async def _carried_out(self, request: Request, name: str, whence: str) -> Answer:
        who = signed(name, request.id)
        try:
            found = await self._done_before(request)
            if found is None:
                await self._store(request, name, whence)
        except ExitFsmError as error:
            return Answer(code=NOT_DONE, lines=(f"nothing was done: the command could not be stored: {error}",))
        log.warning("command verb=%s subjects=%s by=%s whence=%s", request.verb, request.subjects, who, whence)
        answer = _made(found) if found else await self._guarded(request, lambda r: self._done(r, who))
        self._keep(request.id, answer)
        try:
            now = self._now()
            await self._record(CommandAnswered(command_id=request.id, code=answer.code, lines=answer.lines, at=now))
        except ExitFsmError as error:
            log.error("answer_unstored command=%s error=%s", request.id, error)
        return answer

    async def _store(self, request: Request, name: str, whence: str) -> None:
        given = CommandGiven(
            command_id=request.id, verb=request.verb, subjects=request.subjects, by=name, whence=whence,
            at=self._now(), reason=request.reason,
        )  # fmt: skip
        await self._record(given)
        self._given[request.id] = given

    async def _done_before(self, request: Request) -> list[Said] | None:
        """What came of a command that was stored and never answered: nothing, perhaps; None for one that is new."""
        past = self._past.get(request.id)
        if past is None:
            return None
        if request.verb == "stop":
            return [Said("took effect: the manager that got it has ended")]
        since = past.sequence
        return await asyncio.to_thread(lambda: effects(request.id, self._parts.store.events(since)))

    async def _guarded(self, request: Request, work: Callable[[Request], Awaitable[Answer]]) -> Answer:
        try:
            return await work(request)
        except ExitFsmError as error:
            return Answer(code=NOT_DONE, lines=(f"{request.verb}: not done, or not all of it: {error}",))
        except Exception as error:
            log.exception("command_crashed verb=%s", request.verb)
            return Answer(code=NOT_DONE, lines=(f"{request.verb}: a defect of exitfsm: {type(error).__name__}",))

    async def _done(self, request: Request, who: str) -> Answer:
        return _made(await self._verbs[request.verb](request, who))

    def _keep(self, command_id: str, answer: Answer) -> None:
        self._answers[command_id] = answer
        while len(self._answers) > KEPT:
            del self._answers[next(iter(self._answers))]

    async def _record(self, event: Event) -> None:
        await self._parts.context.alarms.record(event)

    def _now(self) -> datetime:
        return self._parts.context.given.time.now()

    # --- commands -----------------------------------------------------------------------------------------------------

    async def _pause(self, request: Request, who: str) -> list[Said]:
        if self._parts.context.engine.paused:
            return [Said("paused already")]
        await self._manager.pause(who, request.reason)
        return [Said("paused: no new triggers and no entries; exits under way go on")]

    async def _resume(self, _: Request, who: str) -> list[Said]:
        if not self._parts.context.engine.paused:
            return [Said("not paused: there is nothing to resume")]
        await self._manager.resume(who)
        return [Said("resumed: levels are watched, and entries are allowed")]

    async def _exit(self, request: Request, who: str) -> list[Said]:
        said = []
        for symbol in request.subjects:
            before = of_symbol(self._manager.positions(), symbol)
            if not before:
                said.append(not_watched(symbol, self._manager.positions()))
                continue
            try:
                await self._manager.force_exit(before[0].symbol, request.reason, who=who)
            except ExitFsmError as error:
                said.append(Said(f"{symbol}: not done: {error}", NOT_DONE))
                continue
            said += [after_exit(p, self._open(p)) for p in before]
        return said

    async def _flatten(self, request: Request, who: str) -> list[Said]:
        try:
            said = await self._pause(request, who)
        except ExitFsmError as error:  # to be out matters more
            said = [Said(f"the pause could not be stored: {error}", NOT_DONE)]
        before = {p.position_id: p for p in self._manager.positions()}
        concerned = await self._manager.flatten_all(request.reason, who=who)
        before = {p.position_id: p for p in concerned} | before
        return [*said, *(after_exit(p, self._open(p)) for p in before.values())]

    async def _release(self, request: Request, who: str) -> list[Said]:
        said = []
        for symbol in request.subjects:
            found = of_symbol(self._manager.positions(), symbol)
            if not found:
                said.append(not_watched(symbol, self._manager.positions()))
            for p in found:
                said.append(await self._release_one(p, who))
        return said

    async def _release_one(self, p: Position, who: str) -> Said:
        if p.state is not State.UNPROTECTED:
            return cannot_be_released(p)
        try:
            await self._manager.release(p, who)
        except ExitFsmError as error:
            return Said(f"{p.symbol}: not released: {error}", NOT_DONE)
        return after_release(p, self._open(p))

    async def _acknowledge(self, request: Request, who: str) -> list[Said]:
        said = []
        for subject in request.subjects:
            alarms = dict(self._parts.context.alarms.active)
            found = meant(subject, alarms, self._manager.positions())
            if not found:
                said.append(Said(f"{subject}: no active alarm of this id, symbol or place; nothing was done", NOT_DONE))
            for alarm_id in found:
                await self._manager.acknowledge(alarm_id, who)
                said.append(Said(f"acknowledged: {alarms[alarm_id][1].kind} ({alarm_id})"))
        return said

    async def _sync(self, _: Request, __: str) -> list[Said]:
        await self._manager.sync()
        return [Said(f"reconciled with the broker: {len(self._manager.positions())} positions are watched")]

    async def _stop(self, _: Request, __: str) -> list[Said]:
        left = self._manager.positions()
        names = " ".join(sorted({p.symbol for p in left}))
        watched = f"from now on nobody watches {names}" if left else "nothing is held"
        return [Said(f"the manager ends; {watched}; what is owed stays owed in the store")]

    def _open(self, p: Position) -> Position | None:
        """A position as it is now; None where it has ended."""
        return next((q for q in self._manager.positions() if q.position_id == p.position_id), None)

    # --- questions ----------------------------------------------------------------------------------------------------

    async def _asked(self, request: Request) -> Answer:
        return self._standing() if request.verb == "standing" else await self._proved(request)

    def _standing(self) -> Answer:
        """What is held and what waits for a person, for whoever is about to give a command."""
        parts = self._parts
        data = {
            "pid": os.getpid(),
            "store": parts.store.where,
            "paused": parts.context.engine.paused,
            "positions": [_shown(p) for p in self._manager.positions()],
            "alarms": [
                {"alarm_id": a.alarm_id, "kind": a.kind, "text": a.text, "raised_at": stamp(a.raised_at)}
                for a in self._manager.alarms()
            ],
        }
        return Answer(code=DONE, data=data)

    async def _proved(self, request: Request) -> Answer:
        """Whether all is flat; what was found to be held since a `flatten`, while the pause lasts, is ordered out.

        One read that shows nothing proves nothing: it is repeated.
        """
        await self._manager.sync()
        given = self._given.get(request.of)
        if given is not None and given.verb == "flatten" and self._parts.context.engine.paused:
            for p in [p for p in self._manager.positions() if p.state is State.MONITORING]:
                await self._manager.force_exit(p.symbol, given.reason, who=signed(given.by, request.of))
        proof = await self._proof()
        for _ in range(READS_MIN - 1):
            if proof.is_flat:
                proof = await self._proof()
        code = DONE if proof.is_flat else NOT_DONE
        return Answer(code=code, lines=proof.lines, data={"waits_for_market": proof.waits_for_market})

    async def _proof(self) -> Proof:
        parts = self._parts
        context = parts.context
        read = await parts.view.positions()
        orders = tuple(await context.calls.open_orders()) if context.calls.has("open_orders") else None
        positions = tuple(self._manager.positions())
        hours = {p.symbol: context.hours.at_a_glance(p.symbol) for p in positions}
        opens = {symbol: known.next_open for symbol, known in hours.items() if known is not None and not known.is_open}
        return proof_of(
            Books(rows=read.rows, unreadable=read.unreadable, orders=orders, positions=positions, opens=opens)
        )


def _made(said: Sequence[Said]) -> Answer:
    return Answer(code=code_of(said), lines=tuple(one.line for one in said))


def _shown(p: Position) -> dict[str, Any]:
    return {
        "position_id": p.position_id,
        "symbol": p.symbol,
        "side": str(p.side),
        "state": str(p.state),
        "remaining_qty": plain(p.remaining_qty),
        "is_stuck": is_stuck(p),
    }
