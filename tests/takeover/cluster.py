"""Machines that share accounts, the server between them, and a desk that knows what truly happened at the broker.

    with cluster(["one", "two"], machines=3, after_s=2.5) as there:
        seconds = there.fault("kill", there.owner("one"))

Everything is real but the market: processes, signals, connections that are cut, and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from postgres_server import Server, server

from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import account_hash
from exitfsm.store import ExitStore
from exitfsm.testing import ScriptedBroker

HERE = Path(__file__).parent
SYMBOLS = ("AAA", "BBB", "CCC")
FAULTS = ("kill", "stop", "partition")
#: One broker refuses what would sell too much; the other refuses repeated ids and nothing else.
CAPABILITIES = (
    Capabilities(ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, late_fills=True, late_fill_window_s=1),
    Capabilities(
        ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, late_fills=True, late_fill_window_s=1, reduce_only=True
    ),
)


class Desk:
    """The brokers of all accounts behind one socket, and their market."""

    def __init__(self, folder: Path, accounts: Sequence[str], seed: int) -> None:
        self.path = str(folder / "desk")
        self.brokers = {a: ScriptedBroker(capabilities=CAPABILITIES[n % 2]) for n, a in enumerate(accounts)}
        self.trading = True
        self.sent: dict[str, list[str]] = {account: [] for account in accounts}
        self._rng, self._ended = random.Random(seed), False
        self._since: dict[tuple[str, str], float] = {}
        desk = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                account, method, args = pickle.loads(self.rfile.read())
                with contextlib.suppress(OSError):
                    self.wfile.write(pickle.dumps(desk.answer(account, method, args)))

        class Listener(socketserver.ThreadingUnixStreamServer):
            daemon_threads, request_queue_size = True, 64

        self._listener = Listener(self.path, Handler)
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        self._market = threading.Thread(target=self._trade, daemon=True)
        self._market.start()

    def answer(self, account: str, method: str, args: tuple[Any, ...]) -> tuple[Any, Exception | None]:
        """What a call gets, or what it raises."""
        broker = self.brokers[account]
        if method in ("capabilities", "prices"):
            return (broker.capabilities if method == "capabilities" else dict(broker.prices)), None
        if method == "submit":
            self.sent[account].append(args[0].client_order_id)
        try:
            return getattr(broker.plain, method)(*args), None
        except Exception as error:
            return None, error

    def close(self) -> None:
        """No more calls, no more market."""
        self._ended = True
        self._market.join(5)
        self._listener.shutdown()
        self._listener.server_close()

    def _trade(self) -> None:
        """Positions are opened, prices fall below their stops, and exits are filled, each after a while."""
        while not self._ended:
            for account, broker in self.brokers.items():
                for symbol in SYMBOLS:
                    self._one(account, broker, symbol)
            time.sleep(0.05)

    def _one(self, account: str, broker: ScriptedBroker, symbol: str) -> None:
        now, key = time.monotonic(), (account, symbol)
        due = self._since.setdefault(key, now + self._rng.uniform(0, 2))
        if now < due:
            return
        working = broker.live_exits(symbol)
        if working:
            broker.fill(working[0].order, price=98)
            wait = self._rng.uniform(0.5, 2)
        elif broker.held(symbol) == 0 and self.trading:
            broker.price(symbol, 100)
            broker.enter(symbol, "long", 10, 100)
            wait = self._rng.uniform(1, 4)
        else:
            broker.price(symbol, 98)
            wait = self._rng.uniform(0, 0.5)
        self._since[key] = now + wait

    def is_flat(self) -> bool:
        """True when nothing is held and nothing works."""
        return not any(b.snapshot() or b.working() for b in self.brokers.values())


class Way:
    """The way of a machine to the server; while it is cut, nothing passes and nobody hears of it."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._passes = threading.Event()
        self._passes.set()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on nothing passes."""
        self._passes.clear()

    def heal(self, *, reset: bool) -> None:
        """It does again; what was open then is reset, or goes on with what was on the way."""
        if reset:
            self._end_all()
        self._passes.set()

    def close(self) -> None:
        """End everything."""
        _end(self._listener)
        self._end_all()
        self._passes.set()

    def _end_all(self) -> None:
        for one in list(self._open):
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.add(client)
        self._passes.wait()
        try:
            onward = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            _end(client)
            return
        self._open.add(onward)
        for source, target in ((client, onward), (onward, client)):
            threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        self._passes.wait()  # that the other end is gone is not heard either
        for one in (source, target):
            _end(one)
            self._open.discard(one)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


class Said(NamedTuple):
    """A line that a machine wrote."""

    machine: int
    what: str
    account: str
    at: float
    more: dict[str, Any]


class Runner:
    """One machine: its process, now this and later another one, its way, and what it said."""

    def __init__(self, number: int, there: Cluster) -> None:
        self.number, self.way = number, Way(there.server.port)
        self._there, self._lives = there, 0
        self._read = 0
        self._log = there.folder / f"machine-{number}.log"
        self._errors = there.folder / f"machine-{number}.err"
        self._log.touch()
        self.is_down = False
        self.start()

    def start(self) -> None:
        """A new process."""
        there = self._there
        command = [
            *(sys.executable, str(HERE / "machine.py"), str(self.way.port), there.desk.path, str(self._log)),
            *(str(there.after_s), *there.accounts),
        ]
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(command, stderr=errors)
        self.is_down = False

    def heard(self) -> list[Said]:
        """What it has said since the last time."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        return [Said(self.number, x.pop("is"), x.pop("account"), x.pop("at"), x) for x in lines]

    def end(self) -> None:
        """Stop it in good order, whatever state it is in."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._errors.read_text(errors="replace")


class Cluster:
    """Machines, their server and their desk."""

    def __init__(
        self, folder: Path, running: Server, accounts: Sequence[str], machines: int, after_s: float, seed: int
    ) -> None:
        self.folder, self.server, self.accounts, self.after_s = folder, running, accounts, after_s
        self.desk = Desk(folder, accounts, seed)
        self.said: list[Said] = []
        self.owners: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self.waits: dict[tuple[str, int], float] = {}
        self.machines = [Runner(number, self) for number in range(machines)]

    def listen(self) -> None:
        """Take in what the machines said."""
        for machine in self.machines:
            for said in machine.heard():
                self.said.append(said)
                if said.what == "owner":
                    self.owners[said.account], self._since[said.account] = said.machine, said.at
                    self.waits.pop((said.account, said.machine), None)
                elif said.what == "waits":
                    self.waits[said.account, said.machine] = said.at

    def until(self, true: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        """Listen until something holds."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self.story()}"
            assert all(m.is_down or m.process.poll() is None for m in self.machines), f"it ended\n{self.story()}"
            time.sleep(0.02)
            self.listen()

    def ready(self) -> None:
        """Each account has an owner, and somebody else has waited for it long enough to have seen it alive."""

        def is_there(account: str) -> bool:
            at = [at for (of, _), at in self._waiting() if of == account]
            return account in self.owners and bool(at) and time.time() - max(min(at), self._since[account]) > 2.5

        def are_there() -> bool:
            return all(map(is_there, self.accounts))

        self.until(are_there, "an owner and a standby of each account")

    def _waiting(self) -> list[tuple[tuple[str, int], float]]:
        return [(key, at) for key, at in self.waits.items() if not self.machines[key[1]].is_down]

    def fault(self, kind: str, number: int, rng: random.Random) -> list[tuple[str, float]]:
        """Something happens to a machine; each account that it owned, and the seconds until another one owned it.

        Afterwards it is well again, and has said that it lost what it lost.
        """
        machine, heard = self.machines[number], len(self.said)
        owned = [account for account, owner in self.owners.items() if owner == number]
        began = time.time()
        machine.is_down = True
        {"kill": machine.process.kill, "stop": lambda: machine.process.send_signal(signal.SIGSTOP)}.get(
            kind, machine.way.cut
        )()
        self.until(lambda: all(self.owners[a] != number for a in owned), f"others own {owned} after {kind} of {number}")
        taken = [s for s in self.said[heard:] if s.what == "owner" and s.account in owned]
        times = [(s.account, s.at - began) for s in taken]
        for account in self.accounts:
            if self.waits.pop((account, number), None) is not None and kind != "kill":
                self.waits[account, number] = time.time()  # it goes on waiting, and sees the owner again from now on
        if kind == "kill":
            machine.process.wait()
            machine.start()
            return times
        if kind == "stop":
            machine.process.send_signal(signal.SIGCONT)
        else:
            machine.way.heal(reset=rng.random() < 0.5)
        machine.is_down = False
        lost = {(s.account, s.machine) for s in self.said[heard:] if s.what == "lost"}

        def has_said_so() -> bool:
            lost.update((s.account, s.machine) for s in self.said[heard:] if s.what == "lost")
            return all((account, number) in lost for account in owned)

        self.until(has_said_so, f"machine {number} says that it has lost {owned} after {kind}")
        return times

    def rest(self) -> None:
        """No more faults, no more entries: everything becomes flat, and all machines end in good order."""
        self.desk.trading = False
        self.until(self.desk.is_flat, "everything is flat", 120)
        time.sleep(3)  # the last executions are heard of, and what they mean is stored
        self.listen()
        for machine in self.machines:
            machine.end()
        self.listen()

    def check(self) -> dict[str, int]:
        """What must hold at the end; some figures for people."""
        figures = {"orders": 0, "events": 0, "acknowledged": 0, "refused copies": 0}
        for account, broker in self.desk.brokers.items():
            broker.verify()
            sent = self.desk.sent[account]
            figures["orders"] += len(broker.orders)
            figures["refused copies"] += len(sent) - len(set(sent))
            with ExitStore(self.server.url, read_only=True, account=account_hash(account)) as store:
                assert store.verify_chain() is None
                assert store.verify_read_models() == []
                stored = {(r.stream_id, r.version): type(r.event).__name__ for r in store.events()}
                assert store.open_positions() == [], "forgotten"
            told = [s for s in self.said if s.what == "durable" and s.account == account]
            lost = [s for s in told if stored.get((s.more["stream"], s.more["version"])) != s.more["event"]]
            assert lost == [], "acknowledged, and not there"
            figures["events"] += len(stored)
            figures["acknowledged"] += len(told)
        for machine in self.machines:
            words = ("crashed", "Traceback", "task_failed")
            defects = [line for line in machine.errors().splitlines() if any(word in line for word in words)]
            assert defects == [], defects
        return figures

    def story(self) -> str:
        """The last things that happened."""
        lines = [f"{s.at:.2f} {s.machine} {s.what} {s.account} {s.more}" for s in self.said if s.what != "durable"]
        return "\n".join([*lines[-30:], *(m.errors()[-1500:] for m in self.machines)])

    def close(self) -> None:
        """End everything."""
        for machine in self.machines:
            machine.way.close()
            with contextlib.suppress(OSError):
                machine.process.send_signal(signal.SIGCONT)
                machine.process.kill()
            machine.process.wait()
        self.desk.close()


@contextmanager
def cluster(accounts: Sequence[str], *, machines: int, after_s: float, seed: int = 1) -> Iterator[Cluster]:
    """A cluster of its own on a server of its own."""
    with tempfile.TemporaryDirectory(prefix="exitfsm-takeover-") as folder, server() as running:
        there = Cluster(Path(folder), running, accounts, machines, after_s, seed)
        try:
            yield there
        finally:
            there.close()


def setting(name: str, otherwise: float) -> float:
    """A number from the environment."""
    return float(os.environ.get(name, otherwise))
