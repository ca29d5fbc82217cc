"""`exitfsm owner`: who owns a store on a server, and freeing it."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import to_builtins

from exitfsm.cli import screen
from exitfsm.cli.options import JsonFlag


def owner(
    url: Annotated[str, typer.Argument(metavar="URL", help="The store: postgresql://…")],
    release: Annotated[
        bool,
        typer.Option("--release", help="Free it: its owner's session is ended, and it can store nothing any more."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show who owns a store on a server, since when, and whether it is alive.

    With --release the store is freed: for an owner that hangs, and no standby is there. A manager that loses its store
    so stops, with an alarm.
    """
    from exitfsm.store import owner_of, shown

    found, where = owner_of(url, release=release), shown(url)
    if as_json:
        screen.emit_json({"store": where, **to_builtins(found._asdict()), "released": release and found.is_owned})
        return
    alive = f"said that it is alive {found.alive_s:.1f} s ago" if found.alive_s is not None else "does not say so"
    if found.is_owned:
        who = found.session or f"{found.who} (it has no session any more)"
        lines = [f"{where}: owned by {who}", f"  since {found.since}, taken {found.fence} times; it {alive}"]
        lines += ["  released"] * release
    else:
        lines = [f"{where}: owned by nobody; last by {found.who} since {found.since}"]
    for line in lines:
        screen.out().print(screen.clean(line), soft_wrap=True)
