"""The wire between a bot's process and the market's: whole messages over a socket, and nothing shared.

What the bot asks its broker goes out by `sendmsg` and is answered by `recvmsg`; everything else (what the script says
next, which event is durable) by `sendto` and `recvfrom`. So faults can be put into the bot's calls to its broker alone.
"""

from __future__ import annotations

import pickle
import socket
from datetime import datetime
from typing import Any, NamedTuple

from exitfsm.events import Event

#: The longest message; a book of a few orders is some kilobytes.
LENGTH_MAX = 200_000


class Ask(NamedTuple):
    """A call of the broker port, and the time in the bot's process.

    The number ties the answer to it: an answer that was lost must not serve the next question.
    """

    number: int
    now: datetime
    method: str
    args: tuple[Any, ...]


class Answer(NamedTuple):
    """What a call gets, or what it raises; under the number of its question."""

    number: int
    value: Any
    error: Exception | None


class Next(NamedTuple):
    """The bot is at rest: what happens now?"""


class Step(NamedTuple):
    """What happens now: the time, the broker's news, and the price of a bar."""

    now: datetime
    news: list[Any]
    price: float


class Durable(NamedTuple):
    """The bot was told that this event is stored."""

    stream_id: str
    version: int
    event: Event


class Over(NamedTuple):
    """The bot's process ends in good order; alarms that were put up, and what its log said of defects."""

    alarms: list[str]
    defects: list[str]
    error: str


def tell(wire: socket.socket, message: Any) -> None:
    """Send a message that no fault meets."""
    wire.send(pickle.dumps(message))


def hear(wire: socket.socket) -> Any:
    """The next message; None when the other side is gone. Answers that nobody waited for are passed over."""
    while True:
        try:
            data = wire.recv(LENGTH_MAX)
        except ConnectionResetError:
            return None
        message = pickle.loads(data) if data else None
        if not isinstance(message, Answer):
            return message
