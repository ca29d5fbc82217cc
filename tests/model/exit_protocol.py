"""The exit protocol as a small machine of its own, and a checker that looks at every state it can come into.

A bot (or two) with a durable store, a wire that loses, delays and repeats, and a broker. Between two steps a bot may
crash. A request that was once sent may arrive late, again, or never; an answer may be lost; news of an order is a
snapshot that may come late, out of order, again, or never; the broker fills one unit at a time, rejects, expires.
Each `Variant` says how the bot and the broker behave; `check` finds the shortest way to a broken promise, if any:

    oversold      the broker's position is below zero
    double exit   two exit orders work at once
    lost exit     a store says that the exit is done, and something is still held

and counts the states from which neither an end nor an alarm can be reached. It knows nothing of this library. What a
store makes of what it hears (`intent`, `acknowledged`, `closed`, `looked_up`, `heard`) is also what the walks compare
the library with, step by step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

LIVE = ("live", "canceling")


@dataclass(frozen=True)
class Variant:
    """How the bot and the broker behave, and what may go wrong how often. The defaults are the protocol's.

    Attributes:
        intent_first: the intent is durable before the request is sent.
        ids: `attempt` names position and attempt; `fresh` is drawn at each send; `stored` is drawn once and kept in the
            intent; `position` names the position alone.
        on_timeout: `query`, `resend` the same id, or count the attempt as `failed`.
        on_not_found: `resend` the same id, raise an `alarm`, or count the attempt as `failed`.
        on_duplicate: `query`, or take it as `rejected`.
        next_after: the next attempt may follow the `record` of the end, the `request` to cancel, or its `acceptance`.
        closes_with: the quantity of the terminal `record`, or the `local` one.
        news: `monotone` figures and sticky ends, or `blind` overwriting.
        fills: `cumulative`, or the `sum` of what each piece of news adds.
        done: by our own `sum`, by the broker's `position`, or `strict`: both, else an alarm.
        size: `rest` of our own sum, the broker's `position`, or the `smaller`.
        first_looks: after a restart, an intent of unknown fate is looked up before it is sent.
        crash_loses: nothing, the `last` commit, or `all`.
        same_id_before: an earlier, closed order of the broker has the id of the first attempt.
        sees: a look-up finds `all` orders, or `open` ones only.
        has_news: the stream works.
        bots, stores: two bots share one store, or each has its own. `serial`: transactions of one store are serial.
        dedup: the broker refuses a known id `forever`, while the order is `open`, or `never`.
        reduce_only: it refuses an order for more than is held and not reserved.
        reads: the broker's position is `exact`, may lag one fill, may wrongly be zero, or both.
        late_fills: an order may fill after it was reported canceled.
        repeats: a request may be delivered more than once.
        qty, attempts, crashes, rejects, expiries, by_hand: bounds of what can happen; others sell `by_hand` units.
    """

    name: str
    intent_first: bool = True
    ids: str = "attempt"
    on_timeout: str = "query"
    on_not_found: str = "resend"
    on_duplicate: str = "query"
    next_after: str = "record"
    closes_with: str = "record"
    news: str = "monotone"
    fills: str = "cumulative"
    done: str = "sum"
    size: str = "rest"
    first_looks: bool = False
    crash_loses: str = ""
    same_id_before: bool = False
    sees: str = "all"
    has_news: bool = True
    bots: int = 1
    stores: int = 1
    serial: bool = True
    dedup: str = "forever"
    reduce_only: bool = False
    reads: str = "exact"
    late_fills: bool = False
    repeats: bool = True
    qty: int = 2
    attempts: int = 3
    crashes: int = 2
    rejects: int = 1
    expiries: int = 1
    by_hand: int = 0


#: Random ids that are drawn at most, and orders that the broker takes at most: bounds of the search.
DRAWN_MAX, BOOKED_MAX = 4, 6


class Order(NamedTuple):
    """An order in the broker's book, or a snapshot of one. Status: live, canceling, filled, canceled, rejected."""

    id: str
    qty: int
    cum: int
    status: str


class Request(NamedTuple):
    """What was sent: a submit, or with quantity 0 a cancel."""

    id: str
    qty: int


class Attempt(NamedTuple):
    """What a store knows of one attempt. Stage: intent, acked, over."""

    id: str
    qty: int
    stage: str
    cum: int


class Store(NamedTuple):
    """What is durable: the attempts, the verdict (nothing, done, alarm), the quantity, and the commit before."""

    attempts: tuple[Attempt, ...]
    verdict: str
    qty: int
    before: Store | None = None


