"""The kit for users does what its page says: the page's own lines run, and what is wrong is found."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from exitfsm import Bar
from exitfsm.simulated import SIMULATED
from exitfsm.testing import LostReply, ScriptedBroker, strategies
from exitfsm.testing.machine import ManagerMachine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "prove-your-broker.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
#: Somebody's adapter, with plain methods, and what it talks to.
ADAPTER = """
from datetime import UTC, datetime, timedelta

from exitfsm import Bar, Side
from exitfsm.simulated import SimulatedBroker

class Sandbox(SimulatedBroker):
    at = datetime(2024, 1, 2, 15, tzinfo=UTC)
    def enter(self, symbol, side, qty, price):
        self.price = price
        self.hold(symbol, Side(side), qty, price, self.at)
    def fill_market_orders(self):
        self.at += timedelta(minutes=1)
        self.on_bar(Bar("AAPL", self.at, *[self.price] * 4))

class MyBroker:
    def __init__(self, sandbox):
        self.sandbox, self.capabilities = sandbox, sandbox.capabilities
    def __getattr__(self, name):
        return getattr(self.sandbox, name)
"""
#: The same in its own words: other names, the broker's own ids, dictionaries of text and floats.
IN_ITS_OWN_WORDS = (
    ADAPTER.partition("class MyBroker")[0]
    + """
from decimal import Decimal
from exitfsm import Order, OrderSide, OrderType, TimeInForce

class MyBroker:
    def __init__(self, sandbox):
        self._sandbox, self.capabilities, self.sent = sandbox, sandbox.capabilities, {}

    def get_positions(self):
        return [{"symbol": p.symbol, "qty": str(p.qty), "side": str(p.side), "avg_price": float(p.avg_entry_price)}
                for p in self._sandbox.positions()]

    def submit_order(self, symbol, qty, side, type, time_in_force, client_order_id, limit_price=None):
        order = Order(client_order_id=client_order_id, symbol=symbol, side=OrderSide(side), qty=Decimal(str(qty)),
                      order_type=OrderType(type), time_in_force=TimeInForce(time_in_force),
                      limit_price=None if limit_price is None else Decimal(str(limit_price)))
        report = self._sandbox.submit(order)
        self.sent[report.broker_order_id] = client_order_id
        return self._plain(report)

    def get_order_by_client_order_id(self, client_order_id):
        report = self._sandbox.order(client_order_id)
        return None if report is None else self._plain(report)

    def cancel_order(self, order_id):
        self._sandbox.cancel(self.sent[order_id])

    def _plain(self, report):
        return {"id": report.broker_order_id, "client_order_id": report.client_order_id, "symbol": report.symbol,
                "side": str(report.side), "qty": str(report.qty), "filled_qty": str(report.filled_qty),
                "filled_avg_price": None if report.avg_fill_price is None else str(report.avg_fill_price),
                "status": str(report.status), "updated_at": report.at.isoformat()}
"""
)
FORGETFUL = """
    def order(self, client_order_id):
        report = self.sandbox.order(client_order_id)
        return None if report is None or report.status.terminal else report
"""


def run(path: Path, adapter: str, *options: str) -> subprocess.CompletedProcess[str]:
    """pytest on the page's twenty lines, in a project of its own without any settings."""
    (path / "mybroker.py").write_text(adapter, encoding="utf-8")
    (path / "test_my_broker.py").write_text(BLOCKS[0], encoding="utf-8")
    (path / "conftest.py").write_text('pytest_plugins = "exitfsm.testing.plugin"\n', encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", path, "-p", "no:cacheprovider", "-p", "no:xdist"]
    return subprocess.run([*command, *options], cwd=path, capture_output=True, text=True, check=False, timeout=120)


def test_the_twenty_lines_are_twenty_and_prove_an_adapter(tmp_path: Path) -> None:
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 20
    done = run(tmp_path, ADAPTER)
    assert done.returncode == 0, done.stdout[-3000:]
    found = re.search(r"(\d+) passed, (\d+) skipped", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) >= 20


def test_the_twenty_lines_find_an_adapter_that_forgets(tmp_path: Path) -> None:
    done = run(tmp_path, ADAPTER + FORGETFUL, "-k", "test_11")
    assert done.returncode == 1, done.stdout[-3000:]
    assert "1 failed" in done.stdout


def test_the_twenty_lines_prove_an_adapter_in_its_own_words(tmp_path: Path) -> None:
    """What a manager takes as it is can be proved as it is; what it does not offer is skipped, and said."""
    done = run(tmp_path, IN_ITS_OWN_WORDS, "-rs")
    assert done.returncode == 0, done.stdout[-5000:]
    found = re.search(r"(\d+) passed, (\d+) skipped", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) >= 14
    assert "the broker has no method for fills" in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "case", "shown"),
    [
        ("Decimal(str(qty))", "Decimal(quantity)", "test_06", "name 'quantity' is not defined"),
        ("str(p.qty)", "str(p.quantity)", "test_02", "has no attribute 'quantity'"),
    ],
    ids=["submit", "positions"],
)
def test_the_twenty_lines_show_what_an_adapter_raised(
    tmp_path: Path, right: str, wrong: str, case: str, shown: str
) -> None:
    """A mistake in an adapter is shown where it is, not only that something is not known."""
    done = run(tmp_path, IN_ITS_OWN_WORDS.replace(right, wrong), "-k", case)
    assert done.returncode == 1, done.stdout[-3000:]
    assert shown in done.stdout
    assert "mybroker.py" in done.stdout


