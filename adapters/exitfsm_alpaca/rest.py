"""One request to Alpaca: once, within a time limit and the rate limit, and what its failure proves.

A request ends in one of four ways. An answer: its JSON. `Refused`: Alpaca's own error body, a definite no. `NotSent`:
turned away before it could take effect (no connection, too many requests, not authorised). Any other `BrokerError`: not
known. The text of an error never holds a key.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exitfsm import EXIT_WAITS, BrokerError, NotSent, RateLimited
from exitfsm_alpaca.access import Access

if TYPE_CHECKING:
    from alpaca.trading.client import TradingClient

#: Seconds for the connection, and for each piece of the answer: together less than a manager's patience with one call.
TIMEOUT_S = (3.0, 6.0)
#: Requests that Alpaca answers in a minute.
PER_MINUTE = 200
#: The part of them that is kept for exits: as many orders as a manager sends in a minute, and what is read for them.
RESERVED = 0.65
#: The span in which they are counted.
SPAN_S = 60.0
#: How long a read waits for its turn before it gives up.
TURN_S = 1.0
#: Status codes under which Alpaca sends a definite no, when the body is its own.
_DEFINITE = frozenset({400, 403, 404, 422})
_NOT_VALID, _NO_KEY = 40010001, 40110000


class Refused(BrokerError):
    """Alpaca answered with an error of its own.

    Attributes:
        status, code, message: of the HTTP answer and its body.
        fields: the rest of the body.
    """

    def __init__(self, status: int, code: int, message: str, fields: dict[str, Any]) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.fields = status, code, message, fields

    @property
    def duplicate_id(self) -> bool:
        """The client order id is known already: the order may well exist.

        By the message: the code that Alpaca has for it, 40010001, is that of any request that is not valid. What speaks
        of the id in other words, or says nothing, counts too: of the two mistakes that one only costs a look-up.
        """
        said = self.message.lower().replace(" ", "_")
        unsaid = self.code == _NOT_VALID and not self.message.strip(". ")
        return unsaid or "client_order_id" in said or "duplicate" in said


class KeysRefused(NotSent):
    """Alpaca does not know the keys, or not any more."""


class Budget:
    """At most so many requests in any minute, a part of them for exits only. Safe between threads.

    Args:
        per_minute: how many.
        reserve: how many of them no other request may touch; the usual part when None.
    """

    def __init__(self, per_minute: int = PER_MINUTE, reserve: int | None = None) -> None:
        kept = int(per_minute * RESERVED) if reserve is None else reserve
        self._per_minute, self._reserve = per_minute, min(kept, per_minute - 1)
        #: When each request of the last minute was made; and those that no exit waited for.
        self._spent: deque[float] = deque()
        self._others: deque[float] = deque()
        self._closed_until = 0.0
        self._turn = Condition()

    def spend(self, *, urgent: bool) -> None:
        """Return when one more request fits in.

        Args:
            urgent: it is an order, or an exit waits for it.

        Raises:
            RateLimited: none does for now.
        """
        deadline = time.monotonic() + TURN_S
        with self._turn:
            while True:
                now = time.monotonic()
                free_at = max(self._closed_until, _free_at(self._spent, self._per_minute, now))
                if not urgent:
                    free_at = max(free_at, _free_at(self._others, self._per_minute - self._reserve, now))
                if free_at <= now:
                    self._spent.append(now)
                    if not urgent:
                        self._others.append(now)
                    return
                if free_at > deadline:
                    left = free_at - now
                    raise RateLimited(f"the rate limit is used up for {left:.0f} s more", left)
                self._turn.wait(free_at - now)

    def exceeded(self, seconds: float) -> None:
        """Alpaca said that it were too many: nothing goes out for so long."""
        with self._turn:
            self._closed_until = max(self._closed_until, time.monotonic() + min(max(seconds, 1.0), 60.0))


def _free_at(spent: deque[float], most: int, now: float) -> float:
    """When one more fits into a minute that takes so many; what is older is forgotten."""
    while spent and now - spent[0] >= SPAN_S:
        spent.popleft()
    return spent[len(spent) - most] + SPAN_S if len(spent) >= most else now


class Rest:
    """Requests to one account's REST API and to market data. Safe between threads.

    Args:
        access: keys and addresses.
        budget: the rate limit; shared by all that use the same API.
        timeout_s: seconds for the connection, and for each piece of the answer.
    """

    def __init__(
        self, access: Access, budget: Budget | None = None, timeout_s: tuple[float, float] = TIMEOUT_S
    ) -> None:
        self._access, self._timeout_s = access, timeout_s
        self.budget = budget or Budget()
        self._closed = False
        self._idle: deque[TradingClient] = deque(
            [_client(access, timeout_s)]
        )  # the import takes its time now, not later

    def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        """Read something of the account; out of what is kept for exits where one waits for it."""
        return self._call(f"GET {path}", lambda client: client.get(path, query), urgent=EXIT_WAITS.get())

    def get_data(self, path: str, query: dict[str, Any], *, version: str = "v2") -> Any:
        """Read market data."""
        return self._call(
            f"GET {path}",
            lambda client: client.get(path, query, base_url=self._access.data_url, api_version=version),
            urgent=False,
            has_code=False,
        )

    def post(self, path: str, body: dict[str, str]) -> Any:
        """Send something."""
        return self._call(f"POST {path}", lambda client: client.post(path, body), urgent=True)

    def delete(self, path: str) -> Any:
        """Ask for something to end."""
        return self._call(f"DELETE {path}", lambda client: client.delete(path), urgent=True)

    def close(self) -> None:
        """Close the connections: idle ones now, those of requests that are under way when these end."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop()._session.close()

    def _call(self, what: str, request: Callable[[TradingClient], Any], *, urgent: bool, has_code: bool = True) -> Any:
        """One request on a connection of its own, the one used last where it is free: that one is still warm.

        `what` it is stands in an error that is not Alpaca's own; `has_code`: one that is has a code, as all of the
        trading API have, and market data's have not.
        """
        from alpaca.common.exceptions import APIError
        from requests.exceptions import RequestException

        self.budget.spend(urgent=urgent)
        try:
            client = self._idle.pop()
        except IndexError:
            client = _client(self._access, self._timeout_s)
        try:
            return request(client)
        except APIError as error:
            raise self._meaning(what, error, has_code=has_code) from None
        except RequestException as error:
            raise _failure(what, error, self._host(has_code=has_code)) from None
        except Exception as error:
            raise BrokerError(f"{what}: the answer is not understood: {type(error).__name__}") from None
        finally:
            self._idle.append(client)
            if self._closed:
                self.close()

    def _meaning(self, what: str, error: Any, *, has_code: bool) -> BrokerError:
        """What an HTTP error proves."""
        status, host = error.status_code, self._host(has_code=has_code)
        code, message, fields = _body(str(error))
        if status == 429:
            after = error.response.headers.get("Retry-After", "") if error.response is not None else ""
            seconds = float(after) if after.isdecimal() else 1.0
            self.budget.exceeded(seconds)
            return RateLimited("too many requests", seconds)
        if status == 401 or (status == 403 and (code == _NO_KEY or message.strip(". ").lower() == "forbidden")):
            return KeysRefused(f"the keys are not authorised ({host})")
        if status in _DEFINITE and (code is not None or not has_code) and message:
            return Refused(status, code or 0, message, fields)
        return BrokerError(f"{what}: HTTP {status}: {message[:200] or 'no error body of Alpaca'} ({host})"[:400])

    def _host(self, *, has_code: bool) -> str:
        """Whom a request was for: the trading API, or market data."""
        at = urlsplit(self._access.base_url if has_code else self._access.data_url)
        return f"{at.hostname}:{at.port}" if at.port is not None else str(at.hostname)


