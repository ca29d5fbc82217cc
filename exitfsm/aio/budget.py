"""The rate budget: at most so many sends in any minute, and who goes first where there are more.

That is decided when a place is given out, by who loses most then, not by who asked first: what comes before the asking
(the market's hours, a look at what is held) goes through threads, which answer in any order. So a send is announced
before all that. While there are places for all, nobody waits for anybody; where they are scarce, one is kept for a
worse position that is on its way, but not for long.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

from exitfsm.ports import Clock

#: The span in which sends are counted.
SPAN_S = 60.0
#: How long is waited before the same is tried again.
PAUSE_S = 0.5
#: From so many on that are worked on at once, what is not urgent waits for the others before it is read.
GATHERED_MIN = 20
#: They are read at whole multiples of this, in seconds.
GATHER_S = 1.0
#: How long more are waiting than fit in before a person hears of it: by then they all wait, and not only the first.
SAID_AFTER_S = 1.0
#: How long a place is kept for a send on its way: it may wait so long for the hours, and for a look at what is held.
KEPT_S = 2.0


class RateBudget:
    """Places for sends. Positions are named by their ids; each has one send at a time.

    Args:
        clock: what the minute is measured by.
        per_minute: most sends in any 60 seconds.
        standing: a position's present return (a loss is below 0): the lowest goes first, of equals the first to ask.
        say: hears, once for all that wait together, how many must wait, and how long until the last of them may send;
            and then, that none waits any more.
    """

    def __init__(
        self,
        clock: Clock,
        per_minute: int,
        standing: Callable[[str], float],
        say: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._say = say
        self._clock, self._per_minute, self._standing = clock, per_minute, standing
        #: When each place that is taken is free again.
        self._taken: deque[float] = deque()
        #: Who waits for a place, and who will: until when one is kept for each of these.
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._coming: dict[str, float] = {}
        self._soon = False
        self._timer: asyncio.Task[None] | None = None

    def announce(self, position_id: str) -> None:
        """A position is about to send something; call `withdraw` if it does not come to that."""
        self._coming[position_id] = self._clock.monotonic() + KEPT_S

    def withdraw(self, position_id: str) -> None:
        """Nothing is sent for now; those that waited behind it move up. May be called at any time."""
        if self._coming.pop(position_id, None) is not None and self._waiting:
            self._give_out_soon()

    async def spend(self, position_id: str) -> float:
        """Return when one more send fits into the minute and nobody who loses more is to have its place.

        What it returns is for `give_back`.
        """
        place: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._coming.pop(position_id, None)
        self._waiting[position_id] = place
        try:
            if self._are_scarce(self._free(self._clock.monotonic())):
                self._give_out_soon()
            else:
                self._give_out()
            return await place
        finally:
            self._waiting.pop(position_id, None)

    def waiting(self) -> tuple[int, float]:
        """How many wait for a place, and in how many seconds the last of them has one; none where there are places."""
        now = self._clock.monotonic()
        if not self._waiting or self._free(now) > 0:
            return 0, 0.0
        rounds, place = divmod(len(self._waiting) - 1, len(self._taken))
        return len(self._waiting), self._taken[place] + rounds * SPAN_S - now

    def give_back(self, place: float) -> None:
        """Nothing was sent in a place after all: the next one may have it."""
        if place in self._taken:
            self._taken.remove(place)
            if self._waiting:
                self._give_out_soon()

    async def close(self) -> None:
        """End the timer; whoever still waits is canceled by its own task."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)

    def _free(self, now: float) -> int:
        while self._taken and self._taken[0] <= now:
            self._taken.popleft()
        return self._per_minute - len(self._taken)

    def _are_scarce(self, free: int) -> bool:
        return len(self._waiting) + len(self._coming) > free

    def _give_out_soon(self) -> None:
        """Give out once for all that happens in this turn of the loop: ranking them all takes its time."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._give_out)

    def _give_out(self) -> None:
        """Give the free places to those that are to have them, as far as they are there."""
        self._soon = False
        now = self._clock.monotonic()
        free = self._free(now)
        for position_id in self._first(free, now) if free > 0 else ():
            place = self._waiting.pop(position_id, None)
            if place is not None and not place.done():
                self._taken.append(now + SPAN_S)
                place.set_result(now + SPAN_S)
        if self._waiting and (self._timer is None or self._timer.done()):
            self._timer = asyncio.create_task(self._give_out_later(), name="exitfsm-budget")

    def _first(self, free: int, now: float) -> list[str]:
        """Who is to have the free places, the worst first; where they are scarce, also who is on its way to one."""
        if not self._are_scarce(free):
            return sorted(self._waiting, key=self._standing)
        self._coming = {name: until for name, until in self._coming.items() if until > now}
        return heapq.nsmallest(free, (*self._waiting, *self._coming), key=self._standing)

    async def _give_out_later(self) -> None:
        """Each time a place becomes free, or is no longer kept for somebody."""
        say_at = self._clock.monotonic() + SAID_AFTER_S
        while self._waiting:
            times = [*self._coming.values()] if len(self._taken) < self._per_minute else []
            times += list(self._taken)[:1]
            times += [say_at] if say_at < math.inf else []
            if times:
                await self._clock.sleep(min(times) - self._clock.monotonic())
            self._give_out()
            now = self._clock.monotonic()
            if say_at <= now and self._waiting and self._free(now) <= 0:
                say_at = math.inf
                self._say(*self.waiting())
            elif say_at <= now:
                say_at = now + SAID_AFTER_S
        if say_at == math.inf:
            self._say(0, 0.0)


class Turns:
    """What tasks of positions wait for that takes time: their turn to send, and a pause.

    Args:
        clock, per_minute, standing: as of the budget.
        raise_soon, end_soon: raises, and ends, an alarm: here, that some must wait.
    """

    def __init__(
        self,
        clock: Clock,
        per_minute: int,
        standing: Callable[[str], float],
        raise_soon: Callable[[str, str], None],
        end_soon: Callable[[str, str], object] = lambda *_: None,
    ) -> None:
        def say_how_many(waiting: int, seconds: float) -> None:
            if not waiting:
                end_soon("exits_wait", "no exit waits any more")
                return
            most = f"at most {per_minute} orders are sent in a minute; the worst go first"
            raise_soon("exits_wait", f"{wait_in_words(waiting, seconds)}: {most}")

        self._budget, self._clock = RateBudget(clock, per_minute, standing, say_how_many), clock
        #: How many wait for their turn to send, and how long.
        self.waiting = self._budget.waiting
        #: Tasks that wait for nothing but time.
        self._resting: set[asyncio.Task[None]] = set()
        self._stopped = False

    def announce(self, position_id: str, *, sends: bool) -> None:
        """Tell the budget whether a position is about to send something."""
        if sends:
            self._budget.announce(position_id)
        else:
            self._budget.withdraw(position_id)

    async def take(self, position_id: str) -> float:
        """Wait for a place among the sends of this minute; returns what `give_back` takes."""
        place = math.inf

        async def spend() -> None:
            nonlocal place
            place = await self._budget.spend(position_id)

        await self._rest(spend)
        return place

    def give_back(self, place: float) -> None:
        """Nothing was sent in it after all."""
        self._budget.give_back(place)

    async def pause(self, position_id: str) -> None:
        """Wait before the same is tried again; no place among the sends is kept meanwhile."""
        self._budget.withdraw(position_id)
        await self._rest(partial(self._clock.sleep, PAUSE_S))

    async def gather(self, position_id: str, busy: int, *, is_urgent: bool) -> None:
        """Before a read that is not urgent: where many are busy, let those that come now share one read."""
        if busy >= GATHERED_MIN and not is_urgent:
            self._budget.withdraw(position_id)
            await self._rest(partial(self._clock.sleep, GATHER_S - self._clock.monotonic() % GATHER_S))

    def stop(self) -> None:
        """Nobody waits any more, and nobody begins to."""
        self._stopped = True
        for task in self._resting:
            task.cancel()

    async def close(self) -> None:
        """End the budget's timer."""
        await self._budget.close()

    async def _rest(self, waiting: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._stopped:
            raise asyncio.CancelledError
        self._resting.add(task)
        try:
            await waiting()
        finally:
            self._resting.discard(task)


def wait_in_words(waiting: int, seconds: float) -> str:
    """How many exits wait for their turn to send, and until the last may."""
    return f"{'1 exit waits' if waiting == 1 else f'{waiting} exits wait'} {seconds:.0f} s"