class World(NamedTuple):
    """Everything. A bot is where its program stands, as a tuple; `was_held` is the position before the last fill."""

    held: int
    book: tuple[Order, ...]
    wire: frozenset[Request]
    news: frozenset[Order]
    stores: tuple[Store, ...]
    bots: tuple[tuple[Any, ...], ...]
    drawn: int
    crashes: int
    rejects: int
    expiries: int
    by_hand: int
    was_held: int


class Move(NamedTuple):
    """One step: who does what to what (`of`: an order's id, `more`: what else it takes), and the world after it."""

    who: str
    what: str
    of: str
    more: Any
    world: World

    def __str__(self) -> str:
        return f"{self.who}: {self.what} {self.of} {'' if self.more is None else self.more}".rstrip()


def beginning(v: Variant) -> World:
    """The world before anything happened."""
    before = (Order("P1", v.qty, v.qty, "filled"),) if v.same_id_before else ()
    stores = tuple(Store((), "", v.qty) for _ in range(v.stores))
    bots = tuple(("decide",) for _ in range(v.bots))
    return World(v.qty, before, frozenset(), frozenset(), stores, bots, 0, v.crashes, v.rejects, v.expiries,
                 v.by_hand, v.qty)  # fmt: skip


def found(book: tuple[Order, ...], order_id: str) -> Order | None:
    """The newest order of this id."""
    return next((o for o in reversed(book) if o.id == order_id), None)


# --- what a store makes of what it hears ------------------------------------------------------------------------------


def rest(store: Store) -> int:
    """What is still to sell by the records of our own orders."""
    return store.qty - sum(a.cum for a in store.attempts)


def verdict(v: Variant, store: Store, read: int) -> str | None:
    """`done`, `alarm`, or None: the next attempt is due, of the size that `size_of` says."""
    left = rest(store)
    if {"sum": left <= 0, "position": read <= 0, "strict": left <= 0 and read <= 0}[v.done]:
        return "done"
    if v.done == "strict" and (left <= 0 or read <= 0):
        return "alarm"
    return "alarm" if len(store.attempts) >= v.attempts or size_of(v, store, read) <= 0 else None


def size_of(v: Variant, store: Store, read: int) -> int:
    """What the next attempt sells."""
    left = rest(store)
    return {"rest": left, "position": read, "smaller": min(left, read)}[v.size]


def intent(store: Store, order_id: str, qty: int) -> Store:
    """The intent of the next attempt is durable."""
    return store._replace(attempts=(*store.attempts, Attempt(order_id, qty, "intent", 0)))


def put(store: Store, at: int, attempt: Attempt) -> Store:
    """Another attempt in the place of one."""
    return store._replace(attempts=(*store.attempts[:at], attempt, *store.attempts[at + 1 :]))


def closed(store: Store, at: int, cum: int) -> Store:
    """An attempt is over."""
    return put(store, at, store.attempts[at]._replace(stage="over", cum=cum))


def acknowledged(store: Store, at: int) -> Store:
    """The broker has the order."""
    return put(store, at, store.attempts[at]._replace(stage="acked"))


def looked_up(v: Variant, store: Store, at: int, record: Order) -> Store:
    """What the broker's record of an attempt means."""
    one = store.attempts[at]
    if record.status in LIVE:
        return put(store, at, one._replace(stage="acked", cum=max(one.cum, record.cum)))
    return closed(store, at, record.cum if v.closes_with == "record" else one.cum)


def heard(v: Variant, store: Store, at: int, snapshot: Order) -> Store:
    """What a piece of news means."""
    one = store.attempts[at]
    works = snapshot.status in LIVE
    if v.news == "blind":
        return put(store, at, one._replace(stage="acked" if works else "over", cum=snapshot.cum))
    if one.stage == "over":
        return store
    if v.fills == "sum":
        cum = min(one.cum + (1 if works or snapshot.status == "filled" else 0), one.qty)
        over = not works or cum >= one.qty
        return put(store, at, one._replace(stage="over" if over else "acked", cum=cum))
    if works:
        return put(store, at, one._replace(stage="acked", cum=max(one.cum, snapshot.cum)))
    return closed(store, at, min(snapshot.cum if v.closes_with == "record" else max(one.cum, snapshot.cum), one.qty))


# --- the broker -------------------------------------------------------------------------------------------------------


