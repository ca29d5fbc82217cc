"""Client order ids: each form, what it has room for, and whose an id is."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exitfsm import Engine, ExitPolicy, ExitStore, Side
from exitfsm.broker.fitting import Fitting
from exitfsm.errors import ConfigError, StoreError
from exitfsm.events import PositionOpened
from exitfsm.messages import Open
from exitfsm.order_ids import client_order_id, form_mistake, form_of, is_exit_of, looks_like_exit
from exitfsm.ports import Capabilities
from exitfsm.position import (
    Position,
    account_hash,
    account_in,
    evolve,
    part_of,
    position_id,
    scope_mark,
    symbol_in,
)
from exitfsm.store.mapping import EventMapper
from exitfsm.testing import ScriptedBroker

FORMS = ("xf1", "xf2", "xf2-20", "xf2-28", "xf2-31", "uuid")
NAMES = st.text(st.characters(codec="utf-8"), max_size=60)
AT = datetime(2024, 1, 2, tzinfo=UTC)


@given(NAMES, NAMES, st.sampled_from(FORMS), st.integers(1, 36**3 - 1), st.integers(1, 36**3 - 1))
def test_an_id_says_whose_it_is_and_its_number_stands_at_the_end(
    name: str, other: str, form: str, number: int, another: int
) -> None:
    order_id = client_order_id(name, number, form)
    assert order_id == client_order_id(name, number, form)
    assert form_of(order_id) == form
    assert is_exit_of(name, order_id)
    assert is_exit_of(name, order_id, form)
    assert is_exit_of(other, order_id) == (name == other)
    assert not any(is_exit_of(name, order_id, wrong) for wrong in FORMS if wrong != form)
    assert (client_order_id(name, another, form) == order_id) == (another == number)
    digits = {"uuid": 4, "xf1": len(str(number))}.get(form, 3)
    base = {"uuid": 16, "xf1": 10}.get(form, 36)
    assert int(order_id[-digits:], base) == number


@pytest.mark.parametrize(
    ("form", "takes"),
    [
        ("xf2", r"[a-z0-9]{32}"),  # OKX
        ("xf2", r"[A-Za-z0-9_-]{1,36}"),  # Binance, Bybit
        ("xf2-28", r"[A-Za-z0-9_.-]{1,28}"),  # Gate, after its t-
        ("xf2-20", r"[A-Za-z0-9]{1,20}"),
        ("uuid", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),  # Kraken
    ],
)
def test_each_venue_takes_the_whole_id(form: str, takes: str) -> None:
    for number in (1, 35, 36, 1295, 46_655):
        assert re.fullmatch(takes, client_order_id("AAPL:long:20240102T143000Z:0123456789ab", number, form))


def test_a_uuid_is_one_and_differs_by_hash_and_number() -> None:
    made = {client_order_id(f"p{n}", number, "uuid") for n in range(200) for number in range(1, 20)}
    assert len(made) == 200 * 19
    assert all(uuid.UUID(one).version == 4 and str(uuid.UUID(one)) == one for one in made)


def test_the_ids_of_each_form_never_change() -> None:
    name = "AAPL:long:20240102T143000Z:0123456789ab"
    assert [client_order_id(name, 2, form) for form in FORMS] == [
        "xf1-05fe1127a532a69278dc268dec996b92-2",
        "xf22hdrw6kz7r5g5bfrxtsq6k699u002",
        "xf25bfrxtsq6k699u002",
        "xf2w6kz7r5g5bfrxtsq6k699u002",
        "xf2hdrw6kz7r5g5bfrxtsq6k699u002",
        "78663205-fe11-427a-a532-a69278dc0002",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_the_exits_of_a_part_of_an_account_are_told_from_all_others(form: str) -> None:
    account, a, b = account_hash("one"), scope_mark("ids:A-"), scope_mark("ids:B-")
    names = [f"AAPL:long:20240102T143000Z:{part_of(account, mark)}" for mark in ("", a, b)]
    plain, of_a, of_b = (client_order_id(name, 7, form) for name in names)
    assert len({plain, of_a, of_b}) == 3
    assert all(looks_like_exit(order_id) and form_of(order_id) == form for order_id in (plain, of_a, of_b))
    assert [looks_like_exit(order_id, a) for order_id in (plain, of_a, of_b)] == [False, True, False]
    assert not looks_like_exit(None, a)
    assert not looks_like_exit("A-1", a)
    assert is_exit_of(names[1], of_a, form)
    assert [account_in(name.rpartition(":")[2]) for name in names] == [account] * 3
    assert scope_mark("") == ""


def test_a_number_that_has_no_room_is_never_cut() -> None:
    for form, highest in (("xf2", 36**3 - 1), ("xf2-20", 36**3 - 1), ("uuid", 16**4 - 1)):
        assert client_order_id("p", highest, form)
        with pytest.raises(ValueError, match="the highest"):
            client_order_id("p", highest + 1, form)


@pytest.mark.parametrize("order_id", ["", "xf1-1", "xf2", "xf2-entry-1", "XF2" + "a" * 29, "xf2" + "a" * 30, None])
def test_an_id_that_only_begins_like_ours_is_not_taken_for_one(order_id: str | None) -> None:
    assert not looks_like_exit(order_id)
    assert not is_exit_of("p", order_id)


@pytest.mark.parametrize(
    ("form", "said"),
    [("xf2-18", "18 characters have no room"), ("xf2-36", "declare 'xf2'"), ("xf3", "no form"), ("", "no form")],
)
def test_a_form_without_room_is_refused_at_the_start(form: str, said: str) -> None:
    assert said in (form_mistake(form) or "")
    broker = ScriptedBroker(capabilities=Capabilities(id_form=form))
    with pytest.raises(ConfigError, match=said):
        Fitting(broker).check()


def opened(form: str, engine: Engine) -> Position:
    return engine.open(
        Open(
            at=AT, account="a", symbol="AAPL", side=Side.LONG, epoch="e", qty=Decimal(1), entry_price=Decimal(1),
            opened_at=AT, policy=ExitPolicy(), id_form=form,
        )
    )  # fmt: skip


def test_the_form_is_fixed_when_a_position_is_opened() -> None:
    with ExitStore(":memory:") as store:
        position = opened("", Engine(store, Capabilities(id_form="uuid")))
        assert position.id_form == "uuid"
        later = Engine(store, Capabilities(id_form="xf2"))
        later.load()
        assert later.positions[position.position_id].id_form == "uuid"


def test_the_first_form_is_left_out_of_the_bytes_and_others_are_not() -> None:
    for form, stored in (("xf1", False), ("xf2", True)):
        with ExitStore(":memory:") as store:
            opened(form, Engine(store))
            (recorded,) = store.events()
            assert isinstance(recorded.event, PositionOpened)
            assert recorded.event.form == form
            encoded = EventMapper().encode(0, "", recorded.event)
            assert (b"id_form" in encoded.state) is stored
            assert encoded.event == recorded.event


def test_a_form_of_a_later_version_is_not_guessed() -> None:
    with ExitStore(":memory:") as store:
        opened("xf2", Engine(store))
        (recorded,) = store.events()
    event = msgspec.structs.replace(recorded.event, id_form="xf9")
    with ExitStore(":memory:") as store:
        store.append(recorded.stream_id, 0, (event,), at=AT, by="bot")
        assert evolve(None, event).id_form == "xf9"
        with pytest.raises(StoreError, match="newer version"):
            Engine(store).load()


def test_no_id_is_made_of_a_form_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="no form"):
        client_order_id("p", 1, "xf9")


def test_a_name_may_hold_colons_in_its_symbol() -> None:
    for symbol in ("AAPL", "BTC/USDT:USDT", "NSE:SBIN", "LONG:SHORT", ":"):
        assert symbol_in(position_id("0123456789ab", symbol, Side.LONG, "20240102T143000Z")) == symbol
