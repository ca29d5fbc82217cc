"""Commands that meet a busy manager, a full disk, kills in between, impostors and crowds; and what proves nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import T0, World
from test_steering import ID, TOKEN, commands, fill_all, flattening, give, raw, runtime_folder, steered, unprotected

from exitfsm import ExecutionReport, OrderStatus
from exitfsm.control import ControlError, connect, proving
from exitfsm.control import desk as desk_module
from exitfsm.control import server as server_module
from exitfsm.control.client import Control
from exitfsm.control.protocol import Answer, Hello, Request, line_of
from exitfsm.errors import BrokerError, StoreError
from exitfsm.events import CommandAnswered, CommandGiven, TradingPaused

__all__ = ["runtime_folder"]
OTHER = "00000000cafecafe"


async def until(what: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- flatten that is not taken at first -------------------------------------------------------------------------------


async def test_flatten_that_meets_a_busy_manager_is_given_again_until_it_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CLIENTS_MAX", 0)
    monkeypatch.setattr(server_module, "RESERVED", 0)
    async with steered(world):
        busy = await give(world, lambda c: c.pause(), patience_s=0.5)
        assert (busy.code, busy.data["stored"]) == (1, False)
        pressed = await flattening(world)
        await asyncio.sleep(0.4)
        assert not world.orders
        monkeypatch.setattr(server_module, "CLIENTS_MAX", 32)
        await until(lambda: world.orders, 3)
        await fill_all(world)
        assert (await pressed).code == 0


async def test_flatten_that_could_not_be_stored_at_first_is_given_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with steered(world) as server:
        record, fails = server._desk._record, [True, True]

        async def full_at_first(event: Any) -> None:
            if isinstance(event, CommandGiven) and fails:
                fails.pop()
                raise StoreError("the disk is full")
            await record(event)

        monkeypatch.setattr(server._desk, "_record", full_at_first)
        pressed = await flattening(world)
        await until(lambda: world.orders, 3)
        await fill_all(world)
        assert (await pressed).code == 0


async def test_a_proof_of_a_command_that_nobody_knows_says_so(world: World) -> None:
    async with steered(world):
        answer = await give(world, lambda c: c._asked("proof", of=ID))
    assert answer.code == 1
    assert answer.data["unknown"] is True


# --- crowds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["port", "socket"])
async def test_those_who_connect_and_say_nothing_keep_nobody_out(world: World, way: str) -> None:
    async with steered(world, listen="127.0.0.1:0", token=TOKEN) as server:
        crowd = [
            await (
                asyncio.open_connection("127.0.0.1", server.port)
                if way == "port"
                else asyncio.open_unix_connection(str(server.path))
            )
            for _ in range(60)
        ]
        began = time.monotonic()
        assert (await give(world, lambda c: c.pause(), patience_s=3)).code == 0
        address = f"127.0.0.1:{server.port}"
        assert (await give(world, lambda c: c.resume(), address=address, token=TOKEN, patience_s=3)).code == 0
        assert time.monotonic() - began < 3
        with suppress(ConnectionError):  # the oldest was cut off before its time
            await asyncio.wait_for(crowd[0][0].read(), 2)
        for _, writer in crowd:
            writer.close()


# --- kills in between -------------------------------------------------------------------------------------------------


async def test_a_command_for_two_symbols_that_was_killed_between_them_is_carried_out_for_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.broker.enter("MSFT", "long", 5, 100)
    await world.manager.sync()
    async with steered(world) as server:
        desk = server._desk
        forced, record = desk._forced, desk._record

        async def killed_after_the_first(positions: list[Any], *args: Any, **options: Any) -> Any:
            await forced([p for p in positions if p.symbol == "AAPL"], *args, **options)
            raise StoreError("the process is dead")

        async def dies(event: Any) -> None:
            if isinstance(event, CommandAnswered):
                raise StoreError("the process is dead")
            await record(event)

        monkeypatch.setattr(desk, "_forced", killed_after_the_first)
        monkeypatch.setattr(desk, "_record", dies)
        await give(world, lambda c: c.command("exit", "AAPL", "MSFT", command_id=ID))
        await world.settle()
    assert [order.symbol for order in world.orders] == ["AAPL"]
    await world.restart()
    async with steered(world):
        answer = await give(world, lambda c: c.command("exit", "AAPL", "MSFT", command_id=ID))
        await world.settle()
    assert sorted(order.symbol for order in world.orders) == ["AAPL", "MSFT"]
    assert answer.code == 0
    assert any(line.startswith("took effect before the manager ended: AAPL") for line in answer.lines)
    assert any(line.startswith("MSFT: ") for line in answer.lines)


async def test_what_was_bought_after_a_command_is_not_sold_by_its_repeat(world: World) -> None:
    async with steered(world) as server:
        desk = server._desk
        given = CommandGiven(command_id=ID, verb="exit", subjects=("MSFT",), by="jo", whence="x", at=desk._now())
        await desk._record(given)
    world.clock.move(5)
    world.broker.enter("MSFT", "long", 5, 100)
    await world.restart()
    await world.manager.sync()
    async with steered(world):
        answer = await give(world, lambda c: c.command("exit", "MSFT", command_id=ID))
        await world.settle()
    assert answer.code == 1
    assert "bought after the command was given" in answer.lines[0]
    assert not world.orders


async def test_a_repeated_stop_does_not_stop_the_manager_that_came_after(world: World) -> None:
    async with steered(world) as server:
        desk = server._desk
        await desk._record(CommandGiven(command_id=ID, verb="stop", subjects=(), by="jo", whence="x", at=desk._now()))
    async with steered(world):
        answer = await give(world, lambda c: c.command("stop", command_id=ID))
        await asyncio.sleep(0.2)
        assert world.manager._running
    assert (answer.code, answer.again) == (1, True)
    assert "that manager has ended; process" in answer.lines[0]


# --- what proves nothing ----------------------------------------------------------------------------------------------


async def test_an_order_that_cannot_be_read_is_in_the_way_of_the_proof(world: World) -> None:
    async with steered(world):
        pressed = await flattening(world, timeout_s=3.0)
        await until(lambda: world.orders)
        unclear = {"symbol": "TSLA", "side": "buy", "status": "new", "qty": "5"}  # it does not say its id
        asked = world.manager._at_work.context.calls._asked

        async def with_one_more(method: str, *args: Any, **given: Any) -> Any:
            answer = await asked(method, *args, **given)
            return [*answer, unclear] if method == "open_orders" else answer

        world.manager._at_work.context.calls._asked = with_one_more  # type: ignore[method-assign]
        await fill_all(world)
        answer = await pressed
    assert answer.code == 1
    assert any("orders that cannot be read: 1" in line for line in answer.lines)


async def test_what_is_filled_between_the_reads_of_the_last_look_is_seen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orders are listed, then an order comes and fills at once, then what is held is read."""
    monkeypatch.setattr(desk_module, "FOLLOW_S", 100.0)  # the looks are those of the question alone
    async with steered(world):
        pressed = await flattening(world, timeout_s=8.0)
        await until(lambda: world.orders)
        calls, look = world.manager._at_work.context.calls, proving.look
        listed, held = calls.listed_orders, calls.positions
        looks = {"flat": 0, "first": ""}

        async def noted(*given: Any, **options: Any) -> Any:
            looks["first"] = ""
            found = await look(*given, **options)
            looks["flat"] += found.is_flat
            return found

        def between(name: str, read: Callable[[], Any]) -> Callable[[], Any]:
            async def reading() -> Any:
                found = await read()
                if looks["flat"] == 2 and not looks["first"]:
                    looks["first"], looks["flat"] = name, 9
                    world.broker.enter("TSLA", "long", 5, 200)
                return found

            return reading

        monkeypatch.setattr(proving, "look", noted)
        monkeypatch.setattr(calls, "listed_orders", between("orders", listed))
        monkeypatch.setattr(calls, "positions", between("positions", held))
        await fill_all(world)
        for _ in range(300):
            if pressed.done():
                break
            await world.passes(0.1, 0.1)
            await asyncio.sleep(0.01)
        answer = await pressed
    assert looks["flat"] >= 9
    assert answer.code == 1 or any(order.symbol == "TSLA" for order in world.orders)


