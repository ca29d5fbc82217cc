"""A scripted day: a service at the local Alpaca server, a person in a second process, kills, and dead alert channels.

The person gives every command at random moments; the manager is killed while they are under way, and started anew. Of
three channels for alarms one refuses connections, one answers 500, and one works. Afterwards the log, the server's
books and the working channel are the witnesses: every command took effect once or said why not, nothing was sold
twice, and every alarm arrived. `EXITFSM_DEEP=1` makes the days long.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_alpaca_steering import PROGRAM, Run, priced

from exitfsm import ExecutionReport, ExitStore, Recorded
from exitfsm.alerts.deciding import OF_A_CHANNEL
from exitfsm.control import VERBS, connect
from exitfsm.control.client import new_id
from exitfsm.control.deciding import names
from exitfsm.control.protocol import ALL_POSITIONS
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CommandAnswered,
    CommandGiven,
    PositionReleased,
    ScopeChanged,
)
from exitfsm.order_ids import looks_like_exit
from exitfsm.testing.alpaca_server import AlpacaServer, Fault
from exitfsm.testing.alpaca_server.orders import Refusal

DEEP = bool(os.environ.get("EXITFSM_DEEP"))
#: Commands and kills of a day; the seeds of the days.
COMMANDS, KILLS, SEEDS = (120, 20, (1, 2, 3)) if DEEP else (12, 1, (7,))
SYMBOLS = [f"S{n}" for n in range(6)]
#: How likely an order to exit one symbol is for a quantity.
PART_CHANCE = 0.4
#: Held for years, and not managed by what is configured.
OUTSIDE = "VTI"
#: What may be said instead of an effect: it is so already, or there is nothing to do it to.
NOTHING_TO_DO = ("already", "not paused", "no open position", "nothing to release", "no active alarm", "under way")

#: A day in a minute asks more in that minute than Alpaca allows.
FAST = "from exitfsm_alpaca import AlpacaBroker as B; B.__init__.__kwdefaults__['requests_per_minute'] = 100_000; "
PERSON = """
import json, sys
from exitfsm.control import ControlError, connect
control = connect(sys.argv[1], patience_s=20)
for line in sys.stdin:
    asked = json.loads(line)
    subjects, command_id = asked["subjects"], asked["id"]
    try:
        if asked["verb"] == "flatten":
            answer = control.flatten(timeout_s=asked["s"], command_id=command_id, all_positions=bool(subjects))
        else:
            given = tuple(asked["given"])
            answer = control.command(asked["verb"], *subjects, reason="a day", command_id=command_id, given=given)
        said = {"code": answer.code, "lines": answer.lines}
    except ControlError as error:
        said = {"code": None, "lines": [str(error)]}
    print(json.dumps(said), flush=True)
