"""`/metrics` and `/healthz` over HTTP, on loopback, in threads of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from exitfsm.errors import ConfigError
from exitfsm.metrics.health import health_of
from exitfsm.outside import log

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager
    from exitfsm.metrics.collecting import Metrics

#: How long a request may take to come, in seconds.
_PATIENCE_S = 5.0


@contextmanager
def serving(metrics: Metrics, manager: ExitManager, host: str, port: int) -> Iterator[int]:
    """Answer while the block runs; see `Metrics.serve`."""
    try:
        server = _Server((host, port), _handler(metrics, manager))
    except (OSError, OverflowError) as error:
        raise ConfigError([f"metrics: port {port} of {host} cannot be used: {error}"]) from None
    standing = metrics.watch(manager)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="exitfsm-metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        standing.end()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no business of the log."""


def _handler(metrics: Metrics, manager: ExitManager) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S
        server_version, sys_version = "exitfsm", ""

        def do_GET(self) -> None:
            """Answer one request."""
            try:
                status, kind, body = _answer(metrics, manager, self.path.partition("?")[0])
            except Exception:
                log.exception("metrics_failed")
                status, kind, body = 500, "text/plain", b"it could not be read; see the log\n"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: a look is nothing that happened."""

    return Handler


def _answer(metrics: Metrics, manager: ExitManager, path: str) -> tuple[int, str, bytes]:
    """Status, kind and body."""
    if path == "/metrics":
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return 200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry)
    if path == "/healthz":
        health = health_of(manager)
        said = json.dumps({"ok": health.is_well, "reasons": list(health.reasons)}) + "\n"
        return 200 if health.is_well else 503, "application/json", said.encode()
    return 404, "text/plain", b"there are /metrics and /healthz\n"