# --- a question orders nothing ----------------------------------------------------------------------------------------


async def test_a_flatten_is_over_once_it_is_proved_or_trading_is_resumed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "FOLLOW_S", 2.5)  # it looks when all of this has happened
    async with steered(world) as server:
        pressed = await flattening(world, command_id=ID)
        await until(lambda: world.orders)
        await fill_all(world)
        assert (await pressed).code == 0
        world.broker.enter("TSLA", "long", 5, 200)  # still paused: a person buys by hand
        await world.manager.sync()
        await give(world, lambda c: c._asked("proof", of=ID))
        await give(world, lambda c: c.resume())
        await give(world, lambda c: c.pause("lunch"))
        answer = await give(world, lambda c: c._asked("proof", of=ID))
        following = server._desk._following
        assert following is not None
        await until(following.done)
        await world.settle()
    assert answer.code == 1
    assert {order.symbol for order in world.orders} == {"AAPL"}


async def test_a_flatten_in_force_goes_on_after_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "FOLLOW_S", 0.05)
    async with steered(world):
        assert (await (await flattening(world, timeout_s=0.1, command_id=ID))).code == 1
    await world.restart()
    world.broker.enter("TSLA", "long", 5, 200)
    await world.manager.sync()
    async with steered(world):
        await until(lambda: any(order.symbol == "TSLA" for order in world.orders))
    assert len(world.orders) == 2


