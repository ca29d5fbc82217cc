"""What sends a message: a webhook, or a URL of apprise. Blocking; each call is made in a thread of its own.

Rules of this room: `send` returns when the message was taken, and raises `NotSent` otherwise, with a reason that holds
no address. What other libraries log while they send is not logged: it holds addresses.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from exitfsm.alerts import wording
from exitfsm.alerts.deciding import Message, MessageKind
from exitfsm.config import AlertSettings
from exitfsm.config import alerts as settings_of
from exitfsm.config.alerts import VARIABLE, ChannelKind
from exitfsm.errors import ConfigError, ExitFsmError

#: How long a service may take for one answer, in seconds.
TIMEOUT_S = 10.0
#: How the threads that send are called.
SENDING = "exitfsm-alert-"
_NO_APPRISE = 'kind: apprise needs apprise: pip install "exitfsm[notify]"'
#: Loggers of what apprise is made of.
_TALKATIVE = ("apprise", "requests", "urllib3.connectionpool", "urllib3.util.retry", "requests_oauthlib", "oauthlib")


class NotSent(ExitFsmError):
    """A service did not take a message; the text says why, without the address."""


class Channel(Protocol):
    """Sends messages to one place."""

    def send(self, message: Message) -> None:
        """Send a message; it has been taken when this returns.

        Raises:
            NotSent: it was not.
        """


class Webhook:
    """Posts messages as JSON. Any answer of 2xx is taken for a yes; a redirection is followed nowhere.

    Args:
        url: an http or https address; user and password in it are sent as such.

    Raises:
        ValueError: it is none; the text does not hold it.
    """

    def __init__(self, url: str) -> None:
        self._at = at = _split(url)
        self._target = (at.path or "/") + (f"?{at.query}" if at.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "exitfsm"}
        if at.username is not None:
            pair = f"{unquote(at.username)}:{unquote(at.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"

    def send(self, message: Message) -> None:
        """See `Channel`."""
        from http.client import HTTPException

        payload = json.dumps(wording.as_data(message), ensure_ascii=False).encode("utf-8", "replace")
        try:
            status = self._post(payload, self._headers | wording.headers(message))
        except (OSError, HTTPException, ValueError) as error:
            raise NotSent(_reason(error)) from None
        if 300 <= status < 400:
            raise NotSent(f"it answers HTTP {status}: it has moved to another address")
        if not 200 <= status < 300:
            raise NotSent(f"it answers HTTP {status}")

    def _post(self, payload: bytes, headers: Mapping[str, str]) -> int:
        from http.client import HTTPConnection, HTTPSConnection  # late: the manager imports fast

        assert self._at.hostname is not None
        made = HTTPSConnection if self._at.scheme == "https" else HTTPConnection  # the former checks certificates
        connection = made(self._at.hostname, self._at.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", self._target, payload, dict(headers))
            response = connection.getresponse()
            response.read(1000)
            return response.status
        finally:
            connection.close()


def _split(url: str) -> SplitResult:
    wrong = ValueError("is no address of a webhook: https://host/path, or http://…")
    try:
        at = urlsplit(url)
        is_sound = at.scheme in ("http", "https") and bool(at.hostname) and (at.port is None or at.port > 0)
    except ValueError:
        raise wrong from None
    if not is_sound or not url.isascii() or not url.isprintable() or " " in url:
        raise wrong
    return at


def _reason(error: Exception) -> str:
    """Why a service could not be reached. Not the error's own text, which may hold the address."""
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if type(error).__name__ == "SSLCertVerificationError":
        return "its certificate is not trusted"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be reached: {error.strerror}"
    return f"it cannot be reached ({type(error).__name__})"


class ByApprise:
    """Sends messages by apprise.

    Args:
        url: what apprise understands.

    Raises:
        ModuleNotFoundError: apprise is not installed.
        ValueError: apprise does not understand it; the text does not hold it.
    """

    def __init__(self, url: str) -> None:
        import apprise

        _hush()
        with _sending():
            plugin = apprise.Apprise.instantiate(url, suppress_exceptions=True)
        if plugin is None:
            raise ValueError("is no URL that apprise understands: see https://github.com/caronc/apprise/wiki")
        self._plugin: Any = plugin
        #: Those that are part of the address; None where the service takes none.
        own = getattr(plugin, "headers", None)
        self._headers = dict(own) if isinstance(own, dict) else None

    def send(self, message: Message) -> None:
        """See `Channel`."""
        if self._headers is not None:
            self._plugin.headers = self._headers | wording.headers(message)
        kind = "success" if message.kind is MessageKind.ALL_CLEAR else "failure"
        try:
            with _sending():
                taken = self._plugin.notify(
                    body=wording.body(message), title=wording.subject(message), notify_type=kind, body_format="text"
                )
        except Exception as error:  # a plugin may raise anything, with the address in its text
            raise NotSent(f"apprise could not send it ({type(error).__name__})") from None
        if not taken:
            raise NotSent("the service did not take it, or could not be reached")


# --- what others log --------------------------------------------------------------------------------------------------

_here = threading.local()


class _sending:  # noqa: N801  # used as `suppress` is
    """While another library sends in this thread: what it logs is not logged."""

    def __enter__(self) -> None:
        _here.is_sending = True

    def __exit__(self, *_: object) -> None:
        _here.is_sending = False


def _is_ours(_: logging.LogRecord) -> bool:
    return not getattr(_here, "is_sending", False)


def _hush() -> None:
    """Keep the loggers of other libraries from saying addresses while they send for us. May be called again."""
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_is_ours)


# --- from settings to channels ----------------------------------------------------------------------------------------


def open_channels(settings: AlertSettings, environment: Mapping[str, str] | None = None) -> dict[str, Channel]:
    """The channels, by name.

    Args:
        settings: all settings.
        environment: where addresses are found that are given as `$NAME`; the process's own when None.

    Raises:
        ConfigError: an address is not there or not understood, or apprise is needed and not installed; every mistake at
            once, and no address in the text.
    """
    environment = os.environ if environment is None else environment
    made: dict[str, Channel] = {}
    mistakes: list[str] = []
    for channel in settings.channels:
        try:
            made[channel.name] = _open(channel, environment)
        except ModuleNotFoundError as missing:
            if missing.name != "apprise":
                raise
            mistakes.append(f"alerts: channel {channel.name}: {_NO_APPRISE}")
        except ValueError as error:
            mistakes.append(f"alerts: the url of channel {channel.name} {error}")
    if mistakes:
        raise ConfigError(mistakes)
    return made


def _open(channel: settings_of.Channel, environment: Mapping[str, str]) -> Channel:
    url = channel.url
    if named := VARIABLE.match(url):
        url = environment.get(named[1], "")
        if not url:
            raise ValueError(f"is to be in the environment variable {named[1]}, which is not set")
    return Webhook(url) if channel.kind is ChannelKind.WEBHOOK else ByApprise(url)


def tried(channels: Mapping[str, Channel], messages: Sequence[Message]) -> dict[str, str]:
    """Send each message by its channel, all at once; what became of it: why it was not sent, or nothing."""
    outcomes: dict[str, str] = {message.channel: "no answer" for message in messages}

    def send(message: Message) -> None:
        try:
            channels[message.channel].send(message)
            outcomes[message.channel] = ""
        except NotSent as error:
            outcomes[message.channel] = str(error)

    threads = [threading.Thread(target=send, args=(m,), name=f"{SENDING}{m.channel}", daemon=True) for m in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6 * TIMEOUT_S)
    return outcomes


__all__ = ["SENDING", "Channel", "NotSent", "Webhook", "open_channels", "tried"]
