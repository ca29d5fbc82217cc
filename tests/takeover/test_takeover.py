"""Takeovers with real processes: how long they take, and that nothing is sold twice or lost meanwhile.

`EXITFSM_DEEP=1` tries a hundred of them, and runs three machines and two accounts for `EXITFSM_TAKEOVER_S` seconds
(an hour when not given); both print the times.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from cluster import FAULTS, Cluster, cluster, setting

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
deep = pytest.mark.skipif("EXITFSM_DEEP" not in os.environ, reason="takes minutes: set EXITFSM_DEEP=1")
#: How long an owner may be silent, and how much longer a takeover may take: with opening, recovery and reconciliation.
AFTER_S, MORE_S = 4.0, 2.0


def tries(there: Cluster, kinds: list[str], rng: random.Random) -> list[tuple[str, float]]:
    """So many faults of the owner of the first account, and the seconds of each takeover."""
    taken: list[tuple[str, float]] = []
    for kind in kinds:
        there.ready()
        account = there.accounts[0]
        for took in there.fault(kind, there.owners[account], rng):
            taken.append((kind, took[1]))
            print(f"{len(taken):3} {kind:<9} {took[1]:.2f} s", flush=True)
    return taken


def show(taken: list[tuple[str, float]]) -> None:
    for kind in FAULTS:
        times = sorted(seconds for of, seconds in taken if of == kind)
        if times:
            print(f"{kind}: {len(times)} takeovers, {times[0]:.2f} to {times[-1]:.2f} s, half of them within "
                  f"{times[len(times) // 2]:.2f} s")  # fmt: skip


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=deep)])
@pytest.mark.timeout(3600)
def test_a_takeover_ends_in_time(count: int) -> None:
    rng = random.Random(count)
    with cluster(["one"], machines=2 if count < 10 else 3, after_s=AFTER_S) as there:
        taken = tries(there, [FAULTS[n % 3] for n in range(count)], rng)
        there.ready()
        there.rest()
        print(there.check())
    show(taken)
    assert len(taken) == count
    limit = AFTER_S + MORE_S + (0 if count >= 10 else MORE_S)  # beside all other tests on the machine
    late = [one for one in taken if one[1] > limit]
    assert late == []


@deep
@pytest.mark.timeout(0)
def test_three_machines_two_accounts_and_many_faults() -> None:
    seed, seconds = int(setting("EXITFSM_TAKEOVER_SEED", 1)), setting("EXITFSM_TAKEOVER_S", 3600)
    rng, taken = random.Random(seed), []
    with cluster(["one", "two"], machines=3, after_s=AFTER_S, seed=seed) as there:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            there.ready()
            time.sleep(rng.uniform(0, 3))
            there.listen()
            kind, number = rng.choice(FAULTS), rng.randrange(3)
            there.ready()
            for account, took in there.fault(kind, number, rng):
                taken.append((kind, took))
                print(f"{len(taken):3} {kind:<9} of machine {number}: {account} after {took:.2f} s", flush=True)
        there.ready()
        there.rest()
        print(there.check())
    show(taken)
    assert [one for one in taken if one[1] > AFTER_S + MORE_S] == []