def answers_to_submit(v: Variant, w: World, request: Request) -> Iterator[tuple[str, World]]:
    """What the broker may answer to a submit, and its books then: accepted, rejected, duplicate, refused."""
    known = [o for o in w.book if o.id == request.id]
    if (v.dedup == "forever" and known) or (v.dedup == "open" and any(o.status in LIVE for o in known)):
        yield "duplicate", w
        return
    if len(w.book) >= BOOKED_MAX:
        return
    reserved = sum(o.qty - o.cum for o in w.book if o.status in LIVE)
    if v.reduce_only and request.qty > w.held - reserved:
        yield "refused", w  # the id is not used up
        return
    yield "accepted", w._replace(book=(*w.book, Order(request.id, request.qty, 0, "live")))
    if w.rejects:
        order = Order(request.id, request.qty, 0, "rejected")
        yield "rejected", w._replace(book=(*w.book, order), rejects=w.rejects - 1, news=w.news | {order})


def broker_moves(v: Variant, w: World) -> Iterator[Move]:
    """What the broker, the wire and people may do next."""
    for request in w.wire:
        there = w if v.repeats else w._replace(wire=w.wire - {request})
        if request.qty:
            for answer, after in answers_to_submit(v, there, request):
                if after != there or not v.repeats:
                    yield Move("broker", f"submit {answer}, answer lost", request.id, request.qty, after)
                for i, bot in enumerate(w.bots):
                    if bot[0] == "submitting" and bot[1] == request.id:
                        bots = _with(w.bots, i, ("answered", answer, bot[1], bot[2], bot[3]))
                        yield Move("broker", f"submit {answer}", request.id, request.qty, after._replace(bots=bots))
            continue
        order = found(w.book, request.id)
        taken = order is not None and order.status == "live"
        book = tuple(o._replace(status="canceling") if o.id == request.id and o.status == "live" else o for o in w.book)
        answer = "accepted" if taken else "refused"
        if taken or not v.repeats:
            yield Move("broker", f"cancel {answer}, answer lost", request.id, None, there._replace(book=book))
        for i, bot in enumerate(w.bots):
            if bot[0] == "canceling" and bot[1] == request.id:
                bots = _with(w.bots, i, ("cancel answered", answer, bot[1], bot[2]))
                yield Move("broker", f"cancel {answer}", request.id, None, there._replace(book=book, bots=bots))
    for i, order in enumerate(w.book):
        yield from _order_moves(v, w, i, order)
    reserved = sum(o.qty - o.cum for o in w.book if o.status in LIVE)
    if w.by_hand and w.held > 0 and not (v.reduce_only and w.held - reserved < 1):
        yield Move("people", "sell one", "", None, w._replace(held=w.held - 1, was_held=w.held, by_hand=w.by_hand - 1))


def _order_moves(v: Variant, w: World, i: int, order: Order) -> Iterator[Move]:
    def now(what: str, changed: Order, **others: Any) -> Move:
        book = (*w.book[:i], changed, *w.book[i + 1 :])
        return Move("broker", what, order.id, changed.cum, w._replace(book=book, news=w.news | {changed}, **others))

    if order.status in LIVE:
        cum = order.cum + 1
        filled = order._replace(cum=cum, status="filled" if cum == order.qty else order.status)
        yield now("fill", filled, held=w.held - 1, was_held=w.held)
    if order.status == "canceling":
        yield now("canceled", order._replace(status="canceled"))
    if order.status == "live" and w.expiries:
        yield now("expired", order._replace(status="canceled"), expiries=w.expiries - 1)
    if v.late_fills and order.status == "canceled" and order.cum < order.qty:
        yield now("late fill", order._replace(cum=order.cum + 1), held=w.held - 1, was_held=w.held)


def _with(items: tuple[Any, ...], i: int, item: Any) -> tuple[Any, ...]:
    return (*items[:i], item, *items[i + 1 :])


# --- the bot ----------------------------------------------------------------------------------------------------------


