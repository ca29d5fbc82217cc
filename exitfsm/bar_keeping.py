"""Keeping the bars that were looked at, beside the store: `record_bars: true`.

Rules of this room: what is told here is told on the event loop, and nothing waits for the disk there. A thread of its
own, which is not the writer's, opens the file and writes to it. When that fails or hangs, recording ends and that is
said, once; nothing else happens. No exit knows of any of this.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.outside import logger
from exitfsm.recorded_bars import BarRecorder, bars_path
from exitfsm.store import ExitStore
from exitfsm.values import Bar

log = logger("exitfsm")

#: Bars that may wait for a disk that is slow: some 20 MB. Beyond that it counts as one that hangs.
WAITING_MAX = 100_000
#: How long `close` waits for the last write.
CLOSE_WAIT_S = 2.0


class BarKeeper:
    """Keeps bars in the file of a store's bars. Everything but `_write` and `_close` runs on the event loop.

    Args:
        path: the file; made where there is none, and added to where there is one. None: no bars are kept.
        symbols: the symbols whose bars are kept from the first on; `keep` and `note` add to them.
    """

    def __init__(self, path: Path | None, symbols: Iterable[str]) -> None:
        self.path = path or Path()
        self._symbols = set(symbols)
        self._waiting: deque[tuple[Bar, datetime]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exitfsm-bars")
        self._recorder: BarRecorder | None = None
        self._writing: Future[None] | None = None
        self._failure: str | None = None
        self._over = self._is_idle = path is None

    def keep(self, symbols: Iterable[str]) -> None:
        """Keep all bars of these symbols from now on."""
        self._symbols.update(symbols)

    def note_held(self, bars: Sequence[Bar], received_at: datetime) -> list[Bar]:
        """Keep the bars whose symbol was ever held; returns the others."""
        if self._over:
            return []
        for bar in bars:
            if bar.symbol in self._symbols:
                self.note(bar, received_at)
        return [bar for bar in bars if bar.symbol not in self._symbols]

    def note(self, bar: Bar, received_at: datetime) -> None:
        """Keep a bar, sound or not, and from now on all bars of its symbol."""
        self._symbols.add(bar.symbol)
        if self._over:
            return
        if len(self._waiting) >= WAITING_MAX:
            self._fail(f"the disk does not take them, {len(self._waiting)} wait")
            return
        self._waiting.append((bar, received_at))

    def write(self) -> None:
        """Begin to write what waits, unless a write is under way."""
        if self._waiting and not self._over and (self._writing is None or self._writing.done()):
            self._writing = self._thread.submit(self._write)

    def failure(self) -> str | None:
        """Why recording has ended, said once; None when it goes on or when it has been said."""
        said, self._failure = self._failure, None
        return said

    async def close(self) -> None:
        """Write what waits and close the file; a disk that hangs is left to its fate."""
        if self._is_idle:
            return
        done = asyncio.wrap_future(self._thread.submit(self._close))
        await asyncio.wait([done], timeout=CLOSE_WAIT_S)
        if not done.done():
            done.cancel()
            log.error("bars_not_recorded file=%s error=the last write did not come back", self.path)
            self._thread.submit(self._close)  # should it come back after all, it leaves no file open
        self._thread.shutdown(wait=False)

    def _fail(self, why: str) -> None:
        self._over = True
        self._waiting.clear()
        self._failure = f"bars are no longer recorded in {self.path.name}: {why}"
        log.error("bars_not_recorded file=%s error=%s; recording ends", self.path, why)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._over:
            return
        try:
            if self._recorder is None:
                self._recorder = BarRecorder(self.path)
            with suppress(IndexError):  # nothing waits any more
                while True:
                    bar, received_at = self._waiting.popleft()
                    self._recorder.record(bar, received_at=received_at)
            self._recorder.flush()
        except StoreError as error:
            self._fail(str(error))
            return
        if self._recorder.failure is not None:
            self._fail(self._recorder.failure)

    def _close(self) -> None:
        if self._waiting:
            self._write()
        if self._recorder is not None:
            self._recorder.close()


def keeper_of(store: ExitStore, *, wanted: bool, chosen: str) -> BarKeeper:
    """Keeps bars, where that is wanted: in the file that was chosen, else beside the store's file."""
    path = bars_path(store, chosen) if wanted else None
    if wanted and path is None:
        log.warning("bars_not_recorded error=the store is no file: set bars: PATH to record them there")
    return BarKeeper(path, ())
