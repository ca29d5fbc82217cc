"""One owner for a store: to wait until one is it, to say each second that one is alive, and to stop when one is not it
any more. And a store that does not answer: a person hears of it.

Rules of this room: safety never rests on it. Two owners at once cost alarms and refused copies, never a second order:
that is kept by the order ids and the broker. Real time is used throughout, as others see it. A sign of life comes from
the event loop: an owner whose loop hangs decides nothing, and is to be replaced.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from exitfsm.errors import ConfigError, StoreError, StoreLocked
from exitfsm.outside import logger
from exitfsm.store import ExitStore, Heart, shown, watch

log = logger("exitfsm")

#: How often an owner says that it is alive, and how often a standby looks, in seconds.
BEAT_S = 1.0
LOOK_S = 0.25
#: How long the store may take for one answer before a person hears of it, in seconds.
ANSWER_S = 5.0
#: How much later than its time a timer may come before the loop itself counts as having been away.
_AWAY_S = 1.0

#: A kind of alarm, and its text.
Alarm = Callable[[str, str], None]


class Opening:
    """How a manager comes to its store: given open, opened, or waited for until it can be.

    Args:
        store: the store, its path or its URL.
        account: the account (a hash) whose store it is; on a server each has one of its own.
        takeover_after_s: of a standby: how long the owner of a store on a server may be silent before its session is
            ended. The process that writes a file is only waited for. None: nobody is waited for.

    Raises:
        ConfigError: a store that is open already is to be waited for.
    """

    def __init__(self, store: ExitStore | str | os.PathLike[str], account: str, takeover_after_s: float | None) -> None:
        if takeover_after_s is not None and isinstance(store, ExitStore):
            raise ConfigError(["standby: give the path or the URL of the store; one that is open is owned already"])
        self._store, self._account, self._after_s = store, account, takeover_after_s
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Wait no longer."""
        self._ended.set()

    async def opened(self) -> ExitStore:
        """The store, once it is ours.

        Raises:
            StoreError: it cannot be opened, whoever owns it; or the waiting was ended.
        """
        if isinstance(self._store, ExitStore):
            return self._store
        if self._after_s is None:
            opening = partial(ExitStore, self._store, account=self._account)
            return await asyncio.get_running_loop().run_in_executor(None, opening)
        return await self._waited_for(self._store, self._after_s)

    async def _waited_for(self, path: str | os.PathLike[str], after_s: float) -> ExitStore:
        self._ended.clear()
        threads = ThreadPoolExecutor(1, "exitfsm-standby")
        run = partial(asyncio.get_running_loop().run_in_executor, threads)
        log.info("standby_begins store=%s takeover_after_s=%s", shown(path), after_s)
        watching = watch(path, account=self._account, takeover_after_s=after_s)
        try:
            while not self._ended.is_set():
                if await run(watching.look) and (store := await self._open(run, path)) is not None:
                    log.warning("standby_is_owner store=%s", shown(path))
                    return store
                await _wait(self._ended, LOOK_S)
            raise StoreError("the manager was stopped while it waited for the store")
        finally:
            threads.submit(watching.close)
            threads.shutdown(wait=False)

    async def _open(
        self, run: Callable[[Callable[[], ExitStore]], asyncio.Future[ExitStore]], path: str | os.PathLike[str]
    ) -> ExitStore | None:
        """The store; None where somebody else has it."""
        opening = run(partial(ExitStore, path, account=self._account))
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            opening.add_done_callback(_close)  # it is opened all the same, and then nobody's
            raise
        try:
            return opening.result()
        except StoreLocked as error:
            log.debug("standby_waits why=%s", error)
            return None


class Ownership:
    """Says that the owner of an open store is alive, and does what is to be done when it is not the owner any more.

    Args:
        store: the store.
        forbid: called with a text: nothing may be sent from then on.
        alarm: tells a person.

    Attributes:
        lost: who has the store now, in words; None while it is ours.
    """

    def __init__(self, store: ExitStore, forbid: Callable[[str], None], alarm: Alarm) -> None:
        self._store, self._forbid, self._alarm = store, forbid, alarm
        self._stop: Callable[[], Awaitable[None]] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.lost: str | None = None

    async def begin(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Say it from now on; it has been said once, or could not be, when this returns.

        Args:
            stop: called when the store is somebody else's; everything ends with it.
        """
        self._stop = stop
        heart = self._store.heart()
        if heart is not None:
            said = asyncio.Event()
            self._beating = asyncio.create_task(self._beat(heart, said), name="exitfsm-heart")
            await said.wait()

    def note(self, failures: Iterable[Exception]) -> None:
        """Of commits that failed: whether they did because the store is somebody else's."""
        for failure in failures:
            if isinstance(failure, StoreLocked):
                self._on_lost(str(failure))

    async def end(self) -> None:
        """Say it no longer."""
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self, heart: Heart, said: asyncio.Event) -> None:
        # A thread of its own: work of the bot in the common ones must not make its owner look dead.
        threads, fails = ThreadPoolExecutor(1, "exitfsm-heart"), False
        try:
            while self.lost is None:
                try:
                    await asyncio.get_running_loop().run_in_executor(threads, heart.beat)
                    fails = False
                except StoreLocked as error:
                    self._on_lost(str(error))
                except StoreError as error:
                    if not fails:  # said once, and not each second
                        log.warning("heartbeat_failed error=%s", error)
                    fails = True
                except Exception:
                    log.exception("heartbeat_crashed")
                said.set()
                await asyncio.sleep(BEAT_S)
        finally:
            said.set()
            threads.submit(heart.close)
            threads.shutdown(wait=False)

    def _on_lost(self, why: str) -> None:
        if self.lost is not None:
            return
        self.lost = why
        self._forbid(why)
        log.critical("ownership_lost why=%s", why)
        self._alarm("ownership_lost", why)
        if self._stop is not None:
            self._stopping = asyncio.ensure_future(self._stop())
            self._stopping.add_done_callback(_hear)


class Watchdog:
    """Around each wait for the store: a person hears of one that is long.

    Args:
        alarm: tells a person.
        after_s: what is long.
    """

    def __init__(self, alarm: Alarm, after_s: float = ANSWER_S) -> None:
        self._alarm, self._after_s = alarm, after_s
        self._began: float | None = None
        self._was_long = False
        #: One timer for all waits of its time, and when it is due: one for each would cost more than all else here.
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._began, self._was_long = loop.time(), False
        if self._timer is None:
            self._look_at(loop, self._began + self._after_s)

    def __exit__(self, *_: object) -> None:
        if self._was_long and self._began is not None:
            log.warning("store_answers after_s=%.1f", asyncio.get_running_loop().time() - self._began)
        self._began = None

    def _look_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._due, self._timer = due, loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, now = None, loop.time()
        if self._began is None or self._was_long:
            return
        if self._began + self._after_s > now:
            self._look_at(loop, self._began + self._after_s)
        elif now - self._due > _AWAY_S:  # the machine slept: its store did, too
            self._look_at(loop, now + self._after_s)
        else:
            self._was_long = True
            text = (
                f"the store has not answered for {self._after_s:g} s: nothing is decided until it does; look at its "
                "disk, or at the server and the standby that its commits wait for"
            )
            log.critical("store_silent text=%s", text)
            self._alarm("store_silent", text)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until something happens, or a time has passed."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _close(opening: asyncio.Future[ExitStore]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _hear(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("stop_failed error=%s", error)


__all__ = ["ANSWER_S", "BEAT_S", "LOOK_S", "Opening", "Ownership", "Watchdog"]
