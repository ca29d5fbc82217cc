"""From an alarm of the manager to a person: through bursts, dead channels, crashes and stops."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from receivers import HttpReceiver, free_port, http_receiver, mail_receiver

from exitfsm import ConfigError, ExitStore, StoreError
from exitfsm.alerts import alerting
from exitfsm.manager import ExitManager
from exitfsm.testing import ScriptedBroker


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "LOOK_S", 0.02)


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


def configured(*channels: dict[str, Any], **alerts: Any) -> dict[str, Any]:
    return {"alerts": {"burst_seconds": 0, "channels": list(channels), **alerts}}


def hook(receiver: HttpReceiver, name: str = "hook", **more: Any) -> dict[str, Any]:
    return {"name": name, "url": receiver.url, **more}


@asynccontextmanager
async def managed(store: Any, config: dict[str, Any]) -> AsyncIterator[ExitManager]:
    manager = ExitManager(ScriptedBroker(), store, None, config)
    async with manager:
        yield manager


async def raised(manager: ExitManager, number: int) -> None:
    """One more alarm, of its own."""
    await manager._parts.context.alarms.raise_alarm("scope_unclear", f"number {number}")


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_given_a_config_with_a_channel_when_an_alarm_goes_up_then_it_arrives_once_and_ends_with_an_all_clear(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    async with managed(tmp_path / "a.db", configured(hook(receiver))) as manager:
        await manager.on_bar(object())
        await until(lambda: receiver.posts)
        (alarm,) = manager.alarms()
        await asyncio.sleep(0.2)
        assert [post.ids for post in receiver.posts] == [[alarm.alarm_id]]

        await manager.acknowledge(alarm)
        await until(lambda: len(receiver.posts) == 2)
    assert receiver.kinds() == ["alarm", "all_clear"]
    assert receiver.posts[1].ids == [alarm.alarm_id]


async def test_given_a_mail_and_a_webhook_when_an_alarm_goes_up_then_both_have_the_same_id(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    with mail_receiver() as (url, mails):
        config = configured(hook(receiver), {"name": "mail", "kind": "apprise", "url": url})
        async with managed(tmp_path / "a.db", config) as manager:
            await manager.on_bar(object())
            await until(lambda: mails and receiver.posts)
    assert [mails[0]["X-Exitfsm-Alarm"]] == receiver.posts[0].ids


async def test_given_a_burst_when_sent_then_it_is_one_message(tmp_path: Path, receiver: HttpReceiver) -> None:
    async with managed(tmp_path / "a.db", configured(hook(receiver), burst_seconds=0.3)) as manager:
        for number in range(5):
            await raised(manager, number)
        active = manager.alarms()
        await until(lambda: receiver.posts)
    assert [sorted(post.ids) for post in receiver.posts] == [sorted(a.alarm_id for a in active)]


async def test_given_a_channel_that_fails_when_it_goes_on_then_the_others_say_so_and_nothing_is_lost(
    tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting.deciding, "_RETRY_S", 0.01)
    with http_receiver() as broken:
        broken.always = 503
        config = configured(hook(broken, "broken"), hook(receiver))
        async with managed(tmp_path / "a.db", config) as manager:
            await manager.on_bar(object())
            await until(lambda: len(receiver.posts) >= 2)
            (alarm,) = manager.alarms()
            second = receiver.posts[1].body["alarms"][0]
            assert (second["kind"], "broken takes no messages: it answers HTTP 503" in second["text"]) == (
                "alert_failed",
                True,
            )
            broken.always = None
            await until(lambda: broken.posts)
            assert broken.posts[0].ids == [alarm.alarm_id]
            await until(lambda: len(receiver.posts) == 3)
    assert receiver.kinds() == ["alarm", "alarm", "all_clear"]
    assert receiver.posts[2].body["alarms"][0]["kind"] == "alert_failed"


async def test_given_a_channel_that_hangs_when_an_alarm_goes_up_then_the_others_and_the_exit_do_not_wait(
    tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "FLUSH_S", 0.2)
    with http_receiver() as slow:
        slow.hang.clear()
        async with managed(tmp_path / "a.db", configured(hook(slow, "slow"), hook(receiver))) as manager:
            await manager.on_bar(object())
            await until(lambda: receiver.posts)
            began = time.perf_counter()
            await raised(manager, 1)
            assert time.perf_counter() - began < 2
            await until(lambda: len(receiver.posts) == 2)
            began = time.perf_counter()
        assert time.perf_counter() - began < 5  # a stop does not wait for it either
        assert slow.posts == []


async def test_given_a_send_that_never_ends_when_it_is_stuck_then_it_counts_as_failed_and_is_tried_again(
    tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "STUCK_S", 0.1)
    monkeypatch.setattr(alerting, "FLUSH_S", 0.2)
    monkeypatch.setattr(alerting.deciding, "_RETRY_S", 0.01)
    with http_receiver() as slow:
        slow.hang.clear()
        async with managed(tmp_path / "a.db", configured(hook(slow, "slow"), hook(receiver))) as manager:
            await manager.on_bar(object())
            await until(lambda: len(receiver.posts) >= 2)
    assert "slow takes no messages: no answer within 0.1 s" in receiver.posts[1].body["alarms"][0]["text"]


CRASH = """
import asyncio, os, sys
from exitfsm.manager import ExitManager
from exitfsm.testing import ScriptedBroker
async def main():
    manager = ExitManager(ScriptedBroker(), sys.argv[1], None, {
        "alerts": {"channels": [{"name": "hook", "url": sys.argv[2]}], "burst_seconds": 60}})
    await manager.start()
    await manager.on_bar(object())
    while not manager.alarms():
        await asyncio.sleep(0.01)
    print(manager.alarms()[0].alarm_id, flush=True)
    os._exit(9)
