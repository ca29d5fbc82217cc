"""The pages in a real browser: what moves, moves together; nothing is asked of anybody; nothing complains.

Debian's chromium, driven by playwright. Where one of them is missing, these tests skip and say which.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from stores import T0, TRAILING, troubled, wander
from test_pages import EVIL, long_log, stored

from exitfsm import ExitStore, load_config
from exitfsm.events import AlarmRaised
from exitfsm.recorded_bars import Seen
from exitfsm.report import index_page, page_name, position_page, suppose
from exitfsm.simulate import simulate
from exitfsm.testing.given import opened

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path(os.environ.get("EXITFSM_CHROMIUM", "/usr/bin/chromium"))
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no chromium at {CHROMIUM}: apt-get install chromium"),
    # playwright's own event loop is closed by its own garbage, not by ours
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Tab:
    """A page in the browser, and everything that it should not do."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: self.complaints.append(f"error: {e}"))
        page.on("request", lambda r: self.requests.append(r.url))

    def load(self, path: Path, fragment: str = "") -> Tab:
        self.page.goto(f"{path.as_uri()}{fragment}")
        return self

    def js(self, code: str) -> Any:
        return self.page.evaluate(code)

    @property
    def selected(self) -> str | None:
        found = self.js("document.querySelector('#events .selected')?.id")
        return str(found) if found else None

    @property
    def state(self) -> str:
        return str(self.js("document.querySelector('#machine .current')?.dataset.state"))

    @property
    def cursor(self) -> float:
        return float(self.js("document.getElementById('cursor').transform.baseVal[0].matrix.e"))

    @property
    def numbers(self) -> list[int]:
        """The numbers on the path that is lit."""
        texts = self.js("[...document.querySelectorAll('#machine .edge.taken text')].map(x => x.textContent).join(' ')")
        return sorted(int(word.strip("#,")) for word in str(texts).split() if word.startswith("#"))

    def assert_quiet(self) -> None:
        """Nothing was complained of, and nothing was asked for but the pages themselves."""
        assert self.complaints == []
        assert all(
            url.startswith(("data:", "blob:")) or url.partition("#")[0].endswith(".html") for url in self.requests
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGS)
        except sync_api.Error as error:
            pytest.skip(f"chromium does not start here: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


Open = Callable[..., Tab]


@pytest.fixture
def tab(browser: Any) -> Iterator[Open]:
    """Opens a page; at the end it must have been quiet."""
    opened: list[tuple[Any, Tab]] = []

    def make(path: Path, fragment: str = "", **options: Any) -> Tab:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        one = Tab(context.new_page())
        opened.append((context, one))
        return one.load(path, fragment)

    yield make
    for context, one in opened:
        one.assert_quiet()
        context.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with the pages of some positions, one of them with trouble (`trouble.html`), and a long one."""
    root = tmp_path_factory.mktemp("site")
    with ExitStore(":memory:") as store:
        simulate(wander(), load_config(TRAILING), store=store, re_enter=True, broker=troubled())
        keys = [row.position_id for row in store.positions()]
        (root / "index.html").write_text(index_page(store, href=page_name))
        for key in keys[:6]:
            supposed = suppose(store, key, [Seen(b, None) for b in wander()])
            page = position_page(store, key, bars=wander(), index="index.html", supposed=supposed)
            (root / page_name(key)).write_text(page)
        trouble = next(key for key in keys if len(store.exit_orders(key.partition(":")[0])) and key.startswith("S0"))
        (root / "trouble.html").write_text(position_page(store, trouble, bars=wander()))
        told = [r.version for r in store.stream(trouble)]
        (root / "count").write_text(str(told[-1]))
    store, key = stored(*long_log(9_999))
    (root / "long.html").write_text(position_page(store, key))
    return root


def events_of(tab: Tab) -> list[dict[str, Any]]:
    return list(json.loads(tab.js("document.getElementById('data').textContent"))["events"])


class TestMovingTogether:
    def test_the_slider_moves_chart_diagram_and_table(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html")
        events = events_of(page)
        seen = []
        for e in events:
            page.js(f"slider.value = {e['version']}; slider.dispatchEvent(new Event('input'))")
            assert page.selected == f"e{e['version']}"
            assert page.state == e["state_after"]
            moves = [x["version"] for x in events[: e["version"]] if x["state_before"] not in (None, x["state_after"])]
            assert page.numbers == moves
            caption = page.page.inner_text("#caption")
            assert f"#{e['version']} of {len(events)}" in caption
            assert e["name"] in caption
            assert json.loads(page.page.text_content("#raw"))["hash"] == e["hash"]
            seen.append(page.cursor)
        assert seen == sorted(seen)
        assert len(set(seen)) > 3

    def test_the_keys(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html")
        last = int((site / "count").read_text())
        assert page.selected == f"e{last}"
        page.page.keyboard.press("ArrowLeft")
        assert page.selected == f"e{last - 1}"
        page.page.keyboard.press("ArrowRight")
        page.page.keyboard.press("ArrowRight")
        assert page.selected == f"e{last}"
        page.page.focus("#slider")
        page.page.keyboard.press("Home")
        assert page.selected == "e1"
        assert page.state == "monitoring"
        page.page.keyboard.press("End")
        assert page.selected == f"e{last}"
        page.page.keyboard.press("PageUp")
        assert page.selected == f"e{max(1, last - 10)}"

    def test_buttons_rows_and_marks(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html")
        page.page.click("#e2 .event")
        assert page.selected == "e2"
        page.page.click("#next")
        assert page.selected == "e3"
        page.page.click("#prev")
        assert page.selected == "e2"
        page.page.locator("#chart a.mark.trigger").first.click(force=True)
        trigger = next(e["version"] for e in events_of(page) if e["name"] == "ExitTriggered")
        assert page.selected == f"e{trigger}"
        page.page.click(f"#e{trigger} td:nth-child(7) a")  # the cause
        assert page.selected == f"e{events_of(page)[trigger - 1]['cause']}"

    def test_the_future_is_veiled_and_the_end_is_not(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html", "#e2")
        assert float(page.js("document.getElementById('ahead').getAttribute('width')")) > 100
        page.page.focus("#slider")
        page.page.keyboard.press("End")
        assert float(page.js("document.getElementById('ahead').getAttribute('width')")) == 0


class TestDeepLinks:
    def test_a_link_opens_at_its_event(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html", "#e4")
        assert page.selected == "e4"
        assert page.page.locator("#e4").is_visible()
        page.page.keyboard.press("ArrowRight")
        assert page.js("location.hash") == "#e5"

    def test_a_link_that_is_followed_later(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html")
        page.js("location.hash = '#e3'")
        page.page.wait_for_selector("#e3.selected")

    @pytest.mark.parametrize("fragment", ["#e0", "#e99999", "#nothing", "#e1x", "#"])
    def test_a_link_to_nothing_shows_something(self, tab: Open, site: Path, fragment: str) -> None:
        page = tab(site / "trouble.html", fragment)
        assert page.selected is not None

    def test_into_a_folded_stretch(self, tab: Open, site: Path) -> None:
        page = tab(site / "long.html", "#e5000")
        assert page.selected == "e5000"
        box = page.page.locator("#e5000").bounding_box()
        head = page.page.locator("#events thead").bounding_box()
        assert head["y"] + head["height"] <= box["y"] + 1 < 900
        assert page.page.locator("tbody.fold.opened").count() == 1


class TestLong:
    def test_ten_thousand_events_stay_quick(self, tab: Open, site: Path) -> None:
        page = tab(site / "long.html")
        assert page.page.locator("#events tbody tr").count() < 100
        many = "for (let i = 1; i <= 100; i++) go(i * 97)"
        each = page.js(f"(() => {{const t = performance.now(); {many}; return (performance.now() - t) / 100}})()")
        assert each < 100  # ms; about 3 on a quiet machine

    def test_a_fold_opens_and_closes(self, tab: Open, site: Path) -> None:
        page = tab(site / "long.html")
        button = page.page.locator("button.open").first
        assert page.page.locator("#e3").count() == 0
        button.click()
        assert page.page.locator("#e3").is_visible()
        assert button.get_attribute("aria-expanded") == "true"
        button.click()
        assert not page.page.locator("#e3").is_visible()
        page.js("go(10)")
        assert "summary" in page.js("document.querySelector('#events .selected').className")


class TestLightAndDark:
    @pytest.mark.parametrize("name", ["trouble.html", "index.html"])
    def test_as_the_system_has_it_and_the_other_way_round(self, tab: Open, site: Path, name: str) -> None:
        def back(page: Tab) -> str:
            return str(page.js("getComputedStyle(document.body).backgroundColor"))

        light, dark = tab(site / name, color_scheme="light"), tab(site / name, color_scheme="dark")
        assert back(light) != back(dark)
        before = back(light)
        light.page.click("#theme")
        assert back(light) == back(dark)
        light.page.click("#theme")
        assert back(light) == before

    def test_on_paper_there_are_no_controls(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html", color_scheme="dark")
        page.page.emulate_media(media="print")
        assert not page.page.locator("#bar").is_visible()
        assert page.page.locator("#events tbody tr").last.is_visible()
        assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert len(page.page.pdf()) > 10_000

    @pytest.mark.parametrize("name", ["trouble.html", "index.html"])
    def test_on_paper_nothing_is_cut_off(self, tab: Open, site: Path, name: str) -> None:
        page = tab(site / name)
        page.page.set_viewport_size({"width": 794, "height": 1123})  # A4
        page.page.emulate_media(media="print")
        inside = "[...document.querySelectorAll('.card')].every(c => c.scrollWidth <= c.clientWidth)"
        assert page.js(f"{inside} && document.documentElement.scrollWidth <= innerWidth")


class TestNarrow:
    def test_the_picture_stays_readable_and_follows_the_selected_event(self, tab: Open, site: Path) -> None:
        page = tab(site / "trouble.html")
        page.page.set_viewport_size({"width": 390, "height": 800})
        assert page.js("document.documentElement.scrollWidth <= innerWidth")
        for key in ("Home", "End"):
            page.page.focus("#slider")
            page.page.keyboard.press(key)
            assert 0 < page.js("document.querySelector('#cursor').getBoundingClientRect().left") < 390
        assert page.js("document.querySelector('#chart').getBoundingClientRect().width") >= 700


class TestDownload:
    @pytest.mark.parametrize("name", ["trouble.html", "index.html"])
    def test_the_data_comes_out_as_it_is(self, tab: Open, site: Path, name: str) -> None:
        page = tab(site / name)
        with page.page.expect_download() as waiting:
            page.page.click("#download")
        got = json.loads(Path(waiting.value.path()).read_text())
        inside = json.loads(page.js("document.getElementById('data').textContent"))
        inside.pop("view", None)
        assert got == inside
        assert waiting.value.suggested_filename.endswith(".json")


class TestIndex:
    def shown(self, page: Tab, column: int = 1) -> list[str]:
        cells = f"#positions tbody tr:not([hidden]) td:nth-child({column})"
        return list(page.js(f"[...document.querySelectorAll('{cells}')].map(x => x.textContent)"))

    def test_the_filters(self, tab: Open, site: Path) -> None:
        page = tab(site / "index.html")
        everything = len(self.shown(page))
        page.page.select_option("#filter-symbol", "S1")
        assert set(self.shown(page)) == {"S1"}
        of_s1 = len(self.shown(page))
        assert page.page.inner_text("#total-shown") == str(of_s1)
        page.page.select_option("#filter-reason", "trailing_stop")
        assert set(self.shown(page, 6)) == {"trailing_stop"}
        page.page.select_option("#filter-state", "monitoring")
        assert self.shown(page) == []
        assert page.page.locator("#nothing").is_visible()
        page.page.click("#reset")
        assert len(self.shown(page)) == everything
        page.page.fill("#filter-text", "s2:long")
        assert set(self.shown(page)) == {"S2"}

    def test_the_totals_follow_the_filter_exactly(self, tab: Open, site: Path) -> None:
        page = tab(site / "index.html")
        before = {name: page.page.inner_text(f"#total-{name}") for name in ("shown", "open", "pnl", "average", "won")}
        page.page.select_option("#filter-symbol", "S0")
        data = json.loads(page.js("document.getElementById('data').textContent"))["positions"]
        total = sum(Decimal(p["pnl"]) for p in data if p["symbol"] == "S0" and p["pnl"] is not None)
        assert Decimal(page.page.inner_text("#total-pnl")) == total
        page.page.click("#reset")
        assert {name: page.page.inner_text(f"#total-{name}") for name in before} == before

    def test_sorting(self, tab: Open, site: Path) -> None:
        page = tab(site / "index.html")
        page.page.click("th button[data-sort=pct]")
        known = [float(x) for x in self.shown(page, 9) if x != "–"]
        assert known == sorted(known, reverse=True)
        assert self.shown(page, 9)[-1] == "–"
        assert page.page.get_attribute("th:nth-child(9)", "aria-sort") == "descending"
        page.page.click("th button[data-sort=pct]")
        known = [float(x) for x in self.shown(page, 9) if x != "–"]
        assert known == sorted(known)
        assert self.shown(page, 9)[-1] == "–"
        page.page.click("th button[data-sort=symbol]")
        assert self.shown(page) == sorted(self.shown(page))
        assert page.page.get_attribute("th:nth-child(9)", "aria-sort") is None

    def test_from_the_index_to_a_page_and_back(self, tab: Open, site: Path) -> None:
        page = tab(site / "index.html")
        page.page.locator("#positions tbody a").first.click()
        page.page.wait_for_selector("#events")
        page.page.click("header .back")
        page.page.wait_for_selector("#positions")


class TestFromOutside:
    @pytest.mark.parametrize("name", ["page", "index"])
    def test_what_looks_like_a_script_is_text(self, tab: Open, tmp_path: Path, name: str) -> None:
        words = " ".join(text for text in EVIL if "\ud800" not in text)
        store, key = stored(opened(), AlarmRaised(alarm_id=words, kind=words, text=words, at=T0))
        path = tmp_path / "evil.html"
        path.write_text(position_page(store, key) if name == "page" else index_page(store))
        page = tab(path)
        page.page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        assert page.page.locator("img").count() == 0
        if name == "page":
            assert "<img src=x onerror=alert(1)>" in page.page.inner_text("#e2")
            assert json.loads(page.page.text_content("#raw"))["fields"]["text"] == words

    def test_a_script_that_slipped_in_would_not_run(self, browser: Any, site: Path, tmp_path: Path) -> None:
        text = (site / "trouble.html").read_text()
        path = tmp_path / "slipped.html"
        path.write_text(text.replace("<h1>", "<h1><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"))
        context = browser.new_context()
        page = context.new_page()
        page.goto(path.as_uri())
        page.wait_for_timeout(100)
        assert page.evaluate("window.ran") is None
        context.close()
