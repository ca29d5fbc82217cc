"""Small worlds in which the rules are tried: one account, one instrument, a truth, and an adversary that hides it.

The bot, its hands and a second bot trade; reads show a moment of the past, and are wrong for a while; executions come
late, twice, or not at all; exits fill in parts, end, and fill once more. A world is books for the shell of `keeping`,
and holds what that does against the truth:

OVERSOLD an exit took the account through zero. FOREIGN an exit sold what is not in scope. EXTERNAL more was called
closed by others than others had closed. UNWATCHED what can be sold is covered by nobody, without an alarm, for too
long. PHANTOM more is watched than held, likewise. UNIT the entry or the reference is of another unit at the end. STORM
too many orders or adoptions. STUCK at the end, quiet for long, not exactly watched.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from keeping import Keeper, Record

from exitfsm.holdings.facts import Failed, Instrument, Key, Read, Scope, Watched
from exitfsm.values import ZERO, BrokerPosition, Fill, OrderSide, Side

QUIET_AT, END, LATE_FILL, STEP = 150, 420, 5, 10
D = Decimal


class Violated(Exception):
    """The truth was violated."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a world is like."""

    name: str
    hedge: bool = False
    reduce_only: bool = False
    lists: bool = True
    late: int = 8
    lag: int = 6
    twice: float = 0.0
    wrong: str = ""  # empty, missing, failing, frozen
    wrong_s: int = 50
    alone: bool = False
    accounts: bool = False
    rows: bool = False
    fee: bool = False
    split: float = 0.0
    average_times: int = 1
    by_ids: bool = False
    foreign: float = 0.0
    hands: bool = True
    reverse: float = 0.1
    lost: float = 0.0
    machines: int = 1
    bots: int = 1


class Venue(msgspec.Struct):
    """An exit order at the venue."""

    key: Key
    way: int
    qty: Decimal
    owner: str
    cum: Decimal = ZERO
    ended: float | None = None
    refused: bool = False


