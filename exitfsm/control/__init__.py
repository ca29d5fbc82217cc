"""Steering a manager that runs, from another process: pause it, exit, flatten, release, acknowledge, stop it.

    async with manager, control.serve(manager):   # in the process that runs the manager
        ...
    control.connect("exits.db").exit("AAPL", reason="news")   # anywhere else on the machine

A running manager listens on a Unix socket whose place is a function of its store. Each command is an event with who
gave it and whence, before anything is done; what it leads to names it in the log. So a command takes effect once: a
repeat after a lost answer, or after a restart of the manager, gets the first answer.

Rules of this room: it decides nothing about a position, and sends nothing to a broker but questions; it uses what the
manager offers to everybody. Whatever comes in may be garbage, and may come from anybody: it is bounded in size, number
and time. No answer holds a secret.

- `protocol` is what is said: requests and answers, as lines of JSON, with their limits.
- `deciding` is what a command means: who is concerned, what the answer says, and what proves that all is flat. Pure.
- `place` is where a store's manager listens.
- `proving` reads the broker's books for that proof.
- `desk` carries commands out on a manager, each once.
- `server` listens; `client` asks.
"""

from exitfsm.control.client import Control, ControlError, connect
from exitfsm.control.protocol import VERBS, Answer
from exitfsm.control.server import Server, serve

__all__ = ["VERBS", "Answer", "Control", "ControlError", "Server", "connect", "serve"]
