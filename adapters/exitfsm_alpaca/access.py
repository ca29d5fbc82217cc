"""Keys and addresses: where Alpaca is, and who asks.

Keys come from the environment or the caller, are checked before first use (an SDK that is given a bad one may print
it), and never show in a representation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from exitfsm import ConfigError

PAPER_URL = "https://paper-api.alpaca.markets"
LIVE_URL = "https://api.alpaca.markets"
DATA_URL = "https://data.alpaca.markets"
DATA_STREAM_URL = "wss://stream.data.alpaca.markets"
#: Here nothing is said of orders, whatever older programs call it.
_NO_UPDATES = urlsplit(DATA_STREAM_URL).hostname
_KEY_MIN = 4
_KEY = re.compile(rf"[!-~]{{{_KEY_MIN},200}}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Access:
    """One account's keys, and the servers to use them at.

    Args:
        key_id, secret_key: as Alpaca gave them.
        live: real money. The addresses must agree with it.
        base_url: the trading API, without its version; Alpaca's own when empty.
        stream_url: the trade-updates socket; that of `base_url` when empty. Where only a host is named, it is looked
            for at `/stream` there.
        data_url: market data; Alpaca's own when empty. Its sockets are looked for on the same host, unless it is
            Alpaca's.

    Raises:
        ConfigError: a key cannot be one, or the addresses do not go with `live`, or are not encrypted.
    """

    key_id: str = field(repr=False)
    secret_key: str = field(repr=False)
    live: bool = False
    base_url: str = ""
    stream_url: str = ""
    data_url: str = ""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "base_url", _trimmed(self.base_url or (LIVE_URL if self.live else PAPER_URL)))
        put(self, "data_url", _trimmed(self.data_url or DATA_URL))
        stream = _socket((self.stream_url or self.base_url).rstrip("/"))
        put(self, "stream_url", stream if urlsplit(stream).path else f"{stream}/stream")
        mistakes = [*_key_mistakes(self.key_id, self.secret_key), *self._address_mistakes()]
        if mistakes:
            raise ConfigError(mistakes)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, *, live: bool = False) -> Access:
        """`APCA_API_KEY_ID` and `APCA_API_SECRET_KEY`, and where given `APCA_API_BASE_URL`, `APCA_API_STREAM_URL` and
        `APCA_API_DATA_URL`, which may name any server that speaks Alpaca.

        Raises:
            ConfigError: a key is missing or cannot be one, or an address is wrong.
        """
        env = os.environ if environment is None else environment
        return cls(
            key_id=env.get("APCA_API_KEY_ID", ""),
            secret_key=env.get("APCA_API_SECRET_KEY", ""),
            live=live,
            base_url=env.get("APCA_API_BASE_URL", ""),
            stream_url=env.get("APCA_API_STREAM_URL", ""),
            data_url=env.get("APCA_API_DATA_URL", ""),
        )

    @property
    def data_stream_url(self) -> str:
        """Where the market-data sockets are, without feed."""
        return DATA_STREAM_URL if self.data_url == DATA_URL else _socket(self.data_url)

    @property
    def is_local(self) -> bool:
        """The trading API is on this machine."""
        return _is_here(self.base_url)

    def _address_mistakes(self) -> list[str]:
        mistakes = []
        for name in ("base_url", "stream_url", "data_url"):
            parts = urlsplit(getattr(self, name))
            if parts.scheme not in ("https", "wss") and not _is_here(parts.geturl()):
                mistakes.append(
                    f"{name}: {parts.hostname or 'nothing'} must be reached by https or wss, so that keys stay secret"
                )
        if urlsplit(self.stream_url).hostname == _NO_UPDATES:
            mistakes.append("stream_url is Alpaca's market-data server; the trade updates come from the trading API's")
        for name in ("base_url", "stream_url"):
            host = urlsplit(getattr(self, name)).hostname
            if host == urlsplit(LIVE_URL).hostname and not self.live:
                mistakes.append(f"{name} is Alpaca's live server, but live trading was not asked for")
            if host == urlsplit(PAPER_URL).hostname and self.live:
                mistakes.append(f"{name} is Alpaca's paper server, but live trading was asked for")
        return mistakes


def _key_mistakes(key_id: str, secret_key: str) -> list[str]:
    """What is wrong with keys, in words that do not show them."""
    mistakes = []
    for name, value in (("APCA_API_KEY_ID", key_id), ("APCA_API_SECRET_KEY", secret_key)):
        if not value:
            mistakes.append(f"{name} is not set; keys are made at https://app.alpaca.markets (paper keys first)")
        elif len(value) < _KEY_MIN and _KEY.fullmatch(value * _KEY_MIN):
            mistakes.append(f"{name} is too short for a key: it has {len(value)} characters; was all of it copied?")
        elif not _KEY.fullmatch(value):
            mistakes.append(f"{name} holds a space, a line end or another character that no key has")
    return mistakes


def _trimmed(url: str) -> str:
    """Without a slash or version at the end, which the SDK adds."""
    return re.sub(r"/v\d+$", "", url.rstrip("/"))


def _is_here(url: str) -> bool:
    """On this machine, so that nobody else hears."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _socket(url: str) -> str:
    return re.sub(r"^http", "ws", url)
