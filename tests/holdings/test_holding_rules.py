"""What holds of the rules whatever the books say, and single rows of their tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm.holdings.facts import (
    Adopted,
    Change,
    ClosedBy,
    Concluded,
    Evidence,
    Failed,
    Flat,
    Instrument,
    Key,
    Memory,
    Needed,
    Placed,
    Raise,
    Read,
    Reported,
    Resized,
    Run,
    Scope,
    Shrink,
    Unit,
    Watched,
)
from exitfsm.holdings.leaving import Blocked, Leaving, Send, Wait, Working, may_send
from exitfsm.holdings.rows import (
    Expected,
    Said,
    Shown,
    Silent,
    both_sides,
    expect,
    in_scope,
    is_residue,
    net,
    own_rows,
    scope_tag,
    sellable,
)
from exitfsm.holdings.trades import Trade, doubles_merged, name_of, origin, root_of, trades
from exitfsm.holdings.units import entry, unit
from exitfsm.holdings.weighing import at_most, weigh
from exitfsm.position import client_order_id
from exitfsm.values import ZERO, BrokerPosition, Fill, OrderSide, Side

D = Decimal
NEWS = (Adopted, ClosedBy, Resized, Unit, Raise, Shrink)
AAPL = Key("A", "AAPL")
NONE = Memory()
CAREFUL = Instrument(step=D(1), lag_s=5.0, executions_late_s=8.0)
OTHER = {Side.LONG: Side.SHORT, Side.SHORT: Side.LONG, OrderSide.BUY: OrderSide.SELL, OrderSide.SELL: OrderSide.BUY}


def row(
    qty: int, *, side: Side = Side.LONG, symbol: str = "AAPL", average: int = 100, account: str | None = "A"
) -> BrokerPosition:
    return BrokerPosition(symbol=symbol, side=side, qty=D(qty), avg_entry_price=D(average), account=account)


def fill(number: int, at: int, qty: int, *, price: int = 100, who: str = "web") -> Fill:
    """Bought where the quantity is positive."""
    return Fill(
        fill_id=f"{number}",
        symbol="AAPL",
        side=OrderSide.BUY if qty > 0 else OrderSide.SELL,
        qty=D(abs(qty)),
        price=D(price),
        at=datetime.fromtimestamp(at, UTC),
        client_order_id=f"{who}-{number}",
    )


def held(qty: int = 10, *, name: str = "p", orders: tuple[Placed, ...] = (), wanted: float | None = None) -> Watched:
    side = Side.LONG if qty > 0 else Side.SHORT
    return Watched(
        name=name, side=side, qty=D(abs(qty)), entry=D(100), opened=0.0, orders=orders, price=D(100), wanted=wanted
    )


def read(*rows: BrokerPosition, at: float = 1000.0, alone: bool = False) -> Read:
    others = () if alone else (row(7, symbol="ZZZ"),)
    return Read(rows=(*rows, *others), begin=at, end=at + 1)


def evidence(
    *rows: BrokerPosition, watched: Sequence[Watched] = (), fills: Sequence[Fill] | None = (), **fields: object
) -> Evidence:
    given: dict[str, object] = {
        "key": AAPL, "instrument": CAREFUL, "read": read(*rows), "watched": tuple(watched),
        "executions": tuple(fills) if fills is not None else None, "next_ids_known": True,
    }  # fmt: skip
    return Evidence(**{**given, **fields})  # type: ignore[arg-type]


def news(said: Sequence[Concluded]) -> list[Concluded]:
    return [one for one in said if isinstance(one, NEWS)]


def asked(e: Evidence, reads: int, every: float = 10.0, memory: Memory = NONE) -> tuple[list[Concluded], Memory]:
    """The same shown again and again, until something is concluded."""
    assert isinstance(e.read, Read)
    for number in range(reads):
        begin = e.read.begin + number * every
        said, memory = weigh(replace(e, read=replace(e.read, begin=begin, end=begin + 1)), memory)
        if news(said):
            return news(said), memory
    return [], memory


# --- whatever the books say -------------------------------------------------------------------------------------------

quantities = st.integers(-30, 30)
sides = st.sampled_from(Side)


@st.composite
def evidences(draw: st.DrawFn) -> tuple[Evidence, Memory]:
    """Any books of a holding in net mode, and any memory of it."""
    shown = draw(quantities)
    side = Side.LONG if shown >= 0 else Side.SHORT
    rows = [row(abs(shown), side=side, average=draw(st.sampled_from((100, 50, 101, 5000))))] if shown else []
    if shown and draw(st.booleans()):
        rows.append(row(draw(st.integers(1, 5)), side=side))
    watched = []
    for number in range(draw(st.integers(0, 2))):
        qty = draw(st.integers(1, 20))
        placed = draw(st.booleans())
        orders = (
            (
                Placed(
                    order_id=f"xf1-{number}",
                    qty=D(qty),
                    sent=float(draw(st.integers(900, 1000))),
                    cum=D(draw(st.integers(0, qty))),
                    ended=draw(st.sampled_from((None, 950.0))),
                    read=draw(st.sampled_from((940.0, 960.0))),
                ),
            )
            if placed
            else ()
        )
        wanted = 900.0 if placed else None
        watched.append(held(qty if side is Side.LONG else -qty, name=f"p{number}", orders=orders, wanted=wanted))
    fills = [
        fill(
            number,
            draw(st.integers(900, 1000)),
            draw(quantities.filter(bool)),
            who=draw(st.sampled_from(("web", "xf1", "bot"))),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    executions = draw(st.sampled_from((fills, None)))
    begin = 990.0
    memory = Memory(
        confirmed=draw(st.booleans()),
        run=draw(st.sampled_from((None, Run(D(shown), (D(10), D(10)), "ROW", 9, 800.0, 980.0)))),
        horizon=draw(st.sampled_from((float("-inf"), 930.0))),
        changes=draw(st.sampled_from(((), (Change(D(5), 980.0),), (Change(D(-5), 995.0),)))),
    )
    e = evidence(*rows, watched=watched, fills=executions, read=Read(
        rows=(*rows, row(7, symbol="ZZZ")), begin=begin, end=begin + draw(st.integers(1, 3)),
    ), price=D(100), next_ids_known=draw(st.booleans()))  # fmt: skip
    return e, memory


@given(evidences(), st.booleans())
def test_the_same_read_concludes_nothing_twice(drawn: tuple[Evidence, Memory], by_ids: bool) -> None:
    e, memory = drawn
    e = replace(e, scope=Scope(ids=("bot",)) if by_ids else Scope())
    _, after = weigh(e, memory)
    again, _ = weigh(e, after)
    assert news(again) == []


@given(evidences(), st.randoms(), st.booleans())
def test_the_order_of_rows_and_executions_is_irrelevant(
    drawn: tuple[Evidence, Memory], rng: object, by_ids: bool
) -> None:
    e, memory = drawn
    e = replace(e, scope=Scope(ids=("bot",)) if by_ids else Scope())
    assert isinstance(e.read, Read)
    rows, fills = list(e.read.rows), list(e.executions) if e.executions is not None else None
    rng.shuffle(rows)  # type: ignore[attr-defined]
    if fills is not None:
        rng.shuffle(fills)  # type: ignore[attr-defined]
    shuffled = replace(e, read=replace(e.read, rows=tuple(rows)), executions=None if fills is None else tuple(fills))
    assert weigh(shuffled, memory) == weigh(e, memory)


def mirrored(e: Evidence, memory: Memory) -> tuple[Evidence, Memory]:
    """What is bought is sold, and the other way round."""
    assert isinstance(e.read, Read)
    rows = tuple(replace(r, side=OTHER[r.side]) if r.symbol == "AAPL" else r for r in e.read.rows)
    fills = tuple(replace(f, side=OTHER[f.side]) for f in e.executions) if e.executions is not None else None
    watched = tuple(replace(p, side=OTHER[p.side]) for p in e.watched)
    run = memory.run
    if run is not None:
        run = Run(-run.qty, (-run.expected[1], -run.expected[0]), run.said, run.reads, run.first, run.last)
    changes = tuple(Change(-c.qty, c.at) for c in memory.changes)
    return (
        replace(e, read=replace(e.read, rows=rows), executions=fills, watched=watched),
        replace(memory, run=run, changes=changes),
    )


@given(evidences())
def test_a_short_position_is_the_mirror_of_a_long_one(drawn: tuple[Evidence, Memory]) -> None:
    e, memory = drawn
    said, _ = weigh(e, memory)
    other, _ = weigh(*mirrored(e, memory))
    assert [shape(one) for one in said] == [shape(one) for one in other]


def shape(one: Concluded) -> tuple[object, ...]:
    """A conclusion without its side, its name, and its figures in words."""
    if isinstance(one, Raise):
        return (type(one), one.kind)
    fields = msgspec.structs.asdict(one)
    return (type(one), *(value for name, value in fields.items() if name not in ("side", "name")))


@given(evidences())
def test_what_is_not_in_scope_changes_nothing(drawn: tuple[Evidence, Memory]) -> None:
    e, memory = drawn
    assert isinstance(e.read, Read)
    noise = (row(300, account="B"), row(5, symbol="MSFT", side=Side.SHORT))
    foreign = (replace(fill(1, 995, 1), symbol="MSFT"), replace(fill(9, 995, 9), account="B"))
    more = replace(
        e,
        read=replace(e.read, rows=(*noise, *e.read.rows)),
        executions=(*foreign, *e.executions) if e.executions is not None else None,
    )
    assert weigh(more, memory) == weigh(e, memory)


@given(evidences())
def test_a_symbol_that_is_ignored_is_never_looked_at(drawn: tuple[Evidence, Memory]) -> None:
    e, memory = drawn
    assert weigh(replace(e, scope=Scope(ignore=frozenset({"AAPL"}))), memory) == ((), memory)


@given(evidences(), st.sampled_from(("failed", "unreadable", "empty")))
def test_no_answer_and_no_rows_conclude_nothing(drawn: tuple[Evidence, Memory], what: str) -> None:
    e, memory = drawn
    assert isinstance(e.read, Read)
    assume(e.executions is not None)
    nothing: Read | Failed = Failed(begin=e.read.begin, end=e.read.end)
    if what == "unreadable":
        nothing = replace(e.read, unreadable=frozenset({"AAPL"}))
    elif what == "empty":
        nothing = replace(e.read, rows=())
    said, _ = weigh(replace(e, read=nothing, executions=()), memory)
    allowed = (Raise,) if what == "empty" else (Raise, Needed)
    assert not any(isinstance(one, (ClosedBy, Adopted, Unit)) for one in said)
    assert any(isinstance(one, allowed) for one in said) or not e.watched or what == "empty"


@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 400))
def test_a_change_of_the_unit_keeps_the_value(qty: int, times: int, price: int) -> None:
    p = replace(held(qty), entry=D(price), price=D(price))
    e = evidence(
        replace(row(qty * times), avg_entry_price=D(price) / times), watched=[p], price=D(price) / times, fills=()
    )
    said, _ = asked(e, 3)
    (unit,) = said
    assert isinstance(unit, Unit)
    assert unit.left == qty * times
    assert abs(unit.left * unit.entry - qty * price) < D("0.000001")


@given(quantities, quantities, st.integers(0, 3))
def test_the_two_sides_of_a_hedge_never_see_each_other(long: int, short: int, reads: int) -> None:
    key, instrument = Key("A", "AAPL", Side.LONG), replace(CAREFUL, hedge=True)
    rows = [row(abs(long))] if long else []
    other = [row(abs(short), side=Side.SHORT)] if short else []
    fills = (replace(fill(1, 995, 5), position_side=Side.SHORT), replace(fill(2, 995, 3), position_side=Side.LONG))
    alone = evidence(*rows, key=key, instrument=instrument, fills=fills[1:])
    beside = evidence(*rows, *other, key=key, instrument=instrument, fills=fills)
    assert asked(beside, reads) == asked(alone, reads)


@given(st.integers(-20, 40), st.integers(1, 20), st.integers(0, 20), st.booleans(), st.integers(0, 20))
def test_no_order_is_larger_than_what_is_ours_and_there(
    shown: int, qty: int, cum: int, guarded: bool, free: int
) -> None:
    cum = min(cum, qty)
    order = Placed(order_id="xf1-1", qty=D(qty), cum=D(cum), sent=10.0, ended=20.0, read=30.0)
    p = held(qty, orders=(order,), wanted=5.0)
    side = Side.LONG if shown >= 0 else Side.SHORT
    rows = [replace(row(abs(shown), side=side), qty_available=D(free))] if shown else []
    permit = may_send(
        Leaving(
            key=AAPL, instrument=replace(CAREFUL, reduce_only=guarded), memory=Memory(), position=p, watched=(p,),
            read=read(*rows), now=1001.0,
        )
    )  # fmt: skip
    if isinstance(permit, Send):
        assert 0 < permit.qty <= p.left
        assert guarded or permit.qty <= min(shown, free)


# --- single rows ------------------------------------------------------------------------------------------------------


def test_rows_of_one_side_add_up_and_other_accounts_are_not_ours() -> None:
    shown = net(read(row(10, average=90), row(5, average=120), row(300, account="B")), AAPL)
    assert isinstance(shown, Shown)
    assert (shown.qty, shown.average, shown.said) == (15, 100, Said.ROW)


def test_a_row_without_an_account_is_ours_only_where_none_has_one() -> None:
    assert net(read(row(10, account=None), alone=True), AAPL) == net(read(row(10), alone=True), AAPL)
    mixed = net(read(row(10, account=None), row(3)), AAPL)
    assert isinstance(mixed, Shown)
    assert mixed.qty == 3


@pytest.mark.parametrize(
    ("rows", "ours", "shown", "unclear"),
    [
        ([row(10), row(5, symbol="MSFT")], "A", [("AAPL", 10, 100), ("MSFT", 5, 100)], set()),
        ([row(10, average=90), row(5, average=120)], "A", [("AAPL", 15, 100)], set()),
        ([row(10), row(30, account="B")], "A", [("AAPL", 10, 100)], set()),
        ([row(10), row(30, account=None)], "A", [("AAPL", 10, 100)], set()),
        ([row(10), row(30, account="B"), row(2, symbol="MSFT")], "C", [("MSFT", 2, 100)], {"AAPL"}),
        ([row(10)], "C", [("AAPL", 10, 100)], set()),
        ([row(10, account=None), row(5, account=None)], "A", [("AAPL", 15, 100)], set()),
        ([row(4), row(6, side=Side.SHORT)], "A", [("AAPL", 4, 100), ("AAPL", 6, 100)], set()),
    ],
)
def test_rows_of_our_account_one_for_each_side(
    rows: list[BrokerPosition], ours: str, shown: list[tuple[str, int, int]], unclear: set[str]
) -> None:
    own = own_rows(rows, lambda name: name == ours)
    assert [(r.symbol, r.qty, r.avg_entry_price) for r in own.rows] == shown
    assert own.unclear == unclear


def test_both_sides_are_said() -> None:
    (said,) = both_sides([row(4), row(6, side=Side.SHORT), row(1, symbol="MSFT")])
    assert said.startswith("AAPL is shown long 4 and short 6: ")
    assert both_sides([row(4), row(1, symbol="MSFT")]) == []


def test_both_sides_of_what_is_held_on_one_contradict_each_other() -> None:
    shown = net(read(row(100), row(1, side=Side.SHORT)), AAPL)
    assert isinstance(shown, Silent)
    assert shown.kind == "both_sides"
    said, _ = weigh(evidence(row(100), row(1, side=Side.SHORT)), Memory())
    assert any(isinstance(one, Raise) and one.kind == "both_sides" for one in said)


def test_a_row_that_cannot_be_read_makes_its_holding_silent_and_no_other() -> None:
    shown = replace(read(row(10), row(3, symbol="MSFT")), unreadable=frozenset({"AAPL"}))
    assert isinstance(net(shown, AAPL), Silent)
    assert isinstance(net(shown, Key("A", "MSFT")), Shown)
    assert isinstance(net(replace(shown, unreadable=frozenset({""})), Key("A", "MSFT")), Silent)


def test_what_may_still_fill_and_what_was_learned_since_widens_the_interval() -> None:
    order = Placed(order_id="xf1-1", qty=D(10), cum=D(4), sent=990.0)
    memory = Memory(changes=(Change(D(-4), 998.0), Change(D(3), 900.0)))
    assert expect([held(orders=(order,))], memory, 1000, 1001, AAPL, CAREFUL) == Expected(D(6), ZERO, D(10))


def test_what_is_bought_is_adopted_at_once_where_executions_say_the_same() -> None:
    said, _ = weigh(evidence(row(10), fills=[fill(1, 990, 10)]), Memory())
    (adopted,) = news(said)
    assert isinstance(adopted, Adopted)
    assert (adopted.side, adopted.qty, adopted.entry, adopted.first) == (Side.LONG, 10, 100, 990.0)


def test_a_reversal_in_one_order_closes_and_opens() -> None:
    said, _ = weigh(
        evidence(row(5, side=Side.SHORT), watched=[held()], fills=[fill(1, 900, 10), fill(2, 990, -15)]), Memory()
    )
    closed, adopted = news(said)
    assert closed == ClosedBy("p", "reversed", D(10))
    assert isinstance(adopted, Adopted)
    assert (adopted.side, adopted.qty) == (Side.SHORT, 5)


@pytest.mark.parametrize(("shown", "resized"), [(3, []), (5, [(D(5), "n")])])
def test_given_the_next_position_is_watched_already_then_only_the_one_of_the_other_side_is_over(
    shown: int, resized: list[tuple[Decimal, str]]
) -> None:
    """A short was bought back by hand, and a long was entered, before any read showed the first."""
    short, long = held(-10), held(3, name="n")
    fills = [fill(1, 800, -10), fill(2, 900, 10), fill(3, 950, 3), *([fill(4, 960, 2)] if shown == 5 else [])]
    said, _ = asked(evidence(row(shown), watched=[short, long], fills=fills), 9)
    assert [(c.position, c.how) for c in news(said) if isinstance(c, ClosedBy)] == [("p", "reversed")]
    assert [(c.left, c.position) for c in news(said) if isinstance(c, Resized)] == resized
    assert not [c for c in news(said) if isinstance(c, Adopted)]


def test_our_own_order_through_zero_is_an_alarm_and_never_adopted() -> None:
    order = Placed(order_id="xf1-1", qty=D(10), cum=D(10), sent=900.0, ended=910.0, read=920.0)
    p = held(orders=(order,), wanted=890.0)
    fills = [fill(1, 800, 10), replace(fill(2, 905, -20), client_order_id="xf1-1")]
    said, _ = asked(evidence(row(10, side=Side.SHORT), watched=[p], fills=fills), 9)
    assert any(isinstance(one, Raise) and one.kind == "oversold" for one in said)
    assert not any(isinstance(one, Adopted) for one in said)


def test_own_sales_are_looked_for_before_anything_is_called_external() -> None:
    order = Placed(order_id="xf1-1", qty=D(10), sent=900.0, ended=910.0, read=920.0)
    fills = [fill(1, 800, 10), replace(fill(2, 905, -10), client_order_id="xf1-1")]
    said, _ = weigh(evidence(watched=[held(orders=(order,), wanted=890.0)], fills=fills), Memory())
    assert said == (Reported("xf1-1", D(10), D(100)), Needed("record"))


@pytest.mark.parametrize("shown", [10, 15, 25])
@pytest.mark.parametrize("order_id", [client_order_id("p", 1, "xf2"), None])
def test_an_exit_that_another_machine_sent_is_looked_for_however_much_is_held(shown: int, order_id: str | None) -> None:
    """It sold all, and the bot bought again: as much as was sold, or more."""
    sold = replace(fill(2, 900, -10), client_order_id=order_id)
    e = evidence(
        row(shown), watched=[held()], fills=[fill(1, 800, 10), sold, fill(3, 950, shown)], next_ids_known=False
    )
    assert weigh(e, Memory())[0] == (Needed("next_id"),)


def test_the_next_id_is_asked_for_before_anything_is_called_external() -> None:
    e = evidence(row(4), watched=[held()], next_ids_known=False)
    said, _ = asked(e, 9)
    assert said == []
    said, _ = asked(replace(e, next_ids_known=True), 9)
    assert said == [Resized(position="p", left=D(4), entry=D(100), why="external", external=D(6))]


def test_an_empty_list_closes_nothing_where_executions_are_offered() -> None:
    e = evidence(watched=[held()], read=read(alone=True))
    said, memory = asked(e, 9)
    assert [one.kind for one in said if isinstance(one, Raise)] == ["positions_missing"]
    assert asked(e, 90, memory=memory)[0] == []


def test_where_none_are_offered_it_closes_after_enough_reads_and_time() -> None:
    e = evidence(watched=[held()], read=read(alone=True), fills=None)
    _, memory = asked(e, 9)
    said, _ = asked(replace(e, read=read(at=1030.0, alone=True)), 40, memory=memory)
    assert said == [ClosedBy("p", "vanished", D(10))]
    assert asked(replace(e, works=True), 90, memory=memory)[0] == []


def test_what_cannot_be_sold_is_flat_and_never_adopted() -> None:
    instrument = replace(CAREFUL, step=D(1), least=D(5))
    assert asked(evidence(row(4), instrument=instrument), 9)[0] == []
    said, _ = asked(evidence(row(4), watched=[held()], instrument=instrument), 9)
    assert said == [ClosedBy("p", "residue", D(10))]
    assert sellable(D("5.9"), instrument) == 5


def test_what_is_worth_too_little_is_a_residue_only_where_an_exit_left_it() -> None:
    instrument = replace(CAREFUL, least_value=D(1000))
    assert is_residue(D(5), D(100), instrument, was_sold=True)
    assert not is_residue(D(5), D(100), instrument, was_sold=False)
    assert not is_residue(D(5), None, instrument, was_sold=True)


@pytest.mark.parametrize("was_sold", [True, False])
def test_what_is_less_than_the_venue_sells_is_a_residue_whoever_left_it(was_sold: bool) -> None:
    instrument = replace(CAREFUL, least=D(5), least_value=D(100))
    assert is_residue(D(4), D(1000), instrument, was_sold=was_sold)
    assert not is_residue(D(5), D(1000), instrument, was_sold=was_sold)


def test_bought_on_during_an_exit_is_the_next_position() -> None:
    order = Placed(order_id="xf1-1", qty=D(10), cum=D(10), sent=900.0, ended=910.0, read=920.0)
    fills = [fill(1, 800, 10), fill(2, 905, 5), replace(fill(3, 908, -10), client_order_id="xf1-1")]
    p = replace(held(orders=(order,), wanted=890.0), name="AAPL:long:1970-01-01T00:13:20+00:00")
    memory = Memory(horizon=850.0)
    said, memory = weigh(evidence(row(5), watched=[p], fills=fills, exit_began=890.0), memory)
    adopted = said[-1]
    assert isinstance(adopted, Adopted)
    assert (adopted.qty, adopted.first) == (5, 905.0)


def test_the_average_of_another_unit_is_never_believed() -> None:
    futures = replace(CAREFUL, multiplier=D(50))
    assert entry(D(5000), D(100), D(101), futures) == 100
    assert entry(D(5000), None, D(101), futures) == 100
    assert entry(D(5000), None, D(5), futures) is None
    assert entry(D(101), D(100), None, CAREFUL) == 101


def test_executions_are_one_a_trade() -> None:
    assert (root_of("0001.65a1.01.02"), root_of("17.5"), root_of("a.01")) == ("0001.65a1.01", "17.5", "a")
    one = Trade(root="1", qty=D(5), price=D(1), at=10.0, when=datetime.fromtimestamp(10, UTC), order_id="x")
    assert len(doubles_merged([one, replace(one, root="2"), replace(one, root="3", at=11.0)])) == 2


def test_the_walk_back_ends_at_flat_or_where_a_fill_crossed_zero() -> None:
    def trade(at: int, qty: int, price: int) -> Trade:
        return Trade(
            root=str(at), qty=D(qty), price=D(price), at=at, when=datetime.fromtimestamp(at, UTC), order_id="x"
        )

    walked = origin([trade(1, 7, 90), trade(2, -12, 80), trade(3, -5, 70)], D(-10), CAREFUL)
    assert walked is not None
    assert (walked.opened.at, walked.entry) == (2, 75)
    assert origin([trade(3, -5, 70)], D(-10), CAREFUL) is None


def test_scope_by_symbols() -> None:
    scope = Scope(symbols=frozenset({"BTC/USD"}), ignore=frozenset({"VTI"}))
    assert (in_scope("BTCUSD", scope), in_scope("AAPL", scope), in_scope("VTI", Scope(ignore=frozenset({"VTI"})))) == (
        True,
        False,
        False,
    )


def test_the_name_says_the_scope_so_that_two_bots_never_share_one() -> None:
    scopes = [Scope(), Scope(handed=True), Scope(ids=("A-", "B-")), Scope(ids=("A-",))]
    assert [scope_tag(one) for one in scopes] == ["", "handed", "ids:A-,B-", "ids:A-"]
    assert scope_tag(Scope(ids=("B-", "A-"))) == "ids:A-,B-"  # in whatever order they are configured
    names = {name_of(None, D(10), AAPL, scope_tag(one), D(100)) for one in scopes}
    assert len(names) == len(scopes)


def test_a_read_from_before_the_unit_changed_concludes_nothing() -> None:
    e, changed = evidence(row(10), watched=[held(40)]), Memory(unit_at=998.0)
    said, memory = weigh(e, changed)  # it may show 995: that is in the old unit
    assert news(said) == []
    assert Needed("reads") in said
    assert memory == changed
    assert asked(e, 9, memory=changed)[0] != []  # those that follow count


def test_how_much_is_ours_is_a_question_of_ids_and_answered_by_books_that_say_something() -> None:
    bought = fill(1, 900, 10, who="bot")
    e = evidence(row(30), fills=[bought], scope=Scope(ids=("bot",)))
    assert at_most(e, NONE) == 10
    assert at_most(replace(e, scope=Scope()), NONE) is None
    assert at_most(replace(e, read=Failed(begin=1000.0, end=1001.0)), NONE) is None
    assert at_most(replace(e, executions=None), NONE) is None
    assert at_most(replace(e, read=read(alone=True)), NONE) is None  # an empty list is no statement
    assert at_most(replace(e, read=read(row(10), row(1, side=Side.SHORT))), NONE) is None  # nor is a contradiction


def test_what_others_bought_and_sold_again_beside_it_is_history() -> None:
    fills = [fill(1, 800, 10), fill(2, 905, 3), fill(3, 908, -3)]
    said, memory = weigh(evidence(row(10), watched=[held()], fills=fills), Memory(horizon=850.0))
    assert news(said) == []
    assert memory.horizon == 908  # up to the last of them: they are never weighed again
    again, after = weigh(evidence(row(10), watched=[held()], fills=fills, read=read(row(10), at=1010.0)), memory)
    assert (news(again), after.unshown) == ([], float("-inf"))


LOST = Placed(order_id="xf1-1", qty=D(10), sent=900.0)


def test_nothing_held_for_long_beside_an_order_without_a_record_is_over_where_the_broker_lists_no_such_order() -> None:
    e = evidence(watched=[held(orders=(LOST,), wanted=890.0)], works=False)
    assert asked(e, 31)[0] == [ClosedBy("p", "unresolved", D(10))]
    assert asked(e, 30)[0] == []  # for 290 seconds


@pytest.mark.parametrize("works", [True, None])
def test_but_not_where_it_lists_one_or_was_not_asked(works: bool | None) -> None:
    e = evidence(watched=[held(orders=(LOST,), wanted=890.0)], works=works)
    said, memory = asked(e, 90)
    assert (said, memory.flat) == ([], float("-inf"))


def test_nor_before_nothing_was_held_without_a_break() -> None:
    e = evidence(watched=[held(orders=(LOST,), wanted=890.0)], works=False)
    _, memory = asked(e, 20)
    _, memory = weigh(replace(e, read=read(row(10), at=1200.0)), memory)  # it is held
    said, _ = asked(replace(e, read=read(at=1210.0)), 30, memory=memory)
    assert said == []


def test_what_was_bought_while_one_position_was_sold_goes_to_the_other() -> None:
    order = Placed(order_id="xf1-1", qty=D(10), cum=D(10), sent=900.0, ended=910.0, read=920.0)
    sold, other = held(orders=(order,), wanted=890.0), held(name="q")
    e = evidence(row(15), watched=[sold, other], fills=[fill(3, 990, 5)])
    said, memory = weigh(e, Memory(horizon=950.0))
    assert said == (Flat("p"), Resized(position="q", left=D(15), entry=D(100), why="bought on"))
    assert [change.qty for change in memory.changes] == [5]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (14, [Resized(position="p", left=D(4), entry=D(100), why="external", external=D(6))]),
        (10, [ClosedBy("p", "external", D(10))]),
        (
            7,
            [
                ClosedBy("p", "external", D(10)),
                Resized(position="q", left=D(7), entry=D(100), why="external", external=D(3)),
            ],
        ),
    ],
)
def test_what_others_sold_is_missing_of_the_oldest_and_one_that_has_nothing_left_is_closed(
    shown: int, said: list[Concluded]
) -> None:
    assert asked(evidence(row(shown), watched=[held(), held(name="q")]), 9)[0] == said


def test_of_one_trade_the_newest_version_counts_in_whatever_order_they_are_listed() -> None:
    first, corrected = replace(fill(1, 990, 10), fill_id="x.01"), replace(fill(1, 990, 8), fill_id="x.02")
    for listed in ([first, corrected], [corrected, first]):
        (trade,) = trades(listed, AAPL, NONE)
        assert (trade.root, trade.qty) == ("x", 8)


@pytest.mark.parametrize(("watched_at", "price"), [(None, 25), (100, None), (None, None)])
def test_a_change_of_the_unit_is_found_where_no_price_is_known(watched_at: int | None, price: int | None) -> None:
    p = replace(held(10), price=D(watched_at) if watched_at is not None else None)
    found = unit(p, D(40), D(25), D(price) if price is not None else None, [], 1)
    assert found is not None
    assert (found.factor, found.entry) == (4, 25)
    assert unit(replace(p, price=D(100)), D(40), D(25), D(100), [], 1) is None  # the prices deny it


def leaving(**fields: object) -> Leaving:
    p = held(wanted=5.0)
    given: dict[str, object] = {
        "key": AAPL, "instrument": CAREFUL, "memory": Memory(), "position": p, "watched": (p,), "read": read(row(10)),
        "now": 1001.0, "price": D(100),
    }  # fmt: skip
    return Leaving(**{**given, **fields})  # type: ignore[arg-type]


WORKING = Working(order_id="web-1", qty=D(10), broker_order_id="b1")
ENDED = Placed(order_id="xf1-1", qty=D(10), cum=D(2), sent=10.0, ended=990.0, read=993.0)


@pytest.mark.parametrize(
    ("fields", "permit"),
    [
        ({}, Send(D(10))),
        ({"position": held(orders=(ENDED,))}, Wait("record")),
        ({"position": held(orders=(replace(ENDED, read=1003.0),))}, Wait("reads")),
        ({"position": held(orders=(replace(ENDED, dead=True),))}, Send(D(8))),
        ({"read": None}, Wait("reads")),
        ({"since": 1000.5}, Wait("reads")),
        ({"memory": Memory(changes=(Change(D(1), 996.0),))}, Wait("reads")),
        ({"read": read(row(20, average=50))}, Wait("unit")),
        ({"working": (replace(WORKING, order_id="xf1-9"),)}, Wait("orders")),
        ({"working": (replace(WORKING, order_id="xf1-9"),) * 2}, Blocked("twin_orders", ("xf1-9",))),
        ({"working": (replace(WORKING, order_id="0"),) * 2}, Blocked("foreign_order", ("b1", "b1"))),
        ({"working": (WORKING,)}, Blocked("foreign_order", ("b1",))),
        ({"working": (WORKING,), "instrument": replace(CAREFUL, reserves=True)}, Send(D(10))),
        ({"working": (WORKING,), "instrument": replace(CAREFUL, reduce_only=True)}, Send(D(10))),
        ({"read": read(row(4))}, Send(D(4))),
        ({"read": read(row(4, side=Side.SHORT))}, Wait("reads")),
        ({"read": read()}, Wait("reads")),
        ({"read": read(replace(row(10), qty_available=ZERO))}, Wait("reads", "not_sellable_now")),
        ({"read": read(replace(row(10), qty_available=D(4)))}, Send(D(4))),  # so much leaves now, no more
        ({"read": read(replace(row(10), qty_available=D(12)))}, Send(D(10))),
        ({"instrument": replace(CAREFUL, least_value=D(2000))}, Wait("price", "below_least_value")),
        ({"refused_value": D(1000)}, Wait("price", "below_least_value")),
        ({"refused_value": D(990)}, Send(D(10))),
        ({"read": Failed(begin=1000.0, end=1001.0)}, Wait("reads")),
        ({"read": Failed(begin=1000.0, end=1001.0), "failed": 3}, Blocked("exit_held_back")),
        ({"read": Failed(begin=1000.0, end=1001.0), "failed": 3, "shown": (D(10), 950.0)}, Send(D(10))),
        ({"read": Failed(begin=1000.0, end=1001.0), "failed": 3, "shown": (D(10), 900.0)}, Blocked("exit_held_back")),
        ({"read": Failed(begin=1000.0, end=1001.0), "instrument": replace(CAREFUL, reduce_only=True)}, Send(D(10))),
        ({"read": read(row(10), row(1, side=Side.SHORT))}, Blocked("both_sides")),
        ({"memory": Memory(refused=1000.5)}, Wait("reads")),
        ({"memory": Memory(refused=990.0)}, Send(D(10))),
    ],
)
def test_whether_an_order_may_leave(fields: dict[str, object], permit: object) -> None:
    assert may_send(leaving(**fields)) == permit
