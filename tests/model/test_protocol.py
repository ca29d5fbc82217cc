"""Every variant of the protocol keeps its promises, and every naive one is caught, with the shortest way there.

Those with many states run with `EXITFSM_DEEP=1 pytest tests/model` only.
"""

from __future__ import annotations

import os

import pytest
from exit_protocol import Found, Variant, check

DEEP = bool(os.environ.get("EXITFSM_DEEP"))
V = Variant
CAREFUL = {"reduce_only": True, "by_hand": 1, "size": "smaller", "done": "strict", "crashes": 1}
TWO = {"bots": 2, "crashes": 1, "rejects": 0, "expiries": 1, "attempts": 2}

#: What must not be done: the promise that it breaks.
NAIVE = {
    V("sends before the intent is durable", intent_first=False, ids="fresh", on_timeout="resend"): "double exit",
    V("a fresh id at each send", ids="fresh", on_timeout="resend"): "double exit",
    V("a time-out counts as a failed attempt", on_timeout="failed"): "double exit",
    V("not found counts as a failed attempt", on_not_found="failed"): "double exit",
    V("a duplicate id counts as a rejection", on_duplicate="rejected"): "double exit",
    V("the next attempt once the cancel was sent", next_after="request"): "double exit",
    V("the next attempt once the cancel was accepted", next_after="acceptance"): "double exit",
    V("an attempt closes with what was heard last", closes_with="local"): "oversold",
    V("news overwrite what is known", news="blind", qty=3, crashes=0, rejects=0): "oversold",
    V("fills are summed up", fills="sum"): "lost exit",
    V("sized by a position that is behind", size="position", reads="lag"): "oversold",
    V("done because the position says so", done="position", reads="zero"): "lost exit",
    V("one id for all attempts", ids="position"): "lost exit",
    V("the broker forgets closed ids, resent", dedup="open", repeats=False): "oversold",
    V("the broker knows no ids", dedup="never", repeats=False): "double exit",
    V("two bots, two stores, random ids", bots=2, stores=2, ids="fresh", crashes=0, rejects=0,
      expiries=0): "double exit",
    V("fills after a cancel, not waited for", late_fills=True): "oversold",
    V("fills after a cancel, reduce-only at the submit", late_fills=True, reduce_only=True, size="smaller",
      done="strict", crashes=1): "oversold",
    V("others sell, and no guard at the broker", by_hand=1): "oversold",
    V("the id does not name the position's epoch", same_id_before=True): "lost exit",
    V("random ids, newest commit lost", ids="stored", crash_loses="last", crashes=1, rejects=0,
      expiries=0): "double exit",
    V("the store is lost, done by our own sum", crash_loses="all", crashes=1): "lost exit",
}  # fmt: skip
NAIVE_LARGE = {
    V("a second bot comes late, done by our own sum", **TWO | {"expiries": 0}, stores=2, crash_loses="all",
      size="smaller"): "lost exit",
}  # fmt: skip
PROTOCOL = [
    V("the protocol"),
    V("closed ids are forgotten: look first, not found is an alarm", dedup="open", repeats=False,
      on_not_found="alarm", first_looks=True, crashes=1, rejects=0, attempts=2),
    V("fills after a cancel: one attempt, then an alarm", late_fills=True, attempts=1, done="strict"),
    V("look-ups see open orders only, no stream: not found is an alarm", sees="open", has_news=False,
      on_not_found="alarm"),
]  # fmt: skip
PROTOCOL_LARGE = [
    V("three units", qty=3, crashes=1),
    V("three units, many faults", qty=3, crashes=3, rejects=2, expiries=2),
    V("no look-up: the same id again", on_timeout="resend"),
    V("two bots, one store", **TWO),
    V("two bots, one store, rejects", **TWO | {"crashes": 0, "rejects": 1}),
    V("two bots, one store, blind writes", **TWO | {"crashes": 0}, serial=False),
    V("two bots, two stores", **TWO | {"crashes": 0}, stores=2),
    V("two bots, two stores, the second comes late", **TWO | {"expiries": 0}, stores=2, crash_loses="all",
      done="strict", size="smaller"),
    V("others sell, reduce-only", **CAREFUL),
    V("others sell, reduce-only, the position lags or is wrongly zero", **CAREFUL, reads="lag zero"),
    V("closed ids are forgotten, reduce-only", dedup="open", repeats=False, reduce_only=True, crashes=1, rejects=0,
      attempts=2),
    V("the newest commit may be lost", crash_loses="last", done="strict"),
    V("the store may be lost", crash_loses="all", crashes=1, done="strict", size="smaller"),
    V("a restart looks first", first_looks=True),
    V("random ids in the intent, durable commits", ids="stored"),
    V("no stream", has_news=False),
]  # fmt: skip
large = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEEP, reason="many states: set EXITFSM_DEEP=1"),
]


def _caught(found: Found, promise: str) -> None:
    assert found.promise == promise
    assert found.way
    print("\n".join(found.way))


def _holds(found: Found) -> None:
    assert not found.promise, "\n".join(found.way)
    assert found.stuck == 0
    assert found.states > 1000


@pytest.mark.parametrize(("variant", "promise"), NAIVE.items(), ids=lambda v: getattr(v, "name", ""))
def test_a_naive_variant_is_caught(variant: Variant, promise: str) -> None:
    _caught(check(variant), promise)


@pytest.mark.parametrize("variant", PROTOCOL, ids=lambda v: v.name)
def test_the_protocol_keeps_its_promises(variant: Variant) -> None:
    _holds(check(variant))


def test_a_protocol_that_can_never_end_is_seen_to_be_stuck() -> None:
    found = check(V("look-ups see open orders only, and no stream", sees="open", has_news=False))
    assert not found.promise
    assert found.stuck > 0


@pytest.mark.parametrize(
    ("variant", "promise"),
    [pytest.param(v, p, marks=large, id=v.name) for v, p in NAIVE_LARGE.items()],
)
def test_a_naive_variant_with_many_states_is_caught(variant: Variant, promise: str) -> None:
    _caught(check(variant), promise)


@pytest.mark.parametrize("variant", [pytest.param(v, marks=large, id=v.name) for v in PROTOCOL_LARGE])
def test_the_protocol_keeps_its_promises_in_many_states(variant: Variant) -> None:
    _holds(check(variant))
