"""Logs of a bounded size: `name`, `name.1` (the one before), `name.2` ... and no more than so many."""

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fingerpost.masking import masked


@dataclass(frozen=True)
class Bounds:
    """How much of a log is kept.

    Args:
        bytes: size from which on a log makes room for a new one.
        files: how many there are at most, the current one among them.
    """

    bytes: int
    files: int


def move_on(path: Path, bounds: Bounds) -> bool:
    """Renames a log that has grown too large, and those before it; its writer goes on in it until it opens a new one.

    Returns:
        Whether it was renamed, so that the writer is to be told.

    Raises:
        OSError: it cannot be renamed.
    """
    if not _too_large(path, bounds):
        return False
    _shift(path, bounds.files)
    if bounds.files > 1:
        path.replace(_before(path, 1))
    else:
        path.unlink()
    return True


def copy_and_cut(path: Path, bounds: Bounds) -> bool:
    """The same for a writer that keeps its file open and appends: the log is copied, then cut to nothing.

    What is written between the copy and the cut is lost: for people's logs, not for records.

    Raises:
        OSError: it cannot be copied; it is left as it is then.
    """
    if not _too_large(path, bounds):
        return False
    if bounds.files > 1:
        copy = path.with_name(f".{path.name}.copy")
        try:
            shutil.copyfile(path, copy)
            _shift(path, bounds.files)
            copy.replace(_before(path, 1))
        finally:
            copy.unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def _too_large(path: Path, bounds: Bounds) -> bool:
    try:
        return path.stat().st_size >= bounds.bytes
    except FileNotFoundError:
        return False


def _shift(path: Path, files: int) -> None:
    """Makes room for `name.1`."""
    for number in range(files - 1, 1, -1):
        with contextlib.suppress(FileNotFoundError):
            _before(path, number - 1).replace(_before(path, number))


def _before(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


class Journal:
    """What a supervisor tells: on standard error for people, and with the time in a file for whoever comes later.

    Passwords in URLs are masked. A call never raises: a terminal that is gone, or a full disk, must not end whoever has
    something to say.
    """

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._path, self._bounds = path, bounds

    def __call__(self, text: str) -> None:
        text = masked(text)
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            copy_and_cut(self._path, self._bounds)
            with self._path.open("a", errors="replace") as file:
                file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} pid {os.getpid()}: {text}\n")
