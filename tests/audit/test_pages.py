"""The pages as text: the same bytes each time, nothing from outside, everything escaped, every event there."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from stores import T0, TRAILING, troubled, wander

from exitfsm import Bar, ExitStore, Side, State, load_config
from exitfsm.audit import INVARIANTS, trail
from exitfsm.events import (
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitTriggered,
    OrderAccepted,
    OrderEnded,
    PositionOpened,
    ProtectionLost,
    StopMoved,
    TradingPaused,
)
from exitfsm.lifecycle import TABLE
from exitfsm.position import client_order_id, levels, position_id
from exitfsm.recorded_bars import Seen
from exitfsm.report import chain_of, index, index_page, index_pages, page_name, position_page, story_of, suppose
from exitfsm.report.axes import PriceAxis, TimeAxis, duration
from exitfsm.report.machine import PLACES, edges, label, pairs
from exitfsm.report.markup import attributes, embedded, t, tag
from exitfsm.report.story import BARS_AROUND, CANDLES_MAX
from exitfsm.report.table import FOLD_MAX, SHOWN_ENDS, WHOLE_MAX, folds
from exitfsm.simulate import simulate
from exitfsm.testing.given import opened, policy
from exitfsm.values import ExitType, OrderType, TimeInForce

VOID = {"meta", "link", "input", "br", "img", "path", "rect", "circle"}


class Page(HTMLParser):
    """A page taken apart: every tag, attribute and text, and whether it is well formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))
        if name not in ("meta", "link", "input"):
            self.open.append(name)

    def handle_startendtag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.tags if found == name]

    @property
    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


