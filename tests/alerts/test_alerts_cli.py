"""`exitfsm alerts test`: every channel is tried, and no address is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from receivers import free_port, http_receiver

from exitfsm.cli import BAD_INPUT, FINDING, main

SECRET = "s3cr3t-t0ken"


def file(tmp_path: Path, *channels: str) -> str:
    path = tmp_path / "trading.yaml"
    path.write_text("exit_manager:\n  alerts:\n    channels:\n" + "".join(f"      - {{{c}}}\n" for c in channels))
    return str(path)


def test_given_channels_that_work_when_tried_then_each_gets_a_test_and_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with http_receiver() as receiver:
        url = f"url: '{receiver.url}'"
        path = file(tmp_path, f"name: a, {url}", f"name: boss, escalation_only: true, {url}")
        assert main(["alerts", "test", path]) == 0
        assert [post.body["kind"] for post in receiver.posts] == ["test", "test"]
        assert receiver.posts[0].body["subject"].startswith("exitfsm: test, nothing is wrong [test/")
    said = capsys.readouterr()
    assert said.out == "a: taken\nboss: taken\n"
    assert SECRET not in said.out + said.err


def test_given_a_channel_that_is_dead_when_tried_then_it_says_so_and_that_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(tmp_path, f"name: dead, url: 'http://127.0.0.1:{free_port()}/{SECRET}'")
    assert main(["alerts", "test", path]) == FINDING
    said = capsys.readouterr()
    assert said.out.startswith("dead: not taken: it cannot be reached")
    assert main(["alerts", "test", path, "--json"]) == FINDING
    found = capsys.readouterr()
    assert json.loads(found.out)["channels"]["dead"].startswith("it cannot be reached")
    assert SECRET not in said.out + said.err + found.out + found.err


@pytest.mark.parametrize(
    ("channels", "says"),
    [((), "has no channels"), (("name: a, url: $EXITFSM_NOT_THERE",), "EXITFSM_NOT_THERE, which is not set")],
)
def test_given_nothing_to_try_when_tried_then_it_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], channels: tuple[str, ...], says: str
) -> None:
    path = file(tmp_path, *channels)
    if not channels:
        Path(path).write_text("exit_manager: {}\n")
    assert main(["alerts", "test", path]) == BAD_INPUT
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_given_an_address_when_the_configuration_is_shown_then_it_is_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    path = file(tmp_path, f"name: a, url: 'https://127.0.0.1/{SECRET}'")
    assert main(["config", "show", path, *more]) == 0
    said = capsys.readouterr().out
    assert "(hidden)" in said
    assert SECRET not in said
