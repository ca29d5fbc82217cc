"""The page of one position: one HTML file that needs nothing else."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from exitfsm.audit import INVARIANTS
from exitfsm.audit.plainly import plainly
from exitfsm.audit.telling import as_dict
from exitfsm.events import ExitRetried, FillsRecorded, OrderEnded, ProtectionLost, tag_of
from exitfsm.lifecycle import State
from exitfsm.profit import money
from exitfsm.report.axes import duration
from exitfsm.report.chart import Chart
from exitfsm.report.machine import machine
from exitfsm.report.markup import document, t, tag, void
from exitfsm.report.story import Chain, Story, story_of
from exitfsm.report.supposing import Supposed
from exitfsm.report.table import folds, table
from exitfsm.store import ExitStore
from exitfsm.values import EXACT, Bar, exactly, pct_change, plain, stamp


@exactly
def position_page(
    store: ExitStore,
    position_id: str,
    *,
    bars: Iterable[Bar] = (),
    chain: Chain | None = None,
    index: str | None = None,
    supposed: Sequence[Supposed] = (),
) -> str:
    """The audit page of a position, as HTML. The same log and bars give the same bytes.

    Args:
        store: where its log is.
        position_id: the position.
        bars: bars in time order; those of other symbols are left alone. Without bars the picture shows what the log
            has: the levels, and the prices that the events recorded.
        chain: the store's chain, where it was checked already (`chain_of`).
        index: where the index page lies, relative to this one.
        supposed: what other policies would have made of it (`suppose`).

    Raises:
        StoreError: the store has no such position.
    """
    return render(story_of(store, position_id, bars=bars, chain=chain), index, supposed)


def page_name(position_id: str) -> str:
    """The name of a file for the page of a position; different positions have different names."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", position_id)[:80]
    return f"{readable}-{hashlib.sha256(position_id.encode()).hexdigest()[:8]}.html"


def render(story: Story, index: str | None = None, supposed: Sequence[Supposed] = ()) -> str:
    """A story as HTML."""
    p = story.position
    chart = Chart(story)
    body = [
        _header(story, index, supposed),
        _tiles(story),
        _card("why", _question(story), tag("ul", *(tag("li", t(s)) for s in as_dict(story.explanation)["sentences"]))),
        _card("price", "Price, levels and decisions", chart.svg(), _chart_note(story)),
        _card("states", "State machine: the path taken", machine(story.steps)),
        _card("log", "Every event: who, what, why", tag("div", table(story), class_="scroll")),
        _card("whatif", "What if: the same bars, another policy", *_whatif(story, supposed)) if supposed else "",
        tag("div", *_proofs(story), class_="columns"),
        _raw(),
        _bar(story),
    ]
    return document(
        title=f"{p.symbol} {p.side} {plain(p.qty)}: {p.reason or p.state}",
        body="".join(body),
        data=data_of(story, chart),
        scripts=("shared.js", "page.js"),
    )


def data_of(story: Story, chart: Chart) -> dict[str, Any]:
    """What the script reads and the button downloads."""
    return {
        "format": "exitfsm.audit.v1",
        "position_id": story.position.position_id,
        "explanation": as_dict(story.explanation),
        "events": [_event(story, index) for index in range(len(story.steps))],
        "violations": [{"invariant": v.invariant, "event": v.version, "what": v.what} for v in story.violations],
        "chain": {"events": story.chain.events, "head": story.chain.head, "broken_at": story.chain.broken_at},
        "view": {
            "x": [chart.x_of(step) for step in story.steps],
            "folds": [list(fold) for fold in folds(story.steps)],
        },
    }


def _event(story: Story, index: int) -> dict[str, Any]:
    step, r = story.steps[index], story.steps[index].recorded
    fields = msgspec.to_builtins(r.event)
    fields.pop("event", None)
    return {
        "version": r.version,
        "sequence": story.sequences[index],
        "at": stamp(step.at),
        "at_ns": r.at_ns,
        "by": r.by,
        "event": tag_of(r.event),
        "name": type(r.event).__name__,
        "what": step.words,
        "state_before": str(step.before.state) if step.before is not None else None,
        "state_after": str(step.after.state) if step.after is not None else None,
        "cause": step.cause,
        "hash": story.hashes[index],
        "fields": fields,
    }


# --- the top ----------------------------------------------------------------------------------------------------------


