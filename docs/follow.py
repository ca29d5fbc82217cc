"""Follow the start page and the page for a bot to the letter, in a clean clone and a new environment.

    python3 dev follow

Each `$` line of the first commands of a page is given to one shell, as it stands; files that the page shows with a
name are written beside. It ends with 0 where an exit of one's own bars took no more than 5 commands, and a bot with
one's own broker no more than 15, and both came to their exit. Only what is committed is followed; packages are fetched.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: One's own bars, and what is given for them after the commands of the start page.
OWN_BARS = """symbol,timestamp,open,high,low,close
MINE,2024-03-04T15:00:00Z,50,50,50,50
MINE,2024-03-04T15:01:00Z,50,50,49.2,49.3
MINE,2024-03-04T15:02:00Z,49.3,49.3,49.1,49.2
"""
ON_THEM = "exitfsm simulate mine.csv"
#: Page, how many commands it may take, what is added to them, and what the last one must say.
FOLLOWED = (
    ("README.md", 5, (ON_THEM,), "MINE"),
    ("docs/how-to/put-it-into-your-bot.md", 15, (), "ExitCompleted"),
)


def commands(text: str) -> list[str]:
    """The commands of a page's first block of them, without what is remarked."""
    block = re.search(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = block[1].splitlines() if block is not None else []
    return [line[2:].partition("  #")[0].strip() for line in lines if line.startswith("$ ")]


def files(text: str) -> dict[str, str]:
    """The files that a page shows, by their names."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE))


def follow(page: str, most: int, more: tuple[str, ...], wanted: str, folder: Path) -> str:
    """Why a page does not lead to where it says, followed in this folder; empty where it does."""
    clone = folder / "exitfsm"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    text = (clone / page).read_text(encoding="utf-8")
    given, shown = [*commands(text), *more], files(text)
    for name, content in ({"mine.csv": OWN_BARS} | shown).items():
        (clone / name).write_text(content, encoding="utf-8")
    count = len(given) + len(shown)
    script = "\n".join(f"echo '$ {one}'\n{one}" for one in given)
    done = subprocess.run(["bash", "-euc", script], cwd=clone, capture_output=True, text=True, check=False)
    print(f"--- {page}: {len(given)} commands, {len(shown)} files\n{done.stdout[-3000:]}", flush=True)
    if done.returncode:
        return f"{page}: a command failed ({done.returncode}): {done.stderr[-2000:]}"
    if wanted not in done.stdout.rpartition(f"$ {given[-1]}")[2]:
        return f"{page}: the last command does not say {wanted}"
    return f"{page}: {count} commands and files, more than {most}" if count > most else ""


def main() -> int:
    """Follow each page; 0 where all lead to where they say."""
    troubles = []
    for page, most, more, wanted in FOLLOWED:
        with tempfile.TemporaryDirectory(prefix="exitfsm-follow-") as folder:
            troubles.append(follow(page, most, more, wanted, Path(folder)))
    for trouble in filter(None, troubles):
        print(f"follow: {trouble}", file=sys.stderr)
    return 1 if any(troubles) else 0


if __name__ == "__main__":
    sys.exit(main())
