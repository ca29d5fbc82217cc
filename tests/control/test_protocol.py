"""What is said on the socket, and where it lies: whole requests, or a line that says what is wrong."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exitfsm.control import place
from exitfsm.control.protocol import (
    QUESTIONS,
    SUBJECT_MAX,
    SUBJECTS_MAX,
    TEXT_MAX,
    VERBS,
    Answer,
    Malformed,
    Request,
    answer_of,
    line_of,
    request_of,
)
from exitfsm.errors import StoreError

_SUBJECT = st.text(min_size=1, max_size=20)
REQUESTS = st.builds(
    Request,
    version=st.just(1),
    verb=st.sampled_from([*VERBS, *QUESTIONS]),
    id=st.text("0123456789abcdef", min_size=16, max_size=16),
    subjects=st.lists(_SUBJECT, min_size=1, max_size=4).map(tuple),
    reason=st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=40),
    expires=st.floats(0, 1e11),
)


@given(REQUESTS)
def test_a_request_reads_back_as_itself(request: Request) -> None:
    line = line_of(request)
    assert line.count(b"\n") == 1
    assert request_of(line) == request


@given(st.builds(Answer, code=st.integers(0, 2), lines=st.lists(st.text(max_size=20)).map(tuple), again=st.booleans()))
def test_an_answer_reads_back_as_itself(answer: Answer) -> None:
    assert answer_of(line_of(answer)) == answer


@given(st.binary(max_size=60))
def test_whatever_bytes_come_they_are_a_request_or_malformed(data: bytes) -> None:
    for read in (request_of, answer_of):
        with suppress(Malformed):
            assert read(data) is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verb": "sell"}, "is no command"),
        ({"id": "DEADBEEFDEADBEEF"}, "needs an id"),
        ({"id": ""}, "needs an id"),
        ({"subjects": ()}, "exit needs to know which"),
        ({"verb": "acknowledge", "subjects": ()}, "symbols or alarms"),
        ({"subjects": ("x" * (SUBJECT_MAX + 1),)}, "at most"),
        ({"subjects": ("",)}, "at most"),
        ({"subjects": ("A",) * (SUBJECTS_MAX + 1)}, "at most"),
        ({"reason": "x" * (TEXT_MAX + 1)}, "a reason"),
        ({"who": "x\0"}, "no NUL"),
        ({"version": 2}, "upgrade this manager"),
        ({"version": 0}, "upgrade the command"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(changes: dict[str, object], words: str) -> None:
    right = {"version": 1, "verb": "exit", "id": "0" * 16, "subjects": ("AAPL",), "expires": 1.0}
    request_of(line_of(Request(**right)))  # type: ignore[arg-type]
    with pytest.raises(Malformed, match=words):
        request_of(line_of(Request(**{**right, **changes})))  # type: ignore[arg-type]


def test_an_older_manager_and_a_newer_one_are_named() -> None:
    with pytest.raises(Malformed, match="the manager 0: upgrade the manager"):
        answer_of(b'{"v": 0, "code": 0}')
    with pytest.raises(Malformed, match="the manager 7: upgrade this exitfsm"):
        answer_of(b'{"v": 7}')


def test_no_token_is_shown() -> None:
    assert "secret" not in repr(Request(version=1, verb="pause", expires=0.0, token="a-secret-token"))


# --- where ------------------------------------------------------------------------------------------------------------


def test_the_socket_lies_beside_the_store_where_its_path_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert place.socket_of("/var/lib/x/exits.db") == Path("/var/lib/x/exits.db.sock").resolve()
    long = place.socket_of("/var/" + "x" * 90 + "/exits.db")
    assert long.parent == Path("/run/user/1/exitfsm")
    assert len(os.fsencode(long)) <= place.PATH_MAX
    assert long != place.socket_of("/var/" + "x" * 90 + "/exits2.db")


def test_one_store_has_one_socket_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    names = ["exits.db", "./exits.db", str(tmp_path / "link" / "exits.db"), tmp_path / "real" / "exits.db"]
    assert len({place.socket_of(name) for name in names}) == 1


def test_a_server_has_a_socket_without_a_password_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    one = place.socket_of("postgresql://anna:secret@db.example/exits")
    assert one == place.socket_of("postgresql://anna:other@db.example/exits")
    assert one != place.socket_of("postgresql://anna:secret@db.example/others")
    assert one.parent.name == f"exitfsm-{os.geteuid()}"


def test_a_store_in_memory_has_none() -> None:
    with pytest.raises(StoreError, match="in memory"):
        place.socket_of(":memory:")


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = place.runtime_folder()
    place.make_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(StoreError, match="not this user's alone"):
        place.make_folder(folder)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="not this user's alone"):
        place.make_folder(folder)
