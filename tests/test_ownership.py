"""One owner for a store: who waits, who takes over, and what an owner does that is none any more.

With real processes, kills, stops and partitions: `tests/takeover`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Server, server
from store_engines import Postgres, life, opened, put

from exitfsm import ownership
from exitfsm.cli import main
from exitfsm.errors import ConfigError, NotSent, StoreError, StoreLocked, StoreMissing
from exitfsm.manager import ExitManager
from exitfsm.ownership import Opening, Ownership, Watchdog
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import account_hash
from exitfsm.store import ExitStore, owner_of, watch
from exitfsm.testing import Raises, ScriptedBroker
from exitfsm.values import Alarm, Bar

AFTER_S = 0.6
CONFIG = {"live": {"sync_seconds": 1, "poll_seconds": 1}, "exit_cooldown_seconds": 0}
#: A broker that refuses repeated ids, and nothing else.
REFUSES_IDS = Capabilities(ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, late_fills=True, late_fill_window_s=5)
postgres = pytest.mark.postgres


@pytest.fixture
def on(postgres_server: Server) -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    made = Postgres(postgres_server)
    yield made
    made.close()


@pytest.fixture
def own() -> Iterator[contextlib.ExitStack]:
    """Closes what is put into it at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield stack


def heart_of(store: ExitStore, own: contextlib.ExitStack) -> Any:
    """What says that the owner of a store is alive."""
    heart = store.heart()
    assert heart is not None
    own.callback(heart.close)
    return heart


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life, and looks, ten times as often."""
    monkeypatch.setattr(ownership, "BEAT_S", 0.1)
    monkeypatch.setattr(ownership, "LOOK_S", 0.05)


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Until something holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.01)


class Bot:
    """A manager on a store that others want, too."""

    def __init__(self, url: str, broker: ScriptedBroker, **options: Any) -> None:
        self.broker, self.alarms = broker, []
        on_alarm: list[Alarm] = self.alarms
        self.manager = ExitManager(broker, url, config=CONFIG, on_alarm=on_alarm.append, **options)

    @property
    def kinds(self) -> list[str]:
        return [alarm.kind for alarm in self.alarms]

    async def bar(self, price: str, symbol: str = "AAPL") -> None:
        self.broker.price(symbol, price)
        now = datetime.now(UTC)
        with contextlib.suppress(StoreError):
            await self.manager.on_bar(Bar(symbol, now, *[Decimal(price)] * 4))

    def fall_silent(self) -> None:
        """It says nothing any more, as a process that is stopped; all else goes on."""
        beating = self.manager._parts.ownership._beating
        assert beating is not None
        beating.cancel()


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners are replaced sooner than a configuration may say."""
    monkeypatch.setattr(
        "exitfsm.manager.manager.Opening",
        lambda store, account, after_s: Opening(store, account, None if after_s is None else AFTER_S),
    )


@asynccontextmanager
async def owner_and_standby(url: str, broker: ScriptedBroker) -> AsyncIterator[tuple[Bot, Bot, asyncio.Task[None]]]:
    """A manager that owns a store, and one that waits for it."""
    one, other = Bot(url, broker), Bot(url, broker, standby=True)
    await one.manager.start()
    starting = asyncio.create_task(other.manager.start())
    try:
        yield one, other, starting
    finally:
        await one.manager.stop()
        await other.manager.stop()
        await asyncio.gather(starting, return_exceptions=True)


# --- a standby --------------------------------------------------------------------------------------------------------


