"""`exitfsm copy`: a store into another one."""

from __future__ import annotations

from typing import Annotated

import typer

from exitfsm.cli import screen


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store: a file, or postgresql://…; only read.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A new store, or one that a copy was begun in.")],
) -> None:
    """Copy a store into a new one, either way between a file and PostgreSQL.

    The same bytes and the same hash chain; the heads are compared at the end. A copy that was broken off goes on when
    it is called again.
    """
    from exitfsm.store import ExitStore
    from exitfsm.store.copying import copy_store

    with ExitStore(source, read_only=True) as read:
        account = read.meta.get("account", "")
        with ExitStore(target, account=account) as written, screen.progress("events") as told:
            copied = copy_store(read, written, told)
            events, head = written.chain_head()
            where = screen.clean(written.where)
    line = f"{where}: {screen.plural(copied, 'event')} copied, {events:,} in all, chain head {head}"
    screen.out().print(line, soft_wrap=True)
