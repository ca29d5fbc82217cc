"""Events are read without reading their policies again; what comes out is what reading all the bytes gives."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm.events import Event, PolicyChanged, PositionOpened
from exitfsm.policy import ExitPolicy
from exitfsm.store.policies import Envelope, Policies
from exitfsm.values import Side

AT = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
ENCODE = msgspec.json.Encoder().encode
PLAIN = {cls: msgspec.json.Decoder(Envelope[cls]).decode for cls in (PositionOpened, PolicyChanged)}
#: Policies whose bytes differ in one place, and one of whose bytes lie in the other's.
POLICIES = [
    ExitPolicy(),
    replace(ExitPolicy(), exit_cooldown_seconds=61),
    replace(ExitPolicy(), exit_cooldown_seconds=610),
    replace(ExitPolicy(), enabled=False),
]
#: Text with what is looked for in it, also as it is stored.
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["policy", '"policy"', '"policy":{}', "\\", '"', '{"policy":1}']),
    st.sampled_from([ENCODE(p).decode() for p in POLICIES]),
)
policies = st.sampled_from(POLICIES)
changed = st.builds(PolicyChanged, policy=policies, at=st.just(AT), by=texts)
opened = st.builds(
    PositionOpened,
    **{"account": texts, "symbol": texts, "side": st.sampled_from(Side), "epoch": texts},
    **{"qty": st.sampled_from([Decimal(1), Decimal("0.3")]), "entry_price": st.just(Decimal(100))},
    **{"opened_at": st.just(AT), "policy": policies, "strategy_name": texts, "source": texts},
)
envelopes = st.builds(Envelope, st.integers(0, 2**62), texts, st.one_of(changed, opened))
#: What bytes are made of, for those that nobody wrote.
PIECES = [b'"policy"', b'"policy":', b"{}", b'"', b"\\", b",", b"}", b" ", b"null", b"\xff", *map(ENCODE, POLICIES)]


def read(decode, state: bytes) -> Envelope[Event] | None:
    try:
        return decode(state)
    except ValueError:
        return None


def same(events: Iterable[tuple[type[Event], bytes]]) -> list[Envelope[Event] | None]:
    """What both ways read of the same bytes, one event after the other."""
    reader, found = Policies(), []
    short = {cls: reader.decoder(cls) for cls in PLAIN}
    for cls, state in events:
        now, plainly = read(short[cls], state), read(PLAIN[cls], state)
        assert now == plainly
        assert (now is None) or ENCODE(now) == ENCODE(plainly)
        found.append(now)
    return found


@given(st.lists(envelopes, min_size=1, max_size=6))
def test_what_was_written_is_read_as_it_was(written: list[Envelope[Event]]) -> None:
    assert same((type(one.body), ENCODE(one)) for one in written) == written


@given(st.lists(envelopes, min_size=1, max_size=4), st.data())
def test_bytes_that_nobody_wrote_are_read_alike_or_refused_alike(written: list[Envelope[Event]], data) -> None:
    states = [(type(one.body), ENCODE(one)) for one in written]
    cls, state = data.draw(st.sampled_from(states))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.one_of(st.integers(0, len(state)), st.just(max(0, state.find(b'"policy"')))))
        gone = data.draw(st.integers(0, 12))
        state = state[:at] + data.draw(st.sampled_from(PIECES)) + state[at + gone :]
    same([*states, (cls, state), *states])


@pytest.mark.parametrize("by", ["policy", '"policy":{}', ENCODE(POLICIES[0]).decode()])
def test_text_that_looks_like_a_policy_is_text(by: str) -> None:
    one = Envelope(1, by, PolicyChanged(policy=POLICIES[0], at=AT, by=by))
    assert same([(PolicyChanged, ENCODE(one))] * 3) == [one] * 3


def test_a_second_key_counts_as_it_does_everywhere() -> None:
    state = ENCODE(Envelope(1, "bot", PolicyChanged(policy=POLICIES[0], at=AT)))
    twice = state[:-2] + b',"policy":' + ENCODE(POLICIES[3]) + b"}}"
    (_, last) = same([(PolicyChanged, state), (PolicyChanged, twice)])
    assert last is not None
    assert last.body.policy == POLICIES[3]


def test_equal_policies_are_one_object_and_few_are_kept() -> None:
    reader = Policies()
    decode = reader.decoder(PolicyChanged)
    bodies = [decode(ENCODE(Envelope(1, "bot", PolicyChanged(policy=p, at=AT)))).body for p in POLICIES * 2]
    assert all(a.policy is b.policy for a, b in zip(bodies[:4], bodies[4:], strict=True))
    for seconds in range(1, 1_100):
        decode(
            ENCODE(Envelope(1, "", PolicyChanged(policy=replace(ExitPolicy(), exit_cooldown_seconds=seconds), at=AT)))
        )
    assert len(reader._known) <= 1_000
