"""A backup: a whole store in one new file, made while its bot runs.

Rules of this room: what lies beside the file that is copied (its WAL) is in the copy, which a copy of the file alone
would lack. The copy is proved against the chain before it has its name, and a file that is there is never replaced.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.store.copying import copy_store
from exitfsm.store.exit_store import ExitStore


def back_up(source: ExitStore, target: Path, progress: Callable[[int, int], None] | None = None) -> tuple[int, str]:
    """Write a whole copy of a store into a new file (mode 0600); returns its chain head.

    Args:
        source: the store, as far as it reaches now; its writer may go on meanwhile.
        target: the file, which must not be there yet.
        progress: told now and then how many events are there, of how many.

    Raises:
        StoreError: there is something at `target`, or the store is not what its hashes say. Nothing is left behind.
        OSError: it cannot be written.
    """
    if os.path.lexists(target):
        raise StoreError(f"{target} is there already: give a new path; nothing is written over")
    if not target.parent.is_dir():
        raise StoreError(f"there is no directory {target.parent}: make it first, or give another path")
    with tempfile.TemporaryDirectory(prefix=".exitfsm-backup-", dir=target.parent) as directory:
        made = Path(directory, target.name)
        with ExitStore(made, account=source.meta.get("account", "")) as copy:
            copy_store(source, copy, progress)
            head = copy.chain_head()
            broken = copy.verify_chain()
        if broken is not None:
            raise StoreError(f"the copy breaks at event {broken}: the disk fails; nothing was kept")
        _take(made, target)
    return head


def _take(made: Path, target: Path) -> None:
    """Give the file its name, unless something is there by now."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(made, target)  # fails where anything is, in one step
    except FileExistsError:
        raise StoreError(f"{target} is there already: give a new path; nothing is written over") from None
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise StoreError(f"{target} is there already: give a new path; nothing is written over") from None
        made.replace(target)


__all__ = ["back_up"]