def test_the_twenty_lines_say_why_no_manager_would_take_an_adapter(tmp_path: Path) -> None:
    done = run(tmp_path, IN_ITS_OWN_WORDS.replace("client_order_id, limit_price=None):", "):"), "-k", "test_06")
    assert done.returncode == 1, done.stdout[-3000:]
    assert "ConfigError" in done.stdout
    assert "client order id" in done.stdout


async def test_the_fixtures_make_a_world(exit_manager: Any, scripted_broker: ScriptedBroker, exit_clock: Any) -> None:
    namespace: dict[str, Any] = {}
    exec("import asyncio\nfrom exitfsm import Bar\nfrom exitfsm.testing import LostReply\n" + BLOCKS[1], namespace)
    await namespace["test_the_bot_gets_out_when_the_answer_is_lost"](exit_manager, scripted_broker, exit_clock)
    assert scripted_broker.count("order") >= 1, "the order was not looked up"


# --- strategies -------------------------------------------------------------------------------------------------------


@given(strategies.bar_series())
def test_a_plain_series_is_sound_and_in_order(bars: list[Bar]) -> None:
    assert bars
    assert [bar.timestamp for bar in bars] == sorted({bar.timestamp for bar in bars})
    for bar in bars:
        assert bar.floor > 0
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
        assert all(price == price.quantize(Decimal("0.01")) for price in (bar.open, bar.high, bar.low, bar.close))


@pytest.mark.parametrize("what", ["gaps", "splits", "bad_ticks", "disorder"])
def test_a_series_has_what_is_asked_for_and_nothing_else(what: str) -> None:
    seen = {"gaps": False, "splits": False, "bad_ticks": False, "disorder": False}

    @settings(max_examples=80, database=None, derandomize=True)
    @given(strategies.bar_series(max_size=10, **{what: True}))
    def look(bars: list[Bar]) -> None:
        seen["bad_ticks"] |= any(not bar.floor > 0 for bar in bars)
        newest: Bar | None = None
        for bar in (bar for bar in bars if bar.floor > 0):
            if newest is not None and bar.timestamp <= newest.timestamp:
                seen["disorder"] = True
                continue
            ratio = bar.open / newest.close if newest is not None else Decimal(1)
            seen["splits"] |= not Decimal("0.7") < ratio < Decimal("1.3")
            seen["gaps"] |= Decimal("0.7") < ratio < Decimal("0.9") or Decimal("1.1") < ratio < Decimal("1.3")
            newest = bar

    look()
    assert [name for name, there in seen.items() if there] == [what]


# --- the machine ------------------------------------------------------------------------------------------------------


class Plain(ManagerMachine):
    def adapter(self, venue: ScriptedBroker) -> Any:
        return venue.plain


TestMachine = ManagerMachine.TestCase
TestMachine.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestPlainMachine = Plain.TestCase
TestPlainMachine.settings = settings(max_examples=6, stateful_step_count=25, deadline=None)


class Liar:
    """An adapter that says of an order that was lost that nobody refuses its id again, and makes up a new one."""

    def __init__(self, venue: ScriptedBroker) -> None:
        self.venue, self.capabilities, self.count = venue, SIMULATED, 0

    async def submit(self, order: Any) -> Any:
        from msgspec.structs import replace

        self.count += 1
        report = await self.venue.submit(replace(order, client_order_id=f"{order.client_order_id}-{self.count}"))
        return replace(report, client_order_id=order.client_order_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.venue, name)


def test_the_machine_finds_an_adapter_that_breaks_the_promise() -> None:
    class Lying(ManagerMachine):
        def adapter(self, venue: ScriptedBroker) -> Any:
            return Liar(venue)

    machine = Lying()
    machine.begin()
    machine.enter("long", 10, True)
    machine.fault(("submit", LostReply()))
    machine.bar(-3, 60)
    machine.wait(60)
    machine.wait(400)
    with pytest.raises(AssertionError, match="may still fill"):
        machine.nothing_happened_that_never_may()
    with pytest.raises(AssertionError):
        machine.teardown()
