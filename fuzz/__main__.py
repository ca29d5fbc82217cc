"""Run one target for long: `python -m fuzz TARGET [options of libFuzzer]`, with atheris; `python -m fuzz` lists them.

The corpus lies in `.dev/fuzz/TARGET` and grows; what fails is written there, too, and is run alone by its path.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["exitfsm", "exitfsm_alpaca", "exitfsm_csv", "yaml"]):
    from fuzz.seeds import SEEDS, TOKENS
    from fuzz.targets import TARGETS

CORPUS = Path(__file__).resolve().parents[1] / ".dev" / "fuzz"


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def main(argv: list[str]) -> int:
    """Run the target that is named; never returns when there is one."""
    if len(argv) < 2 or argv[1] not in TARGETS:
        print(f"python -m fuzz TARGET; TARGET is one of {', '.join(TARGETS)}")
        return 2
    name, given = argv[1], argv[2:]
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = CORPUS / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS if token))
    logging.disable()  # what is logged of each input would be all there is to see
    options = ["-timeout=20", "-max_len=4096", f"-dict={words}", f"-artifact_prefix={corpus}-"]
    files = [] if any(not one.startswith("-") for one in given) else [str(corpus)]
    atheris.Setup([argv[0], *options, *given, *files], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
