"""Keeps the state of each supervised part in a file, for `fingerpost status`."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fingerpost.lake import write_text_atomically

FOLDER = "run"
# A supervisor writes at least so often, whether there is news or not; from twice the other on it is called silent.
EVERY_S, SILENT_S = 10.0, 60.0


@dataclass
class PartState:
    """A part as its supervisor sees it; times are seconds since 1970, 0 is never.

    Attributes:
        state: `waiting` (for what it needs, or for its next start), `starting`, `up`, `silent` (it runs and does not
            answer), `resigned` (it died again and again, and is tried again seldom), `stopped`.
        since: when it came into this state.
        restarts: how often it was started again since the supervisor began.
        last_error: how it died or went silent the last time, and when.
        unlogged: starts whose output went nowhere, since no log could be opened.
        written: when this was written.
    """

    name: str
    state: str = "waiting"
    pid: int = 0
    since: float = 0.0
    address: str = ""
    log: str = ""
    restarts: int = 0
    last_error: str = ""
    last_error_at: float = 0.0
    unlogged: int = 0
    written: float = 0.0


def lock_path(home: Path, part: str) -> Path:
    """The lock of whoever runs a part of a home."""
    return home / FOLDER / f"{part}.lock"


def write_state(home: Path, state: PartState) -> None:
    """Writes down how a part is.

    Raises:
        OSError: it cannot be written.
    """
    state.written = time.time()
    write_text_atomically(home / FOLDER / f"{state.name}.json", json.dumps(asdict(state)))


def read_states(home: Path) -> list[PartState]:
    """The parts that run, or ran until their supervisor died without a word; unreadable files are passed over."""
    found = []
    for path in sorted((home / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(PartState(**json.loads(path.read_text())))
    return found


def forget_state(home: Path, part: str) -> None:
    """Removes what was written of a part, which has been stopped."""
    with contextlib.suppress(OSError):
        (home / FOLDER / f"{part}.json").unlink(missing_ok=True)
