"""What a command means, without a manager: who is concerned, what is said, and what proves that all is flat."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm import BrokerPosition, ExecutionReport, OrderStatus, Side, State
from exitfsm.control.deciding import (
    PROVED,
    Books,
    Effect,
    Said,
    Trail,
    after_exit,
    after_release,
    code_of,
    commands_in,
    is_in_force,
    meant,
    name_of,
    names,
    not_again,
    not_watched,
    of_symbol,
    parts_left,
    proof_of,
    share_of,
    signed,
    symbol_of,
)
from exitfsm.events import CommandAnswered, CommandGiven, ExitTriggered, Recorded, TradingPaused, TradingResumed
from exitfsm.position import Position, client_order_id
from exitfsm.testing.given import given, opened, reported, seen, triggered
from exitfsm.values import Alarm

EXIT_ID = client_order_id("a position that nobody knows", 1)
NOW = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
ID = "00000000deadbeef"
ROW = BrokerPosition(symbol="AAPL", side=Side.LONG, qty=Decimal(10), avg_entry_price=Decimal(100))
WATCHED = given(opened()).now
PENDING = given(opened(), triggered()).now
SUBMITTED = given(opened(), triggered()).when(reported("new")).now
LOST = replace(SUBMITTED, state=State.UNPROTECTED)


def order(name: str, symbol: str = "AAPL") -> ExecutionReport:
    return ExecutionReport(client_order_id=name, status=OrderStatus.NEW, at=NOW, symbol=symbol)


def recorded(*events: object, stream: str = "account:x") -> list[Recorded]:
    return [
        Recorded(stream_id=stream, version=n, at_ns=0, by="operator", event=event, sequence=n)  # type: ignore[arg-type]
        for n, event in enumerate(events, 1)
    ]


# --- flat -------------------------------------------------------------------------------------------------------------


def test_nothing_held_nothing_working_and_nothing_watched_is_flat() -> None:
    assert proof_of(Books(rows=())).is_flat


@pytest.mark.parametrize(
    ("books", "words"),
    [
        (Books(rows=(ROW,)), "shows 10 long that is not watched yet"),
        (Books(rows=(), unreadable=frozenset({"AAPL"})), "AAPL: what the broker shows of it cannot be read"),
        (Books(rows=(), unreadable=frozenset({""})), "a position: what the broker shows"),
        (Books(rows=(), orders=None), "the broker lists no orders"),
        (Books(rows=(), orders=(order("bot-1"),)), "order bot-1 works, not ours"),
        (Books(rows=(), orders=(None,)), "orders that cannot be read: 1"),
        (Books(rows=(), foreign=(order("bot-1"),)), "order bot-1 works, not ours"),
        (Books(rows=(), doubts=("not reconciled",)), "not reconciled"),
        (Books(rows=(), orders=(order(EXIT_ID),)), "an exit order of no open position"),
        (Books(rows=(), positions=(SUBMITTED,)), "the broker shows none, which is being proved"),
        (Books(rows=(ROW,), positions=(SUBMITTED,)), "submitted, 10 left to sell, order "),
        (Books(rows=(ROW,), positions=(PENDING,)), "pending, 10 left"),
        (Books(rows=(ROW,), positions=(WATCHED,)), "held, and no exit is under way"),
        (Books(rows=(ROW,), positions=(LOST,)), "unprotected, 10 left"),
    ],
)
def test_whatever_is_left_is_a_line_and_not_flat(books: Books, words: str) -> None:
    proof = proof_of(books)
    assert not proof.is_flat
    assert not proof.waits_for_market
    assert any(words in line for line in proof.lines), proof.lines


def test_what_waits_for_its_market_alone_is_said_with_the_time() -> None:
    opens = NOW + timedelta(hours=17)
    proof = proof_of(Books(rows=(ROW,), positions=(PENDING,), opens={"AAPL": opens}))
    assert proof.waits_for_market
    assert "the market is closed until 2024-01-03T08:30:00Z; its exit is stored" in proof.lines[0]
    assert not proof_of(Books(rows=(ROW,), positions=(LOST,), opens={"AAPL": opens})).waits_for_market
    other = replace(ROW, symbol="MSFT")
    assert not proof_of(Books(rows=(ROW, other), positions=(PENDING,), opens={"AAPL": None})).waits_for_market


@given_any(
    rows=st.lists(st.sampled_from([ROW, replace(ROW, symbol="MSFT")]), max_size=2),
    unreadable=st.sets(st.sampled_from(["", "TSLA"])),
    orders=st.none() | st.lists(st.sampled_from([order("bot-1"), order(EXIT_ID)]), max_size=2),
    positions=st.lists(st.sampled_from([WATCHED, PENDING, SUBMITTED, LOST]), max_size=2),
    opens=st.dictionaries(st.sampled_from(["AAPL", "MSFT"]), st.none() | st.just(NOW)),
)
def test_flat_is_never_said_while_anything_is_left_or_not_known(rows, unreadable, orders, positions, opens) -> None:
    books = Books(
        rows=tuple(rows), unreadable=frozenset(unreadable), orders=tuple(orders) if orders is not None else None,
        positions=tuple(positions), opens=opens,
    )  # fmt: skip
    nothing = not (rows or unreadable or orders or positions) and orders is not None
    assert proof_of(books).is_flat == nothing


# --- whom, and what became of it --------------------------------------------------------------------------------------


def test_symbols_are_meant_as_people_spell_them() -> None:
    assert of_symbol([WATCHED], "aapl") == [WATCHED]
    assert of_symbol([WATCHED], "MSFT") == []
    assert of_symbol([WATCHED], "no symbol!") == []
    assert not_watched("X", []).code == 1
    assert "watched: AAPL" in not_watched("X", [WATCHED, SUBMITTED]).line


def test_alarms_are_meant_by_id_symbol_or_account() -> None:
    one = Alarm(alarm_id="a1", kind="split", text="", raised_at=NOW)
    alarms = {"a1": (WATCHED.position_id, one), "a2": ("account:x", one)}
    assert meant("a2", alarms, [WATCHED]) == ["a2"]
    assert meant("AAPL", alarms, [WATCHED]) == ["a1"]
    assert meant("account", alarms, [WATCHED]) == ["a2"]
    assert meant("MSFT", alarms, [WATCHED]) == []


def test_what_an_order_to_exit_led_to() -> None:
    assert after_exit(WATCHED, None) == Said("AAPL: its exit is complete, and proved")
    assert after_exit(WATCHED, WATCHED).code == 1
    assert after_exit(WATCHED, SUBMITTED).code == 0
    assert after_exit(LOST, LOST).code == 1
    done = replace(LOST, alarms=(Alarm(alarm_id="a", kind="not_done", text="an order may be live", raised_at=NOW),))
    assert "an order may be live" in after_exit(LOST, done).line


def test_what_a_release_led_to() -> None:
    assert after_release(LOST, None).code == 0
    assert "with 10 entered at 100" in after_release(LOST, WATCHED).line
    assert after_release(LOST, LOST).code == 1


def test_an_answer_is_as_good_as_the_worst_of_its_lines() -> None:
    assert code_of([]) == 0
    assert code_of([Said("a"), Said("b", 1), Said("c")]) == 1


# --- once -------------------------------------------------------------------------------------------------------------


def given_command(command_id: str = ID) -> CommandGiven:
    return CommandGiven(command_id=command_id, verb="exit", subjects=("AAPL",), by="jo", whence="x", at=NOW)


def test_the_log_knows_which_commands_were_answered() -> None:
    answer = CommandAnswered(command_id=ID, code=0, lines=("done",), at=NOW)
    other = CommandAnswered(command_id="f" * 16, code=0, lines=(), at=NOW)
    past = commands_in(recorded(given_command(), given_command("a" * 16), answer, other))
    assert past[ID].answered == answer
    assert past["a" * 16].answered is None
    assert past["a" * 16].sequence == 2
    assert "f" * 16 not in past


def test_what_came_of_a_command_is_what_it_signed() -> None:
    triggers = given(opened()).when(seen(98)).news
    forced = next(event for event in triggers if isinstance(event, ExitTriggered))
    ours = replace(forced, detail=f"{signed('jo', ID)}: news")
    assert names(ours, ID)
    assert names(TradingPaused(by=signed("jo", ID), at=NOW), ID)
    assert not names(forced, ID)
    assert not names(TradingPaused(by=signed("jo", "a" * 16), at=NOW), ID)
    assert not names(given_command(), ID)


def test_a_reason_that_quotes_a_command_is_not_signed_by_it() -> None:
    other = signed("jo", "a" * 16)
    assert not names(TradingPaused(by=other, at=NOW, why=f"as in #{ID}"), ID)
    triggers = given(opened()).when(seen(98)).news
    forced = next(event for event in triggers if isinstance(event, ExitTriggered))
    assert not names(replace(forced, detail=f"{other}: as in #{ID}: x"), ID)
    assert names(replace(forced, detail=f"{signed(name_of('jo #1: x'), ID)}: y"), ID)
    assert name_of("jo\nforged #1") == "jo\\nforged _1"
    assert name_of("") == "operator"


# --- after a kill -----------------------------------------------------------------------------------------------------


def effect(p: Position) -> Effect:
    event = TradingPaused(by=signed("jo", ID), at=NOW)
    one = Recorded(stream_id=p.position_id, version=2, at_ns=0, by="operator", event=event, sequence=7)
    return Effect(one, p.symbol)


def test_what_had_its_effect_is_said_and_the_rest_is_still_to_be_seen_to() -> None:
    other = replace(WATCHED, symbol="MSFT", position_id="another")
    trail = Trail(WATCHED.opened_at, (effect(WATCHED),))
    assert share_of("AAPL", [WATCHED, other], trail) == ([], [effect(WATCHED).line])
    assert share_of("msft", [WATCHED, other], trail) == ([other], [])
    assert share_of("AAPL", [], trail).said == [effect(WATCHED).line]
    assert share_of("NVDA", [WATCHED], trail).said[0].code == 1
    assert parts_left(("aapl", "MSFT"), trail) == ([effect(WATCHED).line], ("MSFT",))
    assert not effect(WATCHED).is_of("no symbol!")


def test_what_was_bought_after_a_command_is_not_meant_by_it() -> None:
    trail = Trail(WATCHED.opened_at - timedelta(seconds=1))
    share = share_of("AAPL", [WATCHED], trail)
    assert share.positions == []
    assert share.said[0].code == 1
    assert share_of("AAPL", [WATCHED], Trail()).positions == [WATCHED]


def test_a_symbol_of_an_event_is_that_of_its_stream() -> None:
    paused = TradingPaused(by="", at=NOW)
    assert symbol_of(paused, recorded(opened(), paused)) == "AAPL"
    assert symbol_of(paused, recorded(paused)) is None


def test_another_manager_does_not_say_that_it_has_ended() -> None:
    assert not_again(7).code == 1
    assert "process 7 drives the store now" in not_again(7).line


def test_a_flatten_is_in_force_until_trading_is_resumed_or_all_is_proved() -> None:
    flatten = replace(given_command(), verb="flatten")
    ordered = CommandAnswered(command_id=ID, code=0, lines=("AAPL: pending",), at=NOW)
    proved = replace(ordered, lines=(PROVED,))
    resumed = TradingResumed(by="jo", at=NOW)
    paused = TradingPaused(by="jo", at=NOW)
    assert is_in_force(ID, recorded(resumed, flatten, paused, ordered))
    assert not is_in_force(ID, recorded(flatten, ordered, resumed, paused))
    assert not is_in_force(ID, recorded(flatten, proved, paused))
    assert not is_in_force(ID, recorded(given_command(), paused))
    assert not is_in_force("a" * 16, recorded(flatten))
    second = replace(flatten, command_id="a" * 16)
    assert not is_in_force(ID, recorded(flatten, ordered, second, replace(proved, command_id="a" * 16)))
