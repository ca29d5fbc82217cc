"""Exits of a position without a record: under which ids they are looked for, and what no answer comes to."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from asked import calls_of

from exitfsm.broker.probing import Found, find_exit, there_after_all, working_orders
from exitfsm.order_ids import client_order_id, form_of
from exitfsm.ports import Capabilities, IdMemory

NAME = "AAPL:long:20240102T143000Z:0123456789ab"
FIRST = client_order_id(NAME, 1, "xf1")


class Venue:
    """It knows some orders; what is raised for another form of ids is raised."""

    def __init__(self, *known: str, raises: dict[str, Exception] | None = None, **declared: Any) -> None:
        self.known, self.raises, self.asked = known, raises or {}, list[str]()
        self.capabilities = Capabilities(**declared)
        self.lists: list[Any] = []

    async def order(self, client_order_id: str) -> Any:
        self.asked.append(client_order_id)
        error = self.raises.get(client_order_id) or self.raises.get(form_of(client_order_id) or "")
        if error is not None:
            raise error
        if client_order_id in self.known:
            return {"client_order_id": client_order_id, "status": "new", "symbol": "AAPL"}
        return None

    async def open_orders(self) -> Any:
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def found(venue: Venue, *, is_safe: bool = False, is_new: bool = False) -> Found | None:
    with contextlib.closing(calls_of(venue)) as calls:
        return await find_exit(calls, NAME, "AAPL", is_safe=is_safe, is_new=is_new)


async def test_the_newest_is_found_under_the_form_of_the_venue_and_then_under_that_of_before() -> None:
    for form in ("xf2", "uuid", "xf2-28"):
        ids = [client_order_id(NAME, number, form) for number in (1, 2)]
        now = await found(Venue(*ids, FIRST, id_form=form))
        assert now is not None
        assert now.order is not None
        assert (now.attempt, now.form, now.order.client_order_id) == (2, form, ids[1])
        before = await found(Venue(FIRST, id_form=form))
        assert before is not None
        assert before.order is not None
        assert (before.attempt, before.form, before.order.client_order_id) == (1, "xf1", FIRST)
        assert await found(Venue(id_form=form)) == Found(form=form)


async def test_what_was_opened_in_this_life_is_not_looked_for_under_the_form_of_before() -> None:
    venue = Venue()
    assert await found(venue, is_new=True) == Found(form="xf2")
    assert venue.asked == [client_order_id(NAME, 1)]


@pytest.mark.parametrize("form", ["xf1", "xf2"])
async def test_where_one_look_up_fails_nothing_is_known(form: str) -> None:
    lost: dict[str, Exception] = {form: ConnectionError("no")}
    assert await found(Venue(raises=lost)) is None
    assert await found(Venue(raises=lost, reduce_only=True)) is None
    # A repeated id is refused under its own form; under another one only the quantity guards.
    assert await found(Venue(raises=lost), is_safe=True) == (None if form == "xf1" else Found(form="xf2"))
    assert await found(Venue(raises=lost, reduce_only=True), is_safe=True) == Found(form="xf2")


class InvalidOrder(Exception):
    """As a client library raises it."""


@pytest.mark.parametrize(
    ("said", "took_none"),
    [
        ("Illegal characters found in parameter 'origClientOrderId'; legal range is '^[a-zA-Z0-9-_]{1,36}$'.", True),
        ("Parameter clOrdId error", True),
        ("EGeneral:Invalid arguments:cl_ord_id", True),
        ("Params error: orderLinkId is too long", True),
        (f"Invalid signature of GET /order?origClientOrderId={FIRST}", False),
        ("Timestamp for this request is outside of the recvWindow", False),
        ("Invalid API key, clientOrderId not looked at", False),
    ],
)
async def test_a_venue_that_takes_no_ids_of_before_never_took_one(said: str, took_none: bool) -> None:
    venue = Venue(raises={"xf1": InvalidOrder(said)})
    assert await found(venue) == (Found(form="xf2") if took_none else None)


@pytest.mark.parametrize("form", ["uuid", "xf2-20"])
async def test_where_fewer_characters_are_declared_than_they_had_no_answer_about_ids_of_before_is_none(
    form: str,
) -> None:
    assert await found(Venue(id_form=form, raises={"xf1": InvalidOrder("bad id")})) == Found(form=form)
    assert await found(Venue(id_form=form, raises={form: InvalidOrder("bad id")})) is None
    second = client_order_id(NAME, 2, "xf1")  # here the venue took one: whether there is a second is not known
    assert await found(Venue(FIRST, id_form=form, raises={second: InvalidOrder("bad id")})) is None


async def test_a_refused_order_whose_record_cannot_be_read_is_gone_only_where_no_copy_may_be_there() -> None:
    async def after(memory: IdMemory, *, may_have_left: bool, raises: bool = True) -> Any:
        venue = Venue(raises={"xf2": ConnectionError("no")} if raises else None, ids_refused=memory)
        with contextlib.closing(calls_of(venue)) as calls:
            return await there_after_all(calls, client_order_id(NAME, 1), may_have_left=may_have_left)

    assert await after(IdMemory.NEVER, may_have_left=False) is None
    assert await after(IdMemory.FOREVER, may_have_left=True, raises=False) is None
    for memory, may_have_left in ((IdMemory.NEVER, True), (IdMemory.FOREVER, False)):
        with pytest.raises(Exception, match="ConnectionError"):
            await after(memory, may_have_left=may_have_left)


@pytest.mark.parametrize("first", [[], ConnectionError("no")])
async def test_at_the_start_a_list_that_is_empty_or_missing_is_asked_for_again(first: Any) -> None:
    working = {"client_order_id": FIRST, "status": "new", "symbol": "AAPL"}
    venue = Venue()
    venue.lists = [first, [working]]
    with contextlib.closing(calls_of(venue)) as calls:
        assert [one.client_order_id for one in await working_orders(calls, is_first=True)] == [FIRST]
        venue.lists = [[]]
        assert await working_orders(calls, is_first=False) == []