def _header(story: Story, index: str | None, supposed: Sequence[Supposed]) -> str:
    p = story.position
    back = tag("a", t("← all positions"), href=index, class_="back") if index is not None else ""
    strategy = f" · {p.strategy_name}" if p.strategy_name else ""
    title = tag("h1", t(f"{p.symbol} {p.side} {plain(p.qty)}"), tag("small", t(f"{p.position_id}{strategy}")))
    buttons = tag("button", t("Download JSON"), type="button", id="download", data_name=f"{p.symbol}-{p.epoch}.json")
    return tag(
        "header", back, tag("div", title, tag("div", *_badges(story, supposed), class_="badges")), _tools(buttons)
    )


def _tools(*buttons: str) -> str:
    theme = tag("button", t("◐"), type="button", id="theme", title="light or dark", aria_label="light or dark")
    return tag("div", *buttons, theme, class_="tools")


def _badges(story: Story, supposed: Sequence[Supposed]) -> Iterator[str]:
    chain, n = story.chain, len(INVARIANTS)
    broken = {v.invariant for v in story.violations}
    yield _badge(
        chain.broken_at is None, f"chain {chain.events:,}/{chain.events:,}", f"chain breaks at {chain.broken_at}"
    )
    yield _badge(not broken, f"invariants {n}/{n}", f"{len(broken)} broken: {', '.join(sorted(broken))}")
    if supposed:
        yield _badge(supposed[0].found.same_decisions, "replay identical", "the replay on these bars differs")
    state = story.position.state
    if state is State.UNPROTECTED:
        yield tag("span", t("unprotected"), class_="badge bad")
    elif not state.terminal:
        yield tag("span", t(state), class_="badge open")


def _badge(good: bool, said: str, otherwise: str) -> str:
    return tag("span", t(f"✓ {said}" if good else f"✗ {otherwise}"), class_="badge good" if good else "badge bad")


def _tiles(story: Story) -> str:
    return tag("div", *(_tile(value, name, kind) for value, name, kind in _figures(story)), class_="tiles")


def _tile(value: str, name: str, kind: str) -> str:
    return tag("div", tag("b", t(value), class_=kind or None), tag("span", t(name)), class_="tile")


def _figures(story: Story) -> Iterator[tuple[str, str, str]]:
    """The figures at the top: value, what it is, and its colour."""
    p, x = story.position, story.explanation
    if p.state.terminal:
        yield ("Exited by " + str(p.reason) if p.reason else "Closed externally"), "rule that fired", ""
    else:
        yield str(p.state), "state", ""
    if x.outcome is not None and x.outcome.avg_price is not None:
        yield f"{plain(x.entered.price)} → {plain(x.outcome.avg_price)}", "entry → average exit", ""
    else:
        yield plain(p.entry_price), "entry", ""
    yield from _result(story)
    held = (x.outcome.at if x.outcome is not None else x.as_of) - p.opened_at
    yield duration(held), "held", ""
    yield from _execution(story)
    yield x.policy, f"policy, of event {x.policy_event}", ""


def _result(story: Story) -> Iterator[tuple[str, str, str]]:
    p, x = story.position, story.explanation
    if x.outcome is not None and x.outcome.pnl is not None and x.outcome.pnl_pct is not None:
        pnl = x.outcome.pnl
        yield (
            f"{money(pnl)} ({_signed(x.outcome.pnl_pct)} %)",
            "realised by our orders" if x.outcome.by_hand_qty else "realised",
            "gain" if pnl > 0 else "loss" if pnl < 0 else "",
        )
    elif x.price is not None and not p.state.terminal:
        change = pct_change(p.entry_price, x.price.price, p.side)
        yield (
            f"{_signed(change)} %",
            f"at {plain(x.price.price)}, the last known price",
            "gain" if change > 0 else "loss",
        )


