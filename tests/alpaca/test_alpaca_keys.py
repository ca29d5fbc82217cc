"""Keys are in no log, event, file or traceback, whatever is logged and whatever fails."""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path

from desk import Desk, Heard
from exitfsm_alpaca import Access, AlpacaBroker

from exitfsm.testing.alpaca_server import AlpacaServer, Fault

KEY, SECRET = "PKCANARY0KEY0ID", "canary+secret/that=must0never0be0seen"
#: A log may shorten what it shows: no part of a key may be seen either.
PARTS = [word[at : at + 8] for word in (KEY, SECRET) for at in range(len(word) - 7)]


async def test_keys_are_seen_nowhere(tmp_path: Path) -> None:
    """Everything is logged in full, every kind of request and connection fails once, and a position is exited."""
    heard, seen = Heard(), list[str]()
    root = logging.getLogger()
    level = root.level
    root.addHandler(heard)
    root.setLevel(logging.DEBUG)
    try:
        with AlpacaServer(key=KEY, secret=SECRET) as server:
            async with Desk(server, tmp_path, streams="updates bars") as desk:
                await desk.held()
                desk.bars.watch(["AAPL"])
                seen += [repr(x) for x in (desk.access, desk.broker, desk.updates, desk.bars, vars(desk.access).keys())]
                for kind in ("status", "html", "empty", "garbage", "reset", "redirect", "hang"):
                    server.fail(Fault(kind, "before", method="GET", path="positions", status=502, seconds=0.6))  # type: ignore[arg-type]
                    try:
                        await asyncio.to_thread(desk.broker.positions)
                    except Exception as error:
                        seen += traceback.format_exception(error)
                        seen.append(repr(error) + repr(error.args))
                server.updates.deny = 1
                server.drop_stream()
                server.drop_data()
                await desk.until(lambda: desk.updates.connections >= 2, "the stream is back")
                await desk.until(lambda: server.stocks.subscribed == {"AAPL"}, "bars are back")
                await desk.price("98.9")
                await desk.gone()
                wrong = AlpacaBroker(
                    Access.from_environment(server.environment | {"APCA_API_SECRET_KEY": SECRET + "x"})
                )
                try:
                    await asyncio.to_thread(wrong.account)
                except Exception as error:
                    seen += traceback.format_exception(error)
                wrong.close()
    finally:
        root.removeHandler(heard)
        root.setLevel(level)
    assert any("websockets" in line or "urllib3" in line for line in heard.lines), "the others' debug lines were there"
    for line in [*seen, *heard.lines]:
        assert not [part for part in PARTS if part in line], "a part of a key was seen"
    for path in tmp_path.rglob("*"):
        assert not [part for part in PARTS if part.encode() in path.read_bytes()], path
