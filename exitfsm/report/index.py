"""The page of a whole store: every position on a line, sortable and filtered, with totals that follow the filter.

A long store has several pages, so that a browser can show each and no more than one is in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from exitfsm.audit.plainly import plainly
from exitfsm.events import PositionOpened
from exitfsm.position import Position
from exitfsm.profit import Profit, money, profit_of
from exitfsm.report.axes import duration
from exitfsm.report.markup import document, number, t, tag, void
from exitfsm.report.story import Chain, chain_of
from exitfsm.store import ExitStore
from exitfsm.values import EXACT, ZERO, exactly, plain, stamp

#: The address of a position's page relative to the index; None where it has none.
Href = Callable[[str], str | None]
#: Most positions on one page: about 2 MB.
POSITIONS_MAX = 2000


class Line(NamedTuple):
    """One position as the index shows it."""

    position: Position
    profit: Profit
    entered_qty: Decimal
    events: int

    @property
    def pnl(self) -> Decimal | None:
        """What our orders gained; None until it is over with a known price."""
        return self.profit.pnl if self.position.state.terminal else None

    @property
    def pnl_pct(self) -> Decimal | None:
        """The same in percent."""
        return self.profit.pnl_pct if self.position.state.terminal else None

    @property
    def held(self) -> str:
        """What was entered; and where our orders did not sell it all, what they and others sold of it."""
        p, sold = self.position, self.profit
        whole = f"{p.side} {plain(self.entered_qty)}"
        if not (sold.by_hand_qty or sold.residue_qty):
            return whole
        parts = [(sold.qty, "by us"), (sold.by_hand_qty, "by hand"), (sold.residue_qty, "left")]
        return f"{whole} ({', '.join(f'{plain(qty)} {how}' for qty, how in parts if qty)})"

    @property
    def reason(self) -> str:
        """Why it was exited, or how it ended."""
        if self.position.reason is not None:
            return str(self.position.reason)
        return "closed elsewhere" if self.position.state.terminal else "–"


class _Reason:
    """The exits for one reason: how many there are, and what those with a known price gained in percent."""

    def __init__(self) -> None:
        self.exits = self.known = 0
        self.pct = ZERO


class _Totals:
    """What a number of lines come to."""

    def __init__(self, lines: Sequence[Line] = ()) -> None:
        self.count = self.still_open = self.known = self.won = 0
        self.pnl = self.pct = ZERO
        self.reasons: dict[str, _Reason] = defaultdict(_Reason)
        self.add(lines)

    def add(self, lines: Sequence[Line]) -> None:
        """Count these, too."""
        for line in lines:
            self.count += 1
            if line.position.state.terminal:
                self._ended(line, self.reasons[line.reason])
            else:
                self.still_open += 1

    def _ended(self, line: Line, reason: _Reason) -> None:
        reason.exits += 1
        if line.pnl_pct is not None:
            reason.known += 1
            reason.pct += line.pnl_pct
        if line.pnl is not None and line.pnl_pct is not None:
            self.known += 1
            self.pnl += line.pnl
            self.pct += line.pnl_pct
            self.won += line.pnl > 0


@exactly
def index_page(store: ExitStore, *, href: Href | None = None, chain: Chain | None = None) -> str:
    """The index of a store, as HTML. The same log gives the same bytes.

    Args:
        store: the store.
        href: where the page of a position lies; without it the lines are no links.
        chain: the store's chain, where it was checked already.
    """
    lines = [_line(store, row.position_id) for row in store.positions()]
    checked, totals = chain or chain_of(store), _Totals(lines)
    return _page(lines, checked, href, tag("h2", t("By reason, all positions")), totals)


def index_pages(
    store: ExitStore, name: Callable[[int], str], *, href: Href | None = None, chain: Chain | None = None
) -> Iterator[tuple[str, str]]:
    """The index of a store on as many pages as it needs, each with its name; the first page comes last.

    Each has at most `POSITIONS_MAX` positions, oldest first, and the totals of these; the first one has the totals of
    the whole store, too.

    Args:
        store: the store.
        name: the name of each page, by its number from 1; the pages link to each other by it.
        href: where the page of a position lies; without it the lines are no links.
        chain: the store's chain, where it was checked already.
    """
    keys, checked = store.position_ids(), chain or chain_of(store)
    if len(keys) <= POSITIONS_MAX:
        yield name(1), index_page(store, href=href, chain=checked)
        return
    totals, count = _Totals(), -(-len(keys) // POSITIONS_MAX)
    for page in [*range(2, count + 1), 1]:
        chosen = keys[(page - 1) * POSITIONS_MAX : page * POSITIONS_MAX]
        yield name(page), _one_of(store, chosen, (page, count, len(keys)), totals, checked, href, name)


@exactly
def _one_of(
    store: ExitStore,
    keys: Sequence[str],
    place: tuple[int, int, int],
    totals: _Totals,
    chain: Chain,
    href: Href | None,
    name: Callable[[int], str],
) -> str:
    """One page of several; adds its positions to the totals of the store."""
    lines = [_line(store, key) for key in keys]
    totals.add(lines)
    above = tag("section", *_pages(place, name), class_="card", id="pages")
    if place[0] == 1:
        tiles = tag("div", *_tiles(totals, "all"), class_="tiles")
        above += tag("section", tag("h2", t("The whole store")), tiles, _reasons(totals), class_="card", id="whole")
    return _page(lines, chain, href, tag("h2", t("By reason, positions of this page")), _Totals(lines), above)


def _page(
    lines: Sequence[Line], chain: Chain, href: Href | None, heading: str, totals: _Totals, above: str = ""
) -> str:
    body = [
        _header(lines, chain),
        above,
        tag("div", *_tiles(totals, "total"), class_="tiles", id="tiles"),
        tag("section", heading, _reasons(totals), class_="card", id="reasons"),
        tag("section", tag("h2", t("Positions")), _filters(lines), _table(lines, href), class_="card", id="list"),
    ]
    data = {
        "format": "exitfsm.index.v1",
        "chain": {"events": chain.events, "head": chain.head, "broken_at": chain.broken_at},
        "positions": [_data(line) for line in lines],
    }
    title = f"{len(lines):,} position{'' if len(lines) == 1 else 's'}"
    return document(title=title, body="".join(body), data=data, scripts=("shared.js", "index.js"))


def _pages(place: tuple[int, int, int], name: Callable[[int], str]) -> Iterator[str]:
    """Which page this is, and where the others are."""
    page, count, positions = place
    first, last = (page - 1) * POSITIONS_MAX + 1, min(page * POSITIONS_MAX, positions)
    yield tag("p", t(f"Positions {first:,} to {last:,} of {positions:,}, oldest first. Page:"))
    links = (t(n) if n == page else tag("a", t(n), href=name(n)) for n in range(1, count + 1))
    yield tag("p", " ".join(links))


def _line(store: ExitStore, position_id: str) -> Line:
    events = [r.event for r in store.stream(position_id)]
    p, profit = profit_of(events)
    opened = events[0]
    assert isinstance(opened, PositionOpened)
    return Line(p, profit, opened.qty, p.version)


def _data(line: Line) -> dict[str, Any]:
    p = line.position
    data: dict[str, Any] = plainly(
        {
            "position_id": p.position_id,
            "symbol": p.symbol,
            "side": p.side,
            "qty": line.entered_qty,
            "sold_qty": line.profit.qty,
            "by_hand_qty": line.profit.by_hand_qty,
            "residue_qty": line.profit.residue_qty,
            "strategy_name": p.strategy_name,
            "state": p.state,
            "reason": p.reason,
            "opened_at": p.opened_at,
            "entry_price": p.entry_price,
            "ended_at": p.ended_at,
            "avg_exit_price": p.avg_exit_price if p.state.terminal else None,
            "pnl": line.pnl,
            "pnl_pct": line.pnl_pct,
            "attempts": p.attempt,
            "alarms": [f"{alarm.kind}: {alarm.text}" for alarm in p.alarms],
            "events": line.events,
        }
    )
    return data


# --- the top ----------------------------------------------------------------------------------------------------------


def _header(lines: Sequence[Line], chain: Chain) -> str:
    times = sorted(line.position.opened_at for line in lines)
    span = f"entered from {_time(times[0])} to {_time(times[-1])} UTC" if times else "the store is empty"
    good = chain.broken_at is None
    said = f"✓ chain {chain.events:,}/{chain.events:,}" if good else f"✗ chain breaks at {chain.broken_at:,}"
    badges = [tag("span", t(said), class_="badge good" if good else "badge bad")]
    alarms = sum(len(line.position.alarms) for line in lines)
    if alarms:
        badges.append(tag("span", t(f"{alarms:,} alarm{'' if alarms == 1 else 's'}"), class_="badge bad"))
    title = tag("h1", t(f"{len(lines):,} position{'' if len(lines) == 1 else 's'}"), tag("small", t(span)))
    buttons = tag("button", t("Download JSON"), type="button", id="download", data_name="positions.json")
    theme = tag("button", t("◐"), type="button", id="theme", title="light or dark", aria_label="light or dark")
    return tag(
        "header", tag("div", title, tag("div", *badges, class_="badges")), tag("div", buttons, theme, class_="tools")
    )


def _tiles(totals: _Totals, prefix: str) -> Iterator[str]:
    """Totals; the script makes those of a page (`total-`) again for what the filter leaves."""
    average = _average(totals.pct, totals.known)
    share = f"{totals.won / totals.known:.0%}" if totals.known else "–"
    yield _tile(f"{prefix}-shown", f"{totals.count:,}", "positions", "")
    yield _tile(f"{prefix}-open", f"{totals.still_open:,}", "still open", "")
    yield _tile(f"{prefix}-pnl", money(totals.pnl), "realised in all", _colour(totals.pnl))
    yield _tile(
        f"{prefix}-average", f"{_signed(average)} %" if average is not None else "–", "average", _colour(average)
    )
    yield _tile(f"{prefix}-won", share, "of the exits gained", "")


def _tile(name: str, value: str, said: str, kind: str) -> str:
    return tag("div", tag("b", t(value), id=name, class_=kind or None), tag("span", t(said)), class_="tile")


def _reasons(totals: _Totals) -> str:
    """Exits by reason, with what each gained or lost."""
    if not totals.reasons:
        return tag("p", t("Nothing has been exited yet."), class_="note")
    widest = max((abs(found.pct) for found in totals.reasons.values()), default=ZERO) or Decimal(1)
    rows = [_reason(reason, totals.reasons[reason], widest) for reason in sorted(totals.reasons)]
    names = (("Reason", ""), ("Exits", "num"), ("Total %", "num"), ("Average %", "num"), ("", ""))
    head = tag("tr", *(tag("th", t(name), scope="col", class_=kind or None) for name, kind in names))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="reasons"), class_="scroll")


def _reason(reason: str, found: _Reason, widest: Decimal) -> str:
    total, average = found.pct, _average(found.pct, found.known)
    length = float(abs(total) / widest) * 126
    left = 130 if total >= 0 else 130 - length
    bar = tag(
        "svg",
        void("path", d=f"M{number(left)} 2h{number(length)}v10h{number(-length)}Z"),
        void("path", d="M130 0V14", class_="axis"),
        viewBox="0 0 260 14",
        class_=_colour(total) or None,
        aria_hidden="true",
    )
    return tag(
        "tr",
        tag("th", t(reason), scope="row"),
        tag("td", t(f"{found.exits:,}"), class_="num"),
        tag("td", t(_signed(total)), class_=f"num {_colour(total)}".strip()),
        tag("td", t(_signed(average) if average is not None else "–"), class_="num"),
        tag("td", bar),
    )


# --- the list ---------------------------------------------------------------------------------------------------------


def _filters(lines: Sequence[Line]) -> str:
    def select(name: str, said: str, values: set[str]) -> str:
        options = [tag("option", t("all"), value=""), *(tag("option", t(v), value=v) for v in sorted(values))]
        return tag("label", t(said), tag("select", *options, id=f"filter-{name}"))

    return tag(
        "div",
        select("state", "State", {str(line.position.state) for line in lines}),
        select("reason", "Reason", {line.reason for line in lines}),
        select("symbol", "Symbol", {line.position.symbol for line in lines}),
        tag("label", t("Find"), void("input", type="search", id="filter-text", placeholder="id, strategy …")),
        tag("button", t("Reset"), type="button", id="reset"),
        class_="filters",
    )


class _Column(NamedTuple):
    name: str
    key: str
    numeric: bool = False


_COLUMNS = (
    _Column("Symbol", "symbol"),
    _Column("Held", "qty", True),
    _Column("Strategy", "strategy"),
    _Column("Entered (UTC)", "opened"),
    _Column("State", "state"),
    _Column("Reason", "reason"),
    _Column("Entry", "entry", True),
    _Column("Exit", "exit", True),
    _Column("P&L %", "pct", True),
    _Column("P&L", "pnl", True),
    _Column("For", "held", True),
    _Column("Orders", "orders", True),
    _Column("Alarms", "alarms", True),
    _Column("Events", "events", True),
)


def _table(lines: Sequence[Line], href: Href | None) -> str:
    heads = [
        tag(
            "th",
            tag("button", t(c.name), type="button", data_sort=c.key),
            scope="col",
            class_="num" if c.numeric else None,
        )
        for c in _COLUMNS
    ]
    rows = [_row(number, line, href) for number, line in enumerate(lines)]
    nothing = tag("p", t("No position meets the filter."), class_="note", id="nothing", hidden=bool(lines))
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="positions", id="positions")
    return tag("div", table, nothing, class_="scroll")


def _row(order: int, line: Line, href: Href | None) -> str:
    p = line.position
    address = href(p.position_id) if href is not None else None
    symbol = tag("a", t(p.symbol), href=address) if address is not None else t(p.symbol)
    over = p.ended_at - p.opened_at if p.ended_at is not None and p.state.terminal else None
    average = p.avg_exit_price if p.state.terminal else None
    unprotected = " unprotected" if str(p.state) == "unprotected" else ""
    cells = (
        _cell(symbol, p.symbol),
        _cell(t(line.held), line.entered_qty * p.side.sign, "num"),
        _cell(t(p.strategy_name or "–"), p.strategy_name),
        _cell(t(_time(p.opened_at)), stamp(p.opened_at)),
        _cell(tag("span", t(p.state), class_=f"chip{unprotected}"), p.state),
        _cell(t(line.reason), line.reason),
        _cell(t(plain(p.entry_price)), p.entry_price, "num"),
        _cell(t(plain(average) if average is not None else "–"), average, "num"),
        _cell(
            t(f"{line.pnl_pct:+.2f}" if line.pnl_pct is not None else "–"), line.pnl_pct, f"num {_colour(line.pnl_pct)}"
        ),
        _cell(t(money(line.pnl) if line.pnl is not None else "–"), line.pnl, f"num {_colour(line.pnl)}"),
        _cell(
            t(duration(over) if over is not None else "–"), over.total_seconds() if over is not None else None, "num"
        ),
        _cell(t(p.attempt), p.attempt, "num"),
        _cell(t(len(p.alarms) or "–"), len(p.alarms), "num"),
        _cell(t(line.events), line.events, "num"),
    )
    return tag("tr", *cells, data_n=order, title=p.position_id)


def _cell(inside: str, value: object, kind: str = "") -> str:
    """A cell and what it is sorted by."""
    given = plain(value) if isinstance(value, Decimal) else "" if value is None else value
    return tag("td", inside, data_v=str(given), class_=kind.strip() or None)


def _average(total: Decimal, count: int) -> Decimal | None:
    return EXACT.divide(total, count).quantize(Decimal("0.0001"), context=EXACT) if count else None


def _signed(value: Decimal) -> str:
    return f"{'+' if value > 0 else ''}{plain(value)}"


def _colour(value: Decimal | None) -> str:
    return "gain" if value is not None and value > 0 else "loss" if value is not None and value < 0 else ""


def _time(at: datetime) -> str:
    return stamp(at)[:16].replace("T", " ")