@postgres
class TestAStandby:
    @pytest.mark.usefixtures("after")
    async def test_waits_while_the_owner_is_alive_and_takes_the_store_at_once_when_it_ends(self, on: Postgres) -> None:
        async with owner_and_standby(on.url, ScriptedBroker()) as (one, other, starting):
            await asyncio.sleep(4 * AFTER_S)
            assert not starting.done()
            assert not other.manager.may_enter("AAPL")
            began = time.monotonic()
            await one.manager.stop()
            await asyncio.wait_for(starting, 10)
            assert time.monotonic() - began < AFTER_S + 2
            assert other.manager.may_enter("AAPL")
            assert (one.kinds, other.kinds) == ([], [])

    @pytest.mark.usefixtures("after")
    async def test_takes_it_from_an_owner_that_is_silent_which_then_stops_and_says_who_has_it(
        self, on: Postgres
    ) -> None:
        async with owner_and_standby(on.url, ScriptedBroker()) as (one, other, starting):
            one.broker.enter("AAPL", "long", 10, 100)
            await one.manager.sync()
            await until(one.manager.positions)
            await asyncio.sleep(3 * ownership.LOOK_S)
            began = time.monotonic()
            one.fall_silent()
            await asyncio.wait_for(starting, 10)
            assert time.monotonic() - began < AFTER_S + 2
            assert [p.symbol for p in other.manager.positions()] == ["AAPL"]
            await one.bar("98")  # it wants to exit, and can store nothing
            await until(lambda: one.manager.lost_to)
            assert "was taken by process" in (one.manager.lost_to or "")
            await until(lambda: not one.manager._running)
            assert "ownership_lost" in one.kinds
            assert not one.manager.may_enter("MSFT")
            with pytest.raises(StoreError, match="is stopped"):
                await one.manager.force_exit("AAPL")
            assert one.broker.orders == []
            await other.bar("98")
            await until(lambda: other.broker.orders)
            assert len(other.broker.orders) == 1
            assert other.kinds == []
            other.broker.verify()

    @pytest.mark.usefixtures("after")
    async def test_an_owner_that_writes_nothing_hears_of_it_by_its_next_sign_of_life(self, on: Postgres) -> None:
        one = Bot(on.url, ScriptedBroker())
        await one.manager.start()
        assert owner_of(on.url, release=True).is_owned
        await until(lambda: not one.manager._running)
        assert one.kinds == ["ownership_lost"]
        assert "an operator" in (one.manager.lost_to or "")
        await one.manager.stop()  # once more does no harm

    @pytest.mark.parametrize("is_owner", [True, False])
    async def test_an_order_that_is_decided_is_sent_by_the_owner_alone(self, on: Postgres, is_owner: bool) -> None:
        one = Bot(on.url, ScriptedBroker())
        await one.manager.start()
        one.broker.enter("AAPL", "long", 10, 100)
        await one.manager.sync()
        one.broker.always("submit", Raises(NotSent("no line")))  # the exit is decided, and cannot leave
        await one.bar("98")
        await until(lambda: one.broker.count("submit"))
        await one.manager.settled()
        if not is_owner:
            one.manager._parts.context.calls.forbid("somebody else has the store")
        one.broker.truthful()
        tried = one.broker.count("submit")
        deadline = time.monotonic() + (20 if is_owner else 2)
        while not one.broker.orders and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        assert (len(one.broker.orders), one.broker.count("submit") > tried) == (is_owner, is_owner)
        await one.manager.stop()

    async def test_a_standby_that_is_stopped_or_canceled_while_it_waits_leaves_nothing_behind(
        self, on: Postgres
    ) -> None:
        with on.open():
            bot = Bot(on.url, ScriptedBroker(), standby=True)
            starting = asyncio.create_task(bot.manager.start())
            await asyncio.sleep(0.3)
            await bot.manager.stop()
            with pytest.raises(StoreError, match="stopped while it waited"):
                await starting
            starting = asyncio.create_task(bot.manager.start())
            await asyncio.sleep(0.3)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        with on.open():  # nobody has it
            pass
        await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("exitfsm-standby")])

    async def test_a_standby_that_is_canceled_while_it_opens_the_store_closes_it_again(
        self, on: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, go = threading.Event(), threading.Event()

        class Slow(ExitStore):
            def __init__(self, *args: Any, **options: Any) -> None:
                begun.set()
                go.wait(10)
                super().__init__(*args, **options)

        monkeypatch.setattr(ownership, "ExitStore", Slow)
        waiting = asyncio.create_task(Opening(on.url, "acc", AFTER_S).opened())
        await until(begun.is_set)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go.set()
        await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("exitfsm-standby")])
        await asyncio.sleep(0)
        with on.open():
            pass

    async def test_what_cannot_be_waited_for_is_said_at_once(self, on: Postgres, tmp_path: Path) -> None:
        with on.open() as store, pytest.raises(ConfigError, match="give the path or the URL"):
            ExitManager(ScriptedBroker(), store, standby=True)
        with pytest.raises(StoreError, match="nobody else's"):
            await ExitManager(ScriptedBroker(), ":memory:", standby=True).start()
        with pytest.raises(StoreError, match="refused"):
            await ExitManager(ScriptedBroker(), "postgresql://x@127.0.0.1:1/x", standby=True).start()

    async def test_a_file_is_waited_for_until_its_process_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "exits.db"
        bot = Bot(str(path), ScriptedBroker(), standby=True)
        with ExitStore(path):
            starting = asyncio.create_task(bot.manager.start())
            await asyncio.sleep(1.0)
            assert not starting.done()
        await asyncio.wait_for(starting, 10)
        assert bot.manager.lost_to is None
        await bot.manager.stop()