def bot_moves(v: Variant, w: World, i: int) -> Iterator[Move]:
    """What a bot may do next, crash included."""
    bot, which = w.bots[i], i if v.stores > 1 else 0
    store, name = w.stores[which], f"bot {i}"

    def go(what: str, then: tuple[Any, ...], kept: Store | None = None, *, of: str = "", more: Any = None,
           **others: Any) -> Move:  # fmt: skip
        changed = w._replace(bots=_with(w.bots, i, then), **others)
        if kept is not None:
            before = Store(*store[:3]) if v.crash_loses == "last" else None
            changed = changed._replace(stores=_with(w.stores, which, kept._replace(before=before)))
        return Move(name, what, of, more, changed)

    if w.crashes and bot[0] != "end":
        yield from _crashes(v, w, i, which)
    match bot:
        case ("recover",):
            last = store.attempts[-1] if store.attempts else None
            if not store.verdict and last is not None and last.stage == "intent":
                yield go("look first", ("looking", last.id, len(store.attempts) - 1), of=last.id)
            else:
                yield go("recovered", ("decide",))
        case ("decide",):
            yield from _decide(v, w, store, go)
        case ("writing", attempts):
            yield go("write blindly", ("decide",), store._replace(attempts=attempts))
        case ("submitting", order_id, _, at):
            yield go("submit timed out", *_timed_out(v, store, order_id, at), of=order_id)
        case ("answered", answer, order_id, qty, at):
            yield from _answered(v, store, go, answer, order_id, qty, at)
        case ("looking", order_id, at):
            record = found(w.book, order_id)
            if v.sees == "open" and record is not None and record.status not in LIVE:
                record = None
            yield go("look up", ("looked", record, order_id, at), of=order_id, more=record)
        case ("looked", record, order_id, at):
            yield from _looked(v, store, go, record, order_id, at)
        case ("canceling", order_id, at):
            if v.next_after == "request" and store.attempts[at].stage != "over":
                yield go("cancel sent, so over", ("decide",), closed(store, at, store.attempts[at].cum), of=order_id)
            else:
                yield go("cancel timed out", ("looking", order_id, at), of=order_id)
        case ("cancel answered", answer, order_id, at):
            if v.next_after == "acceptance" and answer == "accepted" and store.attempts[at].stage != "over":
                yield go("cancel accepted, so over", ("decide",), closed(store, at, store.attempts[at].cum))
            else:
                yield go("cancel was answered", ("looking", order_id, at), of=order_id)
    if v.has_news and bot[0] in ("decide", "submitting", "canceling", "looking") and not store.verdict:
        for snapshot in w.news:
            for at, one in enumerate(store.attempts):
                after = heard(v, store, at, snapshot) if one.id == snapshot.id else store
                if after != store:
                    yield go("hear", bot, after, of=snapshot.id, more=snapshot)


def _crashes(v: Variant, w: World, i: int, which: int) -> Iterator[Move]:
    bots = _with(w.bots, i, ("recover",) if v.first_looks else ("decide",))
    after = w._replace(bots=bots, crashes=w.crashes - 1)
    yield Move(f"bot {i}", "crash", "", None, after)
    store = w.stores[which]
    if v.crash_loses == "last" and store.before is not None:
        kept = store.before._replace(before=None)
        yield Move(
            f"bot {i}", "crash, newest commit lost", "", None, after._replace(stores=_with(w.stores, which, kept))
        )
    if v.crash_loses == "all":
        kept = Store((), "", w.held)
        yield Move(f"bot {i}", "crash, store lost", "", None, after._replace(stores=_with(w.stores, which, kept)))


def _decide(v: Variant, w: World, store: Store, go: Any) -> Iterator[Move]:
    if store.verdict:
        yield go("stop", ("end",))
        return
    last, at = (store.attempts[-1] if store.attempts else None), len(store.attempts) - 1
    if last is None or last.stage == "over":
        reads = {w.held} | ({w.was_held} if "lag" in v.reads else set()) | ({0} if "zero" in v.reads else set())
        for read in reads:
            yield from _next(v, w, store, go, read)
    elif last.stage == "intent":
        order_id, drawn = last.id, w.drawn
        if v.ids == "fresh":
            if drawn >= DRAWN_MAX:
                return
            drawn += 1
            order_id = f"U{drawn}"
        wire = w.wire | {Request(order_id, last.qty)}
        yield go("submit", ("submitting", order_id, last.qty, at), of=order_id, more=last.qty, wire=wire, drawn=drawn)
    else:
        yield go("poll", ("looking", last.id, at), of=last.id)
        wire = w.wire | {Request(last.id, 0)}
        yield go("cancel", ("canceling", last.id, at), of=last.id, wire=wire)


def _next(v: Variant, w: World, store: Store, go: Any, read: int) -> Iterator[Move]:
    """Nothing of ours works: done, alarm, or the next attempt."""
    said = verdict(v, store, read)
    if said is not None:
        yield go(f"commit {said}", ("decide",), store._replace(verdict=said), more=read)
        return
    size, drawn = size_of(v, store, read), w.drawn
    order_id = f"P{len(store.attempts) + 1}" if v.ids == "attempt" else "P"
    if v.ids in ("fresh", "stored"):
        if drawn >= DRAWN_MAX:
            return
        drawn += 1
        order_id = f"U{drawn}"
    after = intent(store, order_id, size)
    if not v.intent_first:
        wire = w.wire | {Request(order_id, size)}
        yield go("submit before the intent", ("submitting", order_id, size, -1), of=order_id, wire=wire, drawn=drawn)
    elif v.serial:
        yield go("commit intent", ("decide",), after, of=order_id, more=(read, size), drawn=drawn)
    else:
        yield go("read, will write", ("writing", after.attempts), of=order_id, drawn=drawn)