"""


class Given(NamedTuple):
    """A command as the person gave it, and what he heard; `code` None: nobody answered."""

    command_id: str
    verb: str
    subjects: tuple[str, ...]
    code: int | None
    lines: tuple[str, ...]
    given: tuple[str, ...] = ()


class Hook:
    """A service that takes messages, or answers 500 to all of them."""

    def __init__(self, code: int) -> None:
        self.ids: set[str] = set()
        self.asked = 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.asked += 1
                if code < 300:
                    hook.ids |= {alarm["id"] for alarm in body["alarms"]}
                self.send_response(code)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/x"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Day:
    """One day: the service, the person, and what happens to them."""

    def __init__(self, server: AlpacaServer, folder: Path, seed: int) -> None:
        self.server, self.chance = server, random.Random(seed)
        self.works, self.broken = Hook(204), Hook(500)
        self.run = Run(server, folder)
        self.run.program = FAST + PROGRAM
        self.given: list[Given] = []
        self.troubles: list[str] = []
        self.kills, self.bought, self.began = 0, 0, time.monotonic()
        (folder / "trading.yaml").write_text(
            "exit_manager:\n  live: {poll_seconds: 0.5, sync_seconds: 1, entry_id_prefix: bot-}\n"
            f"  manage: {{ignore: [{OUTSIDE}]}}\n"
            "  partial_fills: {resubmit_delay_seconds: 0, max_resubmit_attempts: 1}\n"
            "  alerts:\n    burst_seconds: 0.1\n    least_severity: notice\n    channels:\n"
            "      - {name: refuses, url: 'http://127.0.0.1:9/x'}\n"
            f"      - {{name: broken, url: '{self.broken.url}'}}\n"
            f"      - {{name: works, url: '{self.works.url}'}}\n"
        )
        self.person = subprocess.Popen(
            [sys.executable, "-c", PERSON, str(self.run.store)], env=self.run.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        server.do(lambda: server.account.venue.subscribe(self._watch))

    def _watch(self, report: ExecutionReport) -> None:
        """In the server's thread, at each change of an order."""
        account, symbol = self.server.account, report.symbol or ""
        if account.venue.held(symbol) < 0:
            self.troubles.append(f"{symbol} is short: {account.venue.held(symbol)}")
        live = [r for r in account.orders("open") if r.symbol == symbol and looks_like_exit(r.client_order_id)]
        if len(live) > 1:
            self.troubles.append(f"two live exits: {[r.client_order_id for r in live]}")

    # --- what happens -------------------------------------------------------------------------------------------------

    def command(self) -> tuple[str, tuple[str, ...]]:
        """What the person wants next: of everything there is; more often what has an effect."""
        mine = [verb for verb in VERBS if not verb.startswith("set-")]
        more = ("exit", "exit", "exit", "release", "resume", "resume", "adopt", "ignore", "acknowledge")
        verb = self.chance.choice([*mine, *more])
        stuck = unprotected(self)
        if verb == "release" and stuck:
            return verb, (self.chance.choice(stuck),)
        if verb in ("exit", "release"):
            return verb, tuple(self.chance.sample(SYMBOLS, self.chance.choice([1, 1, 2])))
        if verb in ("adopt", "ignore"):
            return verb, (self.chance.choice([*SYMBOLS[:2], OUTSIDE]),)
        if verb == "acknowledge":  # what he was told of
            told = sorted(i for i in self.works.ids if not i.startswith(OF_A_CHANNEL))
            return verb, (self.chance.choice(told) if told else "account",)
        if verb == "flatten":
            return verb, (ALL_POSITIONS,) * (self.chance.random() < 0.3)
        return verb, ()

    def give(self, verb: str, subjects: tuple[str, ...], *, kill: bool, command_id: str = "", s: float = 6) -> Given:
        """One command by the person; the manager is perhaps killed while it is under way, and is started anew."""
        command_id = command_id or new_id()
        is_part = verb == "exit" and len(subjects) == 1 and self.chance.random() < PART_CHANCE
        asked = (str(self.chance.randint(1, 6)),) if is_part else ()
        assert self.person.stdin is not None
        assert self.person.stdout is not None
        order = {"id": command_id, "verb": verb, "subjects": subjects, "s": s, "given": asked}
        self.person.stdin.write(json.dumps(order) + "\n")
        self.person.stdin.flush()
        if kill:
            time.sleep(self.chance.uniform(0.0, 0.25))
            if self.run.process is not None and self.run.process.poll() is None:
                self.run.kill()
                self.kills += 1
            self.run.start(wait=False)
        said = json.loads(self.person.stdout.readline())
        given = Given(command_id, verb, subjects, said["code"], tuple(said["lines"]), asked)
        self.given.append(given)
        what = " ".join((verb, *subjects, *asked))
        print(f"{time.monotonic() - self.began:6.1f} {kill:d} {what}: {given.code} {given.lines}")
        self.up()
        return given

    def up(self) -> None:
        """It is started anew where it was stopped, and listens."""
        if self.run.process is not None and self.run.process.poll() is None and self.run.listens():
            return
        end = time.monotonic() + 60
        while not self.run.listens():
            if self.run.process is None or self.run.process.poll() is not None:
                self.run.start(wait=False)  # it was stopped
            time.sleep(0.1)
            assert time.monotonic() < end, self.run.said()[-3000:]

    def bot(self) -> None:
        """The bot enters now and then; some entries rest. The server refuses an order now and then."""
        symbol = self.chance.choice(SYMBOLS)
        self.bought += 1
        body = {
            "symbol": symbol, "side": "buy", "qty": "3", "type": "limit", "time_in_force": "day",
            "client_order_id": f"bot-{self.bought}", "limit_price": self.chance.choice(["150", "150", "50"]),
        }  # fmt: skip
        self.server.do(lambda: self._enter(body))

    def trouble(self) -> tuple[str, tuple[str, ...]]:
        """The server refuses the exit that the person orders now, and the next attempt: nothing protects it then."""
        refusal = '{"code":40310000,"message":"not allowed to trade"}'
        self.server.fail(Fault("status", path="/v2/orders$", status=403, body=refusal, times=2))
        held = [symbol for symbol in SYMBOLS if self.server.held(symbol) > 0]
        return "exit", (self.chance.choice(held or SYMBOLS),)

    def _enter(self, body: dict[str, Any]) -> None:
        try:
            self.server.account.opened(self.server.account.submit(body))
        except Refusal:
            return  # an exit works on the other side

    def told_of_the_dead(self) -> bool:
        """True once the channel that works has said of both others that they fail."""
        return all(
            any(i.startswith(f"{OF_A_CHANNEL}{name}/") for i in self.works.ids) for name in ("refuses", "broken")
        )

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def answers(self) -> dict[str, Given]:
        """Each command once more under its id: what was answered, or what comes of it now."""
        self.run.until(self.run.listens, "it listens at the end")
        found = {}
        for one in list(self.given):
            if one.verb != "stop":
                answer = connect(self.run.store).command(
                    one.verb, *one.subjects, command_id=one.command_id, given=one.given
                )
                found[one.command_id] = Given(
                    one.command_id, one.verb, one.subjects, answer.code, answer.lines, one.given
                )
        return found

    def events(self) -> list[Recorded]:
        with ExitStore(self.run.store, read_only=True) as store:
            return list(store.events())

    def close(self) -> None:
        assert self.person.stdin is not None
        self.person.stdin.close()
        self.person.wait(30)
        if self.person.stdout is not None:
            self.person.stdout.close()
        if self.run.process is not None and self.run.process.poll() is None:
            self.run.kill()
        self.works.close()
        self.broken.close()


