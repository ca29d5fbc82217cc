"""Channels against real services on loopback: what arrives, and what is said when it does not."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from receivers import free_port, http_receiver, mail_receiver

from exitfsm import ConfigError
from exitfsm.alerts import channels, wording
from exitfsm.alerts.channels import NotSent, Webhook, open_channels, tried
from exitfsm.alerts.deciding import Message, MessageKind
from exitfsm.config import load_config
from exitfsm.kinds import AlarmKind
from exitfsm.values import Alarm

T0 = datetime(2024, 1, 2, 12, 0, tzinfo=UTC)
SECRET = "s3cr3t-t0ken"


def message(*alarms: Alarm, kind: MessageKind = MessageKind.ALARM) -> Message:
    return Message(channel="a", kind=kind, alarms=alarms or (alarm(),), levels=(0,) * max(1, len(alarms)))


def alarm(text: str = "3 attempts\r\nX-Evil: 1", number: int = 7, symbol: str = "AAPL") -> Alarm:
    name = f"{symbol}:long:20240102T120000Z:abc/protection_lost/{number}"
    return Alarm(alarm_id=name, kind=AlarmKind.PROTECTION_LOST, text=text, raised_at=T0)


def opened(kind: str, url: str) -> Any:
    return open_channels(load_config({"alerts": {"channels": [{"name": "a", "kind": kind, "url": url}]}}).alerts)["a"]


def test_given_a_webhook_when_sent_then_it_has_the_alarm_as_data_and_its_id_in_subject_and_header() -> None:
    with http_receiver() as receiver:
        opened("webhook", receiver.url + "?x=1").send(message())
        (post,) = receiver.posts

    assert post.path == f"/hook/{SECRET}?x=1"
    assert post.headers["X-Exitfsm-Alarm"] == alarm().alarm_id
    assert "X-Evil" not in post.headers
    assert post.body["subject"] == f"exitfsm: critical protection_lost AAPL [{alarm().alarm_id}]"
    assert post.body["alarms"][0] | {"do": ""} == {
        "id": alarm().alarm_id,
        "kind": "protection_lost",
        "severity": "critical",
        "about": "AAPL",
        "text": "3 attempts\r\nX-Evil: 1",
        "raised_at": "2024-01-02T12:00:00Z",
        "do": "",
        "escalated": 0,
    }


def test_given_user_and_password_in_an_address_when_sent_then_they_are_sent_as_such() -> None:
    with http_receiver() as receiver:
        opened("webhook", receiver.url.replace("http://", "http://me:p%40ss@")).send(message())
        assert receiver.posts[0].headers["Authorization"] == "Basic bWU6cEBzcw=="


def test_given_mail_by_apprise_when_sent_then_it_arrives_with_the_id_in_subject_and_header() -> None:
    with mail_receiver() as (url, mails):
        channel = opened("apprise", url)
        channel.send(message(alarm("sold ‰ twice")))
        channel.send(message(alarm(number=8), kind=MessageKind.ALL_CLEAR))

    first, second = mails
    assert alarm().alarm_id in " ".join(str(first["Subject"]).split())
    assert first["X-Exitfsm-Alarm"] == alarm().alarm_id
    assert second["X-Exitfsm-Alarm"] == alarm(number=8).alarm_id
    text = "".join(p.get_payload(decode=True).decode() for p in first.walk() if p.get_content_type() == "text/plain")
    assert "sold ‰ twice" in text
    assert "what to do: compare the position" in text


@pytest.mark.parametrize(
    ("code", "why"), [(500, "HTTP 500"), (404, "HTTP 404"), (302, "HTTP 302: it has moved"), (307, "moved")]
)
def test_given_a_service_that_refuses_when_sent_then_it_says_why_and_goes_nowhere_else(code: int, why: str) -> None:
    with http_receiver() as receiver:
        receiver.always = code
        with pytest.raises(NotSent, match=why) as error:
            opened("webhook", receiver.url).send(message())
        assert SECRET not in str(error.value)
        assert receiver.posts == []


def test_given_nobody_listens_when_sent_then_it_says_so_without_the_address() -> None:
    for kind, url in (("webhook", f"http://127.0.0.1:{free_port()}/{SECRET}"), ("apprise", dead_mail())):
        with pytest.raises(NotSent) as error:
            opened(kind, url).send(message())
        assert SECRET not in str(error.value)
        assert error.value.__cause__ is None


def dead_mail() -> str:
    return f"mailto://me:{SECRET}@127.0.0.1:{free_port()}/?from=a@example.org&to=b@example.org&mode=insecure"


def test_given_a_service_that_hangs_when_sent_then_it_is_not_waited_for_for_ever(monkeypatch: Any) -> None:
    monkeypatch.setattr(channels, "TIMEOUT_S", 0.2)
    with http_receiver() as receiver:
        receiver.hang.clear()
        with pytest.raises(NotSent, match=r"no answer within 0\.2 s"):
            opened("webhook", receiver.url).send(message())


def test_given_a_service_that_speaks_no_http_when_sent_then_it_is_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100_000)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NotSent, match="cannot be reached"):
            opened("webhook", f"http://127.0.0.1:{server.getsockname()[1]}/").send(message())
        thread.join()


def test_given_a_certificate_that_nobody_vouches_for_when_sent_then_it_is_not_sent(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=127.0.0.1",
        "-days",
        "1",
        "-keyout",
    ]
    made = subprocess.run([*command, str(key), "-out", str(cert)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no openssl here to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # it prints what the client did
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with pytest.raises(NotSent, match="certificate is not trusted"):
            opened("webhook", f"https://127.0.0.1:{server.server_address[1]}/{SECRET}").send(message())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_given_any_failure_when_everything_is_logged_then_no_address_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), http_receiver() as receiver:
        receiver.always = 500
        for kind, url in (
            ("webhook", receiver.url),
            ("apprise", receiver.url.replace("http://", "json://")),
            ("apprise", dead_mail()),
        ):
            with pytest.raises(NotSent):
                opened(kind, url).send(message())
        logging.getLogger("apprise").warning("of the bot itself")

    said = "\n".join(record.getMessage() for record in caplog.records)
    assert SECRET not in said
    assert "of the bot itself" in said


# --- what is opened ---------------------------------------------------------------------------------------------------


def test_given_addresses_in_the_environment_when_opened_then_they_are_found_there() -> None:
    settings = load_config({"alerts": {"channels": [{"name": "a", "url": "$HOOK"}]}}).alerts
    with http_receiver() as receiver:
        open_channels(settings, {"HOOK": receiver.url})["a"].send(message())
        assert len(receiver.posts) == 1


def test_given_channels_that_cannot_be_opened_when_opened_then_every_mistake_is_told_without_the_address() -> None:
    given = [
        {"name": "a", "url": "$NOT_THERE"},
        {"name": "b", "url": f"nonsense://{SECRET}", "kind": "apprise"},
        {"name": "c", "url": f"https:///{SECRET}"},
        {"name": "d", "url": f"https://host:port/{SECRET}"},
        {"name": "e", "url": f"https://host/{SECRET} x"},
    ]
    with pytest.raises(ConfigError) as error:
        open_channels(load_config({"alerts": {"channels": given}}).alerts, {})

    said = str(error.value)
    assert "channel a is to be in the environment variable NOT_THERE, which is not set" in said
    assert "channel b is no URL that apprise understands" in said
    assert said.count("is no address of a webhook") == 3
    assert SECRET not in said
    assert SECRET not in repr(error.value.__context__)


def test_given_apprise_is_not_installed_when_opened_then_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r'pip install "exitfsm\[notify\]"'):
        opened("apprise", "json://127.0.0.1/x")


def test_given_several_channels_when_tried_then_each_says_what_became_of_it() -> None:
    with http_receiver() as receiver:
        made = {"a": Webhook(receiver.url), "b": Webhook(f"http://127.0.0.1:{free_port()}/")}
        found = tried(made, [wording.for_test(name, alarm()) for name in made])
        assert found["a"] == ""
        assert "cannot be reached" in found["b"]
        assert receiver.posts[0].body["subject"].startswith("exitfsm: test, nothing is wrong [")


# --- what is said -----------------------------------------------------------------------------------------------------


def test_given_a_thousand_alarms_when_worded_then_a_person_gets_a_readable_message_and_a_program_all_of_them() -> None:
    many = message(*(alarm(number=n) for n in range(1000)))
    assert wording.subject(many).startswith("exitfsm: critical protection_lost AAPL and 999 more [")
    assert "and 950 more" in wording.body(many)
    assert len(wording.as_data(many)["alarms"]) == 1000
    assert len(wording.headers(many)["X-Exitfsm-Alarm"]) < 2000


def test_given_text_from_outside_when_worded_then_it_forges_no_line_and_no_header() -> None:
    evil = alarm("sold\r\nBcc: x@y\x1b[2J\u202e", symbol="A\r\nB")
    assert "\r" not in wording.body(message(evil))
    assert "\nBcc" not in wording.body(message(evil))
    for text in (wording.subject(message(evil)), *wording.headers(message(evil)).values()):
        assert text.isprintable()
        assert text.isascii() or text is wording.subject(message(evil))


def test_given_a_very_long_name_when_worded_then_the_subject_is_cut_and_keeps_the_id() -> None:
    long = wording.subject(message(alarm(symbol="X" * 90)))
    assert long.endswith(f"[{alarm(symbol='X' * 90).alarm_id}]")
    assert len(long) < 300


def test_given_an_alarm_of_the_account_when_worded_then_it_is_about_no_symbol() -> None:
    of_account = Alarm(alarm_id="account:abc/not_reconciled/3", kind="not_reconciled", text="x", raised_at=T0)
    assert wording.subject(message(of_account)) == ("exitfsm: warning not_reconciled [account:abc/not_reconciled/3]")
