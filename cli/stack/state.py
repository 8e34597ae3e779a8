"""What a supervisor writes down of each part, for `fingerpost status`; and how much room is left on the disk."""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fingerpost.lake import write_text_atomically

FOLDER = "run"
# A supervisor writes at least so often, whether there is news or not; from twice the other on it is called silent.
EVERY_S, SILENT_S = 10.0, 60.0
_MIN_INODES = 1000


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


@dataclass(frozen=True)
class Disk:
    """Room on the disk of a folder, for users other than root; `free_inodes` None: the file system has no limit."""

    free_bytes: int
    free_inodes: int | None

    def problem(self, low_mb: float) -> str:
        """What is wrong with so little room, in words; empty if it is enough.

        Args:
            low_mb: megabytes (2^20) below which it is too little.
        """
        if self.free_bytes < low_mb * 2**20:
            return f"{self.free_bytes / 2**20:.0f} MB left on the disk, less than FINGERPOST_DISK_LOW_MB={low_mb:g}"
        if self.free_inodes is not None and self.free_inodes < _MIN_INODES:
            return f"only {self.free_inodes} files can be made on the disk (inodes)"
        return ""


def disk_of(folder: Path) -> Disk:
    """The room where a folder is.

    Raises:
        OSError: it cannot be looked at.
    """
    found = os.statvfs(folder)
    return Disk(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)
