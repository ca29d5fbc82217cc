"""For any bars, and restarts with changed settings at any moment: as if each change were told to a running engine."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm import Bar, Engine, ExitStore
from exitfsm.config import ExitConfig
from exitfsm.events import StopMoved
from exitfsm.messages import ChangePolicy
from exitfsm.others.settings import CONFIGURATION, Settings
from exitfsm.policy import ExitPolicy
from exitfsm.testing.given import T0, opened, to_open
from exitfsm.values import Side

D = Decimal
P = ExitPolicy()
POLICIES = [
    replace(
        P, profit_taking=replace(P.profit_taking, enabled=False), trailing_stop=replace(P.trailing_stop, enabled=on)
    )
    for on in (True, False)
]
POLICIES += [
    replace(one, trailing_stop=replace(one.trailing_stop, trail_pct=D(pct)), stop_loss=replace(P.stop_loss, **stop))
    for one in POLICIES
    for pct, stop in ((D("0.5"), {"threshold_pct": D(4)}), (D(4), {"price": D(93)}), (D(2), {"enabled": False}))
]
POLICIES += [replace(P, break_even=replace(P.break_even, enabled=True)), replace(P, evaluate_on="range")]
STEPS = st.lists(st.one_of(st.decimals("94", "108", places=1), st.integers(0, len(POLICIES) - 1)), max_size=30)


class Run:
    """One engine after the other on one store, or one all the time."""

    def __init__(self, side: Side, *, restarts: bool) -> None:
        self.store, self.restarts, self.now = ExitStore(":memory:"), restarts, T0
        self.engine = Engine(self.store)
        self.stream = self.engine.open(to_open(opened(side, policy=POLICIES[0]))).position_id
        self.trails: list[Decimal | None] = []

    def bar(self, close: Decimal, at: datetime) -> None:
        self.engine.on_bar(Bar("AAPL", at, close, close + D("0.3"), close - D("0.3"), close))

    def change(self, to: ExitPolicy, at: datetime) -> None:
        before = self.engine.get(self.stream)
        if self.restarts:
            self.store.save_marks(self.engine.marks())
            self.engine = Engine(self.store)
            self.engine.load()
            config = ExitConfig(policy=to)
            Settings(self.engine, config, None, lambda: at, tells_hours=True).apply()
        else:
            self.engine.tell(self.stream, ChangePolicy(at=at, policy=to, who=CONFIGURATION))
        p = self.engine.get(self.stream)
        assert p is not None
        assert before is not None
        assert p.stops == before.stops, "a restart has moved a stop"

    def events(self) -> list[Any]:
        return [(one.version, one.at_ns, one.by, one.event) for one in self.store.stream(self.stream)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([Side.LONG, Side.SHORT]), STEPS)
def test_given_restarts_with_changed_settings_then_it_is_as_if_each_change_had_been_told(
    side: Side, steps: list[Any]
) -> None:
    restarted, live = Run(side, restarts=True), Run(side, restarts=False)
    for number, step in enumerate(steps, 1):
        at = T0 + timedelta(seconds=60 * number)
        for run in (restarted, live):
            if isinstance(step, int):
                run.change(POLICIES[step], at - timedelta(seconds=30))
            else:
                run.bar(step, at)
    assert restarted.events() == live.events()
    trail: Decimal | None = None
    for *_, event in restarted.events():
        if isinstance(event, StopMoved) and event.rule == "trailing_stop":
            assert trail is None or (event.stop - trail) * side.sign > 0
            trail = event.stop
    for run in (restarted, live):
        run.store.close()
