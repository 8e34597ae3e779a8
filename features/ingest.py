"""Ingest: batches from the inbox, checked row by row, into the lake; what is refused goes beside it, counted.

An agent may replace a batch that waits by a longer one of the same name. So a batch is taken out of its agent's reach,
under another name, before it is read: what is removed in the end is what was read.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fingerpost.clock import US
from fingerpost.features.maintenance import was_merged
from fingerpost.lake import (
    ENDED,
    INBOX,
    QUARANTINE,
    TAKEN,
    batch_name,
    date_of,
    parquet_files,
    partition,
    remove_left_over,
    service_folder,
    take_batch,
    write_table,
    write_text_atomically,
)
from fingerpost.locks import locked
from fingerpost.records import (
    EVENT,
    FINGERPRINT,
    HOST_SAMPLE,
    REPORTED_KEY,
    REPORTED_LOAD,
    REPORTED_WINDOW,
    REQUEST_RECORD,
    Column,
)
from fingerpost.schemas import arrow_schema, refusals

_KINDS: dict[str, tuple[Column, ...]] = {
    "samples": HOST_SAMPLE,
    "reported_windows": REPORTED_WINDOW,
    "reported_loads": REPORTED_LOAD,
    "reported_keys": REPORTED_KEY,
    "requests": REQUEST_RECORD,
    "fingerprints": FINGERPRINT,
    "events": EVENT,
}
# What makes a host known; all else of an unknown host is refused.
_FIRST = ("samples", "reported_windows", "reported_loads")
# A deploy of a host may be told before the host serves.
_OF_ANY_HOST = ("events",)
# Where a kind's good rows are counted.
_COUNTED = {
    "samples": "host_samples",
    "requests": "request_records",
    "reported_windows": "windows",
    "fingerprints": "fingerprint_cells",
}
_ONE_AT_A_TIME_S = 600.0
_MAX_KNOWN_HOSTS = 10_000
# Records of a host travel ahead of its first window, and by another way: those of a host that is not known wait for it.
_UNKNOWN_WAIT_US = 120 * US
# What the clock stamped just before it was set back lies in the future until that time has come again.
_AHEAD_WAIT_US = 600 * US


@dataclass
class IngestReport:
    """What one ingest did; `refused` counts rows, `refused_files` whole files, both by reason."""

    files: int = 0
    request_records: int = 0
    host_samples: int = 0
    windows: int = 0
    fingerprint_cells: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    refused_files: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "refused": dict(self.refused), "refused_files": dict(self.refused_files)}


def ingest(lake: Path, service: str, clock_skew_s: float, max_age_s: float, now_s: float | None = None) -> IngestReport:
    """Takes every batch of one service from the inbox into the lake. Killed and run again, it ends the same.

    Good rows go to the folder of their kind under their own date; refused rows and unreadable files
    to `quarantine/` with the reason. A batch is removed only when both are written, and keeps its name. Where one has
    records of the last two minutes of a host that no sample or window has told of yet, it waits for the next ingest.
    So does one with times ahead of the clock by ten minutes or less, which a clock that was set back leaves behind.
    Temporary files of processes that were killed while they wrote are removed from the inbox after an hour.

    Args:
        clock_skew_s: how far in the future a time may lie.
        max_age_s: how old a time may be.
        now_s: the present, seconds since 1970; None: the clock's.

    Raises:
        FingerpostError: another ingest of the service goes on for more than ten minutes.
        OSError: the lake cannot be written; what is not in it yet is taken up by the next ingest.
    """
    now = time.time() if now_s is None else now_s
    bounds = (int((now - max_age_s) * US), int((now + clock_skew_s) * US))
    report = IngestReport()
    # Of two at a time, one that was slow could put a batch's first version over its longer second one.
    with locked(lake / ".locks" / f"service={service}.ingest.lock", _ONE_AT_A_TIME_S):
        # All else is listed before samples are read, so that the samples sent before them are surely in.
        waiting = {kind: _waiting(lake, kind, service) for kind in _KINDS if kind not in _FIRST}
        for kind in _FIRST:
            for batch, name in _taken(_waiting(lake, kind, service)):
                _ingest_batch(lake, kind, service, batch, name, bounds, None, report)
        hosts = known_hosts(lake, service)
        for kind, batches in waiting.items():
            for batch, name in _taken(batches):
                known = None if kind in _OF_ANY_HOST else hosts
                _ingest_batch(lake, kind, service, batch, name, bounds, known, report)
        for kind in _KINDS:
            remove_left_over(service_folder(lake / INBOX, kind, service))
    return report


def _waiting(lake: Path, kind: str, service: str) -> list[Path]:
    """The batches of one kind; first those that an ingest had taken which was then killed."""
    folder = service_folder(lake / INBOX, kind, service)
    return [*sorted(folder.rglob(f".*{TAKEN}")), *parquet_files(folder)]


def _taken(waiting: list[Path]) -> Iterator[tuple[Path, str]]:
    """The batches as files that no agent can reach any more, each with the name that it had."""
    for path in waiting:
        taken = take_batch(path)
        if taken is not None:
            yield taken, batch_name(taken)


def _ingest_batch(
    lake: Path,
    kind: str,
    service: str,
    batch: Path,
    name: str,
    bounds: tuple[int, int],
    hosts: frozenset[str] | None,
    report: IngestReport,
) -> None:
    columns = _KINDS[kind]
    try:
        table = _read(batch, columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        report.files += 1
        report.refused_files[_refuse_file(lake, kind, service, batch, name, error)] += 1
        return
    if _is_ahead(table, bounds[1]) or (hosts is not None and _is_early(table, hosts, bounds[1])):
        return
    report.files += 1
    allowed = {"service": ("mismatch", frozenset({service})), **({} if hosts is None else {"host": ("unknown", hosts)})}
    reasons = refusals(table, columns, *bounds, allowed)
    good = table.filter(pa.array([reason is None for reason in reasons]))
    bad = table.filter(pa.array([reason is not None for reason in reasons]))
    named = [reason for reason in reasons if reason is not None]
    if named:
        report.refused.update(named)
        bad = bad.append_column("reason", pa.array(named, pa.string()))
        target = partition(lake / QUARANTINE, kind, service, date_of(bounds[1])) / name
        write_table(target, bad)
    for date, rows in by_date(good, ended=kind in ENDED):
        if was_merged(partition(lake, kind, service, date), name):
            continue
        write_table(partition(lake, kind, service, date) / name, rows)
    if kind in _FIRST:
        remember_hosts(lake, service, good.column("host").unique().to_pylist())
    counted = _COUNTED.get(kind)
    if counted is not None:
        setattr(report, counted, getattr(report, counted) + good.num_rows)
    batch.unlink()


def _is_ahead(table: pa.Table, latest_us: int) -> bool:
    """Whether the time of some rows will come soon."""
    times = table.column("time").cast(pa.int64())
    soon = pc.and_(pc.greater(times, latest_us), pc.less_equal(times, latest_us + _AHEAD_WAIT_US))
    return bool(pc.any(soon).as_py())


def _is_early(table: pa.Table, hosts: frozenset[str], latest_us: int) -> bool:
    """Whether rows are of hosts that may be known soon."""
    unknown = pc.invert(pc.is_in(table.column("host"), pa.array(sorted(hosts), pa.string())))
    times = table.filter(unknown).column("time").cast(pa.int64())
    recent = pc.and_(pc.greater(times, latest_us - _UNKNOWN_WAIT_US), pc.less_equal(times, latest_us))
    return bool(pc.any(recent).as_py())


def _read(batch: Path, columns: tuple[Column, ...]) -> pa.Table:
    """Reads a batch as our columns; optional ones that are absent are null, others are dropped.

    Raises:
        ValueError: a required column is missing, or a column's type does not fit.
    """
    table = pq.ParquetFile(batch).read()
    schema = arrow_schema(columns)
    arrays = []
    for column, target in zip(columns, schema, strict=True):
        if column.name not in table.column_names:
            if column.required:
                raise ValueError(f"column {column.name!r} is missing")
            arrays.append(pa.nulls(table.num_rows, target.type))
            continue
        try:
            arrays.append(table.column(column.name).cast(target.type))
        except pa.ArrowException as error:
            raise ValueError(f"column {column.name!r} is {table.schema.field(column.name).type}") from error
    # Rows are checked one by one, so no field may promise here that it is never null.
    return pa.table(arrays, schema=pa.schema([target.with_nullable(True) for target in schema]))


def _refuse_file(lake: Path, kind: str, service: str, batch: Path, name: str, error: Exception) -> str:
    """Sets a file aside that cannot be read, with a note; returns the reason."""
    columns = isinstance(error, ValueError) and not isinstance(error, pa.ArrowException)
    reason = "file:columns" if columns else "file:unreadable"
    folder = lake / QUARANTINE / "files" / f"service={service}" / kind
    folder.mkdir(parents=True, exist_ok=True)
    note = json.dumps({"reason": reason, "error": str(error)[:1000]})
    (folder / f"{name}.json").write_text(note)
    shutil.move(batch, folder / name)
    return reason


def by_date(table: pa.Table, ended: bool = False) -> list[tuple[str, pa.Table]]:
    """The rows of each UTC date of their `time`, with the date as `YYYY-MM-DD`.

    Args:
        ended: `time` is the end of a span: one that ends at midnight is of the date before.
    """
    times = table.column("time").to_numpy().astype("datetime64[us]")
    days = (times - np.timedelta64(int(ended), "us")).astype("datetime64[D]")
    return [(str(day), table.filter(pa.array(days == day))) for day in np.unique(days)]


def known_hosts(lake: Path, service: str) -> frozenset[str]:
    """The hosts that a good sample or window told of."""
    path = _hosts_path(lake, service)
    return frozenset(json.loads(path.read_text())) if path.exists() else frozenset()


def remember_hosts(lake: Path, service: str, hosts: list[str]) -> None:
    """Adds hosts to the known ones; past 10,000 no more are added."""
    known = known_hosts(lake, service)
    merged = sorted(known | set(hosts))
    if len(known) < len(merged) <= _MAX_KNOWN_HOSTS:
        write_text_atomically(_hosts_path(lake, service), json.dumps(merged))


def _hosts_path(lake: Path, service: str) -> Path:
    return lake / "hosts" / f"service={service}.json"
