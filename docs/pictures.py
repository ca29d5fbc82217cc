"""Make the picture of the audit page that the start page shows, from the example's bars.

    python docs/pictures.py           writes docs/pictures/audit.png; look at it before it is committed

It needs a browser that playwright can drive: Debian's chromium, or the one that EXITFSM_CHROMIUM names.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from exitfsm.cli import main as exitfsm

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "audit.png"
BARS = ROOT / "examples" / "bars" / "SPY.csv"
CHROMIUM = os.environ.get("EXITFSM_CHROMIUM", "/usr/bin/chromium")
SIZE = {"width": 1280, "height": 1180}


def page(folder: Path) -> Path:
    """Write the audit page of the example's first position."""
    store, written = str(folder / "exits.db"), folder / "audit.html"
    for command in (
        ["simulate", str(BARS), "--store", store],
        ["audit", store, "SPY", "--bars", str(BARS), "--output", str(written)],
    ):
        if code := exitfsm(command):
            raise SystemExit(f"pictures: exitfsm {' '.join(command)} ended with {code}")
    return written


def main(to: Path = PICTURE) -> int:
    """Draw the page in a browser and keep what is seen of it."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page(Path(folder)).as_uri())
        tab.screenshot(path=str(to))
        browser.close()
    print(f"pictures: {to.relative_to(ROOT) if to.is_relative_to(ROOT) else to}, {to.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
