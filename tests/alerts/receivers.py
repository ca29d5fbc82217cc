"""Real services on loopback that take messages: over HTTP, and as mail."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message as Mail
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Post(NamedTuple):
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def ids(self) -> list[str]:
        return [alarm["id"] for alarm in self.body["alarms"]]


class HttpReceiver:
    """A service that takes POSTs; `answers` are the status codes of the next ones, 204 where there are none."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.answers: list[int] = []
        self.always: int | None = None
        self.hang = threading.Event()
        self.hang.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.hang.wait(20)
                code = receiver.answers.pop(0) if receiver.answers else receiver.always or 204
                if 200 <= code < 300:
                    receiver.posts.append(Post(self.path, dict(self.headers), json.loads(body)))
                self.send_response(code)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook/s3cr3t-t0ken"

    def kinds(self) -> list[str]:
        return [post.body["kind"] for post in self.posts]

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    receiver = HttpReceiver()
    try:
        yield receiver
    finally:
        receiver.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mail_receiver() -> Iterator[tuple[str, list[Mail]]]:
    """A mail server: the URL that apprise writes to it by, and the mails that came."""
    from aiosmtpd.controller import Controller

    mails: list[Mail] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  the library's name
            mails.append(message_from_bytes(envelope.content))
            return "250 OK"

    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        at = f"127.0.0.1:{controller.port}"
        yield f"mailto://{at}/?from=bot@example.org&to=me@example.org&mode=insecure", mails
    finally:
        controller.stop()