# --- unprotected ------------------------------------------------------------------------------------------------------


async def test_to_press_twice_is_not_to_have_looked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await unprotected(world)
    count, calls = len(world.orders), world.manager._at_work.context.calls

    async def unreadable(_: str) -> ExecutionReport:
        raise BrokerError("the record cannot be read")

    monkeypatch.setattr(calls, "order", unreadable)
    world.expected |= {"not_done"}
    async with steered(world):
        for _ in range(2):
            answer = await give(world, lambda c: c.exit("AAPL"))
            assert answer.code == 1
            assert "--override" in answer.lines[0]
            await (await flattening(world, timeout_s=0.1))
        await world.settle()
        assert len(world.orders) == count
        answer = await give(world, lambda c: c.exit("AAPL", override=True))
        await world.settle()
    assert answer.code == 0
    assert len(world.orders) == count + 1


async def test_what_needs_a_look_at_the_broker_holds_up_no_other_exit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await unprotected(world)
    world.broker.enter("MSFT", "long", 5, 100)
    await world.manager.sync()
    calls = world.manager._at_work.context.calls
    order, goes_on = calls.order, asyncio.Event()

    async def slow(name: str) -> Any:
        await goes_on.wait()
        return await order(name)

    monkeypatch.setattr(calls, "order", slow)
    async with steered(world):
        asked = asyncio.ensure_future(give(world, lambda c: c.exit("AAPL", "MSFT")))
        await until(lambda: any(order.symbol == "MSFT" for order in world.orders), 2)
        assert not asked.done()
        goes_on.set()
        await asked


# --- who listens ------------------------------------------------------------------------------------------------------


async def test_who_has_the_store_listens_whoever_sits_on_its_socket(world: World) -> None:
    async with steered(world) as server:
        path = server.path
    assert path is not None
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(str(path))
        squatter.listen(8)
        async with steered(world):
            assert path.stat().st_mode & 0o777 == 0o600
            assert (await give(world, lambda c: c.pause(), patience_s=2)).code == 0
    assert not [one for one in path.parent.iterdir() if one.name.startswith(".")]


async def test_a_stopped_manager_does_not_listen_and_a_started_one_does_again(world: World) -> None:
    async with steered(world, on_stop=lambda: None) as server:
        path = server.path
        assert path is not None
        await world.manager.stop()
        await until(lambda: not path.exists())
        with pytest.raises(ControlError):
            await give(world, lambda c: c.flatten("k", timeout_s=0))
        await world.manager.start()
        await until(path.exists)
        assert (await give(world, lambda c: c.pause())).code == 0
        path.unlink()  # swept away
        await until(path.exists)
        assert (await give(world, lambda c: c.resume())).code == 0


async def test_a_port_in_use_does_not_take_the_socket_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "AGAIN_S", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        async with steered(world, listen=f"127.0.0.1:{port}", token=TOKEN) as server:
            assert f"cannot listen on 127.0.0.1:{port}" in server.problem
            assert (await give(world, lambda c: c.pause())).code == 0
            taken.close()
            await until(lambda: not server.problem)
            assert (await give(world, lambda c: c.resume(), address=f"127.0.0.1:{port}", token=TOKEN)).code == 0


# --- who answers ------------------------------------------------------------------------------------------------------


class Impostor:
    """Somebody who listens in the manager's place, and what he hears."""

    def __init__(self, listener: socket.socket, *answers: bytes) -> None:
        self.listener, self.answers, self.heard = listener, answers, b""
        listener.listen(8)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        try:
            while True:
                client, _ = self.listener.accept()
                with client:
                    for answer in self.answers:
                        client.sendall(answer)
                        client.settimeout(2)
                        self.heard += client.recv(1 << 16)
        except OSError:
            return


def test_who_holds_the_port_gets_no_token_and_is_not_believed(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        impostor = Impostor(listener, line_of(Hello(nonce="n")), line_of(Answer(code=0, lines=("flat",))))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ControlError, match="does not know the token"):
            connect(tmp_path / "x.db", address=address, token=TOKEN, patience_s=2).flatten("k", timeout_s=2)
    assert b"flatten" in impostor.heard
    assert TOKEN.encode() not in impostor.heard