def _timed_out(v: Variant, store: Store, order_id: str, at: int) -> tuple[tuple[Any, ...], Store | None]:
    if v.on_timeout == "query":
        return (("looking", order_id, at) if at >= 0 else ("decide",)), None
    if v.on_timeout == "failed" and 0 <= at < len(store.attempts):
        return ("decide",), closed(store, at, 0)
    return ("decide",), None


def _answered(v: Variant, store: Store, go: Any, answer: str, order_id: str, qty: int, at: int) -> Iterator[Move]:
    if at < 0:  # it was sent before anything was kept
        one = Attempt(order_id, qty, "acked", 0)
        kept = store._replace(attempts=(*store.attempts, one)) if answer == "accepted" else None
        yield go(f"hear answer {answer}", ("decide",), kept)
    elif at >= len(store.attempts) or store.attempts[at].stage == "over" or store.verdict:
        yield go("answer comes too late", ("decide",), of=order_id, more=answer)
    elif answer == "accepted":
        yield go("hear answer", ("decide",), acknowledged(store, at), of=order_id, more=answer)
    elif answer == "duplicate" and v.on_duplicate == "query":
        yield go("hear answer", ("looking", order_id, at), of=order_id, more=answer)
    else:
        cum = 0 if answer == "duplicate" else store.attempts[at].cum
        yield go("hear answer", ("decide",), closed(store, at, cum), of=order_id, more=answer)


def _looked(v: Variant, store: Store, go: Any, record: Order | None, order_id: str, at: int) -> Iterator[Move]:
    if at >= len(store.attempts) or store.verdict or store.attempts[at].stage == "over":
        yield go("record comes too late", ("decide",), of=order_id, more=record)
    elif record is not None:
        yield go("hear record", ("decide",), looked_up(v, store, at, record), of=order_id, more=record)
    elif v.on_not_found == "resend":
        yield go("hear record", ("decide",), of=order_id)
    elif v.on_not_found == "alarm":
        yield go("not found, alarm", ("decide",), store._replace(verdict="alarm"), of=order_id)
    else:
        yield go("not found, so failed", ("decide",), closed(store, at, 0), of=order_id)


def moves(v: Variant, w: World) -> Iterator[Move]:
    """Everything that may happen next."""
    yield from broker_moves(v, w)
    for i in range(v.bots):
        yield from bot_moves(v, w, i)


# --- the checker ------------------------------------------------------------------------------------------------------


def broken(w: World) -> str:
    """Which promise is broken; empty when none is."""
    if w.held < 0:
        return "oversold"
    if sum(o.status in LIVE for o in w.book) > 1:
        return "double exit"
    return "lost exit" if w.held > 0 and any(s.verdict == "done" for s in w.stores) else ""


def over(w: World) -> bool:
    """True when every store has its verdict and every bot has stopped."""
    return all(s.verdict for s in w.stores) and all(bot[0] == "end" for bot in w.bots)


class Found(NamedTuple):
    """What the checker found: states seen, the promise broken and the way there, and states with no way to an end."""

    states: int
    promise: str
    way: tuple[str, ...]
    stuck: int


def check(v: Variant) -> Found:
    """Look at every state, nearest first; stop at the first broken promise."""
    start = beginning(v)
    came: dict[World, tuple[World, Move] | None] = {start: None}
    back: dict[World, list[World]] = {}
    queue = deque([start])
    while queue:
        w = queue.popleft()
        promise = broken(w)
        if promise:
            return Found(len(came), promise, _way(came, w), 0)
        for move in moves(v, w):
            back.setdefault(move.world, []).append(w)
            if move.world not in came:
                came[move.world] = (w, move)
                queue.append(move.world)
    reach = {w for w in came if over(w)}
    todo = list(reach)
    while todo:
        for w in back.get(todo.pop(), ()):
            if w not in reach:
                reach.add(w)
                todo.append(w)
    return Found(len(came), "", (), len(came) - len(reach))


def _way(came: dict[World, tuple[World, Move] | None], w: World) -> tuple[str, ...]:
    way: list[str] = []
    while (step := came[w]) is not None:
        w, move = step
        way.append(str(move))
    return tuple(reversed(way))
