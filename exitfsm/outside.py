"""Text from outside, made harmless for a terminal and for a log.

A symbol, a broker's message or an operator's name may hold anything: a line break that forges a line of the log, an
escape sequence that repaints the terminal, a mark that turns the direction of what follows. It is kept as it came, as
evidence; whoever shows it shows what cannot be seen by its code.

What fails without harm, and is tried again, is said in that log, too.
"""

from __future__ import annotations

import logging

from exitfsm.errors import BrokerError


def harmless(text: object) -> str:
    """Text on one line: control characters, line breaks and direction marks are shown by their codes."""
    said = str(text)
    if said.isprintable():
        return said
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in said)


def logger(name: str) -> logging.Logger:
    """The logger of this name, whose lines say the texts in them harmlessly.

    What is put into a line is made harmless, not the line itself: a traceback keeps its lines.
    """
    log = logging.getLogger(name)
    log.addFilter(_harmless_arguments)  # a function: asked for twice, the logger still has it once
    return log


class logged:  # noqa: N801  # used as `suppress` is
    """Suppress what may fail without harm, and say so in the log: `args` and the error are put into `text`."""

    def __init__(self, text: str, *args: object, of: tuple[type[Exception], ...] = (BrokerError,)) -> None:
        self._text, self._args, self._of = text, args, of

    def __enter__(self) -> None:
        """Nothing begins."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        suppressed = isinstance(error, self._of)
        if suppressed:
            log.warning(self._text, *self._args, error)
        return suppressed


def _harmless_arguments(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_argument, record.args))
    return True


def _argument(value: object) -> object:
    """Numbers stay what they are, for `%d`; whatever says something that cannot be printed becomes what can."""
    if isinstance(value, (int, float)):
        return value
    try:
        said = str(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"  # logging must not fail, whatever it is given
    return value if said.isprintable() else harmless(said)


#: The log of this library.
log = logger("exitfsm")

__all__ = ["harmless", "log", "logged", "logger"]
