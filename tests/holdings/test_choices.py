"""What a person has said of the scope: what counts, until when, and what it makes of what is managed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from makers import at, fill, held, row
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.choices import NO_CHOICES, Choices, chosen
from exitfsm.events import ScopeChanged, TradingPaused
from exitfsm.holdings.facts import Scope
from exitfsm.lifecycle import State
from exitfsm.scope import is_named, why_not
from exitfsm.values import plain

OTHER = "00000000deadbeef"


def said(symbol: str = "AAPL", how: str = "adopted", command: str = "", second: int = 0, why: str = "") -> ScopeChanged:
    return ScopeChanged(symbol=symbol, how=how, by="anna #1", at=at(second), command=command, why=why)


def after(*events: ScopeChanged) -> Choices:
    choices = NO_CHOICES
    for event in events:
        choices = chosen(choices, event)
    return choices


def test_the_newest_counts_and_what_is_no_choice_changes_nothing() -> None:
    choices = after(said(), said(how="ignored"))
    assert choices.lets_go("AAPL")
    assert not choices.takes_in("AAPL")
    assert chosen(choices, TradingPaused(by="jo", at=at(0))) is choices
    assert NO_CHOICES.of("AAPL") is None
    assert not NO_CHOICES.lets_go("AAPL")


def test_for_a_flatten_alone_it_counts_before_all_else_and_ends_with_it() -> None:
    choices = after(said(how="ignored"), said(command=OTHER))
    assert choices.takes_in("AAPL")
    assert [one.command for one in choices.all] == [OTHER]
    choices = chosen(choices, said(how="restored", command=OTHER))
    assert choices.lets_go("AAPL")
    assert not after(said(command=OTHER), said(how="restored")).all


def test_a_pair_is_meant_with_and_without_its_slash() -> None:
    assert after(said("BTC/USD")).takes_in("BTCUSD")
    assert after(said("BTC/USD"), said("BTCUSD", how="ignored")).lets_go("BTC/USD")


def test_it_is_said_in_words() -> None:
    lasting, passing = after(said(how="ignored", why="mine")).all[0], after(said(command=OTHER)).all[0]
    assert lasting.said.startswith("AAPL: not managed since 2024-01-02T14:30:00Z, by anna #1: mine")
    assert lasting.why_not == "ignored by anna #1"
    assert "managed since" in passing.said
    assert passing.said.endswith("for a flatten alone")
    assert passing.why_not == ""


@given(st.lists(st.builds(said, st.sampled_from(["A", "B"]), st.sampled_from(["adopted", "ignored", "restored"]),
                          st.sampled_from(["", OTHER]))))  # fmt: skip
def test_of_each_symbol_one_choice_counts(events: list[ScopeChanged]) -> None:
    choices = after(*events)
    names = [one.symbol for one in choices.all]
    assert len(names) == len(set(names))
    assert all(choices.of(one.symbol) is one for one in choices.all)
    lasting = [e for e in events if e.symbol == "A" and not e.command and e.how != "restored"]
    kept = next((one for one in choices.lasting if one.symbol == "A"), None)
    assert (kept.managed if kept else None) == (lasting[-1].how == "adopted" if lasting else None)


def test_what_a_person_said_counts_before_what_is_configured() -> None:
    out = Scope(ignore=frozenset({"AAPL"}))
    assert why_not("AAPL", out, watched=False)
    assert not why_not("AAPL", replace(out, choices=after(said())), watched=False)
    assert not why_not("AAPL", Scope(handed=True, choices=after(said())), watched=False)
    assert is_named("AAPL", replace(out, choices=after(said())))
    gone = Scope(symbols=frozenset({"AAPL"}), choices=after(said(how="ignored")))
    assert why_not("AAPL", gone, watched=True) == "ignored by anna #1"
    assert not is_named("MSFT", gone)


def test_what_was_let_go_and_is_taken_in_again_has_a_name_of_its_own() -> None:
    before = held(state=State.CLOSED, ended_at=at(800))
    bought = fill("buy", 10, 101, second=0)
    opening = holdings.Opening(row=row(10, 101), symbol="AAPL", executions=(bought,), previous=before)
    anew, _ = holdings.adopt(replace(opening, taken_in=at(900)), None)
    assert isinstance(anew, holdings.Adopt)
    assert anew.first_fill == at(900)
    later = fill("buy", 10, 101, second=600)  # bought anew since: that names it
    sold = fill("sell", 10, 101, second=500)
    natural = replace(opening, executions=(bought, sold, later), taken_in=at(900))
    found, _ = holdings.adopt(natural, None)
    assert isinstance(found, holdings.Adopt)
    assert found.first_fill == later.at
    assert plain(found.entry_price) == "101"
