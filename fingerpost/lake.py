"""Where things lie in the lake, and how a file gets there: written under a temporary name, then renamed."""

import contextlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

INBOX = "inbox"
QUARANTINE = "quarantine"
# The temporary files of `write_atomically`; none takes an hour to write.
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
_LEFT_OVER_S = 3600.0


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


def write_bytes_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a small file whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a small text file whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def set_aside(path: Path) -> Path:
    """Renames a file or folder that cannot be used, so that it is in nobody's way; returns its new path.

    What was set aside under the same name before is replaced; a path that cannot be renamed stays where it is.
    """
    aside = path.with_name(f"{path.name}.bad")
    try:
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        return path.rename(aside)
    except OSError:
        return path


def remove_left_over(folder: Path, recursive: bool = True) -> int:
    """Removes what processes left that were killed in `write_atomically`: its temporary files, an hour old or more.

    Args:
        recursive: also in the folders below.

    Returns:
        How many files went.
    """
    limit_s = time.time() - _LEFT_OVER_S
    removed = 0
    for path in folder.rglob(".*.tmp") if recursive else folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # renamed or removed meanwhile, or not ours to remove
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and path.stat().st_mtime < limit_s:
                path.unlink()
                removed += 1
    return removed


def parquet_files(folder: Path) -> Iterator[Path]:
    """The finished Parquet files under a folder, by name; none if it does not exist."""
    if folder.is_dir():
        yield from sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))


def remove_oldest(folder: Path, max_bytes: float, counts: Callable[[Path], bool] | None = None) -> int:
    """Removes the oldest files under a folder until the rest fit in `max_bytes`; returns how many went.

    Args:
        counts: of a file whether it counts, and may go; None: all do.
    """
    if not folder.is_dir():
        return 0
    files = sorted(each for each in _sized(folder) if counts is None or counts(each[2]))
    excess = sum(size for _, size, _ in files) - max_bytes
    removed = 0
    for _, size, path in files:
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
        removed += 1
    return removed


def _sized(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """The files under a folder with time of change and size; one that goes meanwhile is left out."""
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                yield found.st_mtime, found.st_size, path