@postgres
class TestAWatch:
    """What a standby sees, look by look, with a clock of its own."""

    def watch(self, on: Postgres, own: contextlib.ExitStack, clock: list[float]) -> Any:
        from exitfsm.store.postgres.watching import Watch

        looks = Watch(on.url, "", 10.0, lambda: clock[0])
        own.callback(looks.close)
        return looks

    def test_there_is_nothing_to_wait_for_where_there_is_no_store(
        self, on: Postgres, own: contextlib.ExitStack
    ) -> None:
        looks = watch(on.url, account="", takeover_after_s=1)
        own.callback(looks.close)
        assert looks.look()

    def test_an_owner_that_never_says_that_it_is_alive_is_not_replaced(
        self, on: Postgres, own: contextlib.ExitStack
    ) -> None:
        clock = [0.0]
        looks = self.watch(on, own, clock)
        store = on.open()
        for clock[0] in (0.0, 100.0):
            assert not looks.look()
        put(store, "p1", opened())
        store.close()
        assert looks.look()

    def test_its_silence_is_measured_by_the_watcher_and_not_by_any_wall_clock(
        self, on: Postgres, own: contextlib.ExitStack
    ) -> None:
        clock = [0.0]
        looks = self.watch(on, own, clock)
        store = on.open()
        heart = heart_of(store, own)
        heart.beat()
        on.tamper("UPDATE heartbeat SET seen = now() - interval '1 day'")
        assert not looks.look()
        clock[0] = 9.0
        assert not looks.look()
        heart.beat()
        clock[0] = 18.0
        assert not looks.look(), "it has said something since"
        clock[0] = 27.9
        assert not looks.look()
        clock[0] = 28.0
        assert looks.look()
        with pytest.raises(StoreLocked, match=r"was taken by process \d+ on"):
            heart.beat()
        with pytest.raises(StoreLocked):
            put(store, "p1", opened())
        with on.open() as mine:
            put(mine, "p1", opened())

    def test_while_it_sees_nothing_nobody_is_silent(
        self, on: Postgres, monkeypatch: pytest.MonkeyPatch, own: contextlib.ExitStack
    ) -> None:
        import psycopg

        clock = [0.0]
        looks = self.watch(on, own, clock)
        store = on.open()
        heart = heart_of(store, own)
        heart.beat()
        assert not looks.look()
        state = looks._look.state

        def fails() -> Any:
            raise psycopg.OperationalError("the server is away")

        monkeypatch.setattr(looks._look, "state", fails)
        clock[0] = 50.0
        assert not looks.look()
        monkeypatch.setattr(looks._look, "state", state)
        for clock[0], free in ((60.0, False), (69.9, False), (70.0, True)):
            assert looks.look() is free

    def test_a_session_that_comes_back_in_between_is_ended_again(self, on: Postgres, own: contextlib.ExitStack) -> None:
        clock = [0.0]
        looks = self.watch(on, own, clock)
        store = on.open()
        heart = heart_of(store, own)
        heart.beat()
        assert not looks.look()
        clock[0] = 11.0
        assert looks.look()
        from exitfsm.store.postgres import owning
        from exitfsm.store.postgres.address import parse
        from exitfsm.store.postgres.link import Link

        link = Link(parse(on.url), "the owner of before", settings={})
        owning.lock(link, parse(on.url))
        assert looks.look()
        link.close()
        with on.open() as mine:
            put(mine, "p1", opened())

    def test_of_two_that_wait_one_replaces_the_owner(self, on: Postgres, own: contextlib.ExitStack) -> None:
        clock = [0.0]
        first, second = self.watch(on, own, clock), self.watch(on, own, clock)
        store = on.open()
        heart = heart_of(store, own)
        heart.beat()
        assert not first.look()
        assert not second.look()
        clock[0] = 11.0
        assert first.look()
        assert not second.look(), "nobody has it now, but somebody has just freed it"
        until = time.monotonic() + 10.0  # the server may take a moment to end the session
        while not second.look():
            assert time.monotonic() < until, "and did not take it"
            time.sleep(0.05)
        with on.open(), pytest.raises(StoreLocked):
            on.open()

    def test_a_role_that_may_not_end_the_owner_is_told_what_is_needed(
        self, on: Postgres, own: contextlib.ExitStack
    ) -> None:
        clock = [0.0]
        store = on.open()
        heart = heart_of(store, own)
        heart.beat()
        on.tamper(
            "CREATE ROLE other LOGIN",
            f"GRANT USAGE ON SCHEMA {on.schema} TO other",
            f"GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA {on.schema} TO other",
        )
        looks = self.watch(on, own, clock)
        looks._look._address.settings["user"] = "other"
        own.callback(lambda: on.tamper("DROP OWNED BY other", "DROP ROLE other"))
        own.callback(looks.close)
        assert not looks.look()
        clock[0] = 11.0
        with pytest.raises(StoreError, match="both must log in as one role"):
            looks.look()
        put(store, "p1", opened())

    def test_a_store_from_before_there_were_signs_of_life_gets_them(
        self, on: Postgres, own: contextlib.ExitStack
    ) -> None:
        put(on.open(), "p1", opened())
        on.close()
        on.tamper("DROP TABLE heartbeat")
        with on.open(read_only=True) as store:
            assert store.count() == 1
        store = on.open()
        heart = heart_of(store, own)
        heart.beat()
        assert owner_of(on.url).alive_s is not None