#: The bars of the stores here, made once.
BARS = list(wander())
Pages = list[tuple[str, str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a store with trouble."""
    path = tmp_path_factory.mktemp("pages") / "exits.db"
    with ExitStore(path) as store:
        simulate(iter(BARS), load_config(TRAILING), store=store, re_enter=True, broker=troubled())
    return path


def some(store: ExitStore) -> list[str]:
    """Some of its positions: the first of each symbol, where the trouble is, those that are open, and a few between."""
    keys = [row.position_id for row in store.positions()]
    still = [row.position_id for row in store.open_positions()]
    return [*keys[:6], *keys[6:-6:11], *still]


@pytest.fixture(scope="module")
def pages(site: Path) -> Pages:
    """The ids of some positions, with their pages."""
    with ExitStore(site, read_only=True) as store:
        chain = chain_of(store)
        return [(key, position_page(store, key, bars=BARS, chain=chain)) for key in some(store)]


def stored(*events: Event, by: str = "broker") -> tuple[ExitStore, str]:
    """A store with one position, a minute between its events."""
    store, first = ExitStore(":memory:"), events[0]
    assert isinstance(first, PositionOpened)
    key = position_id(first.account, first.symbol, first.side, first.epoch)
    with store.bulk():
        for version, event in enumerate(events):
            store.append(key, version, [event], at=T0 + timedelta(minutes=version), by=by if version else "bot")
    return store, key


class TestWhole:
    def test_the_same_log_gives_the_same_bytes(self, site: Path, pages: Pages, tmp_path: Path) -> None:
        copy = tmp_path / "elsewhere.db"
        copy.write_bytes(site.read_bytes())
        with ExitStore(site, read_only=True) as a, ExitStore(copy, read_only=True) as b:
            assert pages == [(key, position_page(b, key, bars=iter(BARS))) for key, _ in pages]
            assert index_page(a) == index_page(b)

    def test_it_is_well_formed_and_holds_every_event_once(self, site: Path, pages: Pages) -> None:
        for key, text in pages:
            page = Page(text)
            assert len(page.ids) == len(set(page.ids))
            with ExitStore(site, read_only=True) as store:
                told = trail(store, key)
            assert [name for name in page.ids if re.fullmatch(r"e\d+", name)] == [f"e{s.version}" for s in told]
            data = data_of(text)
            assert [e["version"] for e in data["events"]] == [s.version for s in told]
            assert data["events"][-1]["state_after"] == str(told[-1].after.state if told[-1].after else None)
            assert len(data["view"]["x"]) == len(told)
            assert data["view"]["x"] == sorted(data["view"]["x"])

    def test_links_inside_lead_somewhere(self, pages: Pages) -> None:
        for _, text in pages:
            page = Page(text)
            targets = {str(a["href"]) for a in page.all("a")}
            assert all(href.startswith("#e") and href[1:] in page.ids for href in targets)

    def test_nothing_comes_from_outside(self, site: Path, pages: Pages) -> None:
        with ExitStore(site, read_only=True) as store:
            texts = [*[page for _, page in pages][:3], index_page(store)]
        for text in texts:
            page = Page(text)
            for _, attrs in page.tags:
                for name in ("src", "href", "action", "data", "poster", "xlink:href"):
                    value = attrs.get(name)
                    assert value is None or value.startswith(("#", "data:,"))
            assert not re.search(r"\burl\((?!#tip\))|@import|https?://", text)
            assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]

    def test_the_policy_allows_its_own_style_and_script_and_nothing_else(self, pages: Pages) -> None:
        for _, text in pages[:2]:
            page = Page(text)
            csp = next(str(m["content"]) for m in page.all("meta") if m.get("http-equiv"))
            assert csp.startswith("default-src 'none';")
            assert "unsafe" not in csp
            for name, pattern in (("style", r"<style>(.*?)</style>"), ("script", r"<script>(.*?)</script>")):
                found = re.search(pattern, text, re.DOTALL)
                assert found is not None
                digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
                assert f"{name}-src 'sha256-{digest}'" in csp

    def test_it_says_what_was_checked(self, site: Path, pages: Pages) -> None:
        with ExitStore(site, read_only=True) as store:
            events, head = store.chain_head()
        for _, text in pages:
            page = Page(text)
            assert f"✓ chain {events}/{events}" in page.text
            assert head in page.text
            assert f"✓ invariants {len(INVARIANTS)}/{len(INVARIANTS)}" in page.text
            assert all(said in html.unescape(page.text) for said in INVARIANTS.values())

    def test_what_does_not_hold_is_marked_at_its_event(self) -> None:
        moved = StopMoved(rule=ExitType.TRAILING_STOP, stop=Decimal(99), best_price=Decimal(100), bar_at=T0)
        store, key = stored(opened(), moved)
        text = position_page(store, key)
        assert "✗ 1 broken: I15" in text
        row = next(attrs for attrs in Page(text).all("tr") if attrs.get("id") == "e2")
        assert "wrong" in str(row["class"])
        assert data_of(text)["violations"][0]["invariant"] == "I15"

    def test_a_broken_chain_is_said(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            key = store.positions()[0].position_id
            broken = chain_of(store)._replace(broken_at=7)
            assert "✗ chain breaks at 7" in position_page(store, key, chain=broken)
            assert "✗ chain breaks at 7" in index_page(store, chain=broken)


EVIL = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"' onmouseover=alert(1) x='",
    "<!--<script>",
    "]]>&lt;b&gt;",
    "\u2028\u2029\u202e\x01\x1b[31m",
    "\ud800 lone",
    "=cmd|' /C calc'!A0",
    "{{7*7}}${7*7}",
]


class TestFromOutside:
    @pytest.mark.parametrize("evil", EVIL)
    def test_text_is_shown_and_never_run(self, evil: str) -> None:
        words = evil.encode("utf-8", "replace").decode() if "\ud800" in evil else evil
        first = opened()
        key = position_id(first.account, first.symbol, first.side, first.epoch)
        order = client_order_id(key, 1)
        trigger = ExitTriggered(
            reason=ExitType.CUSTOM, client_order_id=order, attempt=1, qty=Decimal(10), order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY, at=T0, trigger_price=Decimal(99), level=Decimal(99),
            threshold_pct=Decimal(0), detail=words,
        )  # fmt: skip
        store, key = stored(
            PositionOpened(**{**{f: getattr(first, f) for f in first.__struct_fields__}, "strategy_name": words}),
            trigger,
            OrderAccepted(client_order_id=order, broker_order_id=words, at=T0),
            OrderEnded(
                client_order_id=order,
                how="rejected",
                filled_qty=Decimal(0),
                at=T0,
                next_attempt_at=None,
                refusal=words,
                text=words,
            ),
            ProtectionLost(why=words, at=T0),
            AlarmRaised(alarm_id=words, kind=words, text=words, at=T0),
        )
        plain, key0 = stored(first)
        for text, safe in (
            (position_page(store, key), position_page(plain, key0)),
            (index_page(store, href=lambda _: None), index_page(plain)),
        ):
            page, reference = Page(text), Page(safe)
            assert len(page.all("script")) == len(reference.all("script")) == 2
            assert not page.all("img")
            assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
            inside = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
            assert inside is not None
            assert not set(inside[1]) & set("<>&\u2028\u2029")
            assert text.isprintable() or not set(text) & set("\u202e\x00\x1b")
        said = json.dumps(data_of(position_page(store, key))["events"])
        assert json.dumps(words)[1:-1] in said  # the data itself is exact

    def test_what_cannot_be_seen_is_shown_by_its_code(self) -> None:
        assert t("a\u202eb\x00\n") == "a\\u202eb\\x00\\n"
        assert t('<a href="x">') == "&lt;a href=&quot;x&quot;&gt;"
        assert t("ü – 日本") == "ü – 日本"

    def test_attributes(self) -> None:
        given: dict[str, object] = {"class_": "a", "data_x": '"', "hidden": True, "title": None, "open": False}
        assert attributes(given) == ' class="a" data-x="&quot;" hidden'
        assert tag("p", t("x"), class_=None) == "<p>x</p>"

    def test_embedded_data_cannot_end_its_element(self) -> None:
        text = embedded({"a": "</script><!--&\u2028"})
        assert not set(text) & set("<>&")
        assert json.loads(text) == {"a": "</script><!--&\u2028"}


def long_log(count: int, changing: int = 0) -> list[Event]:
    """An entry and `count` moves of the stop; then an exit with so many attempts."""
    first = opened(
        policy=policy(trailing_stop={"activation_pct": "0.01", "trail_pct": 1, "step_pct": 0}, profit_taking=False)
    )
    events: list[Event] = [first]
    best = Decimal(100)
    for _ in range(count):
        best += Decimal("0.02")
        events.append(
            StopMoved(rule=ExitType.TRAILING_STOP, stop=best * Decimal("0.99"), best_price=best, bar_at=first.opened_at)
        )
    key = position_id(first.account, first.symbol, first.side, first.epoch)
    order = client_order_id(key, 1)
    if changing:
        events.append(
            ExitTriggered(
                reason=ExitType.EMERGENCY,
                client_order_id=order,
                attempt=1,
                qty=Decimal(10),
                order_type=OrderType.MARKET,
                time_in_force=TimeInForce.DAY,
                at=T0,
                trigger_price=best,
                level=best,
                threshold_pct=Decimal(0),
            )
        )
        events.append(OrderAccepted(client_order_id=order, broker_order_id="b", at=T0))
        for _ in range(changing // 2):
            events.append(CancelRequested(client_order_id=order, at=T0, why="w"))
            events.append(CancelRefused(client_order_id=order, at=T0))
    return events


class TestLong:
    def test_a_short_log_is_shown_whole(self) -> None:
        store, key = stored(*long_log(WHOLE_MAX - 1))
        assert folds(trail(store, key)) == []

    @pytest.mark.parametrize("count", [WHOLE_MAX, 500, 2000])
    def test_idle_stretches_are_folded_in_handy_parts(self, count: int) -> None:
        store, key = stored(*long_log(count))
        found = folds(trail(store, key))
        assert found[0].first == 3  # the first and the last event of a stretch stay
        assert found[-1].last == count
        assert all(b.first == a.last + 1 for a, b in pairwise(found))
        assert all(fold.last - fold.first < FOLD_MAX for fold in found)
        text = position_page(store, key)
        page = Page(text)
        assert len(page.all("template")) == len(found)
        assert page.ids.count(f"e{found[0].first}") == 1
        assert "× StopMoved; stop" in page.text

    def test_even_changes_of_state_are_folded_where_they_are_too_many(self) -> None:
        store, key = stored(*long_log(0, changing=1200))
        told = trail(store, key)
        hidden = {n for fold in folds(told) for n in range(fold.first, fold.last + 1)}
        assert len(told) - len(hidden) == 2 * SHOWN_ENDS
        assert not hidden & set(range(1, SHOWN_ENDS + 1))
        assert "of them changes of state" in position_page(store, key)

    @pytest.mark.slow
    def test_ten_thousand_events_on_one_page(self) -> None:
        store, key = stored(*long_log(9_999))
        text = position_page(store, key)
        assert len(data_of(text)["events"]) == 10_000
        assert len(text) < 15_000_000
        marks = re.findall(r'class="mark stop"', text)
        assert len(marks) < 500


class TestPicture:
    def test_every_change_of_state_in_the_table_is_an_edge_and_no_other(self) -> None:
        rows = {(r.source, r.target) for r in TABLE if r.source is not None and r.source is not r.target}
        assert set(pairs()) == rows
        assert {(e.source, e.target) for e in edges()} == rows
        assert set(PLACES) == set(State)

    def test_no_label_stands_on_another_or_on_a_box(self) -> None:
        spots = [edge.label for edge in edges()]
        for (x, y), (bx, by) in ((s, p) for s in spots for p in PLACES.values()):
            assert abs(x - bx) > 64 or abs(y - 4 - by) > 19
        for one, other in ((a, b) for i, a in enumerate(spots) for b in spots[i + 1 :]):
            assert abs(one[0] - other[0]) > 8 or abs(one[1] - other[1]) > 8

    def test_unprotected_is_drawn_for_those_that_were(self) -> None:
        calm, key = stored(opened())
        assert 'data-state="unprotected"' not in position_page(calm, key)
        lost, key = stored(opened(), ProtectionLost(why="budget spent", at=T0))
        assert 'data-state="unprotected"' in position_page(lost, key)

    def test_the_path_is_numbered(self, site: Path, pages: Pages) -> None:
        for key, text in pages:
            with ExitStore(site, read_only=True) as store:
                moves = [s for s in trail(store, key) if s.moved and s.before is not None]
            numbered = sorted(
                int(n) for attrs in Page(text).all("g") for n in str(attrs.get("data-e") or "").split(",") if n
            )
            assert numbered == [s.version for s in moves]

    def test_a_label_names_three_and_counts_the_rest(self) -> None:
        assert label("retry", [1, 2, 3]) == "retry #1, #2, #3"
        assert label("retry", [1, 2, 3, 4, 5]) == "retry #1, #2, #3 +2"
        assert label("retry", []) == ""

    def test_bars_around_the_position_are_shown_and_no_others(self, site: Path) -> None:
        with ExitStore(site, read_only=True) as store:
            chain, wanted = chain_of(store), some(store)
            for row in (row for row in store.positions() if row.position_id in wanted):
                story = story_of(store, row.position_id, bars=BARS, chain=chain)
                of_symbol = [b for b in BARS if b.symbol == row.symbol]
                before = sum(b.timestamp < row.opened_at_utc for b in of_symbol)
                until = story.steps[-1].at
                held = sum(row.opened_at_utc <= b.timestamp <= until for b in of_symbol)
                after = sum(b.timestamp > until for b in of_symbol)
                assert story.bars == min(before, BARS_AROUND) + held + (
                    min(after, BARS_AROUND) if row.state.terminal else after
                )

    def test_many_bars_become_few_candles(self) -> None:
        store, key = stored(opened(symbol="S0", at=T0))
        story = story_of(store, key, bars=wander(1, 3000, spread=0.0001))
        assert story.bars == 3000
        assert len(story.candles) <= CANDLES_MAX
        assert sum(c.bars for c in story.candles) == 3000
        assert "bars, 9 to a candle" in position_page(store, key, bars=wander(1, 3000, spread=0.0001))

    def test_a_price_that_is_not_believed_does_not_flatten_the_picture(self) -> None:
        def bars() -> Iterator[Bar]:
            for minute, close in enumerate((100, 101, 14, "nan", 14, 101)):
                yield Bar("AAPL", T0 + timedelta(minutes=minute + 1), close, close, close, close)

        store, key = stored(opened())
        story = story_of(store, key, bars=bars())
        assert [(r.price, r.reason) for r in story.refused] == [
            ("14", "price_jump"),
            ("NaN", "not_finite"),
            ("14", "price_jump"),
        ]
        assert min(c.low for c in story.candles) == 100
        assert "refused: 14 (price_jump)" in position_page(store, key, bars=bars())

    @pytest.mark.parametrize("side", list(Side))
    @pytest.mark.parametrize(
        "config",
        [TRAILING, {}, {"target_ladder": {"enabled": True, "steps": [{"after_seconds": 600, "threshold_pct": 1}]}}],
    )
    def test_levels_step_as_they_stood(self, side: Side, config: dict[str, Any]) -> None:
        with ExitStore(":memory:") as store:
            simulate(iter(BARS), load_config(config), store=store, side=side, re_enter=True)
            chain = chain_of(store)
            for key in some(store):
                story = story_of(store, key, chain=chain)
                assert [s.at for s in story.standing] == sorted(s.at for s in story.standing)
                for standing in story.standing:
                    step = [s for s in story.steps if s.at <= standing.at and s.after][-1]
                    assert step.after is not None
                    if standing.entry is not None and step.after.state is State.MONITORING:
                        target, stops = levels(step.after, standing.at)
                        assert standing.stop == (stops[0].price if stops else None)
                        assert standing.target == (target.price if target else None)

    def test_without_bars_it_says_so(self) -> None:
        store, key = stored(opened())
        assert "No bars: prices are those that the events recorded" in position_page(store, key)


class TestAxes:
    def test_a_night_takes_little_room_and_is_marked(self) -> None:
        day = [datetime(2024, 1, 2, 15, m, tzinfo=UTC) for m in range(60)]
        axis = TimeAxis([*day, *(at + timedelta(days=1) for at in day)], 0, 1000)
        assert len(axis.breaks) == 1
        assert axis.breaks[0].length == timedelta(hours=23, minutes=1)
        assert axis.x(day[-1]) < 480
        assert axis.x(day[0] + timedelta(days=1)) > 520
        xs = [axis.x(day[0] + timedelta(minutes=m)) for m in range(-5, 2000, 7)]
        assert xs == sorted(xs)
        assert axis.x(day[0] - timedelta(days=9)) == 0
        assert axis.x(day[0] + timedelta(days=9)) == pytest.approx(1000)

    def test_one_moment_stands_in_the_middle(self) -> None:
        axis = TimeAxis([T0], 0, 100)
        assert axis.x(T0) == 50
        assert axis.ticks(9) == [(50, "2024-01-02 14:30")]

    @pytest.mark.parametrize("minutes", [2, 45, 400, 5000])
    def test_labels_do_not_crowd(self, minutes: int) -> None:
        axis = TimeAxis([T0 + timedelta(minutes=m) for m in range(minutes)], 0, 1000)
        ticks = axis.ticks(9)
        assert len(ticks) <= 10
        assert all(b[0] - a[0] >= 1000 / 9 for a, b in pairwise(ticks))

    @pytest.mark.parametrize("prices", [[100.0], [0.00001, 0.00002], [99.0, 101.0], [1e6, 2e6], [5.0, 5.0]])
    def test_prices_have_round_labels_that_differ(self, prices: list[float]) -> None:
        axis = PriceAxis(prices, 0, 100)
        labels = [said for _, said in axis.ticks(8)]
        assert 2 <= len(labels) <= 10
        assert len(labels) == len(set(labels))
        assert all(axis.inside(p) and 0 <= axis.y(p) <= 100 for p in prices)

    @pytest.mark.parametrize(
        ("seconds", "said"),
        [
            (5, "5 s"),
            (60, "1 min"),
            (3600, "1 h"),
            (5400, "1 h 30 min"),
            (86_400, "1 d"),
            (90_000, "1 d 1 h"),
            (0, "0 s"),
        ],
    )
    def test_spans_of_time(self, seconds: int, said: str) -> None:
        assert duration(timedelta(seconds=seconds)) == said


class TestWhatIfCard:
    def test_it_says_that_the_replay_is_the_log(self, exits: Path) -> None:
        seen = [Seen(b, None) for b in BARS]
        with ExitStore(exits, read_only=True) as store:
            key = store.positions()[0].position_id
            supposed = suppose(store, key, seen)
            page = Page(position_page(store, key, bars=BARS, supposed=supposed))
        assert supposed[0].changes == "the same policy"
        assert supposed[0].found.same_decisions
        assert len(supposed) == 8
        assert "✓ replay identical" in page.text
        assert "trailing_stop.trail_pct 0.15" in page.text

    def test_it_is_left_out_where_it_cannot_be_known(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            key = store.positions()[0].position_id
            assert suppose(store, key, []) == []
        store, key = stored(opened(policy=policy(custom_rule={"name": "mine"})))
        assert suppose(store, key, [Seen(b, None) for b in BARS]) == []

    def test_a_position_that_would_not_exit(self) -> None:
        store, key = stored(opened(symbol="S0"))
        seen = [Seen(b, None) for b in wander(1, 5, spread=0.00001)]
        assert "does not exit on these bars" in position_page(store, key, supposed=suppose(store, key, seen))


class TestIndex:
    def test_every_position_is_a_line_with_its_figures(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            text, rows = index_page(store, href=page_name), store.positions()
        page, data = Page(text), data_of(text)
        assert [p["position_id"] for p in data["positions"]] == [r.position_id for r in rows]
        lines = [a for a in page.all("tr") if "data-n" in a]
        assert [a["title"] for a in lines] == [r.position_id for r in rows]
        assert {str(a["href"]) for a in page.all("a")} == {page_name(r.position_id) for r in rows}
        known = [Decimal(p["pnl"]) for p in data["positions"] if p["pnl"] is not None]
        assert f"{'+' if sum(known) > 0 else ''}{sum(known).normalize():f}" in page.text
        assert len(known) == sum(r.avg_exit_price is not None for r in rows if r.state.terminal)

    def test_it_can_be_empty(self) -> None:
        with ExitStore(":memory:") as store:
            store.append("account:x", 0, [TradingPaused(by="ann", at=T0)], at=T0, by="operator")
            page = Page(index_page(store))
        assert "0 positions" in page.text
        assert "Nothing has been exited yet." in page.text

    def test_names_of_pages_differ_and_are_files(self) -> None:
        names = {page_name(key) for key in ("BTC/USD:long:1:a", "BTC.USD:long:1:a", "../../etc", "a" * 400, "", "ü")}
        assert len(names) == 6
        assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,110}\.html", name) for name in names)

    def test_a_long_store_has_several_pages_that_link_to_each_other(
        self, exits: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ExitStore(exits, read_only=True) as store:
            whole, rows = index_page(store), store.positions()
            monkeypatch.setattr(index, "POSITIONS_MAX", 2)
            pages = dict(index_pages(store, "i-{}.html".format))
        count = -(-len(rows) // 2)
        assert count > 2  # or nothing is shown
        assert set(pages) == {f"i-{number}.html" for number in range(1, count + 1)}
        assert list(pages)[-1] == "i-1.html"  # it has the totals of all others
        in_order = [pages[f"i-{number}.html"] for number in range(1, count + 1)]
        shown = [p for text in in_order for p in data_of(text)["positions"]]
        assert shown == data_of(whole)["positions"]
        for number, text in enumerate(in_order, 1):
            others = {f"i-{n}.html" for n in range(1, count + 1)} - {f"i-{number}.html"}
            assert {str(a["href"]) for a in Page(text).all("a")} == others
        tiles = re.findall(r'id="total-(\w+)"[^>]*>([^<]*)', whole)
        assert re.findall(r'id="all-(\w+)"[^>]*>([^<]*)', in_order[0]) == tiles
        assert 'id="all-' not in in_order[1]

    def test_a_short_store_has_one(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            assert dict(index_pages(store, str)) == {"1": index_page(store)}
