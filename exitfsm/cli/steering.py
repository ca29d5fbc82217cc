"""`exitfsm pause`, `exit`, `flatten`, `adopt` and the other commands to a manager that runs.

Exit codes: 0 it was done, 1 it was not, or not all of it, 2 it was not understood, or nobody was there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exitfsm.cli import screen
from exitfsm.cli.codes import BAD_INPUT
from exitfsm.cli.options import JsonFlag

if TYPE_CHECKING:
    from exitfsm.control import Answer, Control

#: How long an answer is waited for, and the proof of `flatten`, in seconds: as in `exitfsm.control`, which is imported
#: where it is used.
PATIENCE_S, FLATTEN_S = 30.0, 120.0
Driven = Annotated[
    str, typer.Argument(metavar="STORE", help="The store of the manager that runs: a file, or postgresql://…")
]
Symbols = Annotated[list[str], typer.Argument(metavar="SYMBOL…", help="The symbols that are meant.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the log.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
At = Annotated[
    str | None,
    typer.Option(
        "--connect", metavar="HOST:PORT", help="A manager that listens on a port; needs EXITFSM_CONTROL_TOKEN."
    ),
]
Wait = Annotated[float, typer.Option("--wait", min=0.1, metavar="SECONDS", help="How long an answer is waited for.")]


def _id(text: str) -> str:
    from exitfsm.control.protocol import is_id

    if not is_id(text):
        raise typer.BadParameter(f"{text!r} is no command's id: 16 hexadecimal digits")
    return text


def _price(text: str) -> str:
    from exitfsm.control.protocol import is_price

    if not is_price(text):
        raise typer.BadParameter(f"{text!r} is no price: a finite number above 0")
    return text


Again = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", parser=_id, help="Give a command again whose answer was lost: it counts once."),
]


def _for_all(verb: str, what: str) -> Callable[..., None]:
    """A command that names nothing and asks nothing; `what` is its help."""

    def command(
        store: Driven, reason: Reason = "", as_json: JsonFlag = False, at: At = None, again: Again = None,
        wait: Wait = PATIENCE_S,
    ) -> None:  # fmt: skip
        _give(_Order(verb, store, reason=reason, at=at, again=again, wait=wait), as_json=as_json)

    command.__doc__ = what
    return command


def _for_symbols(verb: str, asks: str, what: str) -> Callable[..., None]:
    """A command for symbols, that asks first."""

    def command(
        store: Driven, symbols: Symbols, reason: Reason = "", yes: Yes = False, as_json: JsonFlag = False,
        at: At = None, again: Again = None, wait: Wait = PATIENCE_S,
    ) -> None:  # fmt: skip
        order = _Order(verb, store, symbols, reason=reason, at=at, again=again, wait=wait)
        order.confirm(asks, yes=yes)
        _give(order, as_json=as_json)

    command.__doc__ = what
    return command


pause = _for_all("pause", "Have a running manager trigger nothing new and allow no entry; exits under way go on.")
resume = _for_all("resume", "End the pause of a running manager.")
sync = _for_all("sync", "Have a running manager reconcile with the broker now.")
reload_ = _for_all(
    "reload",
    """Have a running manager read its configuration anew.

    What it says of policies reaches open positions as recorded changes. Settings that need a restart are named. A file
    with a mistake changes nothing.
    """,
)
release = _for_symbols(
    "release",
    "have the rules watch again",
    """Hand unprotected positions back to the rules, with what the broker shows for them now.

    Their orders are looked up first: nothing happens while one of them may be live.
    """,
)
adopt = _for_symbols(
    "adopt",
    "watch, and sell by the rules",
    """Take symbols into what is managed, whatever is configured: what is held of them is watched from now on.

    A restart keeps it, until `exitfsm ignore`. Nothing happens while an order of ours may be live there.
    """,
)
ignore = _for_symbols(
    "ignore",
    "watch no more, and never sell",
    """Take symbols out of what is managed, whatever is configured: what is held of them is held on, and nobody watches.

    A restart keeps it, until `exitfsm adopt`. Nothing happens while an order of ours may be live there.
    """,
)


def exit_(
    store: Driven, symbols: Symbols, reason: Reason = "", yes: Yes = False, as_json: JsonFlag = False, at: At = None,
    again: Again = None, wait: Wait = PATIENCE_S,
    override: Annotated[
        bool, typer.Option("--override", help="You have looked: no order works whose record cannot be read any more.")
    ] = False,
    qty: Annotated[
        str | None, typer.Option("--qty", metavar="NUMBER", help="So much of one symbol; the rest is watched on.")
    ] = None,
) -> None:  # fmt: skip
    """Exit all positions of these symbols now, whatever their levels.

    An exit that is under way goes on. An unprotected position gets one more attempt, after its orders were looked up.
    """
    given = (qty,) if qty is not None else ()
    order = _Order("exit", store, symbols, reason=reason, at=at, again=again, wait=wait, override=override, given=given)
    order.confirm(f"exit {qty} now" if qty is not None else "exit now", yes=yes)
    _give(order, as_json=as_json)


def flatten(
    store: Driven,
    reason: Reason = "",
    yes: Yes = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long the proof is waited for.")
    ] = FLATTEN_S,
    all_positions: Annotated[
        bool, typer.Option("--all-positions", help="What is not managed, too: it is taken in for this, and sold.")
    ] = False,
    as_json: JsonFlag = False,
    at: At = None,
    again: Again = None,
    wait: Wait = PATIENCE_S,
) -> None:
    """Pause, cancel the bot's entries, exit everything that is managed, and prove that all is flat: the kill switch.

    The exit code is 0 only where the broker shows nothing held and no order working of what is managed; what is not is
    listed. Else it is 1, after --timeout or
    with the market closed, and a line says for each position why; its exit stays stored, and goes on. It may be given
    twice, from two terminals, and while the manager is restarted. `exitfsm resume` ends the pause.
    """
    order = _Order("flatten", store, reason=reason, at=at, again=again, wait=wait)
    what = "everything, also what is not managed," if all_positions else "everything that is managed"
    order.confirm(f"pause, and exit {what} now", yes=yes)

    def said(first: Answer) -> None:
        for line in first.lines if not as_json else ():
            screen.out().print(screen.clean(line), soft_wrap=True)
        sys.stdout.flush()

    answer = order.control.flatten(
        reason, timeout_s=timeout, command_id=order.command_id, said=said, waits=screen.complain,
        all_positions=all_positions,
    )  # fmt: skip
    if answer.code == 0 and not as_json:
        paused = " It is paused: exitfsm resume ends that." if answer.data.get("paused") is True else ""
        of = " of what is managed" if answer.data.get("outside") else ""
        screen.out().print(f"flat: the broker shows nothing held and no order working{of}.{paused}", soft_wrap=True)
    _show(answer, order.command_id, as_json=as_json)


def acknowledge(
    store: Driven,
    alarms: Annotated[
        list[str], typer.Argument(metavar="ALARM…", help="Ids of alarms (exitfsm status), symbols, or: account.")
    ],
    reason: Reason = "", as_json: JsonFlag = False, at: At = None, again: Again = None, wait: Wait = PATIENCE_S,
) -> None:  # fmt: skip
    """Take alarms down that a person has looked at."""
    _give(_Order("acknowledge", store, alarms, reason=reason, at=at, again=again, wait=wait), as_json=as_json)


def set_stop(
    store: Driven,
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="Whose stop.")],
    price: Annotated[str, typer.Argument(metavar="PRICE", parser=_price, help="Where it goes.")],
    reason: Reason = "", yes: Yes = False, as_json: JsonFlag = False, at: At = None, again: Again = None,
    wait: Wait = PATIENCE_S,
) -> None:  # fmt: skip
    """Put the stop of a position at a price, also a looser one. It stands in for every other stop of it.

    A trail, and a stop at break-even, go on from there: with a better price than any before, and only to a better stop.
    A stop beyond the market fires at the next price. Nothing happens while an exit is under way.
    """
    order = _Order("set-stop", store, [symbol], reason=reason, at=at, again=again, wait=wait, given=(price,))
    order.confirm(f"put the stop at {price}", yes=yes)
    _give(order, as_json=as_json)


def set_policy(
    store: Driven,
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="Whose settings.")],
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="SETTING=VALUE…", help="By its name in the configuration, as SECTION.price=4980; or: default."
        ),
    ],
    reason: Reason = "", yes: Yes = False, as_json: JsonFlag = False, at: At = None, again: Again = None,
    wait: Wait = PATIENCE_S,
) -> None:  # fmt: skip
    """Give settings to the positions of a symbol; those of the configuration do not replace them.

    `default` has them go by the configuration again. A stop that has moved stays where it is.
    """
    order = _Order("set-policy", store, [symbol], reason=reason, at=at, again=again, wait=wait, given=tuple(changes))
    order.confirm(f"set {' '.join(map(screen.clean, changes))} for", yes=yes)
    _give(order, as_json=as_json)


def stop(
    store: Driven, reason: Reason = "", yes: Yes = False, as_json: JsonFlag = False, at: At = None,
    again: Again = None, wait: Wait = PATIENCE_S,
) -> None:  # fmt: skip
    """End a running manager in good order. From then on nobody watches what is held."""
    order = _Order("stop", store, reason=reason, at=at, again=again, wait=wait)
    order.confirm("end the manager: nobody watches then", yes=yes)
    _give(order, as_json=as_json)


class _Order:
    """A command as it was given on the command line."""

    def __init__(
        self, verb: str, store: str, subjects: list[str] | None = None, *, reason: str, at: str | None,
        again: str | None, wait: float, override: bool = False, given: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        from exitfsm.control import connect
        from exitfsm.control.client import new_id

        self.verb, self.subjects, self.reason = verb, tuple(subjects or ()), reason
        self.command_id, self.override, self.given = again or new_id(), override, given
        self.control: Control = connect(store, address=at, who=_user(), patience_s=wait)

    def confirm(self, what: str, *, yes: bool) -> None:
        """Show what is held, and ask; where nobody can be asked, `--yes` must have been said."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"{self.verb}: nobody can be asked here: say --yes")
        standing = self._standing()
        for row in standing.get("positions", ()):
            line = " ".join(str(row.get(name)) for name in ("symbol", "side", "remaining_qty", "state"))
            screen.err().print(screen.clean(line), soft_wrap=True)
            if self.verb == "set-stop" and _is_meant(row, self.subjects):
                screen.err().print(_stop_in_words(row, self.given[0]), soft_wrap=True)
        for line in standing.get("scope", ()):
            screen.err().print(screen.clean(line), soft_wrap=True)
        subjects = screen.clean(" ".join(self.subjects))
        if not typer.confirm(f"{what}{': ' * bool(subjects)}{subjects}?", err=True):
            screen.complain("nothing was done")
            raise typer.Exit(BAD_INPUT)

    def _standing(self) -> dict[str, Any]:
        """What is held; nothing where the manager is being restarted, which `flatten` waits for."""
        from exitfsm.control import ControlError

        try:
            return self.control.standing().data
        except ControlError as error:
            if self.verb != "flatten":
                raise
            screen.complain(f"what is held cannot be shown: {error}")
            return {}


