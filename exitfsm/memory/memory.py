"""All that is remembered of positions and orders between two looks at the broker, and what is forgotten with them."""

from __future__ import annotations

from exitfsm.clocks import SteadyTime
from exitfsm.engine import Engine
from exitfsm.holdings.facts import Scope
from exitfsm.memory.jumps import Jumps
from exitfsm.memory.kept import Kept
from exitfsm.memory.orders import ALL, Orders
from exitfsm.memory.seen import Seen
from exitfsm.memory.sends import Sends
from exitfsm.memory.shown import Shown
from exitfsm.memory.waits import Waits
from exitfsm.position import Position

#: How often what is held is looked at for what nobody has announced, in seconds.
LOOK_EVERY_S = 13.0


class Memory:
    """What is remembered in one life of a shell.

    Args:
        engine: knows what is watched, and what the broker can do.
        time: the present.
        listed_by: as of `Orders`. `life_s`: as of `Sends`.
        scope: what of the account is ours.
    """

    def __init__(
        self, engine: Engine, time: SteadyTime, listed_by: float, scope: Scope = ALL, *, life_s: float = 105.0
    ) -> None:
        self.orders, self.sends = Orders(engine, listed_by, scope), Sends(time, life_s)
        self.shown, self.waits = Shown(), Waits(time, engine.broker)
        self.seen = Seen(LOOK_EVERY_S)
        self.jumps = Jumps()
        self.kept = Kept(time, engine.broker, self.orders.reported.of, scope)

    def forget(self, p: Position) -> None:
        """A position has ended."""
        for part in (self.shown, self.sends, self.waits, self.orders):
            part.forget(p)
