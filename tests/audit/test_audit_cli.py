"""The commands of the audit, as a user and as a program sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stores import TRAILING, tamper, wander

pytest.importorskip("typer")
pytest.importorskip("rich")

from exitfsm import ExitStore, load_config
from exitfsm.cli import BAD_INPUT, FINDING, main
from exitfsm.cli.auditing import moment, split, write
from exitfsm.simulate import simulate


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*args: object) -> Ran:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def bars(tmp_path: Path) -> list[Path]:
    """The bars of `wander`, in a file for each symbol."""
    files = []
    for symbol in ("S0", "S1", "S2"):
        lines = ["symbol,timestamp,open,high,low,close,volume"]
        for b in wander():
            if b.symbol == symbol:
                lines.append(f"{b.symbol},{b.timestamp:%Y-%m-%dT%H:%M:%SZ},{b.open},{b.high},{b.low},{b.close},1")
        files.append(tmp_path / f"{symbol}.csv")
        files[-1].write_text("\n".join(lines) + "\n")
    return files


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A store of a run without trouble."""
    with ExitStore(tmp_path / "plain.db") as store:
        simulate(wander(), load_config(TRAILING), store=store, re_enter=True)
    return tmp_path / "plain.db"


class TestVerify:
    def test_one_line_of_figures(self, cli: Cli, exits: Path) -> None:
        ran = cli("verify", exits)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.count("\n") == 1
        assert "positions" in ran.out
        assert ran.out.endswith(": everything holds\n")

    def test_json(self, cli: Cli, exits: Path) -> None:
        found = cli("verify", exits, "--json").json()
        assert list(found) == ["ok", "positions", "events", "chain_head", "findings"]
        assert found["ok"] is True
        assert found["findings"] == []

    def test_a_finding_names_position_event_and_what(self, cli: Cli, exits: Path) -> None:
        tamper(exits, "UPDATE stored_events SET topic = 'exit_triggered.v1' WHERE rowid = 9")
        with ExitStore(exits, read_only=True) as store:
            stream, version = store._rows(
                "SELECT originator_id, originator_version FROM stored_events WHERE rowid = 9"
            )[0]
        ran = cli("verify", exits)
        assert ran.code == FINDING
        assert f"{stream}, event {version}: event 9 of the log: it is not the one that was stored" in ran.err
        assert "finding" in ran.out
        ran = cli("verify", exits, "--json")
        assert ran.code == FINDING
        found = json.loads(ran.out)
        assert found["ok"] is False
        assert {"position_id", "event", "what"} == set(found["findings"][0])
        assert (found["findings"][0]["position_id"], found["findings"][0]["event"]) == (stream, version)

    def test_anchors(self, cli: Cli, exits: Path, tmp_path: Path) -> None:
        file = tmp_path / "anchors.jsonl"
        file.write_text(cli("anchor", exits).out + cli("anchor", exits).out)
        assert set(json.loads(file.read_text().splitlines()[0])) == {"anchored_at", "sequence", "hash"}
        assert "2 anchors" in cli("verify", exits, "--anchors", file).out
        last = json.loads(file.read_text().splitlines()[0])["sequence"]
        tamper(exits, f"DELETE FROM stored_events WHERE rowid = {last}", f"DELETE FROM chain WHERE sequence = {last}")
        ran = cli("verify", exits, "--anchors", file)
        assert ran.code == FINDING
        assert f"event {last} of the store: the anchor of line 1 at event {last}" in ran.err

    @pytest.mark.parametrize("args", [["none.db"], ["exits.db", "--anchors", "none"]])
    def test_wrong_input(self, cli: Cli, exits: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
        monkeypatch.chdir(exits.parent)
        assert cli("verify", *args).code == BAD_INPUT

    def test_a_broken_chain_is_not_anchored(self, cli: Cli, exits: Path) -> None:
        tamper(exits, "UPDATE stored_events SET topic = 'x' WHERE rowid = 9")
        ran = cli("anchor", exits)
        assert (ran.code, ran.out) == (BAD_INPUT, "")


class TestExplain:
    def test_in_sentences(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        ran = cli("explain", plain, "s0", "--bars", *bars)
        assert ran.code == 0
        assert ran.out.startswith("S0:long:")
        assert "was entered at" in ran.out
        assert "this is the newest" in ran.err

    def test_as_json(self, cli: Cli, plain: Path) -> None:
        with ExitStore(plain, read_only=True) as store:
            key = store.positions()[0].position_id
        told = cli("explain", plain, key, "--json").json()
        assert told["position_id"] == key
        assert told["exit"]["reason"] in told["sentences"][1]
        at = told["exit"]["at"]
        then = cli("explain", plain, key, "--at", told["opened_at"], "--json").json()
        assert then["exit"] is None
        assert cli("explain", plain, key, "--at", at, "--json").json()["exit"] == told["exit"]

    def test_a_symbol_at_a_time_is_the_position_of_then(self, cli: Cli, plain: Path) -> None:
        with ExitStore(plain, read_only=True) as store:
            rows = store.positions(symbol="S1")
        at = rows[2].opened_at_utc.strftime("%Y-%m-%d %H:%M:%S")
        assert cli("explain", plain, "S1", "--at", at, "--json").json()["position_id"] == rows[2].position_id

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            ([], "say which position"),
            (["NONE"], "no position 'NONE'"),
            (["S0", "--at", "yesterday"], "'yesterday' is no time"),
            (["S0", "S1"], "one position, please"),
        ],
    )
    def test_wrong_input(self, cli: Cli, plain: Path, args: list[str], said: str) -> None:
        ran = cli("explain", plain, *args)
        assert ran.code == BAD_INPUT
        assert said in ran.err