def _is_meant(row: dict[str, Any], subjects: tuple[str, ...]) -> bool:
    from exitfsm.values import canonical_symbol, same_symbol

    try:
        return any(same_symbol(str(row.get("symbol")), canonical_symbol(one)) for one in subjects)
    except ValueError:
        return False


def _stop_in_words(row: dict[str, Any], price: str) -> str:
    """Where a stop is and where it goes, and what follows from that."""
    was, last, sign = row.get("stop"), row.get("price"), -1 if row.get("side") == "short" else 1
    said = f"  its stop: {screen.clean(was) if was else 'none'} → {price}"
    looser = was is not None and (Decimal(price) - Decimal(str(was))) * sign < 0
    beyond = last is not None and (Decimal(str(last)) - Decimal(price)) * sign <= 0
    said += ", looser than now" * looser
    return said + f"; the last price {screen.clean(last)} is beyond it: IT EXITS AT THE NEXT PRICE" * beyond


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return ""


def _give(order: _Order, *, as_json: bool) -> None:
    answer = order.control.command(
        order.verb, *order.subjects, reason=order.reason, command_id=order.command_id, override=order.override,
        given=order.given,
    )  # fmt: skip
    _show(answer, order.command_id, as_json=as_json)


def _show(answer: Answer, command_id: str, *, as_json: bool) -> None:
    """The answer: what was done on stdout, what was not on stderr; and its code."""
    if as_json:
        data: dict[str, Any] = {"code": answer.code, "lines": list(answer.lines), "again": answer.again}
        screen.emit_json({"id": command_id, **data, "data": answer.data})
    else:
        if answer.again:
            screen.warn("this command was given before; nothing more was done, and this is what was answered")
        say: Callable[[str], None] = screen.complain if answer.code else _print
        for line in answer.lines:
            say(line)
    if answer.code:
        raise typer.Exit(answer.code)


def _print(line: str) -> None:
    screen.out().print(screen.clean(line), soft_wrap=True)
