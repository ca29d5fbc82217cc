"""The command line, `exitfsm …`: the composition root, and the only place that may import adapters.

Rules of this room: a command reads, shows and says; what is decided or computed comes from the library. Results go to
stdout, all else (progress, warnings, errors) to stderr. Exit codes: 0 all is well, 1 something was found (a mistake in
a configuration, a store that does not verify), 2 wrong usage or input. An error that a person can do something about
is a message, never a traceback. Text from outside is made harmless before it is shown (`screen.clean`).

One module for each subject (`simulating`, `reading`, `configuring`, `demo`); `app` lists the commands, `words` says an
event in words, `screen` is how anything is shown. typer and rich are an extra of the package, so this module does
without them and says how to get them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from exitfsm.cli.codes import BAD_INPUT, DEFECT, FINDING, PIPE_CLOSED
from exitfsm.errors import ExitFsmError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments after the program's name; those of the process when None.
    """
    silent = _with_all_streams()
    for stream in (sys.stdout, sys.stderr):
        _never_fails_to_encode(stream)
    if silent:
        print("exitfsm: warning: there is no stdout: the answer is shown nowhere", file=sys.stderr)
    try:
        from exitfsm.cli.app import app
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        print(f"exitfsm: the command line needs {missing.name}: pip install exitfsm[cli]", file=sys.stderr)
        return BAD_INPUT
    return _run(app, argv)


def _run(app: object, argv: Sequence[str] | None) -> int:
    from exitfsm.cli.screen import PipeClosed, complain

    try:
        code = _exit_code_of(app, argv)
        sys.stdout.flush()
    except ExitFsmError as error:
        complain(str(error))
        return BAD_INPUT
    except (PipeClosed, BrokenPipeError):
        _hush()
        return PIPE_CLOSED
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        return BAD_INPUT
    except Exception:
        import traceback

        with suppress(OSError):
            traceback.print_exc()
        complain("this is a defect of exitfsm; please report it with the lines above")
        return DEFECT
    return code


def _exit_code_of(app: object, argv: Sequence[str] | None) -> int:
    """What typer would exit with.

    Raises:
        BrokenPipeError: the help text found nobody who reads it; typer would call that 1.
    """
    assert callable(app)
    try:
        app(args=None if argv is None else list(argv), prog_name="exitfsm")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        return end.code if isinstance(end.code, int) else 0
    return 0


def _with_all_streams() -> bool:
    """Put nothing in the place of streams that are closed, so that no file takes their numbers; True without a stdout.

    Whoever has no stdout has the same exit codes.
    """
    if sys.stdout is not None and sys.stderr is not None:
        return False
    silent = sys.stdout is None
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  to the end of the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  the same
    return silent


def _never_fails_to_encode(stream: TextIO) -> None:
    """A character that the terminal lacks is shown by its code instead of ending the command."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _hush() -> None:
    """Let what is still buffered for the closed pipe go nowhere, so that the interpreter ends without a word."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # a stdout that is no file
        return


__all__ = ["BAD_INPUT", "DEFECT", "FINDING", "PIPE_CLOSED", "main"]
