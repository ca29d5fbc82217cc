"""Events and the bytes that are stored of them, and the hash chain over these bytes.

Rules of this room: what is written here is read by every later version. Nothing is stored that would not read back as
exactly itself.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from typing import Any

import msgspec
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent

from exitfsm.errors import StoreError
from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS, UPCASTS, Event, Recorded, tag_of
from exitfsm.store.policies import Decode, Envelope, Policies

#: Hash of the chain before the first event.
GENESIS = bytes(32)
_NUL = rb"\u0000"
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # after a backslash that is one itself it is no NUL


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """An event as bytes, and as it reads back from them."""

    topic: str
    state: bytes
    event: Event


class EventMapper(Mapper[Any]):
    """`Recorded` events <-> stored bytes."""

    def __init__(self) -> None:
        super().__init__(transcoder=JSONTranscoder())  # the library wants one; the bytes are made here
        self._encode = msgspec.json.Encoder().encode
        self._topics: dict[type[Event], str] = {cls: tag_of(cls) for cls in (*POSITION_EVENTS, *ACCOUNT_EVENTS)}
        self._classes = {topic: cls for cls, topic in self._topics.items()}
        self._decoders: dict[str, Decode] = {}
        self._policies = Policies()

    def encode(self, at_ns: int, by: str, event: Event) -> Encoded:
        """An event as it is stored.

        Raises:
            StoreError: it would not read back as what it is (no event of ours, a missing or wrongly typed field), or
                some database cannot hold it (text with NUL).
        """
        topic = self._topics.get(type(event))
        if topic is None:
            raise StoreError(f"{type(event).__name__} is no event of this library: not stored")
        try:
            encode, decode = self._encode, self._decoders.get(topic) or self._decoder(topic)
            state = encode(Envelope(at_ns, by, event))
            decoded = decode(state)
            same = encode(decoded) == state
        except (TypeError, ValueError, OverflowError) as e:
            raise StoreError(f"{topic} cannot be stored: {e}") from e
        if not same:
            raise StoreError(f"{topic} cannot be stored: a field does not have its type")
        if _NUL in state and _ESCAPED_NUL.search(state):
            raise StoreError(f"{topic} cannot be stored: a text in it holds a NUL character, which databases refuse")
        return Encoded(topic, state, decoded.body)

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """The row of a `Recorded` event."""
        r: Recorded = domain_event
        encoded = self.encode(r.at_ns, r.by, r.event)
        return StoredEvent(r.stream_id, r.version, encoded.topic, encoded.state)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """The `Recorded` event of a row.

        Raises:
            StoreError: its name or its bytes are not understood.
        """
        s = stored_event
        return self.recorded(0, str(s.originator_id), s.originator_version, s.topic, s.state)

    def recorded(self, sequence: int, stream_id: str, version: int, topic: str, state: bytes) -> Recorded:
        """The `Recorded` event of a row that stands at `sequence`."""
        try:
            envelope = self._decoder(topic)(state)
        except ValueError as e:
            raise _unreadable(f"event {sequence}", topic, stream_id, e) from e
        return Recorded(
            stream_id=stream_id,
            version=version,
            at_ns=envelope.at,
            by=envelope.by,
            event=envelope.body,
            sequence=sequence,
        )

    def sort_into(self, streams: dict[str, list[Event]], rows: Iterable[tuple[str, str, bytes]]) -> None:
        """Append what happened to the list of its stream, for rows of (stream, topic, state).

        Raises:
            StoreError: the name or the bytes of an event are not understood.
        """
        decoders, stream_id, topic = self._decoders, "", ""
        try:
            for stream_id, topic, state in rows:
                decode = decoders.get(topic) or self._decoder(topic)
                streams[stream_id].append(decode(state).body)
        except ValueError as e:
            raise _unreadable("an event", topic, stream_id, e) from e

    def _decoder(self, topic: str) -> Decode:
        decode = self._decoders.get(topic)
        if decode is None:
            cls = self._classes.get(topic)
            decode = self._old_decoder(topic) if cls is None else self._decoder_of(cls)
            self._decoders[topic] = decode
        return decode

    def _decoder_of(self, cls: type[Event]) -> Decode:
        if "policy" in cls.__struct_fields__:
            return self._policies.decoder(cls)
        return msgspec.json.Decoder(Envelope[cls]).decode  # type: ignore[valid-type]  # a class from the table of events

    def _old_decoder(self, topic: str) -> Decode:
        """A decoder for an older version of an event: its fields are upcast, then read as those of the current one."""
        upcast, name = UPCASTS.get(topic), topic.rpartition(".")[0]
        current = next((t for t in self._classes if t.rpartition(".")[0] == name), None)
        if upcast is None or current is None:
            raise StoreError(f"the store holds {topic!r}, written by a newer version of exitfsm: upgrade exitfsm")
        decode_raw = msgspec.json.Decoder(Envelope[dict[str, Any]]).decode

        def decode(state: bytes) -> Envelope[Event]:
            raw = decode_raw(state)
            fields = upcast({key: value for key, value in raw.body.items() if key != "event"})
            return self._decoder(current)(self._encode(Envelope(raw.at, raw.by, {**fields, "event": current})))

        return decode


def _unreadable(which: str, topic: str, stream_id: str, why: ValueError) -> StoreError:
    return StoreError(f"{which} ({topic} of {stream_id!r}) cannot be read: {why}: see verify_chain()")


def chain_hash(previous: bytes, sequence: int, stored: tuple[str, int, str, bytes]) -> bytes:
    """The hash of the store up to and with this event: over the stored bytes, their lengths before them.

    Args:
        previous: the hash before it (`GENESIS` for the first).
        sequence: its place in the store.
        stored: stream, version, topic and state as they are stored.
    """
    stream_id, version, topic, state = stored
    return link(previous, sequence, version, stream_id.encode(), topic.encode(), state)


def link(previous: bytes, sequence: int, version: int, stream: bytes, topic: bytes, state: bytes) -> bytes:
    """The same of bytes as they lie in the store."""
    lengths = _LENGTHS(sequence, version, len(stream), len(topic), len(state))
    one = _SHA256.copy()  # a new one looks the algorithm up, which takes as long as the hashing
    one.update(b"".join((previous, lengths, stream, topic, state)))
    return one.digest()


_LENGTHS = struct.Struct(">QQIII").pack
_SHA256 = hashlib.sha256()
