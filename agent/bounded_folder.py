"""Folders that an agent writes into and somebody else empties, or nobody does: bounded by their size."""

import re
from collections.abc import Callable
from pathlib import Path

from fingerpost.lake import INBOX, QUARANTINE, remove_oldest, service_folder


class BoundedFolder:
    """Removes the oldest files of a folder when it has grown too large.

    The folder is looked at when the first file is added, and then each time that a sixteenth of its bound was: it may
    be that much larger.

    Args:
        folder: with all below it; it need not exist.
        max_bytes: the files' sizes together.
        counts: of a file of the folder whether it counts, and may go; None: all do.
    """

    def __init__(self, folder: Path, max_bytes: int, counts: Callable[[Path], bool] | None = None) -> None:
        self._folder, self._max_bytes, self._counts = folder, max_bytes, counts
        self._added = max_bytes

    def add(self, path: Path) -> int | None:
        """Takes note of a file that was written; returns how many were removed, None where nobody looked.

        Raises:
            OSError: a file cannot be removed.
        """
        self._added += path.stat().st_size
        if self._added <= self._max_bytes / 16:
            return None
        self._added = 0
        return remove_oldest(self._folder, self._max_bytes, self._counts)


def bounded_quarantine(lake: Path, service: str, max_bytes: int) -> BoundedFolder:
    """The refused lines of a service."""
    return BoundedFolder(service_folder(lake / QUARANTINE, "lines", service), max_bytes)


def bounded_inbox(lake: Path, service: str, host: str, max_bytes: int) -> BoundedFolder:
    """The batches of one host, which may wait beside those of others."""
    named = re.compile(rf"{re.escape(host)}-\d{{16}}(-.*)?\.parquet")
    folder = f"service={service}"
    return BoundedFolder(
        lake / INBOX, max_bytes, lambda path: folder in path.parts and bool(named.fullmatch(path.name))
    )
