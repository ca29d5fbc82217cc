"""Verify: does everything that a store says about itself hold?

Rules of this room: it reads, from one moment's state, in constant memory, and changes nothing. It goes on after what it
finds, so that one run shows all there is. Nothing that lies in the file can make it fail: what cannot be read is found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec

from exitfsm.audit.anchors import Anchor
from exitfsm.audit.invariants import INVARIANTS, Invariants
from exitfsm.errors import IllegalTransition, StoreError
from exitfsm.events import ACCOUNT_EVENTS, AlarmAcknowledged, AlarmRaised, Event, PositionOpened, Recorded
from exitfsm.lifecycle import LOOKUP, NOTHING
from exitfsm.position import Position, account_in, evolve
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.store import ExitStore, checking
from exitfsm.store.checking import GENESIS, Rebuilt, Stored

#: Told now and then: how many steps are done, of how many.
Progress = Callable[[int, int], None]
_EVERY = 1000
_ON_ACCOUNT: tuple[type[Event], ...] = (*ACCOUNT_EVENTS, AlarmRaised, AlarmAcknowledged)
#: What figures lead to that nobody ever appended.
_UNTRUE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Finding(msgspec.Struct, frozen=True):
    """Something that does not hold.

    Attributes:
        position_id: the stream that it is about; None when it is about the store.
        event: the number of the event in its stream; where `position_id` is None, its place in the store. None when it
            is about no single event.
        what: what is wrong, in a line.
    """

    position_id: str | None
    event: int | None
    what: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a verification: `chain_head` is the hash (hex) of the newest event, 64 zeros when there is none."""

    positions: int
    events: int
    chain_head: str
    findings: list[Finding]
    anchors: int = 0

    @property
    def ok(self) -> bool:
        """True when nothing was found."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "ok": self.ok,
            "positions": self.positions,
            "events": self.events,
            "chain_head": self.chain_head,
            "findings": [msgspec.structs.asdict(finding) for finding in self.findings],
        }


def verify(
    store: ExitStore | str | os.PathLike[str], *, anchors: Iterable[Anchor] = (), progress: Progress | None = None
) -> Verification:
    """Check a store whole: its file, its hash chain, each stream's lifecycle and invariants, and its read models.

    Args:
        store: a store, or the path of one, which is then opened to be read only. A store that is in use by this process
            is held up meanwhile: give the path instead.
        anchors: heads that were noted elsewhere; what the store held then must still be there.
        progress: told now and then.

    Raises:
        StoreError: the path is no store, or cannot be opened. A store whose file is damaged is a finding, however much
            of it is left.
    """
    with ExitStack() as stack:
        try:
            opened = store if isinstance(store, ExitStore) else stack.enter_context(ExitStore(store, read_only=True))
            stack.enter_context(checking.snapshot(opened))
        except StoreError as error:
            if not checking.is_damage(error):
                raise
            found = [Finding(None, None, f"it cannot be read at all: {error}")]
            return Verification(positions=0, events=0, chain_head=GENESIS.hex(), findings=found)
        return _Run(opened, list(anchors), progress).result()


class _Run:
    """One verification: once over all events in commit order, once stream by stream."""

    def __init__(self, store: ExitStore, anchors: list[Anchor], progress: Progress | None) -> None:
        self._store, self._anchors, self._progress = store, anchors, progress
        self._findings: list[Finding] = []
        self._done = self._total = 0
        self._positions = self._events = 0
        self._head = GENESIS
        self._account: str | None = None

    def result(self) -> Verification:
        """Everything."""
        for check in (self._check_file, self._check_log, self._check_streams):
            try:
                check()
            except StoreError as error:
                self._find(None, None, f"cannot be read on: {error}")
        return Verification(
            positions=self._positions,
            events=self._events,
            chain_head=self._head.hex(),
            findings=self._findings,
            anchors=len(self._anchors),
        )

    def _find(self, stream: str | None, event: int | None, what: str) -> None:
        self._findings.append(Finding(stream, event, what))

    def _step(self) -> None:
        self._done += 1
        if self._progress is not None and self._done % _EVERY == 0:
            self._progress(self._done, max(self._total, self._done))

    def _check_file(self) -> None:
        self._total = 2 * self._store.count()
        for what in checking.damage(self._store):
            self._find(None, None, what)

    # --- in commit order: the chain, the anchors, the read models -----------------------------------------------------

    def _check_log(self) -> None:
        wanted: dict[int, list[Anchor]] = {}
        for one in self._anchors:
            wanted.setdefault(one.sequence, []).append(one)
        self._check_anchors(wanted.pop(0, []), GENESIS)
        with checking.rebuilding(self._store) as rebuilt:
            whole, expected = True, 1
            for event in checking.stored(self._store):
                self._check_link(event, expected)
                expected = event.sequence + 1
                self._check_anchors(wanted.pop(event.sequence, []), self._head)
                whole = whole and self._rebuild(rebuilt, event)
                self._events += 1
                self._step()
            for one in (one for anchors in wanted.values() for one in anchors):
                self._find(None, one.sequence, f"{_said(one)} is not there: the log was cut off or rewritten")
            if whole:
                for difference in rebuilt.differences():
                    self._find(difference.stream_id, None, f"not what the events make it: {difference.what}")

    def _check_link(self, event: Stored, expected: int) -> None:
        """The event is the one that was stored, and follows the one before it."""
        if event.sequence < expected:
            self._find(event.stream_id, event.version, f"event {event.sequence} of the log stands before the first")
        elif event.sequence > expected:
            last = event.sequence - 1
            which = f"event {expected} is" if last == expected else f"events {expected} to {last} are"
            self._find(None, expected, f"{which} missing from the log")
        elif event.unsound:
            self._find(event.stream_id, event.version, f"event {event.sequence} of the log: {event.unsound}")
        elif not event.follows(self._head):
            what = "it is not the one that was stored, or does not follow the one before it (hash chain)"
            self._find(event.stream_id, event.version, f"event {event.sequence} of the log: {what}")
        # What follows is held against the hash that was stored, so that one change is one finding.
        self._head = event.hash or GENESIS

    def _check_anchors(self, anchors: Iterable[Anchor], head: bytes) -> None:
        for one in anchors:
            if one.hash != head.hex():
                what = f"{_said(one)} has another hash: the log up to there was rewritten, or is that of another store"
                self._find(None, one.sequence, what)

    def _rebuild(self, rebuilt: Rebuilt, event: Stored) -> bool:
        """Fold the event into the read models; False when that cannot be gone on with (the streams say why)."""
        try:
            rebuilt.add(checking.read(self._store, event))
        except (StoreError, *_UNTRUE) as error:
            what = f"the read models cannot be checked from here on: {error}"
            self._find(event.stream_id, event.version, what)
            return False
        return True

    # --- stream by stream: the lifecycle, the invariants --------------------------------------------------------------

    def _check_streams(self) -> None:
        stream: _Stream | None = None
        self._account = self._store.meta.get("account")
        for event in checking.stored(self._store, by_stream=True):
            if stream is None or stream.stream_id != event.stream_id:
                self._end(stream)
                stream = _Stream(event.stream_id)
                self._positions += not stream.of_account
                bound = f"{ACCOUNT_PREFIX}{self._account}"
                if stream.of_account and self._account is not None and stream.stream_id != bound:
                    self._find(stream.stream_id, None, f"the store is bound to another account, {self._account}")
            for what in self._check_event(stream, event):
                self._find(event.stream_id, event.version, what)
            self._step()
        self._end(stream)

    def _end(self, stream: _Stream | None) -> None:
        if stream is not None:
            for violation in stream.invariants.finish():
                self._find(stream.stream_id, violation.version, _named(violation.invariant, violation.what))

    def _check_event(self, stream: _Stream, event: Stored) -> Iterator[str]:
        yield from stream.place(event)
        try:
            recorded = checking.read(self._store, event)
        except (StoreError, *_UNTRUE) as error:
            yield f"it cannot be read: {error}"
            return
        yield from stream.fold(recorded)
        opened = recorded.event
        if isinstance(opened, PositionOpened) and self._account not in (None, account_in(opened.account)):
            yield f"the position is of account {opened.account}, but the store is bound to {self._account}"


class _Stream:
    """One stream, event by event."""

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.of_account = stream_id.startswith(ACCOUNT_PREFIX)
        self.invariants = Invariants()
        self._position: Position | None = None
        self._version = self._sequence = 0

    def place(self, event: Stored) -> Iterator[str]:
        """Versions have no gap, and are in the order of the log."""
        if event.version != self._version + 1:
            yield f"version {event.version} follows version {self._version}: events are missing, or were moved"
        if event.sequence <= self._sequence:
            yield f"it stands before version {self._version} in the log: events were moved"
        self._version, self._sequence = event.version, event.sequence

    def fold(self, recorded: Recorded) -> Iterator[str]:
        """The event is a row of the lifecycle, and every invariant holds."""
        event, before = recorded.event, self._position
        if self.of_account:
            if not isinstance(event, _ON_ACCOUNT):
                yield f"{type(event).__name__} on the account's stream"
            return
        state = before.state if before is not None else None
        if (state, type(event)) not in LOOKUP:
            yield f"no transition for {type(event).__name__} in state {str(state or NOTHING)!r}"
        try:
            after = self._position = evolve(before, event)
            violations = self.invariants.check(before, recorded, after)
        except IllegalTransition:
            return  # said above: the stream does not begin with PositionOpened
        except _UNTRUE as error:
            yield f"its figures cannot be true: {type(error).__name__}: {error}"
            return
        if before is None and not isinstance(event, PositionOpened):
            return
        for violation in violations:
            yield _named(violation.invariant, violation.what)


def _named(invariant: str, what: str) -> str:
    return f"{invariant} ({INVARIANTS[invariant]}): {what}"


def _said(one: Anchor) -> str:
    where = f" of line {one.line}" if one.line else ""
    when = f", noted at {one.anchored_at}," if one.anchored_at else ""
    return f"the anchor{where} at event {one.sequence}{when}"
