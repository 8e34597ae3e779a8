"""Searches for inputs that break the native picker's parsers: `python -m tests.support.native_fuzz [SECONDS]`.

Each parser gets that many seconds. What reaches code that nothing before reached is added to `tests/corpus/native`.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from fingerpost.routing.table_file import Arm, encode
from tests.support.picker_harness import build_harness, made_table

CORPUS = Path(__file__).parents[1] / "corpus" / "native"
PARSERS = ("table", "request", "told", "settings")
FLAGS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fsanitize-coverage=trace-pc")
SOURCE = "fuzz.c"
# Larger ones are not kept: what they reach, smaller ones do.
_MOST_DIGITS = 1024
_ONLY_NEW = -1


def good_table() -> bytes:
    """The table's file by which requests are brought to categories; the first input of the parser of tables."""
    categories = ["GET /a/*|0|none|library|none", "GET /a/*|1K", "POST /a|1K|bearer", "other"]
    made = made_table(["h0", "h1"], categories, routes=("/a/*", "/*/b"), arms=(Arm("x", until=0.3), Arm()))
    return encode(made)


def fuzz(
    program: Path, parser: str, folder: Path, *, corpus: list[str] | None = None, seconds: float = 0, runs: int = 0,
    seed: int = 1,
) -> list[str]:  # fmt: skip
    """Inputs, in hexadecimal digits, by which the parser was brought to where the kept ones do not bring it.

    Args:
        corpus: to begin with; None: that which is kept.
        seconds, runs: when to end; 0: no bound by that.

    Raises:
        AssertionError: an input broke it; the message ends with that input.
    """
    (folder / "table").write_bytes(good_table())
    begin = corpus if corpus is not None else kept(parser)
    (folder / "corpus").write_text("".join(f"{line}\n" for line in begin))
    arguments = [parser, folder / "table", seconds, runs, seed, folder / "corpus"]
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)
    told = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{parser}, seed {seed}: {told[-6000:]}"
    return done.stdout.decode().splitlines()


def kept(parser: str) -> list[str]:
    """The corpus of a parser; of tables, whose files tell when they were made, a good one of now comes first."""
    lines = (CORPUS / f"{parser}.hex").read_text().splitlines()
    return [good_table().hex(), *lines] if parser == "table" else lines


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    seed = random.SystemRandom().randrange(2**32)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        program = build_harness(folder / "fuzz", FLAGS, SOURCE)
        for parser in PARSERS:
            print(f"{parser}: {seconds:.0f} s from seed {seed} on", file=sys.stderr)
            found = [line for line in fuzz(program, parser, folder, seconds=seconds, seed=seed) if line]
            both = sorted((each for each in (*kept(parser), *found) if len(each) <= _MOST_DIGITS), key=len)
            chosen = [each for each in fuzz(program, parser, folder, corpus=both, runs=_ONLY_NEW) if each]
            (CORPUS / f"{parser}.hex").write_text("".join(f"{line}\n" for line in chosen))
            print(f"{parser}: nothing breaks it; {len(found)} new inputs, {len(chosen)} kept", file=sys.stderr)


if __name__ == "__main__":
    main()
