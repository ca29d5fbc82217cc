"""`AlpacaUpdates`: trade updates as execution reports, and a watch over the stream that brings them.

Alpaca's stream has no replay: what is said while nobody listens is gone, and a stream can be connected and mute for
hours. So the stream is never trusted alone. With each (re)subscription everything is reconciled; while there is no
subscription, and after executions were found that it did not tell, the account is polled until updates come again. Only
what a frame proves is passed on: one that is not understood makes its order be looked up.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from exitfsm import EXACT, BrokerError, ExecutionReport, logger
from exitfsm_alpaca import words
from exitfsm_alpaca.access import Access
from exitfsm_alpaca.broker import AlpacaBroker

if TYPE_CHECKING:
    from exitfsm_alpaca.streams import StreamThread

log = logger("exitfsm.alpaca")

#: Updates and orders that are remembered, to know doubles and stale ones.
REMEMBERED_MAX = 10_000
#: Pauses between attempts to reconcile, in seconds: doubled up to the longest.
RETRY_S, RETRY_MAX_S = 0.5, 15.0
_ZERO = Decimal(0)


class AlpacaUpdates:
    """Brings news of every order of the account.

    Args:
        access: keys and addresses.
        broker: asked when an update is not understood, and whether the stream tells everything.
        report: called with each report, plain or async; for example `manager.on_order_update`.
        sync: called to reconcile everything, for example `manager.sync`; called again until it does not raise.
        poll_s: time between reconciliations while the stream is not to be trusted.
        check_s: how often the stream is held against the account's executions.
        grace_s: how long an execution may be known without having been told.
        silence_s: how long it may take to connect before a person hears of it.

    Attributes:
        listening: the stream is subscribed.
        trusted: it is, and told whatever the account shows; once found mute, only with its next update.
        connections: how often it subscribed.
    """

    def __init__(
        self,
        access: Access,
        broker: AlpacaBroker,
        report: Callable[[ExecutionReport], Any],
        sync: Callable[[], Awaitable[Any]],
        *,
        poll_s: float = 5.0,
        check_s: float = 15.0,
        grace_s: float = 5.0,
        silence_s: float = 40.0,
    ) -> None:
        from exitfsm_alpaca import streams

        self._streams = streams
        self._access, self._broker, self._report, self._sync = access, broker, report, sync
        self._poll_s, self._check_s, self._grace_s, self._silence_s = poll_s, check_s, grace_s, silence_s
        self.listening = False
        self.trusted = False
        self.connections = 0
        self._frames: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._behind = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread: StreamThread | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._told: OrderedDict[str, Decimal] = OrderedDict()
        self._known: set[str] | None = None
        self._missed_since: float | None = None
        self._doubted = False

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and keep connected until `stop`. Returns at once; until it listens, the account is polled."""
        if self._tasks:
            return
        loop = asyncio.get_running_loop()

        def hear(frame: dict[str, Any]) -> None:
            with suppress(RuntimeError):  # the bot's loop is closed
                loop.call_soon_threadsafe(self._frames.put_nowait, frame)

        streams, name = self._streams, "exitfsm-alpaca-updates"
        self._thread = streams.StreamThread(lambda: streams.UpdatesStream(self._access, hear), name)
        for work in (self._read_frames, self._reconcile, self._watch):
            self._tasks.append(asyncio.create_task(_for_ever(work), name=name))
        self._thread.start()

    async def stop(self) -> None:
        """Disconnect. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.stop)
            self._thread = None
        self.listening = self.trusted = False

    async def __aenter__(self) -> AlpacaUpdates:
        """`async with AlpacaUpdates(...):` connects and disconnects."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- frames -------------------------------------------------------------------------------------------------------

    async def _read_frames(self) -> None:
        while True:
            frame = await self._frames.get()
            try:
                await self._on_frame(frame)
            except Exception as error:
                # A frame of any shape, and whoever hears of it, may fail: the next one must be read all the same.
                log.error("frame_failed error=%s", type(error).__name__)
                self._behind.set()

    async def _on_frame(self, frame: Mapping[str, Any]) -> None:
        data = frame.get("data")
        match frame.get("stream"):
            case "trade_updates" if isinstance(data, Mapping):
                self._doubted, self.trusted = False, self.listening
                await self._on_update(data)
            case "listening" if isinstance(data, Mapping) and "trade_updates" in (data.get("streams") or ()):
                self.listening, self.trusted = True, not self._doubted
                self.connections += 1
                self._known = self._missed_since = None
                log.info("stream_listening connections=%s", self.connections)
                self._behind.set()
            case "closed":
                if self.listening:
                    log.warning("stream_closed")
                self.listening = self.trusted = False
            case _:
                log.warning("frame_not_understood stream=%s", str(frame.get("stream"))[:40])
                self._behind.set()

    async def _on_update(self, data: Mapping[str, Any]) -> None:
        try:
            report = words.report_of_update(data)
        except BrokerError as error:
            log.warning("update_not_understood error=%s", error)
            await self._look_up(data)
            return
        if self._is_news(data, report):
            await self._pass_on(report)

    async def _look_up(self, data: Mapping[str, Any]) -> None:
        """The order's own record instead of an update that says nothing we know."""
        order = data.get("order")
        order_id = order.get("client_order_id") if isinstance(order, Mapping) else None
        try:
            report = await asyncio.to_thread(self._broker.order, order_id) if isinstance(order_id, str) else None
        except BrokerError as error:
            log.warning("look_up_failed error=%s", error)
            report = None
        if report is None:
            self._behind.set()
        else:
            await self._pass_on(report)

    def _is_news(self, data: Mapping[str, Any], report: ExecutionReport) -> bool:
        """False for a double, and for one that was overtaken: less was filled in it than is known already."""
        name = data.get("event_id") or data.get("execution_id")
        key = f"{name}/{data.get('event')}" if name else f"{report.broker_order_id}/{data.get('event')}/{report.at}"
        order, filled = report.broker_order_id or report.client_order_id, report.filled_qty or _ZERO
        known = self._told.get(order, _ZERO)
        if key in self._seen or (filled < known and not report.corrected and not report.status.terminal):
            return False
        _remember(self._seen, key, None)
        _remember(self._told, order, filled if report.corrected else max(filled, known))
        return True

    async def _pass_on(self, report: ExecutionReport) -> None:
        result = self._report(report)
        if inspect.isawaitable(result):
            await result

    # --- reconciling --------------------------------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        """Whenever something may have been missed: reconcile, until that succeeded."""
        pause = RETRY_S
        while True:
            await self._behind.wait()
            self._behind.clear()
            if self.listening and self._known is None:
                await self._hold_against_account()
            try:
                await self._sync()
            except Exception as error:
                # Whatever failed, the account has not been reconciled: it must be tried again.
                log.warning("sync_failed error=%s", type(error).__name__)
                self._behind.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX_S)
            else:
                pause = RETRY_S

    async def _watch(self) -> None:
        """Poll while the stream is not to be trusted, hold it against the account while it is, and keep it running."""
        loop = asyncio.get_running_loop()
        checked = loop.time()
        heard = loop.time()
        while True:
            await asyncio.sleep(min(self._poll_s, self._check_s))
            heard = loop.time() if self.listening else heard
            is_silent = loop.time() - heard >= self._silence_s
            text = "the stream of trade updates is not there: it does not come up, or is refused; the account is polled"
            self._broker.noticed.note("updates", text if is_silent else None)
            if self._thread is not None:
                self._thread.start()
            if not self.trusted:
                self._behind.set()
            if self.listening and loop.time() - checked >= self._check_s * 0.99:
                checked = loop.time()
                await self._hold_against_account()

    async def _hold_against_account(self) -> None:
        """Executions that the stream did not tell, some time after they were made, prove that it is mute."""
        connections = self.connections
        try:
            fills = await asyncio.to_thread(self._broker.fills, datetime.now(UTC) - timedelta(hours=1))
        except BrokerError as error:
            log.warning("stream_not_checked error=%s", error)
            return
        if connections != self.connections:
            return  # it connected anew meanwhile, and everything is reconciled
        if self._known is None:
            self._known = {fill.fill_id for fill in fills}
            return
        fresh: dict[str, Decimal] = {}
        for fill in fills:
            if fill.fill_id not in self._known and fill.broker_order_id is not None:
                fresh[fill.broker_order_id] = EXACT.add(fresh.get(fill.broker_order_id, _ZERO), fill.qty)
        if all(qty <= self._told.get(order, _ZERO) for order, qty in fresh.items()):
            self._known |= {fill.fill_id for fill in fills}
            self._missed_since = None
            return
        now = asyncio.get_running_loop().time()
        if self._missed_since is None:
            self._missed_since = now
        if now - self._missed_since >= self._grace_s:
            self._on_mute(set(fresh) - set(self._told))

    def _on_mute(self, orders: set[str]) -> None:
        log.error("stream_mute orders=%s", sorted(orders)[:5])
        self._missed_since = self._known = None
        self._doubted, self.trusted = True, False
        self._behind.set()
        if self._thread is not None:
            self._thread.reconnect()


def _remember(memory: OrderedDict[str, Any], key: str, value: Any) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED_MAX:
        memory.popitem(last=False)


async def _for_ever(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Log a crash of a task. `work` is called when the task runs: one that is canceled before leaves nothing behind."""
    try:
        await work()
    except Exception:
        log.exception("updates_crashed")
        raise


__all__ = ["AlpacaUpdates"]