def _client(access: Access, timeout_s: tuple[float, float]) -> TradingClient:
    """A client that sends each request once and does not wait for ever."""
    from alpaca.trading.client import TradingClient

    from exitfsm_alpaca.sending import OnceAdapter

    client = TradingClient(access.key_id, access.secret_key, raw_data=True, url_override=access.base_url)
    client._retry = 0  # the SDK repeats 429 and 504, also of a POST, and has no switch for it; a test pins this one
    client._session.trust_env = not access.is_local
    for scheme in ("https://", "http://"):
        client._session.mount(scheme, OnceAdapter(timeout_s))
    return client


def _body(text: str) -> tuple[int | None, str, dict[str, Any]]:
    """Code, message and other fields of an error body; no code when it is not Alpaca's."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None, "", {}
    if not isinstance(body, dict):
        return None, "", {}
    code, message = body.pop("code", None), body.pop("message", "")
    return (code if isinstance(code, int) else None), str(message)[:500], body


def _failure(what: str, error: Exception, host: str) -> BrokerError:
    """What a request that got no answer proves: nothing, unless there was no connection to send it on."""
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import ConnectTimeout
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    never_left = isinstance(error, ConnectTimeout) or isinstance(reason, (NewConnectionError, ConnectTimeoutError))
    if isinstance(error, NoConnection) and never_left:
        why = str(reason or error).rpartition(": ")[2]
        return NotSent(f"{what}: no connection: {type(error).__name__}: {why[:200]} ({host})")
    return BrokerError(f"{what}: no answer: {type(error).__name__} ({host})")