def _execution(story: Story) -> Iterator[tuple[str, str, str]]:
    """How the orders went: slippage, time to the last fill, trouble."""
    trigger, x = story.trigger, story.explanation
    if trigger is None:
        return
    p = story.position
    average = p.average_of(p.orders[p.parts.orders :]) if p.state.terminal else p.avg_exit_price
    if average is not None:
        slip = EXACT.multiply(EXACT.subtract(trigger.level, average), Decimal(story.position.side.sign))
        name = "worse than the level" if slip > 0 else "better than the level" if slip < 0 else "exactly at the level"
        yield plain(abs(slip)), name, ""
    fills = [s.recorded.event.at for s in story.steps if isinstance(s.recorded.event, FillsRecorded)]
    if fills and x.exit is not None:
        yield duration(max(fills) - trigger.at), "trigger → last fill", ""
    attempts = 1 + sum(isinstance(s.recorded.event, ExitRetried) for s in story.steps)
    ended = Counter(s.recorded.event.how for s in story.steps if isinstance(s.recorded.event, OrderEnded))
    lost = sum(isinstance(s.recorded.event, ProtectionLost) for s in story.steps)
    trouble = [f"{count} {how}" for how, count in sorted(ended.items())] + ([f"{lost} × unprotected"] if lost else [])
    said = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    yield (
        ", ".join([said, *trouble]),
        "broker trouble" if trouble else "no trouble at the broker",
        "bad" if lost else "",
    )


def _signed(value: Decimal) -> str:
    return f"{'+' if value > 0 else ''}{plain(value)}"


# --- cards ------------------------------------------------------------------------------------------------------------


def _card(name: str, title: str, *inside: str) -> str:
    return tag("section", tag("h2", t(title)), *inside, id=name, class_="card")


def _question(story: Story) -> str:
    return (
        "Why it exited"
        if story.position.reason is not None
        else ("How it ended" if story.position.state.terminal else "Why it has not exited")
    )


def _chart_note(story: Story) -> str:
    if not story.bars:
        said = (
            "No bars: prices are those that the events recorded. Give bars with --bars FILE, or set record_bars: true."
        )
    else:
        each = story.candles[0].bars
        said = f"{story.bars:,} bars" + (f", {each} to a candle" if each > 1 else "")
        said += f", {len(story.refused):,} refused" if story.refused else ""
        said += ". Long pauses are folded. Times are UTC."
    return tag("p", t(said), class_="note")


def _proofs(story: Story) -> Iterator[str]:
    yield _card("refusals", "Refused inputs", *_refusals(story))
    yield _card("invariants", "Invariants checked at every event", *_invariants(story))
    yield _card("chain", "Hash chain", *_chain(story))
    yield _card("policy", "Policy", _policy(story))


def _refusals(story: Story) -> Iterator[str]:
    runs = story.explanation.refusals
    if not runs:
        yield tag("p", t("No input was refused."), class_="note")
        return
    head = tag(
        "tr", *(tag("th", t(name), scope="col") for name in ("Event", "Bar", "Why", "Price", "Last believed", "Bars"))
    )
    rows = [
        tag(
            "tr",
            tag("td", tag("a", t(f"#{run.event}"), href=f"#e{run.event}")),
            tag("td", t(stamp(run.bar_at).replace("T", " ").removesuffix("Z"))),
            tag("td", t(run.reason)),
            tag("td", t(run.price)),
            tag("td", t(plain(run.reference_price) if run.reference_price is not None else "–")),
            tag("td", t(run.count if run.count is not None else "not ended")),
        )
        for run in runs
    ]
    yield tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll")


def _invariants(story: Story) -> Iterator[str]:
    found: dict[str, list[Any]] = {}
    for violation in story.violations:
        found.setdefault(violation.invariant, []).append(violation)
    rows = []
    for name, said in {**INVARIANTS, "lifecycle": "every event is a row of the lifecycle's table"}.items():
        wrong = found.get(name, [])
        sign = tag("span", t("✗" if wrong else "✓"), class_="no" if wrong else "yes")
        at = [tag("li", tag("a", t(f"#{v.version}"), href=f"#e{v.version}"), t(f" {v.what}")) for v in wrong[:20]]
        more = [tag("li", t(f"… {len(wrong) - 20:,} more"))] if len(wrong) > 20 else []
        label = tag("b", t(name))
        rows.append(tag("li", sign, " ", label, t(f" {said}"), tag("ul", *at, *more) if wrong else ""))
    yield tag("ul", *rows, class_="checks")


def _chain(story: Story) -> Iterator[str]:
    chain = story.chain
    first, last = story.sequences[0], story.sequences[-1]
    yield tag("p", tag("code", t("0" * 8)), t(" → … → "), tag("code", tag("b", t(chain.head)), class_="head"))
    if chain.broken_at is None:
        said = f"{chain.events:,} of {chain.events:,} links of the store hold; this log is in {first:,} to {last:,}."
    else:
        said = (
            f"The chain does not hold from event {chain.broken_at:,} of the store on; this log: {first:,} to {last:,}."
        )
    yield tag("p", t(said), class_=None if chain.broken_at is None else "wrong")
    yield tag(
        "p", t("Check it yourself: "), tag("code", t("exitfsm verify STORE --anchors anchors.jsonl")), class_="note"
    )


