"""Foreign telemetry into a lake of ours: mapped, checked, and what is impossible counted and left out."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fingerpost.errors import NoDataError
from fingerpost.features.mapping import Mapping
from fingerpost.lake import partition, write_atomically
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, Column
from fingerpost.schemas import arrow_schema

_HOUR_US = 3_600_000_000
# Times are impossible further out than the span of the middle 98% of them, or an hour if that is longer.
_EDGE = 0.01
_DEFAULTS: dict[str, Any] = {
    **{"method": "CALL", "auth": "none", "user_agent_class": "service", "region": "none"},
    **{"status": 200, "bytes_in": 0, "bytes_out": 0},
}
# The memory limit of hosts of which only the share in use is known.
_NOMINAL_LIMIT = 2**30


def import_telemetry(folder: Path, mapping: Mapping, lake: Path, service: str) -> Counter[str]:
    """Writes the requests and host samples of a foreign folder into a lake.

    Returns:
        Refused rows, counted by `requests:<column>:<what>` or `samples:<column>:<what>`.

    Raises:
        NoDataError: the files are not there, lack columns, or hold no good request.
    """
    if not mapping.requests.files(folder) or not mapping.requests.fits(folder):
        needed = ", ".join(source.name for source in mapping.requests.columns.values() if not source.optional)
        raise NoDataError(f"{folder} has no {mapping.requests.file} with the columns {needed}")
    refused: Counter[str] = Counter()
    requests = _checked(_requests(mapping.requests.read(folder)), REQUEST_RECORD, "requests", refused, None)
    if requests.empty:
        raise NoDataError(f"no good request in {folder}: {dict(refused)}")
    if "inflight" not in requests:
        requests["inflight"] = _inflight(requests)
    _write(requests, REQUEST_RECORD, lake, "requests", service)
    if mapping.samples is not None and mapping.samples.files(folder):
        micros = _micros(requests["time"])
        bounds = (int(micros.min()) - _HOUR_US, int(micros.max()) + _HOUR_US)
        samples = _checked(_samples(mapping.samples.read(folder)), HOST_SAMPLE, "samples", refused, bounds)
        _write(samples[samples["host"].isin(set(requests["host"].unique()))], HOST_SAMPLE, lake, "samples", service)
    return refused


def _requests(frame: pd.DataFrame) -> pd.DataFrame:
    """Requests by their end, with what is not known at its default."""
    if "time" not in frame:
        length = pd.to_timedelta(frame["duration_s"].where(frame["duration_s"].between(0, 1e6)), unit="s")
        frame["time"] = frame["start"] + length.dt.as_unit("us")
    frame = frame.drop(columns=["start"], errors="ignore")
    for name, value in _DEFAULTS.items():
        if name not in frame:
            frame[name] = value
    return frame


def _samples(frame: pd.DataFrame) -> pd.DataFrame:
    if "cores" not in frame:
        frame["cores"] = 1.0
        if "cores_used" in frame:
            # Cores in use over their share: noisy where little is in use, so the host's median stands for all.
            each = frame["cores_used"] / frame["cpu_util"].where(frame["cpu_util"] > 0)
            frame["cores"] = (
                each.groupby(frame["host"], observed=True).transform("median").clip(0.001, 4096).fillna(1.0)
            )
    if "mem_bytes" not in frame:
        frame["mem_bytes"] = frame.get("mem_share", pd.Series(0.0, frame.index)) * _NOMINAL_LIMIT
    if "mem_limit_bytes" not in frame:
        limit = frame["mem_bytes"] / frame.get("mem_share", pd.Series(np.nan, frame.index))
        frame["mem_limit_bytes"] = limit.where(np.isfinite(limit) & (limit >= 1), _NOMINAL_LIMIT).round()
    frame["mem_bytes"] = frame["mem_bytes"].round()
    frame["cpu_util"] = frame["cpu_util"].where(~frame["cpu_util"].between(1.0, 2.0), 1.0)
    return frame.drop(columns=["cores_used", "mem_share"], errors="ignore")


def _checked(
    frame: pd.DataFrame, columns: tuple[Column, ...], kind: str, refused: Counter[str], bounds: tuple[int, int] | None
) -> pd.DataFrame:
    """The rows within bounds; the others are counted by the first reason that applies, in the order of the columns."""
    good = np.ones(len(frame), dtype=bool)

    def refuse(where: NDArray[np.bool_], reason: str) -> None:
        nonlocal good
        count = int((good & where).sum())
        if count:
            refused[f"{kind}:{reason}"] += count
            good &= ~where

    for column in columns:
        if column.name not in frame:
            continue
        values = frame[column.name]
        if column.required or column.name == "duration_s":
            refuse(values.isna().to_numpy(), f"{column.name}:missing")
        if column.kind == "timestamp":
            micros = _micros(values)
            low, high = bounds or _plausible(micros[good])
            refuse(micros < low, f"{column.name}:too_old")
            refuse(micros > high, f"{column.name}:future")
        elif column.kind != "string":
            numbers = values.to_numpy(np.float64)
            refuse(np.isinf(numbers), f"{column.name}:not_finite")
            if column.low is not None:
                refuse(numbers < column.low, f"{column.name}:too_small")
            if column.high is not None:
                refuse(numbers > column.high, f"{column.name}:too_large")
    return frame[good].reset_index(drop=True)


def _plausible(micros: NDArray[np.int64]) -> tuple[int, int]:
    """Bounds of possible times: clocks that are years off are few, and far from the others."""
    if not micros.size:
        return 0, 0
    low, high = np.quantile(micros, [_EDGE, 1 - _EDGE])
    margin = max(high - low, _HOUR_US)
    return int(low - margin), int(high + margin)


def _inflight(requests: pd.DataFrame) -> NDArray[np.float64]:
    """Requests on the host when each was sent, from their beginnings and ends."""
    end = _micros(requests["time"])
    start = end - np.round(requests["duration_s"].to_numpy(np.float64) * 1e6).astype(np.int64)
    inflight = np.zeros(len(requests))
    codes = pd.factorize(requests["host"])[0]
    for code in range(codes.max(initial=-1) + 1):
        rows = np.flatnonzero(codes == code)
        begun = np.searchsorted(np.sort(start[rows]), start[rows], side="left")
        inflight[rows] = np.maximum(begun - np.searchsorted(np.sort(end[rows]), start[rows], side="right"), 0)
    return inflight


def _micros(times: pd.Series) -> NDArray[np.int64]:
    return times.dt.as_unit("us").dt.tz_localize(None).to_numpy(dtype="datetime64[us]").view(np.int64)


def _write(frame: pd.DataFrame, columns: tuple[Column, ...], lake: Path, kind: str, service: str) -> None:
    schema = arrow_schema(columns)
    days = frame["time"].dt.strftime("%Y-%m-%d") if len(frame) > 0 else frame["time"].astype("str")
    for day, rows in frame.groupby(days):
        arrays = []
        for field in schema:
            if field.name == "service":
                arrays.append(pa.array([service] * len(rows), pa.string()))
            elif field.name in rows:
                arrays.append(pa.Array.from_pandas(rows[field.name]).cast(field.type, safe=False))
            else:
                arrays.append(pa.nulls(len(rows), field.type))
        table = pa.table(arrays, schema=schema)
        write_atomically(partition(lake, kind, service, str(day)) / "imported.parquet", partial(pq.write_table, table))
