"""What happens to an account on some days: its list is empty, splits meet exits, orders are refused for a while.

Each kind is on for a day or not, as its `Account` says, and drawn by a randomness of its own. What must follow is
judged by the oracle; what only these days can break is judged here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from exitfsm.errors import OrderRefused
from exitfsm.events import Event, OrderEnded
from exitfsm.values import Order
from simulation.faults import Faults
from simulation.instruments import is_pair
from simulation.loop import World
from simulation.trace import Trace
from simulation.venue import Venue

#: How long the list of positions stays empty, and how long it is right after that: an empty list proves nothing before
#: 300 s, and where nothing else says more, it does then.
EMPTY_S, RIGHT_S = (20.0, 150.0), 200.0
#: How likely it is, at each bar, that the list becomes empty; and that orders of a symbol are refused from now on.
EMPTY_CHANCE, REFUSED_CHANCE = 0.1, 0.5
#: How likely a split comes while an exit is on its way, and how soon it does.
SPLIT_CHANCE, SPLIT_S = 0.04, (0.0, 4.0)
#: How long orders are refused.
REFUSED_S = (10.0, 120.0)
#: Refusals that pass, and refusals that last: code, text and what the adapter says of it.
PASSES = (
    ("halted", "", None),
    ("maintenance", "", None),
    ("1021", "timestamp for this request is outside of the recvWindow", None),
    ("error", "trading is paused, try again later", None),
    ("not_just_now", "ask again", True),
)
LASTS = (
    ("delisted", "", None),
    ("insufficient_funds", "", None),
    ("error", "this account is restricted to liquidation", None),
    ("unheard_of", "no", False),
    ("halted", "for good", False),
)
#: The code of a refusal of which the adapter says that it passes: no order ends by it.
SAID_TO_PASS = "not_just_now"


class Refusing(NamedTuple):
    """Until when orders of a symbol are refused, and how."""

    until: float
    kind: str
    text: str
    passing: bool | None


class Happenings:
    """What happens to the account of one day.

    Args:
        empty, splits, refusals: what this day has.
        rng: for nothing but this.
        split: told of each symbol that was split.
        fail: told of what does not hold.
    """

    def __init__(
        self,
        world: World,
        venue: Venue,
        faults: Faults,
        trace: Trace,
        rng: random.Random,
        fail: Callable[[str, str], None],
    ) -> None:
        self._world, self._venue, self._faults, self._trace, self._rng = world, venue, faults, trace, rng
        self._fail = fail
        self.checks: Counter[str] = Counter()
        self.empty = self.splits = self.refusals = False
        self.on_split: Callable[[str], None] = lambda _: None
        self._empty_until = self._empty_again = 0.0
        self._refusing: dict[str, Refusing] = {}
        venue.refuses = self._refusal

    # --- lists that are empty -----------------------------------------------------------------------------------------

    def lists_nothing(self) -> bool:
        """True while the list of positions is empty, whatever is held."""
        is_empty = self._faults.on and self._world.time < self._empty_until
        if is_empty:
            self._faults.count("positions empty for a while")
        return is_empty

    # --- once a minute ------------------------------------------------------------------------------------------------

    def minute(self, symbols: Sequence[str]) -> None:
        """What may begin at a bar."""
        now, rng, faults = self._world.time, self._rng, self._faults
        begins = self.empty and now >= self._empty_again
        if begins and faults.drawn(rng, "positions become empty", EMPTY_CHANCE, 29):
            self._empty_until = now + rng.uniform(*EMPTY_S)
            self._empty_again = self._empty_until + RIGHT_S
        if self.refusals and rng.random() < REFUSED_CHANCE:
            passing = rng.random() < 0.6
            self._refusing[rng.choice(symbols)] = Refusing(
                now + rng.uniform(*REFUSED_S), *rng.choice(PASSES if passing else LASTS)
            )

    # --- orders that are refused --------------------------------------------------------------------------------------

    def _refusal(self, order: Order) -> OrderRefused | None:
        """Why the venue refuses an order of ours just now; None where it does not."""
        how = self._refusing.get(order.symbol)
        if how is None or not self._faults.on or self._world.time >= how.until:
            return None
        passes = how[1:] in PASSES
        self._faults.count("refused for a while" if passes else "refused for good")
        self._faults.seen(58 if passes else 8)
        self._trace("venue", f"refuses {order.client_order_id}: {how.kind} {how.text}")
        return OrderRefused(how.kind, how.text, how.passing)

    def committed(self, event: Event) -> None:
        """An event is durable."""
        if isinstance(event, OrderEnded):
            self.checks["I36"] += 1
        if isinstance(event, OrderEnded) and event.refusal == SAID_TO_PASS and event.how == "refused":
            self._fail("I36", f"{event.client_order_id} ended by a refusal that passes")

    # --- splits while an exit is on its way ---------------------------------------------------------------------------

    def exit_begins(self, symbol: str) -> None:
        """An exit was decided, or its order leaves: a split may come before it works, or while it does."""
        if self.splits and self._faults.drawn(self._rng, "split during an exit", SPLIT_CHANCE, 23, symbol):
            self._world.after(self._rng.uniform(*SPLIT_S), self._split, symbol)

    def _split(self, symbol: str) -> None:
        """Orders of before are canceled, as venues do; one that comes later is of the old unit."""
        venue, rng = self._venue, self._rng
        held = venue.held(symbol)
        if held == 0 or is_pair(symbol) or not venue.is_open or not venue.others_may_trade(symbol):
            return
        ratios = [Decimal(2), Decimal(4)]
        if held % 2 == 0 and venue.capabilities.reduce_only:
            ratios.append(Decimal("0.5"))  # at a venue that sells what is not held nobody could help it
        for booked in venue.working():
            if booked.order.symbol == symbol:
                venue.end_by_split(booked)
        venue.split(symbol, rng.choice(ratios))
        self._faults.count("split that meets an exit")
        self._trace("venue", f"splits {symbol}")
        self.on_split(symbol)