class TestWhatIf:
    def test_unchanged_it_says_that_it_reproduces_the_log(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        ran = cli("whatif", plain, "--bars", *bars)
        assert ran.code == 0
        assert "reproduces the log" in ran.out
        assert "everything else that is recorded is the same too" in ran.out

    def test_json(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        ran = cli("whatif", plain, "--bars", *bars, "--set", "stop_loss.threshold_pct=1.5", "--json")
        found = ran.json()
        assert list(found) == ["policy", "positions"]
        assert found["policy"]["stop_loss"]["threshold_pct"] == 1.5
        assert set(found["positions"][0]) == {"position_id", "symbol", "logged", "replayed", "pnl_difference_pct"}
        assert "reproduces" not in ran.err
        same = cli("whatif", plain, "--bars", *bars, "--json")
        assert all(p["logged"] == p["replayed"] for p in same.json()["positions"])
        assert "reproduces the log" in same.err

    def test_of_a_symbol(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        found = cli("whatif", plain, "S1", "--bars", *bars, "--json").json()
        assert {p["symbol"] for p in found["positions"]} == {"S1"}

    def test_a_grid(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        args = ("--grid", "stop_loss.threshold_pct=0.3,0.6", "--grid", "trailing_stop.trail_pct=0.3,0.4")
        ran = cli("whatif", plain, "S1", "--bars", bars[1], *args)
        assert ran.code == 0
        assert ran.out.count("\n") > 6
        assert "reproduces the log" in ran.out  # one of the four is what it was
        assert len(cli("whatif", plain, "S1", "--bars", bars[1], *args, "--json").json()) == 4

    def test_other_bars_are_a_finding(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        lines = bars[0].read_text().splitlines()
        bars[0].write_text("\n".join([*lines[:30], *lines[60:]]) + "\n")
        ran = cli("whatif", plain, "--bars", *bars)
        assert ran.code == FINDING
        assert "does not reproduce the log: decision" in ran.err

    def test_bars_that_miss_a_position(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        ran = cli("whatif", plain, "--bars", bars[0])
        assert ran.code == FINDING
        assert "no bar reaches the entry of" in ran.err
        assert "reproduces the log" in ran.out  # of those that it could be tried with
        assert ran.err.count("\n") == 1

    def test_bars_of_something_else(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        ran = cli("whatif", plain, "S1", "--bars", bars[0])
        assert ran.code == BAD_INPUT
        assert "no bar reaches an entry (S1 at 2024-01-02 14:30" in ran.err
        assert "the files hold S0 from 2024-01-02 14:30 to 2024-01-02 21:09" in ran.err
        assert "the files hold no bar of S1; they hold S0" in cli("explain", plain, "S1", "--bars", bars[0]).err

    def test_bars_that_end_too_early(self, cli: Cli, plain: Path, bars: list[Path]) -> None:
        lines = bars[1].read_text().splitlines()
        bars[1].write_text("\n".join(lines[:12]) + "\n")
        ran = cli("whatif", plain, "S1", "--bars", bars[1])
        assert ran.code == FINDING
        assert "is not in the replay (the bars end at 2024-01-02T14:40:00Z)" in ran.err

    def test_bars_of_another_day(self, cli: Cli, plain: Path, bars: list[Path], tmp_path: Path) -> None:
        bars[1].write_text(bars[1].read_text().replace("2024-01-02", "2023-01-02"))
        ran = cli("audit", plain, "S1", "-o", tmp_path / "p.html", "--bars", bars[1])
        assert ran.code == 0
        assert "the files hold no bar of S1 from its entry at 2024-01-02" in ran.err

    @pytest.mark.parametrize(
        ("args", "said"),
        [
            (["--set", "stop_loss.threshold_pct=150"], "must be greater than 0 and less than 100"),
            (["--set", "nonsense"], "write it as"),
            (["--grid", "stop_loss.threshold_pct="], "has no values"),
            (["--set", "stop=1"], "is no setting of the policy"),
        ],
    )
    def test_wrong_settings(self, cli: Cli, plain: Path, bars: list[Path], args: list[str], said: str) -> None:
        ran = cli("whatif", plain, "--bars", *bars, *args)
        assert ran.code == BAD_INPUT
        assert said in ran.err

    def test_without_bars(self, cli: Cli, plain: Path) -> None:
        ran = cli("whatif", plain)
        assert ran.code == BAD_INPUT
        assert "there are no bars to replay on" in ran.err

    def test_with_recorded_bars(self, cli: Cli, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "r.db") as store:
            simulate(wander(), load_config(TRAILING | {"record_bars": True}), store=store, re_enter=True)
        ran = cli("whatif", tmp_path / "r.db")
        assert ran.code == 0
        assert "reproduces the log" in ran.out
        assert "The bar that decided" in cli("explain", tmp_path / "r.db", "S0:long:20240102T1430").out


class TestAudit:
    def test_a_page(self, cli: Cli, plain: Path, bars: list[Path], tmp_path: Path) -> None:
        ran = cli("audit", plain, "S2", "-o", tmp_path / "p.html", "--bars", *bars)
        assert ran.code == 0
        text = (tmp_path / "p.html").read_text()
        assert text.startswith("<!doctype html>")
        assert "replay identical" in text
        again = cli("audit", plain, "S2", "-o", tmp_path / "q.html", "--bars", *bars)
        assert again.code == 0
        assert (tmp_path / "q.html").read_bytes() == (tmp_path / "p.html").read_bytes()

    def test_an_index_with_its_pages(self, cli: Cli, plain: Path, bars: list[Path], tmp_path: Path) -> None:
        assert cli("audit", plain, "-o", tmp_path / "i.html", "--pages", "--bars", *bars).code == 0
        with ExitStore(plain, read_only=True) as store:
            count = len(store.positions())
        pages = list((tmp_path / "i-pages").iterdir())
        assert len(pages) == count
        index = (tmp_path / "i.html").read_text()
        assert all(f'href="i-pages/{page.name}"' in index for page in pages)
        assert 'href="../i.html"' in pages[0].read_text()

    def test_an_index_alone_has_no_links(self, cli: Cli, plain: Path, tmp_path: Path) -> None:
        assert cli("audit", plain, "-o", tmp_path / "i.html").code == 0
        assert "<a " not in (tmp_path / "i.html").read_text()

    def test_where_it_cannot_be_written(self, cli: Cli, plain: Path, tmp_path: Path) -> None:
        ran = cli("audit", plain, "-o", tmp_path / "none" / "i.html")
        assert ran.code == BAD_INPUT
        assert f"{tmp_path / 'none'}: there is no such directory" in ran.err

    def test_it_must_be_told_where(self, cli: Cli, plain: Path) -> None:
        assert cli("audit", plain).code == BAD_INPUT


class TestExport:
    def test_both_formats(self, cli: Cli, plain: Path) -> None:
        with ExitStore(plain, read_only=True) as store:
            count = store.count()
        lines = cli("export", plain).out.splitlines()
        assert len(lines) == count
        assert [json.loads(line)["sequence"] for line in lines] == list(range(1, count + 1))
        assert len(cli("export", plain, "--format", "csv").out.splitlines()) == count + 1

    def test_another_format(self, cli: Cli, plain: Path) -> None:
        assert cli("export", plain, "--format", "xml").code == BAD_INPUT


class TestAsOf:
    def test_what_was_open(self, cli: Cli, plain: Path) -> None:
        with ExitStore(plain, read_only=True) as store:
            row = store.positions()[4]
        at = row.opened_at_utc.isoformat()
        shown = cli("status", plain, "--as-of", at).out
        assert f"open at {row.opened_at_utc:%Y-%m-%d %H:%M} UTC" in shown
        assert row.symbol in shown
        found = cli("status", plain, "--as-of", at, "--json").json()
        held = next(p for p in found["positions"] if p["position_id"] == row.position_id)
        assert (held["state"], held["events"]) == ("monitoring", 1)
        assert held["stop"] is not None

    def test_before_anything(self, cli: Cli, plain: Path) -> None:
        assert cli("status", plain, "--as-of", "1999-01-01").out == "0 positions open at 1999-01-01 00:00 UTC\n"


def test_times_without_a_zone_are_utc() -> None:
    assert moment("2014-06-09 13:45") == moment("2014-06-09T13:45:00Z") == moment("2014-06-09T15:45:00+02:00")
    assert moment("2014-06-09 13:45:00 UTC") == moment("2014-06-09T13:45:00Z")


def test_files_after_bars_are_bars(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text("")
    assert split(["S0", str(files[1])], [files[0]]) == ("S0", files)
    assert split(None, None) == (None, [])
    assert split([str(files[0])], None) == (str(files[0]), [])  # without --bars it is a position, whatever its name


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text("old")
    write(tmp_path / "p.html", "new")
    assert (tmp_path / "p.html").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "p.html"]
