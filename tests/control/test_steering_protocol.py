"""What is said on the socket, and where it lies: whole requests, or a line that says what is wrong."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm.control import place
from exitfsm.control.protocol import (
    ALL_POSITIONS,
    GIVES,
    QUESTIONS,
    SUBJECT_MAX,
    SUBJECTS_MAX,
    TEXT_MAX,
    VERBS,
    Answer,
    Hello,
    Malformed,
    Request,
    answer_of,
    has_mac,
    hello_of,
    line_of,
    mac_of,
    may_retry,
    not_stored,
    request_of,
    was_stored,
)
from exitfsm.errors import StoreError

_SUBJECT = st.text(min_size=1, max_size=20)
REQUESTS = st.builds(
    Request,
    version=st.just(1),
    verb=st.sampled_from([verb for verb in (*VERBS, *QUESTIONS) if verb != "flatten"]),
    id=st.text("0123456789abcdef", min_size=16, max_size=16),
    subjects=st.lists(_SUBJECT, min_size=1, max_size=4).map(tuple),
    reason=st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=40),
    within=st.floats(0, 3600),
)

REQUESTS = REQUESTS.map(lambda request: replace(request, given=("1",)) if request.verb in GIVES else request)


@given(REQUESTS)
def test_a_request_reads_back_as_itself(request: Request) -> None:
    line = line_of(request)
    assert line.count(b"\n") == 1
    assert request_of(line) == request


@pytest.mark.parametrize(
    ("subjects", "is_one"), [((), True), ((ALL_POSITIONS,), True), (("AAPL",), False), ((ALL_POSITIONS, "AAPL"), False)]
)
def test_a_flatten_is_for_all_that_is_managed_or_for_all_there_is(subjects: tuple[str, ...], is_one: bool) -> None:
    line = line_of(Request(version=1, verb="flatten", id="0" * 16, subjects=subjects, within=9.0))
    if is_one:
        assert request_of(line).subjects == subjects
    else:
        with pytest.raises(Malformed, match="for single symbols: exit"):
            request_of(line)


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
        ({"within": 1e308}, "at most 3600 s"),
        ({"within": -1.0}, "at most 3600 s"),
        ({"version": 2}, "upgrade this manager"),
        ({"version": 0}, "upgrade the command"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(changes: dict[str, object], words: str) -> None:
    right = {"version": 1, "verb": "exit", "id": "0" * 16, "subjects": ("AAPL",), "within": 1.0}
    request_of(line_of(Request(**right)))  # type: ignore[arg-type]
    with pytest.raises(Malformed, match=words):
        request_of(line_of(Request(**{**right, **changes})))  # type: ignore[arg-type]


def test_an_older_manager_and_a_newer_one_are_named() -> None:
    with pytest.raises(Malformed, match="the manager 0: upgrade the manager"):
        answer_of(b'{"v": 0, "code": 0}')
    with pytest.raises(Malformed, match="the manager 7: upgrade this exitfsm"):
        answer_of(b'{"v": 7}')


@given(REQUESTS, st.text(max_size=20))
def test_what_is_said_carries_a_code_that_only_the_token_makes(request: Request, token: str) -> None:
    signed = replace(request, mac=mac_of(token, "a nonce", request))
    read = request_of(line_of(signed))
    assert has_mac(token, "a nonce", read)
    assert not has_mac(token + "x", "a nonce", read)
    assert not has_mac(token, "another nonce", read)
    assert not has_mac(token, "a nonce", replace(read, reason="something else"))
    assert not has_mac(token, "a nonce", Answer(code=0, mac=read.mac))


def test_a_greeting_reads_back_and_an_answer_is_none() -> None:
    assert hello_of(line_of(Hello(nonce="n"))).nonce == "n"
    with pytest.raises(Malformed, match="not a greeting"):
        hello_of(line_of(Answer(code=0)))


def test_what_was_not_stored_is_to_be_given_again() -> None:
    assert was_stored(Answer(code=0))
    assert not was_stored(not_stored("busy", retry=True))
    assert not was_stored(Answer(code=1, data={"unknown": True}))
    assert may_retry(not_stored("busy", retry=True))
    assert not may_retry(not_stored("the disk is full", retry=False))


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


def test_a_server_has_one_socket_by_whatever_spelling_of_its_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The manager knows the schema; the client has the URL as the manager was given it, or another spelling."""
    pytest.importorskip("psycopg")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    url = "postgresql://anna:secret@db.example/exits"
    listens = place.socket_of(url, "exitfsm_ab")
    assert listens.parent == tmp_path / "exitfsm"
    place.make_folder(listens.parent)
    assert place.sockets_of(url) == []
    listens.touch()
    for same in (url, "postgres://anna:other@db.example:5432/exits", "postgresql://db.example/exits?user=anna"):
        assert place.sockets_of(same) == [listens]
        assert listens in place.sockets_of(f"{same}{'&' if '?' in same else '?'}exitfsm_schema=exitfsm_ab")
    assert place.sockets_of("postgresql://anna@db.example/others") == []
    assert listens not in place.sockets_of(f"{url}?exitfsm_schema=exitfsm_cd")
    two = place.socket_of(url, "exitfsm_cd")
    two.touch()
    assert set(place.sockets_of(url)) == {listens, two}


def test_a_client_looks_where_a_manager_with_another_environment_listens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = "/var/" + "x" * 90 + "/exits.db"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "service"))
    assert place.socket_of(store).parent == tmp_path / "service"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    without = place.socket_of(store)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert without in place.sockets_of(store)
    assert place.SERVICE_FOLDER / without.name in place.sockets_of(store)


def test_a_lock_that_names_no_process_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "exits.db.lock").write_text("9" * 30)
    assert place.writer_of(tmp_path / "exits.db") is None


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
