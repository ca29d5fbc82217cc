"""Carrying commands out on a manager, each once.

A command is stored before anything is done, and its answer after it. One that comes again while it is carried out waits
for the same answer; one that was answered gets that answer. One that was stored and never answered, because the manager
ended in between, is looked for in the log: what it led to names it. What had its effect is the answer; what had none is
carried out now, since whoever could have done it is gone, for each position and alarm by itself.

A `flatten` is in force until trading is resumed or all is proved to be flat: what is found to be held meanwhile is
ordered out, by the command and not by the questions whether it is proved.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.structs import replace

from exitfsm.aio.tasks import begin_shared, shared
from exitfsm.control import proving
from exitfsm.control.adjusting import Adjusting
from exitfsm.control.clearing import Clearing
from exitfsm.control.deciding import (
    PROVED,
    Effect,
    Past,
    Proof,
    Said,
    Trail,
    after_exit,
    code_of,
    commands_in,
    is_in_force,
    name_of,
    names,
    no_part,
    not_again,
    parts_left,
    share_of,
    signed,
    symbol_of,
)
from exitfsm.control.protocol import DONE, NOT_DONE, QUESTIONS, Answer, Request, not_stored, refused
from exitfsm.control.scoping import Scoping, wants_all
from exitfsm.control.telling import scope_lines, waiting_line
from exitfsm.errors import ExitFsmError
from exitfsm.events import CommandAnswered, CommandGiven, Event, Recorded
from exitfsm.lifecycle import State
from exitfsm.outside import log
from exitfsm.position import Position
from exitfsm.position.adjusting import tightest_stop
from exitfsm.position.operating import is_stuck
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.values import decimal_of, plain, stamp

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager
    from exitfsm.manager.parts import Parts

#: How many answers are kept in memory at least; older ones are read from the log no more.
KEPT = 10_000
#: How often it is looked whether something is held that a `flatten` must order out; and where nothing is left that
#: could be ordered out and nothing is proved, at most how seldom, in seconds.
FOLLOW_S, FOLLOW_MAX_S = 0.5, 60.0
#: What is said of what comes too late.
TOO_LATE = "too late: the manager was busy for longer than the client waits"
#: How long commands that are being carried out are waited for when all ends, in seconds.
END_S = 5.0


class Desk:
    """Takes commands for one manager.

    Args:
        manager: who carries them out; it is started.
    """

    def __init__(self, manager: ExitManager) -> None:
        self._manager, self._scoping = manager, Scoping(manager)
        self._adjusting, self._clearing = Adjusting(manager), Clearing(manager)
        #: Commands of which the log knew at the start, and all that were stored, by their ids.
        self._past: dict[str, Past] = {}
        self._given: dict[str, CommandGiven] = {}
        self._answers: dict[str, Answer] = {}
        self._running: dict[str, asyncio.Task[Answer]] = {}
        self._verbs: dict[str, Callable[[Request, str], Awaitable[list[Said]]]] = {
            "pause": self._pause,
            "resume": self._resume,
            "sync": self._sync,
            "stop": self._stop,
            "adopt": self._scoping.adopt,
            "ignore": self._scoping.ignore,
            "reload": self._adjusting.reload,
        }
        #: Those that, given again after their manager was killed, are carried out for what they had no effect on yet.
        self._by_position: dict[str, Callable[[Request, str, Trail], Awaitable[list[Said]]]] = {
            "exit": self._exit,
            "flatten": self._flatten,
            "release": self._clearing.release,
            "acknowledge": self._clearing.acknowledge,
            "set-stop": self._adjusting.set_stop,
            "set-policy": self._adjusting.set_policy,
        }
        #: True where the log knows commands that memory does not.
        self._forgets = False
        #: What follows the newest `flatten` while it is in force.
        self._following: asyncio.Task[None] | None = None

    @property
    def _parts(self) -> Parts:
        """What the manager is made of; `StoreError` where it is stopped. Nowhere else is it reached into."""
        return self._manager._at_work

    @property
    def at_work(self) -> bool:
        """True while the manager is started: its store is its own."""
        return self._manager._running

    @property
    def store_given(self) -> object:
        """The store as the manager was given it: a path, a URL, or one that is open."""
        return self._manager._store_given

    async def begin(self) -> None:
        """Know the commands of the past, and go on with a `flatten` that is in force."""
        recorded = await self._account_stream()
        found = commands_in(recorded)
        self._forgets = len(found) > KEPT
        self._past = dict(list(found.items())[-KEPT:])
        self._given = {command_id: past.event for command_id, past in self._past.items()}
        flattens = [past.event for past in self._past.values() if past.event.verb == "flatten"]
        if flattens and is_in_force(flattens[-1].command_id, recorded):
            self._follow(flattens[-1])
        else:
            await self._scoping.end_passing()  # it was proved, or trading was resumed, and the manager ended over it

    async def _account_stream(self) -> list[Recorded]:
        stream = f"{ACCOUNT_PREFIX}{self._parts.context.given.account}"
        return list(await asyncio.to_thread(self._parts.store.stream, stream))

    async def end(self) -> None:
        """Let what is being carried out come to its end, and wait no longer than that may take."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=END_S)

    # --- once ---------------------------------------------------------------------------------------------------------

    async def answer(self, request: Request, name: str, whence: str, *, is_late: bool = False) -> Answer:
        """The answer to a command or a question.

        Args:
            name: who asks.
            whence: from which process or address.
            is_late: it came after its time: it is not begun any more.
        """
        if request.verb in QUESTIONS:
            return refused(TOO_LATE) if is_late else await self._guarded(request, self._asked)
        under_way = self._running.get(request.id)
        if under_way is None:
            known = await self._known(request)
            if known is not None:
                return known
            under_way = self._running.get(request.id)  # it may have come twice
        if under_way is None:
            if is_late:
                was = " was stored before, and what came of it is not known" if request.id in self._past else ""
                return refused(f"{TOO_LATE}: the command{was or ' is not known, and nothing was done'}; give it again")
            under_way = begin_shared(self._carried_out(request, name_of(name), whence), "exitfsm-command")
            self._running[request.id] = under_way
            under_way.add_done_callback(lambda _: self._running.pop(request.id, None))
        return await shared(under_way)  # whoever asked may leave: it goes on

    async def _known(self, request: Request) -> Answer | None:
        """The first answer to a command that was given before."""
        if request.id not in self._given and self._forgets:
            self._look_back(request.id, commands_in(await self._account_stream()))
        was, past = self._given.get(request.id), self._past.get(request.id)
        if was is not None and (was.verb, was.subjects, was.given or ()) != (
            request.verb, request.subjects, request.given,
        ):  # fmt: skip
            return refused(f"another command was given with this id: {was.verb} {' '.join(was.subjects)}".rstrip())
        answer = self._answers.get(request.id)
        if answer is None and past is not None and past.answered is not None:
            answer = Answer(code=past.answered.code, lines=past.answered.lines)
        return Answer(code=answer.code, lines=answer.lines, data=answer.data, again=True) if answer else None

    def _look_back(self, command_id: str, found: dict[str, Past]) -> None:
        if (past := found.get(command_id)) is not None:
            self._past[command_id], self._given[command_id] = past, past.event

    async def _carried_out(self, request: Request, name: str, whence: str) -> Answer:
        who = signed(name, request.id)
        try:
            past = self._past.get(request.id)
            if past is None:
                await self._store(request, name, whence)
            trail = await asyncio.to_thread(self._trail, past) if past is not None else Trail()
        except ExitFsmError as error:
            return not_stored(f"nothing was done: the command could not be stored: {error}", retry=False)
        log.warning("command verb=%s subjects=%s by=%s whence=%s", request.verb, request.subjects, who, whence)
        answer = await self._guarded(request, lambda r: self._done(r, who, trail))
        self._keep(request.id, answer)
        await self._record_answer(request.id, answer)
        return answer

    async def _record_answer(self, command_id: str, answer: Answer) -> None:
        """Store what was answered; that it cannot be makes it no less true."""
        try:
            now = self._now()
            await self._record(CommandAnswered(command_id=command_id, code=answer.code, lines=answer.lines, at=now))
        except ExitFsmError as error:
            log.error("answer_unstored command=%s error=%s", command_id, error)

    async def _store(self, request: Request, name: str, whence: str) -> None:
        given = CommandGiven(
            command_id=request.id, verb=request.verb, subjects=request.subjects, by=name, whence=whence,
            at=self._now(), reason=request.reason, given=request.given or UNSET,
        )  # fmt: skip
        await self._record(given)
        self._given[request.id] = given

    def _trail(self, past: Past) -> Trail:
        """What came of a command that was stored and never answered; in a thread of its own."""
        store, command_id = self._parts.store, past.event.command_id
        found = [one for one in store.events(past.sequence) if names(one.event, command_id)]
        streams = {one.stream_id: store.stream(one.stream_id) for one in found}
        effects = (Effect(one, symbol_of(one.event, streams[one.stream_id])) for one in found)
        return Trail(past.event.at, tuple(effects))

    async def _guarded(self, request: Request, work: Callable[[Request], Awaitable[Answer]]) -> Answer:
        try:
            return await work(request)
        except ExitFsmError as error:
            return Answer(code=NOT_DONE, lines=(f"{request.verb}: not done, or not all of it: {error}",))
        except Exception as error:
            log.exception("command_crashed verb=%s", request.verb)
            return Answer(code=NOT_DONE, lines=(f"{request.verb}: a defect of exitfsm: {type(error).__name__}",))

    async def _done(self, request: Request, who: str, trail: Trail) -> Answer:
        if request.verb == "stop" and trail.given_at is not None:
            return replace(_made([not_again(os.getpid())]), again=True)
        if request.verb in self._by_position:
            return _made(await self._by_position[request.verb](request, who, trail))
        said, left = parts_left(request.subjects, trail)
        if trail.effects and not left:
            return _made(said)
        return _made([*said, *await self._verbs[request.verb](replace(request, subjects=left), who)])

    def _keep(self, command_id: str, answer: Answer) -> None:
        self._answers[command_id] = answer
        for kept in (self._answers, self._given, self._past):
            while len(kept) > KEPT:
                del kept[next(iter(kept))]
                self._forgets = True

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
        await self._scoping.end_passing()
        return [Said("resumed: levels are watched, and entries are allowed")]

    async def _exit(self, request: Request, who: str, trail: Trail) -> list[Said]:
        shares = [share_of(subject, self._manager.positions(), trail) for subject in request.subjects]
        said = [one for share in shares for one in share.said]
        meant_ = {p.position_id: p for share in shares for p in share.positions}
        most = decimal_of(request.given[0]) if request.given else None
        broker = self._parts.context.engine.broker
        if most is not None and (why := no_part(list(meant_.values()), most, broker)) is not None:
            return [*said, why]
        asked = {"reason": request.reason, "who": who, "at_most": most}
        return said + await self._forced(list(meant_.values()), asked, override=request.override)

    async def _forced(self, positions: list[Position], asked: dict[str, Any], *, override: bool = False) -> list[Said]:
        """Exit these. One that needs a look at the broker first holds up no other."""
        groups: dict[str, list[Position]] = {}
        for p in positions:
            groups.setdefault(p.symbol if is_stuck(p) else "", []).append(p)
        operators = self._parts.operators
        work = (operators.force(group, asked, must=not override) for group in groups.values())
        ends = await asyncio.gather(*work, return_exceptions=True)
        said = []
        for group, end in zip(groups.values(), ends, strict=True):
            if isinstance(end, BaseException) and not isinstance(end, ExitFsmError):
                raise end
            if isinstance(end, ExitFsmError):
                said += [Said(f"{p.symbol}: not done: {end}", NOT_DONE) for p in group]
            else:
                said += [after_exit(p, self._open(p)) for p in group]
        return said

    async def _flatten(self, request: Request, who: str, trail: Trail) -> list[Said]:
        if trail.given_at is not None and not is_in_force(request.id, await self._account_stream()):
            over = Said("trading was resumed since: what is held now is not ordered out; give a new command", NOT_DONE)
            return [*(effect.line for effect in trail.effects), over]
        try:
            said = await self._pause(request, who)
        except ExitFsmError as error:  # to be out matters more
            said = [Said(f"the pause could not be stored: {error}", NOT_DONE)]
        given = self._given[request.id]
        self._follow(given)
        said += await self._scoping.clear_way(given)
        asked = {"reason": request.reason, "who": who}
        first = [p for p in self._manager.positions() if not trail.has(p.position_id) or not is_stuck(p)]
        said += await self._forced(first, asked)
        try:
            await self._manager.sync()
        except ExitFsmError as error:
            return [*said, Said(f"what the broker holds beside that is not known yet: {error}", NOT_DONE)]
        known = {p.position_id for p in first}
        beside = [p for p in self._manager.positions() if p.position_id not in known and p.state is State.MONITORING]
        return said + await self._forced(beside, asked)

    def _follow(self, given: CommandGiven) -> None:
        """From now on order out what is found to be held, until trading is resumed or all is proved to be flat."""
        if self._following is not None:
            self._following.cancel()  # the newest stands for all
        self._following = asyncio.create_task(self._followed(given), name="exitfsm-flatten")

    async def _followed(self, given: CommandGiven) -> None:
        wait_s = FOLLOW_S
        while True:
            await asyncio.sleep(wait_s)
            try:
                is_over = await self._follow_once(given)
            except Exception as error:  # a broker or a store that does not answer: the next look
                log.warning("flatten_not_followed command=%s error=%s", given.command_id, error)
                is_over = not self.at_work
            if is_over:
                return
            wait_s = FOLLOW_S if self._manager.positions() else min(wait_s * 2, FOLLOW_MAX_S)

    async def _follow_once(self, given: CommandGiven) -> bool:
        """One look; True where the command is not in force any more."""
        held = [p for p in self._manager.positions() if p.state is State.MONITORING]
        if not self._parts.context.engine.paused:
            return given.command_id not in self._running  # it is about to pause
        if not held and self._manager.positions():
            return False
        if not is_in_force(given.command_id, await self._account_stream()):
            return True
        if held:
            await self._forced(held, {"reason": given.reason, "who": signed(given.by, given.command_id)})
            return False
        if given.command_id in self._running:
            return False
        await self._scoping.clear_way(given)
        return (await self._proof_of(given.command_id)).is_flat

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
            "positions": [self._shown(p) for p in self._manager.positions()],
            "scope": scope_lines(self._manager),
            "waiting": waiting_line(self._manager),
            "alarms": [
                {"alarm_id": a.alarm_id, "kind": a.kind, "text": a.text, "raised_at": stamp(a.raised_at)}
                for a in self._manager.alarms()
            ],
        }
        return Answer(code=DONE, data=data)

    def _shown(self, p: Position) -> dict[str, Any]:
        stop, price = tightest_stop(p, self._now()), self._parts.context.engine.last_price(p.symbol)
        return {
            "position_id": p.position_id,
            "symbol": p.symbol,
            "side": str(p.side),
            "state": str(p.state),
            "remaining_qty": plain(p.remaining_qty),
            "is_stuck": is_stuck(p),
            "stop": plain(stop) if stop is not None else None,
            "price": plain(price) if price is not None else None,
        }

    async def _proved(self, request: Request) -> Answer:
        """Whether all is flat. A question: it orders nothing."""
        if request.of not in self._given and self._forgets:
            self._look_back(request.of, commands_in(await self._account_stream()))
        if request.of and request.of not in self._given:
            line = f"no such command is known here: {request.of}; nothing was done for it: give it again"
            return Answer(code=NOT_DONE, lines=(line,), data={"unknown": True})
        doubts: list[str] = []
        try:
            await self._manager.sync()
        except ExitFsmError as error:
            doubts.append(f"not reconciled with the broker: {error}")
        proof = await self._proof_of(request.of, doubts)
        data = {"waits_for_market": proof.waits_for_market, "paused": self._parts.context.engine.paused}
        code = DONE if proof.is_flat else NOT_DONE
        return Answer(code=code, lines=(*proof.lines, *proof.outside), data={**data, "outside": list(proof.outside)})

    async def _proof_of(self, command_id: str, doubts: Sequence[str] = ()) -> Proof:
        """The proof. A `flatten` that it was asked for is over with it, and that is recorded."""
        proof = await proving.proved(self._parts, doubts, of_all=wants_all(self._given.get(command_id)))
        if proof.is_flat and command_id and is_in_force(command_id, await self._account_stream()):
            await self._record_answer(command_id, Answer(code=DONE, lines=(PROVED,)))
            self._answers[command_id] = Answer(code=DONE, lines=(PROVED,))
            await self._scoping.end_passing()
        return proof


def _made(said: Sequence[Said]) -> Answer:
    return Answer(code=code_of(said), lines=tuple(one.line for one in said))
