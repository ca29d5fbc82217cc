"""Anchors: the head of the hash chain, written down where whoever can write the store cannot.

A chain in a file shows that an event was changed by somebody who could not recompute the rest. Whoever can write the
whole file can make a new chain, or cut off its end. Against both helps only a head that was noted elsewhere: what the
store held then must still be there, byte for byte.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from exitfsm.errors import StoreError
from exitfsm.store import ExitStore
from exitfsm.values import stamp

_SIZE_MAX = 1 << 24  # bytes in a file: some hundred thousand anchors


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """What a store held at some moment: its newest event's place and hash (hex).

    Attributes:
        sequence: how many events there were; 0 when there were none.
        hash: the hash of the chain up to and with that event, 64 hex digits.
        anchored_at: when it was noted, as text; for people, it proves nothing by itself.
        line: where it stands in its file, from 1; 0 when it comes from none.
    """

    sequence: int
    hash: str
    anchored_at: str = ""
    line: int = 0

    def as_json(self) -> str:
        """One line of JSON, without the line break."""
        return json.dumps({"anchored_at": self.anchored_at, "sequence": self.sequence, "hash": self.hash})


def anchor(store: ExitStore, at: datetime) -> Anchor:
    """The head of a store as it is now, to be kept elsewhere.

    Args:
        at: the present time.

    Raises:
        StoreError: the chain does not hold, so that its head would witness nothing.
    """
    broken = store.verify_chain()
    if broken is not None:
        raise StoreError(f"the hash chain does not hold at event {broken}: run exitfsm verify; nothing was anchored")
    sequence, head = store.chain_head()
    return Anchor(sequence=sequence, hash=head, anchored_at=stamp(at))


def read_anchors(path: str | os.PathLike[str]) -> list[Anchor]:
    """The anchors of a file, one JSON object on a line; blank lines are skipped.

    Raises:
        StoreError: it cannot be read, holds none, or a line is no anchor; the text names the line.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_SIZE_MAX + 1)
        if len(data) > _SIZE_MAX:
            raise StoreError(f"{os.fspath(path)} is larger than {_SIZE_MAX} bytes: this is no file of anchors")
        lines = data.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read the anchors in {os.fspath(path)}: {error}") from error
    found = _anchors(lines, os.fspath(path))
    if not found:
        raise StoreError(f"{os.fspath(path)} holds no anchor; make one with: exitfsm anchor STORE >> {os.fspath(path)}")
    return found


def _anchors(lines: Iterable[str], name: str) -> list[Anchor]:
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=Anchor)
        except (msgspec.MsgspecError, RecursionError) as error:
            why = error if isinstance(error, msgspec.MsgspecError) else "it is nested too deeply"
            raise StoreError(f"{name}:{number}: no anchor: {why}") from error
        if one.sequence < 0 or len(one.hash) != 64 or set(one.hash) - set("0123456789abcdef"):
            raise StoreError(f"{name}:{number}: no anchor: a sequence from 0 and a hash of 64 hex digits are expected")
        found.append(msgspec.structs.replace(one, line=number))
    return found
