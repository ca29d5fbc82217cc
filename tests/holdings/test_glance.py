"""What is seen at a glance is what weighing would have said; and rows are found by their symbol."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import at
from msgspec.structs import replace

from exitfsm.holdings.facts import (
    Change,
    Evidence,
    Failed,
    Instrument,
    Key,
    Memory,
    Needed,
    Placed,
    Read,
    Rescaled,
    Run,
    Scope,
    Watched,
)
from exitfsm.holdings.glance import at_a_glance
from exitfsm.holdings.rows import KEPT_S, _added, net
from exitfsm.holdings.watching import is_news
from exitfsm.holdings.weighing import weigh
from exitfsm.values import BrokerPosition, Fill, OrderSide, Rows, Side, named, rows_of, same_symbol

D = Decimal
AAPL = Key(None, "AAPL")
BEGIN, LAG_S = 1000.0, 5.0
SOLD = Placed(order_id="xf1-1", qty=D(3), sent=0.0, cum=D(3), ended=0.0, dead=True)
RUN = Run(D(9), (D(10), D(10)), "ROW", 2, 900.0, 910.0)
FILL = Fill(fill_id="f", symbol="AAPL", side=OrderSide.BUY, qty=D(1), price=D(100), at=at(1))


def row(qty: str = "10", average: str = "100", symbol: str = "AAPL", side: Side = Side.LONG) -> BrokerPosition:
    return BrokerPosition(symbol=symbol, side=side, qty=D(qty), avg_entry_price=D(average))


def read(*rows: BrokerPosition, unreadable: str | None = None) -> Read:
    silent = frozenset({unreadable} if unreadable is not None else ())
    return Read(rows=Rows((*rows, row(symbol="ZZZ"))), begin=BEGIN, end=BEGIN + 1, unreadable=silent)


def watched(side: Side = Side.LONG, **fields: object) -> Watched:
    given: dict[str, object] = {"name": "p", "side": side, "qty": D(10), "entry": D(100), "opened": 1.0}
    return Watched(**(given | fields))  # type: ignore[arg-type]


CALM = Evidence(key=AAPL, instrument=Instrument(lag_s=LAG_S), read=read(row()), watched=(watched(),), executions=())
YOUNG, OLD = Change(D(10), BEGIN - LAG_S + 0.5), Change(D(-3), BEGIN - LAG_S)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("executions", [None, ()])
def test_what_is_shown_as_it_is_watched_is_seen_at_a_glance(side: Side, executions: Sequence[Fill] | None) -> None:
    e = replace(CALM, watched=(watched(side),), read=read(row(side=side)), executions=executions)
    assert at_a_glance(e, Memory()) == ((), Memory())
    assert at_a_glance(e, Memory(changes=(OLD,))) == ((), Memory(changes=(OLD,)))


def test_of_a_change_that_a_read_may_not_show_yet_another_read_is_asked_for() -> None:
    memory = Memory(changes=(OLD, YOUNG))
    assert at_a_glance(CALM, memory) == ((Needed("reads"),), memory)


#: Each of them is more than a glance can tell.
OTHERWISE: dict[str, Evidence] = {
    "no answer": replace(CALM, read=Failed(begin=BEGIN, end=BEGIN)),
    "a side of its own": replace(CALM, key=Key(None, "AAPL", Side.LONG)),
    "by ids": replace(CALM, scope=Scope(ids=("bot",))),
    "not in scope": replace(CALM, scope=Scope(ignore=frozenset({"AAPL"}))),
    "reported": replace(CALM, reported=(FILL,)),
    "executed": replace(CALM, executions=(FILL,)),
    "nothing watched": replace(CALM, watched=()),
    "two watched": replace(CALM, watched=(watched(), watched(name="q"))),
    "an order": replace(CALM, watched=(watched(qty=D(13), orders=(SOLD,)),)),
    "an exit": replace(CALM, watched=(watched(wanted=1.0),)),
    "no order listed": replace(CALM, works=False),
    "unreadable": replace(CALM, read=read(row(), unreadable="AAPL")),
    "no row": replace(CALM, read=read()),
    "more": replace(CALM, read=read(row("11"))),
    "the other side": replace(CALM, read=read(row(side=Side.SHORT))),
    "another average": replace(CALM, read=read(row(average="101"))),
}
REMEMBERED: dict[str, Memory] = {
    "a run": Memory(run=RUN),
    "runs": Memory(runs=2),
    "an odd average": Memory(odd=RUN),
    "an alarm": Memory(raised=frozenset({"unit_unclear"})),
    "units": Memory(units=(Rescaled(1.0, D(2)),), unit_at=1.0),
    "not confirmed": Memory(confirmed=False),
    "no answers": Memory(failed=1),
    "empty": Memory(empty=1.0),
    "naming": Memory(naming=1.0),
    "unshown": Memory(unshown=1.0),
    "flat": Memory(flat=1.0),
    "refused": Memory(refused=1.0),
    "forgotten now": Memory(changes=(Change(D(1), BEGIN + 1 - KEPT_S),)),
}


@pytest.mark.parametrize("e", OTHERWISE.values(), ids=OTHERWISE)
def test_anything_else_is_weighed(e: Evidence) -> None:
    assert at_a_glance(e, Memory()) is None


@pytest.mark.parametrize("memory", REMEMBERED.values(), ids=REMEMBERED)
def test_so_is_a_read_beside_anything_that_is_open(memory: Memory) -> None:
    assert at_a_glance(CALM, memory) is None


@st.composite
def nearly_calm(draw: st.DrawFn) -> tuple[Evidence, Memory]:
    """A calm read, and some things about it and about its memory as they may be otherwise."""
    e, memory = CALM, Memory()
    some = draw(st.lists(st.sampled_from(sorted(OTHERWISE)), max_size=1))
    for other in some:
        e = OTHERWISE[other]
    if draw(st.booleans()) and isinstance(e.read, Read) and e.watched:
        qty, average = draw(st.sampled_from(("10", "9", "0", "10.0"))), draw(st.sampled_from(("100", "0", "NaN", "99")))
        e = replace(e, read=read(row(qty, average, side=draw(st.sampled_from(Side)))))
    for other in draw(st.lists(st.sampled_from(sorted(REMEMBERED)), max_size=1)):
        memory = REMEMBERED[other]
    times = st.sampled_from((BEGIN - KEPT_S, BEGIN - LAG_S - 1, BEGIN - LAG_S, BEGIN - LAG_S + 1, BEGIN, BEGIN + 2))
    changes = st.lists(st.builds(Change, st.sampled_from((D(5), D(-5), D(0))), times), max_size=2)
    memory = replace(
        memory,
        changes=memory.changes or tuple(draw(changes)),
        horizon=draw(st.sampled_from((memory.horizon, 1.0, BEGIN))),
        born=draw(st.sampled_from((memory.born, 1.0))),
        ended=draw(st.sampled_from((frozenset[str](), frozenset({"o"})))),
    )
    least = draw(st.sampled_from((D(0), D(11))))
    instrument = replace(e.instrument, least=least, step=draw(st.sampled_from((D(0), D(1)))), hedge=draw(st.booleans()))
    return replace(e, instrument=instrument, next_ids_known=draw(st.booleans())), memory


@given(nearly_calm())
def test_a_glance_says_what_weighing_says_and_it_is_no_news(drawn: tuple[Evidence, Memory]) -> None:
    e, memory = drawn
    answer = at_a_glance(e, memory)
    if answer is not None:
        assert answer == weigh(e, memory)
        assert not is_news(e)


# --- rows by their symbol ---------------------------------------------------------------------------------------------

SPELLED = ("BTC/USD", "BTCUSD", "B/TCUSD", "ETH/USD", "AAPL", "")


@given(st.lists(st.sampled_from(SPELLED).map(lambda name: row(symbol=name)), max_size=6), st.sampled_from(SPELLED))
def test_rows_are_found_by_their_symbol_with_an_index_and_without(rows: list[BrokerPosition], symbol: str) -> None:
    wanted = [r for r in rows if same_symbol(r.symbol, symbol)]
    assert rows_of(rows, symbol) == rows_of(Rows(rows), symbol) == wanted
    assert list(named(Rows(rows), symbol)) == list(named(rows, symbol))


def test_an_index_is_made_once() -> None:
    rows = Rows([row()])
    assert rows.by_name is rows.by_name


@given(
    st.sampled_from(("10", "0", "0.50", "1E+1")),
    st.sampled_from(("100.25", "0", "-1", "NaN", "1E+40")),
    st.sampled_from((None, D(0), D(-1), D("100.5"))),
    st.sampled_from(Side),
)
def test_one_row_says_what_it_says_as_a_sum(qty: str, average: str, price: Decimal | None, side: Side) -> None:
    one = replace(row(qty, average, side=side), current_price=price, qty_available=price)
    nothing = replace(row("0", "0", side=side), current_price=None, qty_available=D(0))
    alone, beside = _added([one], AAPL), _added([one, nothing], AAPL)
    assert (alone.qty, alone.average, alone.price) == (beside.qty, beside.average, beside.price)
    assert (str(alone.qty), str(alone.average)) == (str(beside.qty), str(beside.average))
    assert alone.available == price


def test_a_read_of_the_holding_alone_is_no_statement_about_it_where_rows_are_of_another_account() -> None:
    shown = net(Read(rows=(replace(row(), account="B"),), begin=0.0, end=1.0), Key("A", "AAPL"))
    assert not isinstance(shown, Read)
    assert shown.said.name == "EMPTY"  # type: ignore[union-attr]