# --- the owner, and an operator ---------------------------------------------------------------------------------------


@postgres
class TestTheOwner:
    def test_is_shown_and_freed(
        self, on: Postgres, capsys: pytest.CaptureFixture[str], own: contextlib.ExitStack
    ) -> None:
        with pytest.raises(StoreMissing):
            owner_of(on.url)
        store = on.open()
        assert main(["owner", on.url]) == 0
        said = capsys.readouterr().out
        assert "owned by exitfsm: process" in said
        assert "does not say so" in said
        heart = heart_of(store, own)
        heart.beat()
        assert main(["owner", on.url, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["fence"] == 1
        assert shown["alive_s"] < 60
        assert not shown["released"]
        assert main(["owner", on.url, "--release"]) == 0
        assert "released" in capsys.readouterr().out
        with pytest.raises(StoreLocked, match="was taken by an operator"):
            put(store, "p1", opened())
        assert main(["owner", on.url]) == 0
        assert "owned by nobody; last by an operator" in capsys.readouterr().out
        assert main(["owner", on.url, "--release"]) == 0, "there is nothing to free"
        with on.open() as again:
            put(again, "p1", opened())

    def test_of_a_file_is_its_process(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["owner", str(tmp_path / "exits.db")]) == 2
        assert "is a file: its lock is held by the process" in capsys.readouterr().err

    def test_nothing_that_is_said_holds_a_password(
        self,
        on: Postgres,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        own: contextlib.ExitStack,
    ) -> None:
        caplog.set_level(logging.DEBUG, "exitfsm")
        url = on.url.replace("postgres@", "postgres:hunter2@")
        store = ExitStore(url)
        heart = heart_of(store, own)
        heart.beat()
        looks: Any = watch(url, account="", takeover_after_s=0)
        own.callback(looks.close)
        assert not looks.look()
        assert looks.look()
        assert main(["owner", url]) == 0
        with pytest.raises(StoreLocked) as raised:
            heart.beat()
        said = capsys.readouterr()
        assert "takeover store=" in caplog.text
        assert "hunter2" not in said.out + said.err + caplog.text + str(raised.value)

    def test_its_signs_of_life_do_not_wait_for_a_commit_that_hangs(
        self, on: Postgres, own: contextlib.ExitStack
    ) -> None:
        store = on.open()
        heart = heart_of(store, own)
        db: Any = store._open_db()
        db.begin()
        db.rows("SELECT 1")  # the fence is asked for: the row of the owner is locked
        heart.beat()
        db.give_up()

    def test_a_sign_of_life_that_cannot_be_given_is_given_later(self, on: Postgres, own: contextlib.ExitStack) -> None:
        store = on.open()
        heart = heart_of(store, own)
        heart.beat()
        on.tamper(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'exitfsm: alive%'"
        )
        with pytest.raises(StoreError) as raised:
            heart.beat()
        assert not isinstance(raised.value, StoreLocked)
        heart.beat()

    async def test_hearts_that_fail_are_logged_and_beat_again(self, caplog: pytest.LogCaptureFixture) -> None:
        said: list[str] = []

        class Store:
            beats = 0

            def heart(self) -> Any:
                return self

            def beat(self) -> None:
                self.beats += 1
                if self.beats < 3:
                    raise (StoreError("the server is away"), ZeroDivisionError())[self.beats - 1]
                raise StoreLocked("it was taken by another")

            def close(self) -> None:
                said.append("closed")

        async def stop() -> None:
            said.append("stopped")
            raise StoreError("and could not store its marks")

        store: Any = Store()
        owner = Ownership(store, said.append, lambda kind, text: said.append(f"{kind}: {text}"))
        await owner.begin(stop)
        await until(lambda: "closed" in said)
        owner.note([StoreLocked("once more"), StoreError("other")])
        assert said[:3] == ["it was taken by another", "ownership_lost: it was taken by another", "stopped"]
        assert owner.lost == "it was taken by another"
        await owner.end()
        assert all(word in caplog.text for word in ("heartbeat_failed", "heartbeat_crashed", "stop_failed"))


# --- what safety rests on ---------------------------------------------------------------------------------------------


@postgres
@pytest.mark.parametrize("breaches", [1, 4])
async def test_without_lock_and_fence_two_owners_still_send_no_second_order(
    on: Postgres, monkeypatch: pytest.MonkeyPatch, breaches: int
) -> None:
    from exitfsm.store.postgres import engine, owning

    monkeypatch.setattr(owning, "lock", lambda *_, **__: None)
    monkeypatch.setattr(
        owning,
        "_BEAT",
        owning._BEAT.replace("AND EXISTS (SELECT 1 FROM owner WHERE fence = ?::bigint)", "AND 0 < ?::bigint"),
    )
    monkeypatch.setattr(engine.PostgresDatabase, "_check_still_mine", lambda *_: None)
    with on.open():
        pass
    on.tamper("CREATE OR REPLACE FUNCTION check_fence(mine BIGINT) RETURNS VOID LANGUAGE sql AS 'SELECT'")
    broker = ScriptedBroker(capabilities=REFUSES_IDS)
    bots = [Bot(on.url, broker) for _ in range(2)]
    symbols = [f"S{n}" for n in range(breaches)]
    for symbol in symbols:
        broker.enter(symbol, "long", 10, 100)
    for bot in bots:
        await bot.manager.start()
        await bot.manager.sync()
    assert [len(bot.manager.positions()) for bot in bots] == [breaches] * 2
    await asyncio.gather(*(bot.bar("98", symbol) for symbol in symbols for bot in bots))
    for _ in range(3):
        for bot in bots:
            with contextlib.suppress(StoreError):
                await bot.manager.sync()
            await bot.manager.settled()
    sent = [call.args[0].client_order_id for call in broker.calls if call.method == "submit"]
    assert len(broker.orders) == breaches, "each position has one order"
    assert len(set(sent)) == breaches, "whoever decides it, an exit has one id"
    for order in list(broker.orders):
        broker.fill(order)
    for _ in range(3):
        for bot in bots:
            with contextlib.suppress(StoreError):
                await bot.manager.sync()
                await bot.manager.tick()
            await bot.manager.settled()
    broker.verify()
    assert len(broker.orders) == breaches
    assert broker.snapshot() == []
    for bot in bots:
        await bot.manager.stop()


# --- a store that does not answer -------------------------------------------------------------------------------------


class TestAStoreThatDoesNotAnswer:
    async def test_is_an_alarm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Watchdog, "__init__", _brisk(Watchdog.__init__))
        bot, go = Bot(str(tmp_path / "exits.db"), ScriptedBroker()), threading.Event()
        await bot.manager.start()
        hanging = asyncio.create_task(bot.manager._parts.context.mailbox.run(lambda: go.wait(20)))
        await until(lambda: bot.kinds)
        assert bot.kinds == ["store_silent"]
        assert "has not answered for 0.2 s" in bot.alarms[0].text
        go.set()
        await hanging
        await bot.manager.acknowledge(bot.alarms[0])
        assert bot.manager.alarms() == []
        await bot.manager.stop()

    async def test_is_none_where_it_answers_in_time_or_where_the_machine_slept(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        alarms: list[str] = []
        dog = Watchdog(lambda kind, _: alarms.append(kind), 0.2)
        for _ in range(4):  # each in time, and together longer
            with dog:
                await asyncio.sleep(0.08)
        await asyncio.sleep(0.2)
        assert alarms == []
        with dog:
            time.sleep(1.4)  # as if nothing ran: neither this nor the store
            await asyncio.sleep(0.1)
            assert alarms == []
            await asyncio.sleep(0.2)
            assert alarms == ["store_silent"]
        assert "store_answers after_s=1." in caplog.text

    @postgres
    @pytest.mark.slow
    async def test_is_one_whose_commits_wait_for_a_standby_that_is_gone(
        self, on: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Watchdog, "__init__", _brisk(Watchdog.__init__))
        bot = Bot(on.url, ScriptedBroker())
        await bot.manager.start()
        on.server.do("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
        try:
            for _ in range(200):  # the server takes note of it in its own time
                pausing = bot.manager.pause()
                await asyncio.sleep(0.1)
                if bot.kinds:
                    break
            await until(lambda: "store_silent" in bot.kinds)
            assert owner_of(on.url).alive_s is not None
            await asyncio.sleep(1.0)
            assert (owner_of(on.url).alive_s or 9) < 1.0, "it is alive all the same"
            assert bot.manager.lost_to is None
        finally:
            on.server.do("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
        await pausing
        await bot.manager.stop()


def _brisk(init: Any) -> Any:
    return lambda self, alarm: init(self, alarm, 0.2)


@postgres
@pytest.mark.slow
def test_the_account_names_the_store_that_is_waited_for() -> None:
    pytest.importorskip("psycopg")
    account, other = account_hash("one"), account_hash("two")
    with server() as there, ExitStore(there.url, account=account) as store:
        put(store, "p1", *life())
        mine = watch(there.url, account=account, takeover_after_s=1)
        theirs = watch(there.url, account=other, takeover_after_s=1)
        assert not mine.look()
        assert theirs.look()
        mine.close()
        theirs.close()
        mine.close()
        theirs.close()
