"""What of the account is managed, what others bought, and how much is taken up beside an exit."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import fill, held, row
from msgspec.structs import replace

from exitfsm import scope as managing
from exitfsm.holdings.facts import Scope
from exitfsm.ports import CAREFUL, IdMemory
from exitfsm.values import Side

AAPL = row(10)


@pytest.mark.parametrize(
    ("scope", "watched", "why"),
    [
        (Scope(), False, ""),
        (Scope(symbols=frozenset({"AAPL"})), False, ""),
        (Scope(symbols=frozenset({"MSFT"})), False, "manage.symbols"),
        (Scope(ignore=frozenset({"AAPL"})), True, "manage.ignore"),
        (Scope(handed=True), False, "watch()"),
        (Scope(handed=True), True, ""),
    ],
)
def test_what_is_not_managed_says_why(scope: Scope, watched: bool, why: str) -> None:
    said = managing.why_not("AAPL", scope, watched=watched)
    assert (why in said) if why else said == ""
    text = managing.described_scope(AAPL, scope, watched=watched)
    assert text.startswith("10 AAPL long: " + ("not managed" if why else "managed"))
    assert ("no exit of it begins" in text) is (bool(why) and watched)


def test_a_pair_is_named_with_or_without_its_slash() -> None:
    assert managing.is_named("BTCUSD", Scope(symbols=frozenset({"BTC/USD"})))
    assert managing.why_not("BTC/USD", Scope(ignore=frozenset({"BTCUSD"})), watched=False)


@given(st.integers(0, 50), st.integers(-20, 20))
def test_of_a_holding_never_more_is_shown_than_was_handed_over(shown: int, ours: int) -> None:
    rows = managing.handed_rows((row(shown),), {"AAPL": managing.Share(Decimal(ours), Decimal(90))})
    qty = sum(one.qty for one in rows)
    if ours >= 0:
        assert qty == min(shown, ours)
        assert all(one.avg_entry_price == 90 for one in rows)
    else:
        assert qty == shown  # what is held against ours is to be seen


@given(st.integers(0, 50), st.integers(-20, 20))
def test_of_a_part_never_more_is_shown_and_the_rest_is_a_row_of_nothing(shown: int, ours: int) -> None:
    (one,) = managing.part_rows((row(shown),), {"AAPL": managing.Share(Decimal(ours), Decimal(90))})
    assert one.qty == max(0, min(shown, ours))
    assert one.avg_entry_price == (90 if ours > 0 else 100)
    (nobodys,) = managing.part_rows((row(shown),), {})
    assert nobodys.qty == 0


def test_what_may_leave_is_capped() -> None:
    ten = managing.Share(Decimal(-10), Decimal(90))
    assert managing.capped(ten, Decimal(12)) == ten
    assert managing.capped(ten, Decimal(4)) == managing.Share(Decimal(-4), Decimal(90))


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (None, "not managed (what orders of A-… or B-… bought is not known yet)"),
        (0, "not managed (no order of A-… or B-… bought it)"),
        (10, "managed (bought by A-… or B-…)"),
        (4, "managed are 4 (bought by A-… or B-…); the rest is not"),
    ],
)
def test_by_ids_it_is_said_how_much_of_it_is_managed(ours: int | None, said: str) -> None:
    qty = Decimal(ours) if ours is not None else None
    text = managing.described_scope(AAPL, Scope(ids=("A-", "B-")), watched=False, ours=qty)
    assert text == f"10 AAPL long: {said}"


def test_a_quantity_that_is_no_number_is_shown_as_it_is() -> None:
    odd = replace(AAPL, qty=Decimal("NaN"))
    assert managing.part_rows((odd,), {}) == (odd,)
    assert managing.handed_rows((odd,), {"AAPL": managing.Share(Decimal(1), Decimal(90))}) == (odd,)


def test_what_is_ours_is_what_is_left_of_all_that_is_watched_at_what_it_cost() -> None:
    both = [held(), held(position_id="q", qty=Decimal(30), entry_price=Decimal(80))]
    assert managing.shares(both) == {"AAPL": managing.Share(Decimal(40), Decimal(85))}
    gone = held(qty=Decimal(0))
    assert managing.shares([gone])["AAPL"].qty == 0


@pytest.mark.parametrize(
    ("fills", "others"),
    [
        ([("buy", 10, "bot-1")], None),
        ([("buy", 9, "web-1"), ("buy", 1, "bot-1")], (9, "web-1")),
        ([("buy", 20, "web-1"), ("sell", 20, "web-2"), ("buy", 10, "bot-1")], None),  # it was flat in between
        ([("buy", 1, "bot-1")], (9, "")),  # nine were bought before what is listed
        ([("buy", 12, "bot-1"), ("sell", 2, "xf1-p-1")], None),
        ([], (10, "")),
        ([("buy", 10, "")], None),  # who bought it, it does not say
        ([("buy", 4, ""), ("buy", 6, "web-1")], (6, "web-1")),
    ],
)
def test_what_others_bought_is_told_from_the_bots_own(
    fills: list[tuple[str, int, str]], others: tuple[int, str] | None
) -> None:
    made = [fill(side, qty, second=n, client_order_id=name) for n, (side, qty, name) in enumerate(fills)]
    found = managing.bought_by_others(AAPL, made, "bot-")
    assert ((found.qty, found.by) if found is not None else None) == others
    if found is not None:
        text = managing.unclear_scope(AAPL, found, "bot-")
        assert f"{others[0] if others else ''} of 10 AAPL" in text
        assert "manage.ignore" in text


def test_a_fee_in_the_asset_is_no_purchase_of_others() -> None:
    bought = [fill("buy", "9.99", client_order_id="bot-1")]
    assert managing.bought_by_others(AAPL, bought, "bot-") is None


@pytest.mark.parametrize(
    ("asked", "shown", "left", "taken"), [(10, 10, 10, 0), (10, 15, 10, 5), (3, 15, 10, 3), (3, 5, 10, 0)]
)
def test_beside_an_exit_only_what_is_shown_beyond_it_is_taken_up(asked: int, shown: int, left: int, taken: int) -> None:
    selling = [held(qty=Decimal(left))]
    assert managing.beyond_exits(Decimal(asked), Decimal(shown), selling) == taken
    assert selling[0].side is Side.LONG


@pytest.mark.parametrize("guard", [{}, {"reduce_only": True}, {"reserves": True}])
def test_where_ids_are_taken_again_the_start_says_that_two_managers_sell_twice(guard: dict[str, bool]) -> None:
    assert managing.two_managers(replace(CAREFUL, ids_refused=IdMemory.FOREVER)) == ""
    said = managing.two_managers(replace(CAREFUL, **guard))
    assert "two managers of one account with a store each would both sell" in said
    assert ("refuses to sell more" in said) is bool(guard)


def test_a_venue_guards_the_whole_account_and_so_no_part_of_it() -> None:
    """It would take an order for more than is ours, as long as the account holds that."""
    guarded = replace(CAREFUL, reduce_only=True, reserves=True)
    part = managing.guards_of(guarded, Scope(ids=("A-",)))
    assert (part.reduce_only, part.reserves) == (False, False)
    assert replace(part, reduce_only=True, reserves=True) == guarded
    assert managing.guards_of(guarded, Scope()) is guarded