asyncio.run(main())
"""


async def test_given_a_crash_before_anything_was_sent_when_started_again_then_it_arrives(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path / "a.db"), receiver.url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    assert receiver.posts == []

    async with managed(tmp_path / "a.db", configured(hook(receiver))):
        await until(lambda: receiver.posts)
    assert [post.ids for post in receiver.posts] == [[done.stdout.strip()]]


async def test_given_a_restart_when_everything_was_sent_then_nothing_is_sent_again(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    async with managed(tmp_path / "a.db", configured(hook(receiver))) as manager:
        await manager.on_bar(object())
        await until(lambda: receiver.posts)
        await until(lambda: '"hook"' in manager.store.outbox())
    async with managed(tmp_path / "a.db", configured(hook(receiver))) as manager:
        await asyncio.sleep(0.3)
        await manager.acknowledge(manager.alarms()[0])
        await until(lambda: len(receiver.posts) == 2)
    assert receiver.kinds() == ["alarm", "all_clear"]


async def test_given_a_crash_between_a_send_and_its_record_when_started_again_then_it_comes_twice_with_one_id(
    tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ExitStore, "save_outbox", full)
        async with managed(tmp_path / "a.db", configured(hook(receiver))) as manager:
            await manager.on_bar(object())
            await until(lambda: receiver.posts)
            await asyncio.sleep(0.2)
            assert len(receiver.posts) == 1  # what could not be kept is not sent again by the same process
    async with managed(tmp_path / "a.db", configured(hook(receiver))):
        await until(lambda: len(receiver.posts) == 2)
    first, second = receiver.posts
    assert first.ids == second.ids
    assert first.headers["X-Exitfsm-Alarm"] == second.headers["X-Exitfsm-Alarm"]
    assert first.body["subject"] == second.body["subject"]


async def test_given_a_store_that_hangs_when_an_alarm_goes_up_then_it_is_sent_all_the_same(
    tmp_path: Path, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(alerting, "FLUSH_S", 0.2)
    monkeypatch.setattr(ExitStore, "save_outbox", lambda *_: free.wait(20) and None)
    async with managed(tmp_path / "a.db", configured(hook(receiver))) as manager:
        await manager.on_bar(object())
        await until(lambda: len(receiver.posts) == 1)
        await raised(manager, 1)
        await until(lambda: len(receiver.posts) == 2)
    free.set()


async def test_given_a_stop_when_an_alarm_is_due_then_it_is_sent_before_it_returns(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    async with managed(tmp_path / "a.db", configured(hook(receiver), burst_seconds=300)) as manager:
        await manager.on_bar(object())
    assert receiver.kinds() == ["alarm"]


async def test_given_an_alarm_that_cannot_be_stored_when_it_goes_up_then_it_arrives(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    async with managed(tmp_path / "a.db", configured(hook(receiver))) as manager:
        manager._parts.context.alarms.alarm_without_store("store_unwritable", "the disk is full")
        await until(lambda: receiver.posts)
    assert receiver.posts[0].body["alarms"][0]["kind"] == "store_unwritable"


async def test_given_a_start_after_a_stop_when_an_alarm_goes_up_then_it_is_sent_too(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    manager = ExitManager(ScriptedBroker(), tmp_path / "a.db", None, configured(hook(receiver)))
    for number in range(2):
        async with manager:
            await raised(manager, number)
            await until(lambda: len(receiver.posts) == number + 1)  # noqa: B023  asked in this turn only


async def test_given_a_channel_that_cannot_be_made_when_the_manager_is_made_then_it_says_so(tmp_path: Path) -> None:
    os.environ.pop("EXITFSM_NOT_THERE", None)
    with pytest.raises(ConfigError, match="EXITFSM_NOT_THERE, which is not set"):
        ExitManager(ScriptedBroker(), tmp_path / "a.db", None, configured({"name": "a", "url": "$EXITFSM_NOT_THERE"}))


async def test_given_no_channels_when_running_then_there_is_no_thread_for_them(tmp_path: Path) -> None:
    async with managed(tmp_path / "a.db", {}):
        assert [t.name for t in threading.enumerate() if t.name.startswith("exitfsm-alert")] == []


async def test_given_it_is_stopped_when_looked_at_then_no_thread_is_left(tmp_path: Path) -> None:
    dead = {"name": "dead", "url": f"http://127.0.0.1:{free_port()}/"}
    async with managed(tmp_path / "a.db", configured(dead)) as manager:
        await manager.on_bar(object())
        await asyncio.sleep(0.1)
    await until(lambda: not [t for t in threading.enumerate() if t.name.startswith("exitfsm-alert")])