@contextmanager
def a_day(server: AlpacaServer, folder: Path, seed: int) -> Iterator[Day]:
    day = Day(server, folder, seed)
    try:
        for symbol in SYMBOLS:
            server.hold(symbol, 10, 100, ago_s=600)
            priced(server, symbol, 100)
        server.hold(OUTSIDE, 40, 200, ago_s=6000)
        priced(server, OUTSIDE, 200)
        day.run.start()
        yield day
    finally:
        day.close()


@pytest.mark.slow
@pytest.mark.timeout(1800 if DEEP else 300)
@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_day_every_command_took_effect_once_and_every_alarm_arrived(
    server: AlpacaServer, tmp_path: Path, seed: int
) -> None:
    with a_day(server, tmp_path, seed) as day:
        kills = set(day.chance.sample(range(COMMANDS), KILLS))
        for number in range(COMMANDS):
            day.bot()
            verb, subjects = day.trouble() if number % 10 == 0 else day.command()
            day.give(verb, subjects, kill=number in kills)
        server.do(server.rest.faults.planned.clear)
        for symbol in unprotected(day):  # a person has looked: what is held of it is to be watched, or sold
            day.give("release", (symbol,), kill=False)
        flat = day.give("flatten", (), kill=False, s=60)
        answers = day.answers()
        log = day.events()
        raised = {r.event.alarm_id for r in log if isinstance(r.event, AlarmRaised)}
        themselves = {r.event.alarm_id for r in log if isinstance(r.event, AlarmAcknowledged) and r.event.why}
        end = time.monotonic() + 30
        while not (raised - themselves <= day.works.ids and day.told_of_the_dead()) and time.monotonic() < end:
            time.sleep(0.1)
        took_effect_once(log, day.given, answers)
        books(day, log)
        assert raised - themselves <= day.works.ids, raised - themselves - day.works.ids
        assert raised
        assert day.broken.asked
        assert day.told_of_the_dead()
        assert day.kills >= KILLS * 0.7
        assert flat.code == 0, flat
        verbs = Counter(one.verb for one in day.given)
        assert not DEEP or set(verbs) >= set(VERBS) - {"set-stop", "set-policy"}
        exits = [o for o in server.orders() if looks_like_exit(o["client_order_id"])]
        codes = Counter(one.code for one in day.given)
        print(f"\nseed {seed}: {len(day.given)} commands {dict(verbs)}, answers {dict(codes)}, {day.kills} kills,")
        print(f"{len(raised)} alarms, {len(exits)} exit orders, {len(log)} events")


