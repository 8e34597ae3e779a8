"""Lands the windows that reports told in the lake's inbox, as Parquet, those of all hosts of a service together."""

import contextlib
import io
import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fingerpost.category import SEPARATOR
from fingerpost.clock import clock_us
from fingerpost.errors import RefusedError
from fingerpost.schemas import SCHEMAS
from fingerpost.serving.landing import FullError, Landing
from fingerpost.serving.report_log import ReportLog
from fingerpost.serving.store import ReportStore, StoreError
from fingerpost.window_report import ANY_TIME, COUNTS, LOAD_COLUMNS, WINDOW_COLUMNS, WindowReport, unpack

logger = logging.getLogger(__name__)
EVERY_S = 5.0
# Another process takes over from one that has landed nothing for this long.
_HOLD_US = 60_000_000
# Reports in one file: some 200,000 rows of 100 categories.
_MOST = 2000


class WindowLanding:
    """Lands every window once, from the store's log, by one thread.

    Of all processes that share the store one lands a service's windows. A file is named by the first change in it: one
    that is landed again, after a crash, replaces itself.
    """

    def __init__(self, store: ReportStore, log: ReportLog, landing: Landing) -> None:
        self._store, self._log, self._landing = store, log, landing
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="landing", daemon=True)
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Lands what waits, then ends."""
        self._stopping.set()
        self._thread.join(10)

    def land(self) -> int:
        """Lands what waits now; returns how many reports were looked at.

        Raises:
            StoreError: the store cannot be used.
            FullError, OSError: the inbox is full, or cannot be written.
        """
        epoch, count = self._store.mark().epoch, 0
        for service in self._log.unlanded():
            after = self._log.claim(service, clock_us(), _HOLD_US)
            while after is not None and (rows := self._store.changed(service, after, _MOST)):
                reports = [report for row in rows if (report := _readable(row.packed)) is not None]
                for kind, table in tables_of(reports).items():
                    if table.num_rows:
                        self._landing.write(kind, service, f"{epoch[:12]}-{rows[0].change:016d}", _parquet(table))
                after, count = rows[-1].change, count + len(rows)
                self._log.note_landed(service, after)
        return count

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            self._land_or_tell()
        self._land_or_tell()

    def _land_or_tell(self) -> None:
        problem = None
        try:
            self.land()
        except (StoreError, FullError, OSError, pa.ArrowException) as error:
            problem = f"windows are not landed in the lake: {error}"
        if problem and problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem


def tables_of(reports: Sequence[WindowReport]) -> dict[str, pa.Table]:
    """The rows of reports whose windows are to be landed, by the lake's kind; see `fingerpost.records`."""
    landed = [report for report in reports if report.landed]
    ended = [report for report in landed if report.end_us]
    return {
        "reported_windows": _windows([report for report in ended if report.categories]),
        "reported_loads": _loads([report for report in ended if report.load is not None]),
        "reported_keys": _keys([report for report in landed if report.keys]),
    }


def _windows(reports: Sequence[WindowReport]) -> pa.Table:
    rows = np.array([len(report.categories) for report in reports], dtype=np.int64)
    cells = [report.windows for report in reports]
    matrix = np.concatenate(cells) if cells else np.zeros((0, len(WINDOW_COLUMNS)), dtype=np.float32)
    told = dict(zip(WINDOW_COLUMNS, matrix.astype(np.float64).T, strict=True))
    seconds = np.repeat([report.window_s for report in reports], rows)
    columns: dict[str, Any] = {
        **{name: values.astype(np.int64) if name in COUNTS else values for name, values in told.items()},
        **_about(reports, rows, "end_us"),
        "category": [name for report in reports for name in report.categories],
        "window_s": seconds,
        "rate_rps": told["requests"] / np.where(seconds > 0, seconds, 1.0),
        "mem_bytes": told["mem_mean_bytes"] * told["requests"],
    }
    return _table("reported_windows", columns)


def _loads(reports: Sequence[WindowReport]) -> pa.Table:
    values = np.array([report.load for report in reports], dtype=np.float64).reshape(-1, len(LOAD_COLUMNS))
    told = dict(zip(LOAD_COLUMNS, values.T, strict=True))
    return _table("reported_loads", {**told, **_about(reports, np.ones(len(reports), dtype=np.int64), "end_us")})


def _keys(reports: Sequence[WindowReport]) -> pa.Table:
    rows = np.array([len(report.keys) for report in reports], dtype=np.int64)
    counted = [each for report in reports for each in report.keys]
    columns = {
        **_about(reports, rows, "time_us"),
        "key": [SEPARATOR.join(key) for key, _ in counted],
        "requests": [count for _, count in counted],
    }
    return _table("reported_keys", columns)


def _about(reports: Sequence[WindowReport], rows: Any, time: str) -> dict[str, Any]:
    names = ("service", "host", "source", "reporter")
    texts = {name: np.repeat(np.array([getattr(each, name) for each in reports], dtype=object), rows) for name in names}
    return {"time": np.repeat(np.array([getattr(each, time) for each in reports], dtype=np.int64), rows), **texts}


def _table(kind: str, columns: dict[str, Any]) -> pa.Table:
    schema = SCHEMAS[kind]
    arrays = []
    for field in schema:
        values = columns[field.name]
        array = pa.array(values, pa.int64() if pa.types.is_timestamp(field.type) else field.type, from_pandas=True)
        arrays.append(array.cast(field.type))
    return pa.table(arrays, schema=schema)


def _parquet(table: pa.Table) -> memoryview:
    made = io.BytesIO()
    pq.write_table(table, made, compression="zstd")
    return made.getbuffer()


def _readable(packed: bytes) -> WindowReport | None:
    """A stored report; None of another version's, which an upgraded engine may find in its store."""
    with contextlib.suppress(RefusedError):
        return unpack(packed, *ANY_TIME)
    return None
