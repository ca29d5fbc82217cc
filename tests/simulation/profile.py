"""What kind of day it is: the broker's capabilities, the machines, the rules, the hours; all drawn from the seed.

What a broker declares is what the simulated venue does. Faults that no client can survive by nature at such a broker
are not drawn there, and docs/laboratory.md says which and why.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from exitfsm.ports import STOCKS, Capabilities, IdMemory
from exitfsm.values import Side
from simulation.faults import Faults

#: A broker that refuses repeated ids and oversized orders, and declares for how long fills may follow a cancel.
GOOD = Capabilities(
    ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, reduce_only=True, late_fills=True, late_fill_window_s=5
)
BROKERS: dict[str, Capabilities] = {
    "good": GOOD,
    "queues orders": replace(GOOD, queues_orders=True),
    "no late fills": replace(GOOD, late_fills=False, late_fill_window_s=0),
    "no guard": replace(GOOD, reduce_only=False),
    "no bound for late fills": replace(GOOD, late_fill_window_s=None),
    "shows open orders only": replace(GOOD, lookup_sees_closed=False),
    "forgets closed ids": replace(GOOD, ids_refused=IdMemory.OPEN_ORDERS),
    "forgets all ids": replace(GOOD, ids_refused=IdMemory.NEVER),
}
#: Days on which an exit can go through without a person are drawn more often.
#: Drawn only where asked for: after a reverse split it leaves something that cannot be sold.
OTHERS = {"whole shares": replace(GOOD, stocks=replace(STOCKS, qty_step=Decimal(1), qty_min=Decimal(1)))}
_OFTEN = ("good", "good", "good", "queues orders", "no late fills", "no guard", "forgets closed ids", "forgets all ids")
#: Orders that may be sent in a minute; on most days so few that exits wait for their turn.
BUDGETS = (3, 6, 12, 30, 60, 60, 10_000, 10_000, 10_000)
#: With so few orders in a minute so many symbols are traded at most, so that all come to their turn after the faults.
SYMBOLS_PER_ORDER = 6
Machines = Literal["one", "two processes", "two machines"]


class Profile(NamedTuple):
    """One day's surroundings.

    Attributes:
        broker: the name of its capabilities.
        lists_fills: the broker lists executions.
        machines: one process; two that share a store; two machines with a store each.
        plain: the broker's methods are called in threads.
        bot_watches: the bot names its positions itself instead of letting them be found.
        grain_s: the network and the venue move at multiples of this many seconds, so that much comes together.
        minutes: length of the session; the day ends earlier where `early` is set.
        config: what is configured.
    """

    broker: str
    lists_fills: bool
    machines: Machines
    plain: bool
    bot_watches: bool
    symbols: int
    minutes: int
    early: bool
    grain_s: float
    config: dict[str, Any]

    @property
    def tight(self) -> bool:
        """True where the request budget makes exits wait for their turn."""
        return int(self.config.get("live", {}).get("orders_per_minute", BUDGETS[-1])) < BUDGETS[-1]

    @property
    def lists_ids(self) -> bool:
        """True where the broker lists the ids of all orders: on every other day with one that shows ended orders."""
        return self.capabilities.lookup_sees_closed and self.symbols % 2 == 0

    @property
    def capabilities(self) -> Capabilities:
        """What the broker declares and does."""
        return (BROKERS | OTHERS)[self.broker]


def draw(rng: random.Random, symbols: int | None, minutes: int | None, broker: str | None) -> Profile:
    """A day's profile.

    Args:
        symbols, minutes, broker: fixed where given.
    """
    drawn = rng.choice((*BROKERS, *_OFTEN))
    machines: Machines = rng.choice(("one", "one", "one", "two processes", "two machines"))
    if machines == "two machines":
        machines, broker = ("two machines", "queues orders") if broker in (None, "queues orders") else ("one", broker)
    broker = broker or drawn
    config = _config(rng)
    most = SYMBOLS_PER_ORDER * config["live"]["orders_per_minute"]
    return Profile(
        broker=broker,
        lists_fills=machines == "two machines" or rng.random() < 0.75,
        machines=machines,
        plain=rng.random() < 0.5,
        bot_watches=rng.random() < 0.5,
        symbols=symbols or min(most, rng.randint(20, 48)),
        minutes=minutes or rng.randint(20, 40),
        early=rng.random() < 0.25,
        grain_s=rng.choice((0.0, 0.02, 0.1, 0.1, 0.25)),
        config=config,
    )


def draw_sides(rng: random.Random, symbols: list[str]) -> dict[str, Side]:
    """On which side each symbol is entered."""
    return {symbol: rng.choice((Side.LONG, Side.LONG, Side.SHORT)) for symbol in symbols}


def in_parts(rng: random.Random) -> list[dict[str, Any]]:
    """Targets that each sell a part; after the last one nothing is left, or a rest for the stops and the time."""
    first, second = rng.choice(((0.5, 1.5), (1, 2), (1.5, 4)))
    then = rng.choice(({}, {"then": {"stop": "entry"}}, {"then": {"stop": -0.5}}))
    shares = rng.choice(((50, 50), (50, 25), (30, 70), (25, 25)))
    return [{"at_pct": first, "sell_pct": shares[0], **then}, {"at_pct": second, "sell_pct": shares[1]}]


def _config(rng: random.Random) -> dict[str, Any]:
    return {
        "profit_taking": {"order_type": rng.choice(("market", "market", "limit"))},
        "trailing_stop": {"enabled": rng.random() < 0.3},
        "break_even": {"enabled": rng.random() < 0.2},
        "time_limit": {"enabled": rng.random() < 0.3, "max_seconds": rng.choice((150, 600))},
        "end_of_session": {"enabled": rng.random() < 0.3},
        "partial_fills": {"resubmit_delay_seconds": rng.choice((1, 5, 30))},
        "exit_cooldown_seconds": rng.choice((0, 2, 12)),
        "live": {
            "entry_id_prefix": rng.choice(("", "bot-")),
            "broker_timeout_seconds": rng.choice((5, 10)),
            "orders_per_minute": rng.choice(BUDGETS),
            "poll_seconds": rng.choice((5, 15)),
            "sync_seconds": rng.choice((30, 60)),
        },
    }


#: The faults that lose the record.
STORE_LOST = ("store lost", "store lost, look-ups out", "store damaged")


def limits(profile: Profile, faults: Faults) -> None:
    """Take away what no client can survive by nature at this day's broker.

    - A broker that forgets ids takes a repeated request as a second order (the model's N14, N15), and a store that
      loses commits can then repeat one: neither happens where ids are not refused for ever.
    - Where a broker neither lists executions nor guards what is held, a lost store loses the names of its orders, and
      one that is still on its way sells what was entered since. (One that guards refuses it beside another exit.)
    - Two machines know nothing of each other but what the broker's records show: there nothing is traded by hand,
      nothing is bought on top, and no order is refused, also not by a closed market: a refused order leaves no record,
      so that the other machine gives its number to an order of its own. Lists are never empty there: a position whose
      executions are not known is named by its price, with an alarm that says so, and otherwise on the other machine.
    """
    if profile.capabilities.stocks.qty_min > 0:
        faults.often("split", 0.02)  # for what it is asked for
    if profile.capabilities.ids_refused is not IdMemory.FOREVER:
        faults.never("request repeated", "power", *STORE_LOST)
    if not (profile.lists_fills or profile.capabilities.reduce_only):
        faults.never("power", *STORE_LOST)
    if profile.machines == "two machines":
        faults.never("more bought", "bought during an exit", "sold by hand", "closed by hand", "sold past zero")
        faults.never("split", "refused", "fill taken back", "list empty")