def unprotected(day: Day) -> list[str]:
    with ExitStore(day.run.store, read_only=True) as store:
        return sorted({row.symbol for row in store.open_positions() if row.state == "unprotected"})


def took_effect_once(log: list[Recorded], given: list[Given], answers: dict[str, Given]) -> None:
    """By the log: each command was stored once or not at all, was answered, and had each effect once."""
    released = Counter(r.stream_id for r in log if isinstance(r.event, PositionReleased))
    for one in given:
        stored = [r for r in log if isinstance(r.event, CommandGiven) and r.event.command_id == one.command_id]
        ends = [r for r in log if isinstance(r.event, CommandAnswered) and r.event.command_id == one.command_id]
        assert len(stored) == 1 or one.code is None, one
        assert len(stored) <= 1, one
        assert len(ends) <= (2 if one.verb == "flatten" else 1), one
        assert one.lines or one.verb == "flatten", one
        effects = Counter(effect_of(r) for r in log if names(r.event, one.command_id))
        for (stream, *what), count in effects.items():
            assert count <= 1 + released[stream], (one, stream, what, count)
        if one.verb in ("pause", "resume", "adopt", "ignore", "exit", "release") and one.code == 0:
            said = " ".join(answers[one.command_id].lines)
            assert effects or any(words in said for words in (*NOTHING_TO_DO, "order", "complete")), (one, said)
        if one.code is not None and one.verb not in ("flatten", "stop"):
            assert answers[one.command_id].lines == one.lines, (one, answers[one.command_id])


def effect_of(recorded: Recorded) -> tuple[str, str, str, str]:
    """What must not happen twice by one command: the same event of the same thing."""
    event = recorded.event
    about = next((getattr(event, name) for name in ("symbol", "alarm_id") if hasattr(event, name)), "")
    how = event.how if isinstance(event, ScopeChanged) else ""
    return recorded.stream_id, type(event).__name__, str(about), how


def books(day: Day, log: list[Recorded]) -> None:
    """By the server's books: nothing went short, nobody's purchase was sold twice, and no id was used twice."""
    assert not day.troubles, day.troubles
    orders = day.server.orders()
    ids = [order["client_order_id"] for order in orders]
    assert len(ids) == len(set(ids))
    for symbol in SYMBOLS:
        exits = [o for o in orders if o["symbol"] == symbol and looks_like_exit(o["client_order_id"])]
        entries = [o for o in orders if o["symbol"] == symbol and o["client_order_id"].startswith("bot-")]
        sold, bought = filled(exits), 10 + filled(entries)
        assert bought - sold == day.server.held(symbol) >= 0, (symbol, bought, sold)


def filled(orders: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(order["filled_qty"] or 0) for order in orders), Decimal(0))
