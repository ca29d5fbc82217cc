"""Commands from outside, through the socket, on the real manager: what each does, that it does it once, and to whom."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import T0, MakeWorld, World, shuffled

from exitfsm import ExecutionReport, OrderStatus, Session
from exitfsm.control import Answer, Control, ControlError, connect, serve
from exitfsm.control import client as client_module
from exitfsm.control import server as server_module
from exitfsm.control.protocol import REQUEST_MAX
from exitfsm.control.server import Peer, Server
from exitfsm.errors import ConfigError, StoreError
from exitfsm.events import CommandAnswered, CommandGiven, ExitRetried, ExitTriggered, TradingPaused
from exitfsm.testing import Hang, Returns

ID = "00000000deadbeef"
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside the store is this test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@asynccontextmanager
async def steered(world: World, **options: Any) -> AsyncIterator[Server]:
    async with serve(world.manager, **options) as server:
        yield server


async def give(world: World, command: Callable[[Control], Answer], **options: Any) -> Answer:
    """A command from a thread of its own, as another process would give it."""
    control = connect(world.store_path, **options)
    work: Future[Answer] = Future()

    def run() -> None:
        try:
            work.set_result(command(control))
        except BaseException as error:
            work.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # none of the loop's, which `settle` would wait for
    while not work.done():
        await asyncio.sleep(0.002)
    return work.result()


def commands(world: World) -> list[CommandGiven | CommandAnswered]:
    return [event for _, event in world.events if isinstance(event, CommandGiven | CommandAnswered)]


async def unprotected(world: World) -> None:
    """The position gets into a state in which only a person helps."""
    await world.bar(98)
    for n in (1, 2):
        await world.until(lambda n=n: len(world.orders) == n, seconds=60)  # type: ignore[misc]
        world.broker.reject(world.last_order, "not_tradable")
        await world.deliver()
    assert world.state == "unprotected"


# --- what each does ---------------------------------------------------------------------------------------------------


async def test_a_forced_exit_is_one_order_and_the_log_says_who_gave_it_whence_and_why(world: World) -> None:
    async with steered(world):
        answer = await give(world, lambda c: c.command("exit", "aapl", reason="news", command_id=ID))
        await world.settle()
    assert answer.code == 0
    assert "AAPL" in answer.lines[0]
    assert len(world.orders) == 1
    given, answered = commands(world)
    assert isinstance(given, CommandGiven)
    assert (given.verb, given.subjects, given.reason, given.command_id) == ("exit", ("aapl",), "news", ID)
    assert given.by
    assert "process" in given.whence
    assert isinstance(answered, CommandAnswered)
    assert (answered.code, answered.lines) == (0, answer.lines)
    triggered = next(event for _, event in world.events if isinstance(event, ExitTriggered))
    assert triggered.detail == f"{given.by} #{ID}: news"


async def test_a_symbol_that_nobody_watches_is_said_and_nothing_is_done(world: World) -> None:
    async with steered(world):
        answer = await give(world, lambda c: c.exit("MSFT", "no symbol!"))
    assert answer.code == 1
    assert "MSFT: no open position of it is watched (watched: AAPL)" in answer.lines[0]
    assert not world.orders


async def test_a_pause_is_stored_and_ends_with_resume_and_a_second_one_says_that_it_is_paused(world: World) -> None:
    async with steered(world):
        assert (await give(world, lambda c: c.pause("lunch"))).code == 0
        assert not world.manager.may_enter("MSFT")
        assert (await give(world, lambda c: c.pause("again"))).lines == ("paused already",)
        await world.bar(98)
        assert not world.orders
        assert (await give(world, lambda c: c.resume())).code == 0
        assert (await give(world, lambda c: c.resume())).lines == ("not paused: there is nothing to resume",)
        await world.bar(97)
    assert len(world.orders) == 1
    assert [event.why for _, event in world.events if isinstance(event, TradingPaused)] == ["lunch"]


async def test_alarms_are_acknowledged_by_id_and_by_symbol(world: World) -> None:
    await unprotected(world)
    async with steered(world):
        standing = await give(world, lambda c: c.standing())
        ids = [alarm["alarm_id"] for alarm in standing.data["alarms"]]
        assert ids
        answer = await give(world, lambda c: c.acknowledge(ids[0], "nothing"))
        assert answer.code == 1
        assert answer.lines[0].startswith("acknowledged: ")
        assert "nothing: no active alarm" in answer.lines[1]
        answer = await give(world, lambda c: c.acknowledge("AAPL"))
        assert (answer.code == 0) == (len(ids) > 1)
    assert not world.manager.alarms()


async def test_an_unprotected_position_is_released_and_a_watched_one_is_not(world: World) -> None:
    async with steered(world):
        answer = await give(world, lambda c: c.release("AAPL"))
        assert answer.code == 1
        assert "it is monitoring, not unprotected" in answer.lines[0]
        await unprotected(world)
        answer = await give(world, lambda c: c.release("AAPL", reason="looked"))
    assert answer.code == 0, answer
    assert world.state == "monitoring"


async def test_a_release_while_an_order_may_be_live_says_why_not(world: World) -> None:
    await unprotected(world)
    working = ExecutionReport(client_order_id=world.last_order, status=OrderStatus.NEW, at=world.clock.now())
    for _ in range(4):
        world.broker.answer("order", Returns(working))
    async with steered(world):
        answer = await give(world, lambda c: c.release("AAPL"))
    assert answer.code == 1
    assert "not released" in answer.lines[0]
    assert world.state == "unprotected"


async def test_sync_says_how_many_are_watched_and_that_the_broker_does_not_answer(world: World) -> None:
    async with steered(world):
        assert (await give(world, lambda c: c.sync())).lines == ("reconciled with the broker: 1 positions are watched",)
        for _ in range(3):
            world.broker.answer("positions", Returns(None))
        answer = await give(world, lambda c: c.sync())
    assert answer.code == 1
    assert answer.lines[0].startswith("sync: not done")


async def test_stop_is_answered_before_the_manager_ends(world: World) -> None:
    stopped = asyncio.Event()
    async with steered(world, on_stop=stopped.set):
        answer = await give(world, lambda c: c.stop("upgrade"))
        await asyncio.wait_for(stopped.wait(), 5)
    assert answer.code == 0
    assert "nobody watches AAPL" in answer.lines[0]


async def test_without_more_words_stop_stops_the_manager(world: World) -> None:
    async with steered(world):
        await give(world, lambda c: c.stop())
        for _ in range(500):
            if not world.manager._running:
                break
            await asyncio.sleep(0.01)
        assert not world.manager._running


# --- once -------------------------------------------------------------------------------------------------------------


async def test_a_command_that_comes_again_gets_its_first_answer_and_does_nothing_more(world: World) -> None:
    async with steered(world):
        first = await give(world, lambda c: c.command("pause", command_id=ID))
        await give(world, lambda c: c.resume())
        again = await give(world, lambda c: c.command("pause", command_id=ID))
    assert again.again
    assert not first.again
    assert again.lines == first.lines
    assert world.manager.may_enter("MSFT")


async def test_a_command_that_comes_again_meanwhile_waits_for_the_same_answer(world: World) -> None:
    await unprotected(world)
    hang = Hang("first")
    async with steered(world):
        world.broker.answer("order", hang)
        one = asyncio.ensure_future(give(world, lambda c: c.command("exit", "AAPL", command_id=ID)))
        while not hang.waiting:
            await asyncio.sleep(0.002)
        two = asyncio.ensure_future(give(world, lambda c: c.command("exit", "AAPL", command_id=ID)))
        await asyncio.sleep(0.05)
        hang.release()
        answers = await asyncio.gather(one, two)
    assert answers[0] == answers[1]
    assert sum(isinstance(event, ExitRetried) for _, event in world.events) == 2
    assert len([c for c in commands(world) if isinstance(c, CommandGiven)]) == 1


async def test_another_command_with_the_same_id_is_refused(world: World) -> None:
    async with steered(world):
        await give(world, lambda c: c.command("pause", command_id=ID))
        answer = await give(world, lambda c: c.command("exit", "AAPL", command_id=ID))
    assert answer.code == 2
    assert "another command was given with this id: pause" in answer.lines[0]
    assert not world.orders


async def test_after_a_restart_a_command_that_was_answered_gets_that_answer(world: World) -> None:
    async with steered(world):
        first = await give(world, lambda c: c.command("pause", command_id=ID))
        await give(world, lambda c: c.resume())
    await world.restart()
    async with steered(world):
        again = await give(world, lambda c: c.command("pause", command_id=ID))
    assert (again.again, again.lines) == (True, first.lines)
    assert world.manager.may_enter("MSFT")


@pytest.mark.parametrize("effective", [True, False])
async def test_a_command_that_the_manager_died_over_took_effect_or_does_so_now(world: World, effective: bool) -> None:
    """Killed after the command was stored, before and after what it does: the same answer once it comes again."""
    await unprotected(world)
    async with steered(world) as server:
        desk = server._desk
        record = desk._record

        async def dies(event: Any) -> None:
            if isinstance(event, CommandAnswered):
                raise StoreError("the process is dead")
            await record(event)

        async def does_nothing(*_: Any) -> Any:
            raise StoreError("the process is dead")

        desk._record = dies  # type: ignore[method-assign]
        if not effective:
            desk._done = does_nothing  # type: ignore[method-assign]
        await give(world, lambda c: c.command("exit", "AAPL", command_id=ID))
        await world.settle()
    attempts = sum(isinstance(event, ExitRetried) for _, event in world.events)
    assert attempts == (2 if effective else 1)
    if effective:  # and this one comes to nothing, too: only a second effect would be another attempt
        world.broker.reject(world.last_order, "not_tradable")
        await world.deliver()
    await world.restart()
    async with steered(world):
        answer = await give(world, lambda c: c.command("exit", "AAPL", command_id=ID))
        await world.settle()
    assert sum(isinstance(event, ExitRetried) for _, event in world.events) == 2
    assert answer.code == 0
    assert answer.lines[0].startswith("took effect before the manager ended") == effective
    assert len([c for c in commands(world) if isinstance(c, CommandGiven)]) == 1


async def test_a_command_whose_giver_has_left_takes_effect_all_the_same(world: World) -> None:
    line = json.dumps({"v": 1, "verb": "exit", "id": ID, "subjects": ["AAPL"], "within": 9}).encode()
    async with steered(world) as server:
        reader, writer = await asyncio.open_unix_connection(str(server.path))
        await reader.readline()
        writer.write(line + b"\n")
        writer.close()
        for _ in range(500):
            if len(commands(world)) == 2:
                break
            await asyncio.sleep(0.01)
    assert len(world.orders) == 1


async def test_what_comes_too_late_is_not_carried_out(world: World) -> None:
    line = json.dumps({"v": 1, "verb": "exit", "id": ID, "subjects": ["AAPL"], "within": 0}).encode()
    async with steered(world) as server:
        said = await raw(server, line + b"\n")
    assert json.loads(said)["code"] == 2
    assert b"too late" in said
    assert not world.orders


async def test_a_store_that_cannot_be_written_is_said_and_nothing_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with steered(world):
        with monkeypatch.context() as patch:

            def full(*_: Any, **__: Any) -> Any:
                raise StoreError("the disk is full: make room")

            patch.setattr(world.manager.store, "append", full)
            patch.setattr(world.manager.store, "append_many", full)
            world.expected |= {"task_failed", "not_stored"}
            answer = await give(world, lambda c: c.exit("AAPL"))
    assert answer.code == 1
    assert answer.lines == ("nothing was done: the command could not be stored: the disk is full: make room",)
    assert not world.orders


# --- flatten ----------------------------------------------------------------------------------------------------------


async def flattening(world: World, **options: Any) -> asyncio.Task[Answer]:
    options = {"timeout_s": 20.0} | options
    return asyncio.ensure_future(give(world, lambda c: c.flatten("enough", **options)))


async def test_flatten_is_done_only_when_the_broker_shows_flat_and_nothing_works(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter()
    await world.enter(3, 200, symbol="TSLA", side="short")
    async with steered(world):
        pressed = await flattening(world)
        while len(world.orders) < 2:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.7)
        assert not pressed.done()
        await fill_all(world)
        answer = await pressed
    assert answer.code == 0, answer
    assert not answer.lines
    assert not world.manager.positions()
    assert not world.manager.may_enter("MSFT")  # it is paused


async def fill_all(world: World) -> None:
    """Every exit fills, and time passes until it is proved."""
    for order in world.orders:
        world.broker.fill(order.client_order_id)
    await world.deliver()
    for _ in range(20):
        await world.passes(1)
        if not world.manager.positions():
            return


async def test_flatten_that_is_not_proved_in_time_says_for_each_position_why(world: World) -> None:
    async with steered(world):
        answer = await (await flattening(world, timeout_s=0.3))
    assert answer.code == 1
    assert len(answer.lines) == 1
    assert answer.lines[0].startswith("AAPL: submitted, 10 left to sell, order ")
    assert len(world.orders) == 1


async def test_flatten_with_the_market_closed_does_not_wait_and_the_exit_stays_stored(world: World) -> None:
    opens = T0 + timedelta(hours=20)
    closed = Session(is_open=False, next_open=opens)
    for _ in range(50):
        world.broker.answer("session", Returns(closed))
    world.clock.move(24 * 3600)
    began = time.monotonic()
    async with steered(world):
        answer = await (await flattening(world))
    assert time.monotonic() - began < 10
    assert answer.code == 1
    assert "the market is closed" in answer.lines[0]
    assert "its exit is stored" in answer.lines[0]
    assert world.position.reason == "emergency"


async def test_flatten_pressed_twice_and_from_two_terminals_is_one_order_for_each_position(world: World) -> None:
    async with steered(world):
        pressed = [await flattening(world) for _ in range(3)]
        same = [await flattening(world, command_id=ID) for _ in range(2)]
        while not world.orders:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)
        await fill_all(world)
        answers = await asyncio.gather(*pressed, *same)
    assert [answer.code for answer in answers] == [0] * 5
    assert len(world.orders) == 1


async def test_flatten_that_is_pressed_while_the_manager_is_restarted_waits_for_it(world: World) -> None:
    pressed = await flattening(world, timeout_s=5.0)
    await asyncio.sleep(0.6)
    assert not pressed.done()
    async with steered(world):
        while not world.orders:
            await asyncio.sleep(0.005)
        await fill_all(world)
        assert (await pressed).code == 0


async def test_what_is_bought_while_flatten_waits_is_ordered_out_too(world: World) -> None:
    async with steered(world):
        pressed = await flattening(world)
        while len(commands(world)) < 2:  # all that was held then is ordered out, and answered
            await asyncio.sleep(0.005)
        world.broker.enter("TSLA", "long", 4, 200)  # an entry of the bot was still on its way
        for _ in range(400):
            if len(world.orders) == 2:
                break
            await world.passes(0.1, 0.1)
            await asyncio.sleep(0.02)
        assert len(world.orders) == 2
        await fill_all(world)
        assert (await pressed).code == 0
    assert {order.symbol for order in world.orders} == {"AAPL", "TSLA"}


async def test_an_order_that_is_not_ours_is_in_the_way_of_the_proof(world: World) -> None:
    other = ExecutionReport(client_order_id="bot-7", status=OrderStatus.NEW, at=T0, symbol="NVDA")
    async with steered(world):
        pressed = await flattening(world, timeout_s=3.0)
        while not world.orders:
            await asyncio.sleep(0.005)
        for _ in range(200):
            world.broker.answer("open_orders", Returns([other]))
        await fill_all(world)
        answer = await pressed
    assert answer.code == 1
    assert any("NVDA: order bot-7 works, not ours: cancel it at the broker" in line for line in answer.lines)


# --- who, and what ----------------------------------------------------------------------------------------------------


async def raw(server: Server, data: bytes) -> bytes:
    """What is answered to these bytes."""
    reader, writer = await asyncio.open_unix_connection(str(server.path), limit=1 << 20)
    try:
        await asyncio.wait_for(reader.readline(), 10)  # the greeting
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    except OSError:
        return b""
    finally:
        writer.close()


async def test_the_socket_is_for_this_user_alone_and_goes_with_the_manager(world: World) -> None:
    async with steered(world) as server:
        path = server.path
        assert path is not None
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_another_users_process_gets_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_peer", lambda _: Peer(4_000_000_000, "process 1, user 4000000000"))
    line = json.dumps({"v": 1, "verb": "standing", "within": 9}).encode() + b"\n"
    async with steered(world) as server:
        assert await raw(server, line) == b""
    assert any("control_refused" in line for line in world.heard.lines)


@pytest.mark.parametrize(
    ("user", "users", "is_refused"),
    [(1001, {0, 1000}, True), (1000, {0, 1000}, False), (1001, {0}, True), (1001, {0, 1001}, False)],
)
def test_a_process_of_another_user_in_the_managers_place_is_sent_nothing(
    user: int, users: set[int], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "struct", SimpleNamespace(unpack=lambda *_: (1, user, 1)))
    one, other = socket.socketpair(socket.AF_UNIX)
    refused = pytest.raises(ControlError, match=r"another user \(1001\) listens where the manager should")
    with one, other, refused if is_refused else nullcontext():
        client_module._check_peer(one, frozenset(users))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"garbage\n", b"not understood"),
        (b'{"v": 1}\n', b"not a request"),
        (b'{"v": 2, "verb": "pause"}\n', b"speaks version 1"),
        (b'{"v": 0, "verb": "pause"}\n', b"upgrade the command"),
        (b'{"v": 1, "verb": "sell", "within": 9}\n', b"is no command"),
        (b'{"v": 1, "verb": "exit", "id": "00000000deadbeef", "within": 9}\n', b"name symbols"),
        (b'{"v": 1, "verb": "pause", "id": "x", "within": 9}\n', b"needs an id"),
        (b"x" * (REQUEST_MAX + 10) + b"\n", b"at most"),
        (b"", b""),
        (b"no end", b""),
    ],
)
async def test_what_is_no_request_gets_a_line_that_says_so(world: World, data: bytes, words: bytes) -> None:
    async with steered(world) as server:
        said = await raw(server, data)
    assert words in said
    assert not world.orders
    assert not commands(world)


async def test_a_port_needs_the_token_and_no_answer_holds_it(world: World) -> None:
    async with steered(world, listen="127.0.0.1:0", token=TOKEN) as server:
        address = f"127.0.0.1:{server.port}"
        assert TOKEN not in repr(server)
        wrong = await give(world, lambda c: c.pause(), address=address, token="a-token-that-is-not-it")
        assert wrong.code == 2
        assert "token is wrong" in wrong.lines[0]
        assert world.manager.may_enter("MSFT")
        assert (await give(world, lambda c: c.pause(), address=address, token=TOKEN, who="anna")).code == 0
    given = commands(world)[0]
    assert isinstance(given, CommandGiven)
    assert given.by == "anna"
    assert "127.0.0.1" in given.whence
    assert not any(TOKEN in line for line in world.heard.lines)
    assert TOKEN.encode() not in world.store_path.read_bytes()


@pytest.mark.parametrize(
    ("listen", "token", "words"),
    [
        ("0.0.0.0:7070", TOKEN, "not on this machine"),
        ("192.0.2.1:7070", TOKEN, "not on this machine"),
        ("127.0.0.1:x", TOKEN, "is not HOST:PORT"),
        ("somewhere:7070", TOKEN, "is not HOST:PORT"),
        ("127.0.0.1:7070", "short", "token of at least"),
    ],
)
async def test_a_port_is_on_this_machine_with_a_token_worth_the_name(
    world: World, listen: str, token: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        serve(world.manager, listen=listen, token=token)


async def test_the_socket_of_a_manager_that_died_is_taken_over(world: World) -> None:
    async with steered(world) as server:
        path = server.path
        assert path is not None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with steered(world):
        assert (await give(world, lambda c: c.pause())).code == 0
    path.write_text("not a socket")
    async with steered(world) as server:
        assert "in the way and no socket" in server.problem
    assert path.read_text() == "not a socket"


async def test_where_nobody_listens_it_says_so_and_what_to_do(world: World, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"process \d+ drives .* and does not listen"):
        await give(world, lambda c: c.pause())
    await world.stop()
    Path(f"{world.store_path}.lock").write_text("0")
    with pytest.raises(ControlError, match=r"nobody drives .* Start it \(exitfsm run"):
        await give(world, lambda c: c.pause())
    with pytest.raises(ControlError, match="there is no store at"):
        connect(tmp_path / "none.db").pause()
    with pytest.raises(ControlError, match=r"no manager answers at 127\.0\.0\.1:1"):
        connect(tmp_path / "none.db", address="127.0.0.1:1").pause()
    await world.restart_in_order()


async def test_a_manager_that_does_not_answer_is_said_with_the_id_to_give_again(world: World) -> None:
    hang = Hang("first")
    async with steered(world):
        world.broker.answer("positions", hang)
        with pytest.raises(ControlError, match=r"no answer to sync within 0.5 s: .* --id [0-9a-f]{16}"):
            await give(world, lambda c: c.sync(), patience_s=0.5)
        hang.release()


async def test_ten_thousand_garbage_requests_harm_nothing(world: World) -> None:
    """Short, long, cut off, many at once: the socket goes on, and so does an exit meanwhile."""
    chance = shuffled(7)
    right = json.dumps({"v": 1, "verb": "exit", "id": ID, "subjects": ["AAPL"], "within": 9}).encode()

    def garbage() -> bytes:
        at = chance.randrange(len(right))
        kind = chance.randrange(4)
        if kind == 0:
            return chance.randbytes(chance.randrange(200)) + b"\n"
        if kind == 1:
            return right[:at]
        return right[:at] + chance.randbytes(1 + chance.randrange(3)) + right[at + 2 :] + b"\n" * chance.randrange(2)

    def send(path: Path, count: int) -> None:
        for _ in range(count):
            with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
                client.connect(str(path))
                client.sendall(garbage())

    async with steered(world) as server:
        assert server.path is not None
        threads = [threading.Thread(target=send, args=(server.path, 2_500), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        await world.bar(98)
        assert len(world.orders) == 1
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.01)
        answer = await give(world, lambda c: c.pause())
    assert answer.code == 0
    assert len(world.orders) == 1
    assert [c.verb for c in commands(world) if isinstance(c, CommandGiven)] in (["pause"], ["exit", "pause"])
    assert not any("control_crashed" in line for line in world.heard.lines)