class World:
    """The truth of one run, and the books that show it."""

    def __init__(self, profile: Profile, seed: int) -> None:
        self.profile, self.rng, self.t = profile, random.Random(f"{profile.name} {seed}"), 0
        sides = (Side.LONG, Side.SHORT) if profile.hedge else (None,)
        self.keys = [Key("A", "AAPL", side) for side in sides]
        self.held = dict.fromkeys(self.keys, ZERO)
        self.average = dict.fromkeys(self.keys, ZERO)
        self.ours = {bot: dict.fromkeys(self.keys, ZERO) for bot in ("bot", "two")}
        self.closed_by_others = {bot: dict.fromkeys(self.keys, ZERO) for bot in ("bot", "two")}
        self.called = {bot: dict.fromkeys(self.keys, ZERO) for bot in ("bot", "two")}
        self.price, self.fills, self.orders, self.past = D(100), [], {}, []
        self.openings = self.restarts = self.traded = 0
        self.bad, self.was_split, self.by_hand = (-1, -1), False, -99
        self.keepers = [Judged(self, "bot") for _ in range(profile.machines)]
        self.keepers += [Judged(self, "two") for _ in range(profile.bots - 1)]
        self.plan = sorted(self.planned())

    # --- the truth ----------------------------------------------------------------------------------------------------

    def way(self, key: Key) -> int:
        return 1 if key.side is not None else (self.held[key] > 0) - (self.held[key] < 0)

    def trade(self, key: Key, qty: Decimal, order_id: str, who: str) -> None:
        """Signed as the holding is."""
        before = self.held[key]
        got = qty - max(D(1), qty // 100) if self.profile.fee and qty > 0 and not order_id.startswith("xf1") else qty
        after = before + got
        if after and (not before or (before > 0) != (after > 0)):
            self.average[key] = self.price
        elif abs(after) > abs(before):
            self.average[key] = (abs(before) * self.average[key] + abs(got) * self.price) / abs(after)
        closing = min(abs(got), abs(before)) if before * got < 0 else ZERO
        self.openings += bool(after) and (before * after <= 0 or abs(before) < STEP)
        self.held[key] = after
        self.share(key, got, closing, order_id, who)
        self.list_fill(key, got, order_id, who)

    def share(self, key: Key, got: Decimal, closing: Decimal, order_id: str, who: str) -> None:
        ours_exit = order_id.startswith("xf1")
        if not self.profile.by_ids:
            self.ours["bot"][key] = self.held[key]
            self.closed_by_others["bot"][key] += ZERO if ours_exit else closing
            return
        for bot in ("bot", "two")[: self.profile.bots]:
            before = self.ours[bot][key]
            mine = before + got if who == bot else before
            if who == bot and not ours_exit and before * got < 0:
                self.closed_by_others[bot][key] += min(abs(got), abs(before))
            kept = max(ZERO, min(mine, self.held[key])) if mine > 0 else mine
            self.closed_by_others[bot][key] += mine - kept
            self.ours[bot][key] = kept

    def list_fill(self, key: Key, got: Decimal, order_id: str, who: str) -> None:
        self.traded += 1
        told = not order_id.startswith("xf1") and self.rng.random() < 0.5
        late = 0 if told else self.rng.randint(0, self.profile.late)
        opens = got > 0
        buys = opens if key.side is not Side.SHORT else not opens
        fill = Fill(
            fill_id=f"{self.traded}.01",
            symbol="AAPL",
            side=OrderSide.BUY if buys else OrderSide.SELL,
            qty=abs(got),
            price=self.price,
            at=datetime.fromtimestamp(self.t, UTC),
            client_order_id=order_id or f"{who}-{self.traded}",
            position_side=key.side,
        )
        self.fills.append((self.t + late, fill))
        if self.rng.random() < self.profile.twice:
            again = msgspec.structs.replace(fill, fill_id=f"{self.traded}.02")
            self.fills.append((self.t + late + self.rng.randint(0, 5), again))

    def fill(self, order_id: str, order: Venue, qty: Decimal) -> None:
        have = self.held[order.key] * order.way
        if self.profile.reduce_only and qty > have:
            qty = max(ZERO, have)
        if not qty:
            order.refused = order.ended is None
            order.ended = float(self.t) if order.ended is None else order.ended
            return
        if qty > have:
            raise Violated("OVERSOLD")
        if qty > self.ours[order.owner][order.key] * order.way:
            raise Violated("FOREIGN")
        order.cum += qty
        self.trade(order.key, -qty * order.way, order_id, order.owner)
        if order.cum >= order.qty and order.ended is None:
            order.ended = float(self.t)

    # --- the books ----------------------------------------------------------------------------------------------------

    def is_wrong(self, kind: str, at: int) -> bool:
        return self.profile.wrong == kind and self.bad[0] <= at <= self.bad[1]

    def read(self, begin: int, end: int) -> Read | Failed:
        if self.is_wrong("failing", end):
            return Failed(begin=begin, end=end)
        if self.is_wrong("empty", end):
            return Read(rows=(), begin=begin, end=end)
        seen = max(0, self.rng.randint(begin - self.profile.lag, end)) if self.profile.lag else end
        if self.is_wrong("frozen", end):
            seen = min(seen, self.bad[0])
        held, average = self.past[min(seen, len(self.past) - 1)]
        rows = [] if self.profile.alone else [self.row("ZZZ", Side.LONG, D(7), D(9))]
        for key in self.keys:
            if held[key] and not self.is_wrong("missing", end):
                rows += self.rows_of(key, held[key], average[key] * self.profile.average_times)
        if self.profile.accounts:
            other = self.row("AAPL", self.keys[0].side or Side.LONG, D(300), D(120), "B")
            rows.insert(self.rng.randint(0, len(rows)), other)
        return Read(rows=tuple(rows), begin=begin, end=end)

    def rows_of(self, key: Key, qty: Decimal, average: Decimal) -> list[BrokerPosition]:
        side = key.side or (Side.LONG if qty > 0 else Side.SHORT)
        if self.profile.rows and abs(qty) > 4:
            half = abs(qty) // 2
            return [self.row("AAPL", side, one, average) for one in (abs(qty) - half, half)]
        return [self.row("AAPL", side, abs(qty), average)]

    def row(self, symbol: str, side: Side, qty: Decimal, average: Decimal, account: str = "A") -> BrokerPosition:
        return BrokerPosition(symbol=symbol, side=side, qty=qty, avg_entry_price=average, account=account)

    def executions(self, end: int) -> tuple[Fill, ...] | None:
        return tuple(fill for seen, fill in self.fills if seen <= end) if self.profile.lists else None

    def order(self, order_id: str) -> Record | None:
        return self.orders.get(order_id)

    def exits(self, key: Key, prefix: str) -> list[tuple[str, Record]]:
        return [(one, o) for one, o in self.orders.items() if o.key == key and one.startswith(prefix)]

    def submit(self, order_id: str, key: Key, side: Side, qty: Decimal) -> None:
        way = 1 if key.side is not None or side is Side.LONG else -1
        owner = order_id.removeprefix("xf1")[:3]
        self.orders[order_id] = Venue(key, way, qty, owner)
        if qty % STEP:
            self.orders[order_id].ended = float(self.t - LATE_FILL - 1)

    def cancel(self, order_id: str) -> None:
        order = self.orders[order_id]
        order.ended = float(self.t) if order.ended is None else order.ended

    # --- the adversary ------------------------------------------------------------------------------------------------

    def planned(self) -> list[tuple[int, str]]:
        rng, profile = self.rng, self.profile
        first = rng.randint(0, 20)
        plan = [(first, "enter")]
        if profile.bots > 1:
            plan += [
                (first if rng.random() < 0.3 else rng.randint(0, 40), "foreign"),
                (rng.randint(50, QUIET_AT), "exit two"),
            ]
        elif rng.random() < profile.foreign:
            plan += [(0, "foreign"), (rng.randint(20, QUIET_AT), rng.choice(("foreign", "foreign sale")))]
        if profile.hedge:
            plan.append((rng.randint(5, 60), "enter other"))
        kinds = ["top"] + (["sell some", "sell all", "hand buys", "enter anew"] if profile.hands else [])
        plan += [(rng.randint(25, QUIET_AT), rng.choice(kinds)) for _ in range(rng.randint(0, 3))]
        if rng.random() < profile.reverse and not profile.hedge and not profile.by_ids and not profile.fee:
            plan.append((rng.randint(40, QUIET_AT), "reverse"))
        if rng.random() < profile.split:
            plan = [p for p in plan if p[0] < 40 or p[1] == "top"] + [(rng.randint(60, 110), "split")]
        if profile.wrong:
            begin = rng.randint(20, 100)
            self.bad = (begin, begin + rng.randint(5, profile.wrong_s)) if profile.wrong_s < 999 else (0, 999)
        if rng.random() < profile.lost:
            plan.append((rng.randint(30, QUIET_AT), "lose"))
        if rng.random() < 0.75 or profile.lost or profile.machines > 1:
            plan.append((rng.randint(30, QUIET_AT + 40), "exit"))
        return plan + ([(rng.randint(40, QUIET_AT), "cancel")] if rng.random() < 0.3 else [])

    def is_exiting(self) -> bool:
        since = self.t - LATE_FILL - self.profile.lag - 6
        if any(o.ended is None or o.ended >= since for o in self.orders.values()):
            return True
        return any(kept.want >= 0 for keeper in self.keepers for kept in keeper.kept.values())

    def act(self, what: str) -> None:
        guarded = self.profile.reduce_only and not self.profile.by_ids
        if (
            what in ("sell some", "sell all", "foreign sale", "enter anew", "reverse")
            and not guarded
            and self.is_exiting()
        ):
            return  # at a bare venue no client can help: hands do not sell beside an exit
        key = self.keys[-1] if what == "enter other" else self.keys[0]
        held, qty, way = self.held[key], D(self.rng.randint(3, 9) * 10), self.way(key) or 1
        soon = 2 * self.profile.lag + self.profile.late + 45
        if what.startswith("exit"):
            if not guarded and self.t - self.by_hand < soon:
                self.plan = sorted([*self.plan, (self.t + 20, what)])
                return
            self.decide_exits("two" if what == "exit two" else "bot")
        elif what in ("enter", "enter other"):
            short = not (self.profile.hedge or self.profile.fee or self.profile.by_ids) and self.rng.random() < 0.3
            self.trade(key, -qty if short else qty, "", "bot")
        elif what == "top" and held:
            self.trade(key, qty * way, "", "bot")
        elif what == "foreign":
            self.trade(key, qty * 3, "", "two")
        elif what == "lose":
            self.restarts += 1
            self.keepers[-1].forget(self.t)
        elif what == "cancel":
            for order_id in self.orders:
                self.cancel(order_id)
        elif held:
            self.act_by_hand(what, key, qty)

    def act_by_hand(self, what: str, key: Key, qty: Decimal) -> None:
        held, way = self.held[key], self.way(key)
        if what == "split":
            if not self.is_exiting():
                self.split(D(self.rng.choice(("2", "1.25", "5", "0.5"))))
            return
        self.by_hand = self.t if what != "hand buys" else self.by_hand
        if what == "hand buys" and not self.profile.fee:
            self.trade(key, qty * way, "", "hand")
        elif what == "sell some" and abs(held) >= 20 and not self.profile.fee:
            self.trade(key, -way * (abs(held) // 20 * 10), "", "hand")
        elif what in ("sell all", "enter anew"):
            whole = abs(held) // STEP * STEP  # where fees were kept of it, a residue stays
            self.trade(key, -way * whole if whole and self.profile.fee else -held, "", "hand")
            if what == "enter anew":
                self.trade(key, way * qty, "", "bot")
        elif what == "reverse":
            self.trade(key, -held - way * qty, "", "bot")
        elif what == "foreign sale" and held - self.ours["bot"][key] >= 20:
            self.trade(key, -((held - self.ours["bot"][key]) // 2), "", "two")

    def split(self, factor: Decimal) -> None:
        self.by_hand, self.was_split = self.t, True
        for key in self.keys:
            self.held[key] = D(int(self.held[key] * factor))
            self.ours["bot"][key] = D(int(self.ours["bot"][key] * factor))
            self.average[key] /= factor
        self.price /= factor

    def decide_exits(self, bot: str) -> None:
        for keeper in self.keepers:
            if keeper.bot == bot:
                for kept in keeper.kept.values():
                    kept.want = max(kept.want, self.t)

    # --- one run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        bare = phantom = 0
        for self.t in range(END):
            while self.plan and self.plan[0][0] <= self.t:
                self.act(self.plan.pop(0)[1])
            self.move_orders()
            self.past.append((dict(self.held), dict(self.average)))
            for keeper in self.keepers:
                keeper.tick()
            honest = not self.bad[0] <= self.t <= self.bad[1] + self.profile.lag or self.profile.wrong_s == 999
            under, over = self.compared()
            bare, phantom = (bare + honest) * under, (phantom + honest) * over
            bound = 60 + self.profile.lag + self.profile.late
            if bare > bound:
                raise Violated("UNWATCHED")
            if phantom > bound + (0 if self.profile.lists else 100):
                raise Violated("PHANTOM")
        self.judge_end()

    def move_orders(self) -> None:
        for order_id, order in list(self.orders.items()):
            if order.ended is None and self.rng.random() < 0.25:
                self.fill(order_id, order, min(order.qty - order.cum, D(self.rng.randint(1, 4) * 10)))
            elif self.may_fill_late(order) and self.rng.random() < 0.15:
                self.fill(order_id, order, min(order.qty - order.cum, D(10)))
            if order.ended is None and self.rng.random() < 0.02:
                order.ended = float(self.t)

    def may_fill_late(self, order: Venue) -> bool:
        return order.ended is not None and self.t <= order.ended + LATE_FILL and order.cum < order.qty

    def compared(self) -> tuple[bool, bool]:
        under = over = False
        for keeper in self.keepers:
            for key in self.keys:
                true, watched = abs(self.ours[keeper.bot][key]), keeper.covers(key)
                own = [o for o in self.orders.values() if o.key == key and o.owner == keeper.bot]
                if keeper.is_alarmed(key) or any(o.ended is None or self.t <= o.ended + LATE_FILL + 8 for o in own):
                    continue
                under, over = under or true - watched >= STEP, over or watched - true >= STEP
        return under, over

    def judge_end(self) -> None:
        for keeper in self.keepers:
            if keeper.standing:
                continue
            for key in self.keys:
                watched = keeper.watched(key)
                if abs(abs(self.ours[keeper.bot][key]) - keeper.covers(key)) >= STEP:
                    raise Violated("STUCK")
                if len(watched) == 1 and watched[0].left >= STEP and not self.profile.by_ids:
                    p = watched[0]
                    if abs(p.entry / self.average[key] - 1) > D("0.06") or abs(p.price / self.price - 1) > D("0.06"):
                        raise Violated("UNIT")


class Judged(Keeper):
    """The shell, held against the truth of its world."""

    def __init__(self, world: World, bot: str) -> None:
        profile = world.profile
        self.world, self.bot = world, bot
        instrument = Instrument(
            step=D(STEP),
            hedge=profile.hedge,
            reduce_only=profile.reduce_only,
            lag_s=profile.lag,
            executions_late_s=profile.late,
            late_fill_s=LATE_FILL,
            empty_s=90,
        )
        scope = Scope(ids=(bot,) if profile.by_ids else (), exit_prefix=f"xf1{bot}")
        super().__init__(world, instrument, world.keys, scope, world.rng)

    def covers(self, key: Key) -> Decimal:
        return sum((max(ZERO, p.left) for p in self.watched(key)), ZERO)

    def is_alarmed(self, key: Key) -> bool:
        return any(alarmed == key for _, alarmed in self.standing)

    def closed(self, p: Watched, key: Key, qty: Decimal, how: str) -> None:
        world = self.world
        if how == "other_exit" or qty < STEP:
            return
        world.called[self.bot][key] += qty
        slack = D(2 * STEP) if world.profile.fee else ZERO
        if not world.was_split and world.called[self.bot][key] > world.closed_by_others[self.bot][key] + slack:
            raise Violated("EXTERNAL")

    def adopted(self) -> None:
        if self.counts["adopt"] > self.world.openings + 2 + 2 * self.world.restarts:
            raise Violated("STORM")

    def sent(self) -> None:
        if self.counts["orders"] > 14:
            raise Violated("STORM")


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="plain"),
        Profile(name="exact", lag=0, late=0),
        Profile(name="slow", lag=20, late=30),
        Profile(name="no executions", lists=False),
        Profile(name="slow, no executions", lag=20, lists=False),
        Profile(name="no executions, alone", lists=False, alone=True),
        Profile(name="executions twice", twice=0.5),
        Profile(name="empty", wrong="empty"),
        Profile(name="empty, alone", wrong="empty", alone=True),
        Profile(name="empty, no executions", wrong="empty", lists=False),
        Profile(name="failing", wrong="failing"),
        Profile(name="frozen", wrong="frozen", hands=False, reverse=0, wrong_s=60),
        Profile(name="frozen, no executions", wrong="frozen", hands=False, reverse=0, wrong_s=60, lists=False),
        Profile(name="row missing", wrong="missing", wrong_s=24),
        Profile(name="rows and accounts", rows=True, accounts=True),
        Profile(name="hedge", hedge=True),
        Profile(name="hedge, reduce-only", hedge=True, reduce_only=True),
        Profile(name="reduce-only", reduce_only=True),
        Profile(name="by ids", by_ids=True, foreign=0.9),
        Profile(name="by ids, empty", by_ids=True, foreign=0.9, wrong="empty"),
        Profile(name="by ids, twice", by_ids=True, foreign=0.9, twice=0.4),
        Profile(name="two bots", by_ids=True, bots=2, hands=False),
        Profile(name="splits", split=0.8, hands=False, reverse=0),
        Profile(name="splits, no executions", split=0.8, hands=False, reverse=0, lists=False),
        Profile(name="fees", fee=True),
        Profile(name="average x 50", average_times=50),
        Profile(name="store lost", lost=0.9, hands=False, reverse=0),
        Profile(name="two machines", machines=2, hands=False, reverse=0),
        Profile(name="two machines, one store lost", machines=2, lost=0.9, hands=False, reverse=0),
        Profile(name="reversals", reverse=1.0, hands=False),
        Profile(name="never shown", wrong="missing", wrong_s=999, hands=False),
    )
}


def violations(name: str, seeds: range) -> tuple[Counter[str], list[int], Counter[str]]:
    """Runs of one profile: the violations, their seeds, and what was concluded."""
    found, where, counts = Counter[str](), list[int](), Counter[str]()
    for seed in seeds:
        world = World(PROFILES[name], seed)
        try:
            world.run()
        except Violated as violation:
            found[str(violation)] += 1
            where.append(seed)
        for keeper in world.keepers:
            counts.update(keeper.counts)
            counts.update({f"! {kind}": n for kind, n in keeper.ever.items()})
    return found, where, counts