def _whatif(story: Story, supposed: Sequence[Supposed]) -> Iterator[str]:
    names = (("Policy change", ""), ("Exit", ""), ("When", ""), ("At", "n"), ("P&L %", "n"), ("Difference", "n"))
    head = tag("tr", *(tag("th", t(name), scope="col", class_=kind or None) for name, kind in names))
    own = story.explanation.outcome.at if story.explanation.outcome is not None else None
    rows = [_supposed(one, own) for one in supposed]
    yield tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="whatif"), class_="scroll")
    first = supposed[0].found
    if first.same_decisions:
        said = (
            f"With its own policy the replay takes all {first.decisions:,} decisions of the log, on the same evidence."
        )
        yield tag("p", tag("span", t("✓"), class_="yes"), t(f" {said}"), class_="note")
    else:
        said = f"With its own policy the replay differs from the log: {first.first_difference}."
        yield tag("p", tag("span", t("✗"), class_="no"), t(f" {said}"), class_="note wrong")
    yield tag(
        "p",
        t("Orders fill at the open of the next bar here, whatever the broker really did. Try others: "),
        tag("code", t("exitfsm whatif STORE POSITION --bars FILE… --set stop_loss.threshold_pct=1.5")),
        class_="note",
    )


def _supposed(one: Supposed, own: datetime | None) -> str:
    x, gap = one.found.replayed, one.found.pnl_difference_pct
    if x is None or x.filled_at is None:
        return tag("tr", tag("td", t(one.changes)), tag("td", t("does not exit on these bars"), colspan=5))
    shift = (x.filled_at - own) if own is not None else None
    earlier = shift is not None and shift.total_seconds() < 0
    if shift is None:
        when = stamp(x.filled_at)[5:16].replace("T", " ")
    else:
        when = f"{'−' if earlier else '+'}{duration(abs(shift))}" if shift else "the same"
    return tag(
        "tr",
        tag("td", t(one.changes)),
        tag("td", t(x.reason or "closed elsewhere")),
        tag("td", t(when), title=stamp(x.filled_at)),
        tag("td", t(plain(x.avg_fill_price) if x.avg_fill_price is not None else "–"), class_="n"),
        tag("td", t(_signed(x.pnl_pct) if x.pnl_pct is not None else "–"), class_="n"),
        tag(
            "td",
            t(_signed(gap) if gap is not None else "–"),
            class_=f"n {'gain' if gap and gap > 0 else 'loss' if gap else ''}".strip(),
        ),
    )


def _policy(story: Story) -> str:
    settings = plainly(story.position.policy)
    rows: list[str] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            if value.get("enabled") is False:
                rows.append(_setting(name, "off", "off"))
                continue
            shown = {key: inner for key, inner in value.items() if key != "enabled"}
            rows.append(_setting(name, ", ".join(f"{key} {_shown(inner)}" for key, inner in shown.items()), ""))
        else:
            rows.append(_setting(name, _shown(value), ""))
    return tag("table", tag("tbody", *rows), class_="settings")


def _setting(name: str, said: str, kind: str) -> str:
    return tag("tr", tag("th", t(name), scope="row"), tag("td", t(said)), class_=kind or None)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(_shown(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    return str(value)


def _raw() -> str:
    summary = tag("summary", t("Raw JSON of the selected event"))
    return tag("section", tag("details", summary, tag("pre", "", id="raw")), class_="card", id="json")


def _bar(story: Story) -> str:
    """The controls that stay in view: to and fro, the slider, and the selected event in a line."""
    n = len(story.steps)

    def button(name: str, sign: str, said: str) -> str:
        return tag("button", t(sign), type="button", id=name, aria_label=said, title=said)

    slider = void("input", type="range", id="slider", min=1, max=n, value=n, step=1, aria_label="event").replace(
        "/>", ">"
    )
    buttons = (button("prev", "◀", "previous event (←)"), slider, button("next", "▶", "next event (→)"))
    return tag("nav", tag("div", *buttons, class_="slide"), tag("p", "", id="caption", aria_live="polite"), id="bar")
