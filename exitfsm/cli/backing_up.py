"""`exitfsm backup`: a whole store in one file, while its bot runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exitfsm.cli import screen
from exitfsm.cli.options import StoreArgument


def backup(
    store: StoreArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make; one that is there is left alone.")],
) -> None:
    """Copy a store into one new file, also while its bot runs.

    Everything up to now is in it, with the same hash chain, which is checked. Copying the file itself misses what is
    still in its -wal.
    """
    from exitfsm.store import ExitStore
    from exitfsm.store.backing_up import back_up

    with ExitStore(store, read_only=True) as opened, screen.progress("events") as told:
        events, head = back_up(opened, file, told)
    line = f"{screen.clean(file)}: {screen.plural(events, 'event')}, chain head {head}"
    screen.out().print(line, soft_wrap=True)
