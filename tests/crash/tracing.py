"""Faults at system calls, put in by strace: the process dies at one, or one fails.

strace counts for each thread and each call by itself, and so do the points here: "the third `pwrite64`" is that of the
first thread that gets there. A signal meets the process before the call has an effect.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

#: What writes to the store, what makes it durable, what moves its files, and what talks to the broker.
WRITES = ("pwrite64", "ftruncate")
SYNCS = ("fdatasync", "fsync")
FILES = ("rename", "unlink")
TALK = ("sendmsg", "recvmsg")
CALLS = (*WRITES, *SYNCS, *FILES, *TALK)
_LINE = re.compile(r"^(\d+)\s+(\w+)\((.*)")


class Point(NamedTuple):
    """The n-th call of a kind in a thread, and what happens there: `kill`, or an error by its name.

    `on` makes every later call of the kind fail as well.
    """

    call: str
    n: int
    what: str
    on: bool = False

    def __str__(self) -> str:
        return f"{self.what} at {self.call} {self.n}{' and on' if self.on else ''}"

    @property
    def injection(self) -> str:
        """As strace wants it."""
        effect = "signal=KILL" if self.what == "kill" else f"error={self.what}"
        return f"{self.call}:{effect}:when={self.n}{'+' if self.on else ''}"


class Tracer:
    """strace on a running process; `close` waits until that process is gone."""

    def __init__(self, pid: int, log: Path, point: Point | None) -> None:
        self.log = log
        command = [
            "strace",
            "-f",
            "-p",
            str(pid),
            "-o",
            str(log),
            "-e",
            f"trace={','.join(CALLS)}",
            "-e",
            "signal=none",
        ]
        if point is not None:
            command += ["-e", f"inject={point.injection}"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = self._process.stderr.readline()
        if "attached" not in said:
            self.close()
            raise OSError(f"strace: {said.strip()}")

    def close(self) -> None:
        """Wait for the end of what is traced."""
        assert self._process.stderr is not None
        self._process.stderr.read()
        self._process.stderr.close()
        self._process.wait(60)

    def counts(self) -> Counter[str]:
        """The calls that were made, by kind: the most in one thread."""
        by_thread: Counter[tuple[str, str]] = Counter()
        for line in self.log.read_text().splitlines():
            found = _LINE.match(line)
            if found and found[2] in CALLS:
                by_thread[found[1], found[2]] += 1
        most: Counter[str] = Counter()
        for (_, call), count in by_thread.items():
            most[call] = max(most[call], count)
        return most


@cache
def why_not() -> str | None:
    """Why no faults can be put in here; None when they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=getppid", "-e", "inject=getppid:error=EPERM", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()[:200]}"
