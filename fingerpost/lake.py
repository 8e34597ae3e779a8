"""Where things lie in the lake, and how a file gets there: written under a temporary name, then renamed."""

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

INBOX = "inbox"
QUARANTINE = "quarantine"


def partition(lake: Path, kind: str, service: str, date: str) -> Path:
    """The folder of one kind of data, service and date (`YYYY-MM-DD`): `KIND/service=S/date=D`."""
    return lake / kind / f"service={service}" / f"date={date}"


def service_folder(lake: Path, kind: str, service: str) -> Path:
    """The folder of one kind of data of one service: `KIND/service=S`."""
    return lake / kind / f"service={service}"


def published_categories(lake: Path, service: str) -> Path:
    """The file of a service's category table, as the features step chose it."""
    return lake / "categories" / f"service={service}.json"


def date_of(time_us: int) -> str:
    """The UTC date of a time in microseconds since 1970, as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it: readers see the whole file or none.

    The temporary name begins with a dot, which `parquet_files` skips.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a small text file whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def parquet_files(folder: Path) -> Iterator[Path]:
    """The finished Parquet files under a folder, by name; none if it does not exist."""
    if folder.is_dir():
        yield from sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))


def remove_oldest(folder: Path, max_bytes: float) -> int:
    """Removes the oldest files under a folder until the rest fit in `max_bytes`; returns how many went."""
    if not folder.is_dir():
        return 0
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in folder.rglob("*") if path.is_file())
    excess = sum(size for _, size, _ in files) - max_bytes
    removed = 0
    for _, size, path in files:
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
        removed += 1
    return removed