async def test_a_request_that_was_heard_on_the_port_cannot_be_said_again(world: World) -> None:
    request = Request(version=1, verb="pause", id=ID, within=9.0, mac="0" * 64)
    async with steered(world, listen="127.0.0.1:0", token=TOKEN) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await reader.readline()
        writer.write(line_of(request))
        assert b"token is wrong" in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert not commands(world)


def test_a_folder_that_others_may_write_to_is_sent_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    store = tmp_path / ("x" * 90) / "exits.db"
    folder = tmp_path / "exitfsm"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ControlError, match="may be written to by others"):
        connect(store).pause()


def test_bytes_that_come_one_at_a_time_do_not_outlast_the_patience(tmp_path: Path) -> None:
    store = tmp_path / "exits.db"
    store.touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{store}.sock")
        listener.listen(8)

        def drips() -> None:
            client, _ = listener.accept()
            with client:
                try:
                    for _ in range(100):
                        client.sendall(b" ")
                        time.sleep(0.05)
                except OSError:
                    return

        threading.Thread(target=drips, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(ControlError, match="no answer to pause"):
            connect(store, patience_s=0.6).pause()
        assert time.monotonic() - began < 2


def test_a_manager_that_hangs_is_not_said_to_be_absent(tmp_path: Path) -> None:
    """Its socket takes no more connections: it is there, and busy."""
    store = tmp_path / "exits.db"
    store.touch()
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{store}.sock")
        listener.listen(1)
        for _ in range(4):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            try:
                waiting[-1].connect(f"{store}.sock")
            except BlockingIOError:
                break
        with pytest.raises(ControlError, match="the manager is busy, or was restarted"):
            connect(store, patience_s=0.6).pause()
    for one in waiting:
        one.close()


# --- time, and memory -------------------------------------------------------------------------------------------------


async def test_a_command_that_is_known_is_answered_however_late_it_comes_again(world: World) -> None:
    async with steered(world) as server:
        first = await give(world, lambda c: c.command("pause", command_id=ID))
        late = await raw(server, line_of(Request(version=1, verb="pause", id=ID, within=0.0)))
        new = await raw(server, line_of(Request(version=1, verb="resume", id=OTHER, within=0.0)))
    assert first.lines[0].encode() in late
    assert b'"again":true' in late
    assert b"nothing was done" in new
    assert len([c for c in commands(world) if isinstance(c, CommandGiven)]) == 1


async def test_a_command_whose_answer_memory_has_lost_is_not_carried_out_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "KEPT", 2)
    async with steered(world) as server:
        first = await give(world, lambda c: c.command("pause", command_id=ID))
        for _ in range(3):
            await give(world, lambda c: c.resume())
        assert len(server._desk._given) <= 2
        again = await give(world, lambda c: c.command("pause", command_id=ID))
    assert (again.again, again.lines) == (True, first.lines)
    assert sum(isinstance(event, TradingPaused) for _, event in world.events) == 1


async def test_flatten_says_that_it_waits_for_a_manager_that_is_not_there(world: World) -> None:
    said: list[str] = []

    def press(control: Control) -> Answer:
        return control.flatten("k", timeout_s=1.0, waits=said.append)

    with pytest.raises(ControlError):
        await give(world, press)
    assert len(said) == 1
    assert "waiting for one" in said[0]


async def test_an_order_of_others_that_has_just_been_reported_is_in_the_way(world: World) -> None:
    async with steered(world):
        pressed = await flattening(world)
        await until(lambda: world.orders)
        await fill_all(world)
        await pressed
        report = ExecutionReport(client_order_id="bot-7", status=OrderStatus.NEW, at=T0, symbol="NVDA")
        await world.manager.on_order_update(report)
        proof = await proving.look(world.manager._at_work)
    assert any("NVDA: order bot-7 works, not ours" in line for line in proof.lines)


async def test_alarms_of_a_killed_acknowledgement_are_taken_down_but_none_that_came_after_it(world: World) -> None:
    async with steered(world) as server:
        desk = server._desk
        alarms = world.manager._at_work.context.alarms
        await alarms.raise_alarm("broker_incomplete", "the first")
        world.clock.move(1)
        given = CommandGiven(
            command_id=ID, verb="acknowledge", subjects=("account",), by="jo", whence="x", at=desk._now()
        )
        await desk._record(given)
        world.clock.move(1)
        await alarms.raise_alarm("bar_unreadable", "one that nobody has seen")
    async with steered(world):
        answer = await give(world, lambda c: c.command("acknowledge", "account", command_id=ID))
        left = [alarm.kind for alarm in world.manager.alarms()]
        assert answer.code == 0
        assert answer.lines[0].startswith("acknowledged: broker_incomplete")
        assert left == ["bar_unreadable"]
        for alarm in world.manager.alarms():
            await world.manager.acknowledge(alarm)
