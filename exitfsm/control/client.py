"""The side that asks: commands to the manager of a store, from any other process.

A command has an id. Where its answer is lost (the manager is restarted, or the machine is slow), it is given again with
the same id, until the patience ends: it takes effect once.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from exitfsm.control.place import folders, is_safe, socket_of, sockets_of, trusted, writer_of
from exitfsm.control.protocol import (
    ALL_POSITIONS,
    ANSWER_MAX,
    DONE,
    NOT_DONE,
    ON_ITS_WAY_MAX_S,
    THOSE_OF_ALL,
    VERSION,
    Answer,
    Malformed,
    Request,
    answer_of,
    has_mac,
    hello_of,
    line_of,
    mac_of,
    may_retry,
    was_stored,
)
from exitfsm.errors import ExitFsmError
from exitfsm.store import is_url, shown

#: How long an answer is waited for, and how long lies between two tries, in seconds.
PATIENCE_S, AGAIN_S = 30.0, 0.25
#: How long `flatten` waits for the proof, and how long lies between two looks: the first, and the longest, in seconds.
FLATTEN_S, LOOK_S, LOOK_MAX_S = 120.0, 0.5, 5.0
#: The environment's name of the token.
TOKEN = "EXITFSM_CONTROL_TOKEN"  # nosec B105  a name, not a secret


class ControlError(ExitFsmError):
    """No manager could be reached, or none answered; the text says what that means and what to do."""


def connect(
    store: str | os.PathLike[str],
    *,
    address: str | None = None,
    token: str | None = None,
    who: str = "",
    patience_s: float = PATIENCE_S,
) -> Control:
    """What steers the manager of a store. Nothing is connected before the first command.

    Args:
        store: the store that it drives.
        address: `HOST:PORT` where it listens on a port; its socket when None.
        token: the secret of that port; `EXITFSM_CONTROL_TOKEN` when None.
        who: who gives the commands, where a port is used; on a socket the system says it.
        patience_s: how long an answer is waited for.
    """
    return Control(store, address, token if token is not None else os.environ.get(TOKEN, ""), who, patience_s)


class Control:
    """Gives commands to one manager; made by `connect`. It blocks, and may be used from any thread.

    Each command returns an `Answer`: `code` 0 where it was done, 1 where it was not, or not all of it, 2 where it was
    not understood or not allowed; `lines` say what and why. Each raises `ControlError` where nobody answers.
    """

    def __init__(
        self, store: str | os.PathLike[str], address: str | None, token: str, who: str, patience_s: float
    ) -> None:
        self._store, self._address, self._token = os.fspath(store), address, token
        self._who, self._patience_s = who, patience_s

    def __repr__(self) -> str:
        """Without the token."""
        return f"Control({shown(self._store)!r})"

    # --- commands -----------------------------------------------------------------------------------------------------

    def pause(self, reason: str = "") -> Answer:
        """No new triggers and no entries; exits under way go on."""
        return self.command("pause", reason=reason)

    def resume(self, reason: str = "") -> Answer:
        """End the pause."""
        return self.command("resume", reason=reason)

    def exit(
        self, *symbols: str, reason: str = "", override: bool = False, qty: Decimal | float | str | None = None
    ) -> Answer:
        """Exit all positions of these symbols now.

        Args:
            qty: how much, of one symbol with one position; the rest is watched on. More than is held is refused.
            override: a person has looked: no order works whose record the broker cannot show any more. It counts where
                an alarm of that stands.
        """
        given = (str(qty),) if qty is not None else ()
        return self.command("exit", *symbols, reason=reason, override=override, given=given)

    def release(self, *symbols: str, reason: str = "") -> Answer:
        """Hand the unprotected positions of these symbols back to the rules."""
        return self.command("release", *symbols, reason=reason)

    def acknowledge(self, *alarms: str, reason: str = "") -> Answer:
        """Take alarms down: by their ids, by symbols, or by `account` for those that concern no position."""
        return self.command("acknowledge", *alarms, reason=reason)

    def adopt(self, *symbols: str, reason: str = "") -> Answer:
        """Take symbols into what is managed, whatever is configured."""
        return self.command("adopt", *symbols, reason=reason)

    def ignore(self, *symbols: str, reason: str = "") -> Answer:
        """Take symbols out of what is managed, whatever is configured: what is held of them is not watched any more."""
        return self.command("ignore", *symbols, reason=reason)

    def set_stop(self, symbol: str, price: Decimal | float | str, reason: str = "") -> Answer:
        """Put the stop of the positions of a symbol at a price, also a looser one; it stands in for every other."""
        return self.command("set-stop", symbol, reason=reason, given=(str(price),))

    def set_policy(self, symbol: str, *changes: str, reason: str = "") -> Answer:
        """Give settings to the positions of a symbol, which those for all do not replace.

        Args:
            changes: such as `stop_loss.threshold_pct=2` or `stop_loss.price=4980`; none of them has the positions go by
                the settings for all again.
        """
        return self.command("set-policy", symbol, reason=reason, given=changes or (THOSE_OF_ALL,))

    def reload(self, reason: str = "") -> Answer:
        """Have it read its configuration anew: what that says of policies reaches open positions."""
        return self.command("reload", reason=reason)

    def sync(self, reason: str = "") -> Answer:
        """Have it reconcile with the broker now."""
        return self.command("sync", reason=reason)

    def stop(self, reason: str = "") -> Answer:
        """End the manager in good order."""
        return self.command("stop", reason=reason)

    def flatten(
        self,
        reason: str = "",
        *,
        timeout_s: float = FLATTEN_S,
        command_id: str = "",
        said: Callable[[Answer], None] | None = None,
        waits: Callable[[str], None] | None = None,
        all_positions: bool = False,
    ) -> Answer:
        """Pause, cancel the bot's entries, exit everything that is managed, and prove it.

        Returns an answer of code 0 only where the broker shows nothing held and nothing working of that, and nothing is
        watched any more; its `lines` list what is not managed, and held on. Else, after `timeout_s` or where all that
        is left waits for its market, one of code 1 with a line for each reason; what was begun goes on. It may be given
        again, from anywhere, at any time.

        A manager that is being restarted is waited for.

        Args:
            said: called with the first answer, that all was ordered, before the wait.
            waits: called with a text where no manager can be reached, before it is waited for.
            all_positions: what is not managed is meant, too: it is taken in for this, and sold.
        """
        until = time.monotonic() + timeout_s
        command_id = command_id or new_id()
        given = {"reason": reason, "command_id": command_id, "subjects": (ALL_POSITIONS,) * all_positions}
        first = self._taken(given, until, waits)
        if said is not None:
            said(first)
        look_s, proof = LOOK_S, first
        while first.code <= NOT_DONE and was_stored(first):
            proof = self._proof(command_id, until)
            if proof.data.get("unknown") is True and time.monotonic() < until:
                first = self._taken(given, until, waits)
            if proof.code == DONE or proof.data.get("waits_for_market") or time.monotonic() >= until:
                break
            time.sleep(min(look_s, max(0.0, until - time.monotonic())))
            look_s = min(look_s * 2, LOOK_MAX_S)
        return msgspec.structs.replace(proof, again=first.again)

    def _taken(self, given: dict[str, Any], until: float, waits: Callable[[str], None] | None) -> Answer:
        """The answer to a `flatten` that was stored; given again with the same id until it is, or the time is over."""
        while True:
            left_s = max(0.0, until - time.monotonic())
            patience_s = max(self._patience_s, left_s)
            first = self._asked("flatten", patience_s=patience_s, restart_s=left_s, waits=waits, **given)
            if was_stored(first) or first.code > NOT_DONE or time.monotonic() + AGAIN_S > until:
                return first
            time.sleep(AGAIN_S)

    def _proof(self, command_id: str, until: float) -> Answer:
        """One look; a manager that is being restarted meanwhile is waited for."""
        try:
            left_s = max(1.0, until - time.monotonic())
            return self._asked("proof", of=command_id, patience_s=left_s, restart_s=left_s)
        except ControlError as error:
            return Answer(code=NOT_DONE, lines=(f"not proved: {error}",))

    def standing(self) -> Answer:
        """What is held, the active alarms, and whether it is paused, as `data`; changes nothing."""
        return self._asked("standing")

    def command(
        self,
        verb: str,
        *subjects: str,
        reason: str = "",
        command_id: str = "",
        override: bool = False,
        given: tuple[str, ...] = (),
    ) -> Answer:
        """Any command, by its verb.

        Args:
            verb: one of `VERBS`.
            subjects: the symbols or alarms that it is about.
            reason: why, for the log.
            command_id: that of an earlier command whose answer was lost: it takes effect once.
            override: of `exit`: see there.
            given: of `set-stop` and `set-policy`: the price, the settings.

        Raises:
            ControlError: no manager could be reached, or none answered in time.
        """
        said: dict[str, Any] = {"subjects": subjects, "reason": reason, "override": override, "given": given}
        return self._asked(verb, command_id=command_id or new_id(), **said)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _asked(
        self,
        verb: str,
        *,
        command_id: str = "",
        of: str = "",
        patience_s: float | None = None,
        restart_s: float = 0.0,
        waits: Callable[[str], None] | None = None,
        **given: Any,
    ) -> Answer:
        """The answer; asked again while none comes, once somebody was there. Nobody is waited for `restart_s`."""
        patience_s = patience_s if patience_s is not None else self._patience_s
        began, reached, busy = time.monotonic(), False, None
        until = began + patience_s
        request = Request(
            version=VERSION, verb=verb, id=command_id, who=self._who, of=of, nonce=secrets.token_hex(16), within=0.0,
            **given,
        )  # fmt: skip
        while True:
            left_s = max(0.1, until - time.monotonic())
            try:
                connection = self._connected(left_s)
            except (BlockingIOError, TimeoutError):
                reached = True  # somebody is there, and cannot take one more at the moment
            except OSError as error:
                if not reached and time.monotonic() + AGAIN_S > began + restart_s:
                    raise ControlError(self._nobody(error)) from None
                if waits is not None and not reached:
                    waits(f"{self._nobody(error)} (waiting for one for {restart_s:.0f} s, as during a restart)")
                    waits = None
            else:
                reached = True
                busy = self._conversation(connection, request, until)
                if busy is not None and not may_retry(busy):
                    return busy
            if time.monotonic() + AGAIN_S > until:
                if busy is not None:
                    return busy
                raise ControlError(self._silent(request, patience_s))
            time.sleep(AGAIN_S)

    def _conversation(self, connection: socket.socket, request: Request, until: float) -> Answer | None:
        """What is answered on a connection; None where it ends or falls silent before.

        Raises:
            ControlError: what is answered is not understood: another version, or no manager at all.
        """
        token = self._token if self._address is not None else None
        with connection, suppress(OSError):
            try:
                first = _line(connection, until)
                if first is None:
                    return None
                hello = hello_of(first)
                left_s = min(max(0.1, until - time.monotonic()), ON_ITS_WAY_MAX_S)
                request = msgspec.structs.replace(request, within=left_s)
                if token is not None:
                    request = msgspec.structs.replace(request, mac=mac_of(token, hello.nonce, request))
                connection.sendall(line_of(request))
                said = _line(connection, until)
                answer = answer_of(said) if said is not None else None
            except Malformed as error:
                raise ControlError(f"the answer is not understood: {error}") from None
            except UnicodeEncodeError:
                raise ControlError("the command holds characters that cannot be sent; nothing was done") from None
            proves = token is None or answer is None or has_mac(token, hello.nonce + request.nonce, answer)
            if answer is not None and answer.code <= NOT_DONE and not proves:
                raise ControlError(
                    f"who answers at {self._address} does not know the token, and is not the manager: believe nothing "
                    "that it says, and look who listens there"
                )
            return answer
        return None

    def _connected(self, timeout_s: float) -> socket.socket:
        if self._address is not None:
            host, _, port = self._address.rpartition(":")
            if not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
                raise ControlError(f"{self._address!r} is not HOST:PORT, such as 127.0.0.1:7070")
            return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
        if not hasattr(socket, "AF_UNIX"):  # pragma: no cover  Windows
            raise ControlError("this system has no Unix sockets: have the manager listen on a port, and use --connect")
        made: list[socket.socket] = []
        failed: OSError = FileNotFoundError(2, "no socket of it is there")
        try:
            for path in sockets_of(self._store):
                try:
                    made.append(_at(path, self._store, timeout_s))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    failed = error if isinstance(failed, FileNotFoundError | ConnectionRefusedError) else failed
            if len(made) > 1:
                raise ControlError(
                    f"several managers of {shown(self._store)} listen here: name the schema "
                    "(?exitfsm_schema=…, as exitfsm status shows it); nothing was done"
                )
            if not made:
                raise failed
            return made.pop()
        finally:
            for one in made:
                one.close()

    def _nobody(self, error: OSError) -> str:
        """What it means that nobody could be reached, and what to do."""
        name = shown(self._store)
        if self._address is not None:
            return f"no manager answers at {self._address} ({error.strerror or error}): is it running, and the tunnel?"
        if is_url(self._store):
            folders_ = " ".join(str(folder) for folder in folders(self._store))
            return (
                f"no manager of {name} was found on this machine (looked in {folders_}): nothing was done. Whether one "
                "drives it elsewhere, or as another user, is not known: give the command there, as that user, or use "
                "--connect; do not start a second one"
            )
        place = socket_of(self._store)
        if isinstance(error, PermissionError):
            return f"{place} belongs to another user: give the command as the user that runs the manager (sudo -u …)"
        if not Path(self._store).expanduser().exists():
            return f"there is no store at {name}: name the one that the manager was started with"
        writer = writer_of(self._store)
        if writer is not None:
            return (
                f"process {writer} drives {name} and does not listen at {place}: an older version, or a bot without "
                "`control.serve(manager)`. Nothing was done: act at the broker, or stop it and start it anew"
            )
        return (
            f"nobody drives {name}: no manager listens at {place}, nothing was done, and nobody watches what it holds. "
            f"Start it (exitfsm run --store {name} …), or close positions at the broker; exitfsm status {name} shows "
            "what was known"
        )

    def _silent(self, request: Request, patience_s: float) -> str:
        same = f"; given again with --id {request.id}, it takes effect once" if request.id else ""
        return (
            f"no answer to {request.verb} within {patience_s:g} s: the manager is busy, or was restarted. Whether the "
            f"command took effect is not known{same}"
        )


def _at(path: Path, store: str, timeout_s: float) -> socket.socket:
    """A connection to a socket that only the manager's user can have put there.

    Raises:
        ControlError: somebody else can, or has.
        OSError: nobody listens.
    """
    users = trusted(store)
    if path.parent in folders(store) and path.parent.exists() and not is_safe(path.parent, users):
        raise ControlError(f"{path.parent} may be written to by others: nothing was sent to what listens there")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout_s)
        made.connect(str(path))
        _check_peer(made, users)
    except BaseException:
        made.close()
        raise
    return made


def _check_peer(connection: socket.socket, users: frozenset[int]) -> None:
    """See that no other user's process has put itself in the manager's place, and says that all is done.

    Raises:
        ControlError: one has.
    """
    if hasattr(socket, "SO_PEERCRED"):
        user = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if user not in users:
            raise ControlError(
                f"another user ({user}) listens where the manager should: nothing was sent; look who it is"
            )


def _line(connection: socket.socket, until: float) -> bytes | None:
    """A line; None where the connection ends, or the time does, before it: however slowly its bytes come."""
    said = b""
    while not said.endswith(b"\n"):
        left_s = until - time.monotonic()
        if left_s <= 0:
            return None
        connection.settimeout(left_s)
        more = connection.recv(1 << 16)
        said += more
        if not more or len(said) > ANSWER_MAX:
            return None
    return said


def new_id() -> str:
    """An id for a command."""
    return secrets.token_hex(8)
