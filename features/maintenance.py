"""Maintenance of the lake: compaction and retention.

Compaction makes one file of the many small ones of a past date, at one moment, and changes nothing else.

The merged date is made beside the lake and changes places with the one that is there in a single step of the kernel:
whoever lists the folder sees the old files or the new one. Killed before, the lake is as it was; killed after, what is
left over is only the old files, out of the way. Those who read or write records hold the lake's lock together with
others like them; compaction holds it alone.
"""

import ctypes
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fingerpost.errors import FingerpostError
from fingerpost.features.prepare import file_marks, read_manifest, write_manifest
from fingerpost.lake import (
    INBOX,
    LIVE_ERRORS,
    QUARANTINE,
    dates,
    parquet_files,
    partition,
    remove_oldest,
    service_folder,
)
from fingerpost.locks import locked

COMPACTED = ("requests", "samples", "reported_windows", "reported_loads", "reported_keys", "fingerprints", "events")
KEPT_BY_AGE = (*COMPACTED, "counts", "windows", "loads", "features", "history", LIVE_ERRORS)
MERGED = "merged.parquet"
_NAMES = ".merged.npy"
_ROWS = 200_000
Hashes = NDArray[np.uint64]
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass
class CompactionReport:
    """How many partitions were merged, out of how many files."""

    partitions: int = 0
    files: int = 0


def lake_lock(lake: Path, service: str, alone: bool = False, timeout_s: float = 600.0) -> AbstractContextManager[None]:
    """The lock of a service's records: shared by who reads or writes them, `alone` for who rearranges them."""
    return locked(lake / ".locks" / f"service={service}.lock", timeout_s, shared=not alone)


def compact(lake: Path, service: str, now_s: float | None = None, quiet_s: float = 86_400.0) -> CompactionReport:
    """Merges every past date of a service that has more than one file, and has had no new one for a while.

    A date whose batches still wait in the inbox is left alone. Killed and run again, or run twice, it ends the same.

    Args:
        now_s: the present, seconds since 1970; None: the clock's.
        quiet_s: how long a date's files must have been as they are, seconds.

    Raises:
        FingerpostError: the lake is in use for longer than ten minutes, or this system cannot swap folders.
    """
    now = time.time() if now_s is None else now_s
    today = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
    report = CompactionReport()
    with lake_lock(lake, service, alone=True):
        shutil.rmtree(_aside(lake, service), ignore_errors=True)
    for kind in COMPACTED:
        waiting = {path.name for path in parquet_files(service_folder(lake / INBOX, kind, service))}
        for day in dates(lake, kind, service):
            files = list(parquet_files(partition(lake, kind, service, day)))
            if day >= today or len(files) < 2 or any(path.name in waiting for path in files):
                continue
            if max(path.stat().st_mtime for path in files) > now - quiet_s:
                continue
            with lake_lock(lake, service, alone=True):
                report.files += _merge(lake, kind, service, day)
            report.partitions += 1
    return report


def _merge(lake: Path, kind: str, service: str, day: str) -> int:
    """Merges one date; the caller holds the lock. Returns how many files there were."""
    folder, aside = partition(lake, kind, service, day), _aside(lake, service) / f"{kind}-{day}"
    files = list(parquet_files(folder))
    aside.mkdir(parents=True, exist_ok=True)
    _write_merged(files, aside / MERGED)
    save_names(aside, np.concatenate([load_names(folder), hash_names([path.name for path in files])]))
    old = file_marks(lake, files)
    _exchange(aside, folder)
    _update_manifests(lake, service, day, old, file_marks(lake, [folder / MERGED]))
    shutil.rmtree(aside)
    return len(files)


def _aside(lake: Path, service: str) -> Path:
    return lake / ".compacting" / f"service={service}"


def _write_merged(files: list[Path], path: Path) -> None:
    """Writes all rows of the files, in their order, in groups of many; memory is bounded by a few groups."""
    schema = pa.unify_schemas([pq.read_schema(each) for each in files])
    ds.write_dataset(
        ds.dataset([str(each) for each in files], schema=schema, format="parquet"),
        path.parent,
        basename_template="part-{i}.parquet",
        format="parquet",
        file_options=ds.ParquetFileFormat().make_write_options(compression="zstd"),
        min_rows_per_group=_ROWS,
        max_rows_per_group=_ROWS,
        preserve_order=True,
        existing_data_behavior="overwrite_or_ignore",
    )
    (path.parent / "part-0.parquet").rename(path)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _exchange(one: Path, other: Path) -> None:
    """Swaps two folders in one step.

    Raises:
        FingerpostError: this system cannot.
    """
    if sys.platform != "linux":
        raise FingerpostError("compaction swaps folders in one step, which only Linux does")
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done != 0:
        code = ctypes.get_errno()
        raise FingerpostError(f"the file system of {other} cannot swap folders: {os.strerror(code)}")


def _update_manifests(lake: Path, service: str, day: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Says of what was made from the old files that it was made from the new one: the rows are the same.

    Where this is not reached, the features step makes the date again, which comes to the same.
    """
    before = str(date.fromisoformat(day) - timedelta(days=1))
    for folder in (partition(lake, kind, service, each) for kind in ("counts", "windows") for each in (before, day)):
        made_from = read_manifest(folder)
        if made_from is not None and all(made_from["inputs"].get(name) == mark for name, mark in old.items()):
            kept = {name: mark for name, mark in made_from["inputs"].items() if name not in old}
            write_manifest(folder, {**made_from, "inputs": {**kept, **new}})


def hash_names(names: Sequence[str]) -> Hashes:
    """64 bits of every file name, in order; a file that is itself merged is none."""
    digests = (hashlib.sha256(name.encode()).digest()[:8] for name in names if name != MERGED)
    return np.unique(np.array([int.from_bytes(each, "big") for each in digests], dtype=np.uint64))


def save_names(folder: Path, hashes: Hashes) -> None:
    """Keeps the hashes in the folder of the date."""
    np.save(folder / _NAMES, np.unique(hashes), allow_pickle=False)


def load_names(folder: Path) -> Hashes:
    """The hashes of a date's merged batches; none where nothing was merged."""
    path = folder / _NAMES
    return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else np.array([], dtype=np.uint64)


def was_merged(folder: Path, name: str) -> bool:
    """Whether a batch is already in the merged file of a date."""
    known, [wanted] = load_names(folder), hash_names([name])
    place = int(np.searchsorted(known, wanted))
    return place < len(known) and bool(known[place] == wanted)


def apply_retention(
    lake: Path, service: str, max_age_days: float, max_quarantine_mb: float, now_s: float | None = None
) -> int:
    """Removes the service's partitions that lie wholly before `max_age_days` ago, and trims the quarantine.

    Returns:
        How many partitions and files went.
    """
    now = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC)
    oldest = (now - timedelta(days=max_age_days)).strftime("%Y-%m-%d")
    old = [(kind, day) for kind in KEPT_BY_AGE for day in dates(lake, kind, service) if day < oldest]
    for kind, day in old:
        shutil.rmtree(partition(lake, kind, service, day))
    return len(old) + remove_oldest(lake / QUARANTINE, max_quarantine_mb * 2**20)
