"""Imports foreign telemetry into a lake: mapped by a TOML file, and checked row by row."""

import re
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from fingerpost.arrays import Ints
from fingerpost.clock import US
from fingerpost.errors import NoDataError
from fingerpost.features.foreign_files import column_names, numbers, plain, read_columns, table_files
from fingerpost.features.ingest import by_date
from fingerpost.features.windows import in_flight_at
from fingerpost.lake import partition, write_table
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, Column
from fingerpost.schemas import SCHEMAS, refusals

_SHIPPED = Path(__file__).parent / "mappings"
_TEXT_FIELDS = frozenset({"host", "method", "route", "auth", "user_agent_class", "region"})
REQUEST_FIELDS = _TEXT_FIELDS | {
    *("time", "start", "status", "bytes_in", "bytes_out", "duration_s", "service_time_s", "cpu_s", "inflight")
}
SAMPLE_FIELDS = frozenset(
    {*("time", "host", "cpu_util", "cores", "cores_used", "mem_bytes", "mem_limit_bytes", "mem_share")}
    | {"inflight", "slots"}
)
# When a foreign request began is known by its duration alone.
_FOREIGN_REQUEST = tuple(replace(each, required=True) if each.name == "duration_s" else each for each in REQUEST_RECORD)
_LENGTHS = frozenset({"duration_s", "service_time_s", "cpu_s"})
# Of so many rows most should be good, or the table is not read as it is meant.
_ENOUGH_ROWS = 10
_HOUR_US = 3_600_000_000
# Times are impossible further out than the span of the middle 98% of them, or an hour if that is longer.
_EDGE = 0.01
_DEFAULTS: dict[str, Any] = {
    **{"method": "CALL", "auth": "none", "user_agent_class": "service", "region": "none"},
    **{"status": 200, "bytes_in": 0, "bytes_out": 0},
}
# The memory limit of hosts of which only the share in use is known.
_NOMINAL_LIMIT = 2**30


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Checked):
    """Where one column comes from.

    Args:
        name: the foreign column, `from` in the file.
        scale: what its numbers are multiplied by to be in our unit.
        unit: of a time that is a number, since 1970.
    """

    name: str = Field(alias="from")
    scale: FiniteFloat = 1.0
    unit: Literal["s", "ms", "us", "ns"] = "us"
    optional: bool = False


class TableMapping(_Checked):
    """One table: a Parquet or CSV file, named by a pattern, and the source of each of our columns."""

    file: str
    columns: dict[str, Source]
    optional: bool = False

    def files(self, folder: Path) -> list[Path]:
        return table_files(folder, self.file)

    def fits(self, folder: Path) -> bool:
        """Whether the files are there with all columns that are needed."""
        files = self.files(folder)
        if not files:
            return self.optional
        present = column_names(files[0])
        return all(source.optional or plain(source.name) in present for source in self.columns.values())

    def read(self, folder: Path) -> pd.DataFrame:
        """The table with our names, in our units, unchecked; columns that are absent are left out."""
        parts = []
        for path in self.files(folder):
            present = column_names(path)
            chosen = {name: source for name, source in self.columns.items() if plain(source.name) in present}
            called = {name: present[plain(source.name)] for name, source in chosen.items()}
            frame = read_columns(path, sorted(set(called.values())))
            parts.append(
                pd.DataFrame({name: _converted(frame[called[name]], name, source) for name, source in chosen.items()})
            )
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


class Mapping(_Checked):
    """How to read one kind of foreign telemetry."""

    name: str
    requests: TableMapping
    samples: TableMapping | None = None

    @model_validator(mode="after")
    def _columns_are_known(self) -> Self:
        for table, fields in ((self.requests, REQUEST_FIELDS), (self.samples, SAMPLE_FIELDS)):
            if table and (unknown := sorted(set(table.columns) - fields)):
                raise ValueError(f"unknown columns {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
        given = set(self.requests.columns)
        missing = sorted({"host", "route", "duration_s"} - given)
        missing += [] if given & {"time", "start"} else ["time or start"]
        if missing:
            raise ValueError(f"[requests.columns] lacks {', '.join(missing)}")
        return self


def load_mapping(path: Path) -> Mapping:
    """Reads a mapping file.

    Raises:
        NoDataError: it does not say what it must; the message names the place.
    """
    try:
        return Mapping.model_validate({"name": path.stem, **tomllib.loads(path.read_text())})
    except ValueError as error:  # of TOML, of text, or of the model
        raise NoDataError(f"{path} is not a mapping: {error}") from error


def find_mapping(folder: Path) -> Mapping:
    """The shipped mapping whose files and columns are in a folder.

    Raises:
        NoDataError: none fits.
    """
    tried = []
    for path in sorted(_SHIPPED.glob("*.toml")):
        mapping = load_mapping(path)
        tried.append(mapping.name)
        if mapping.requests.fits(folder) and mapping.requests.files(folder):
            usable = mapping.samples is not None and mapping.samples.fits(folder)
            return mapping if usable else mapping.model_copy(update={"samples": None})
    raise NoDataError(
        f"{folder} is neither a lake (requests/service=.../) nor fits a shipped mapping ({', '.join(tried)}): "
        "say how to read it with --mapping FILE"
    )


def _converted(values: pd.Series, name: str, source: Source) -> pd.Series:
    """A foreign column in our unit, what cannot be read as null.

    Raises:
        NoDataError: numbers are no times in their unit.
    """
    if name in _TEXT_FIELDS:
        return values.astype("str").astype("category").where(values.notna())
    if name not in ("time", "start"):
        return numbers(values, lengths=name in _LENGTHS) * source.scale
    if pd.api.types.is_numeric_dtype(values):
        return _of_numbers(values, source)
    times = pd.to_datetime(values, utc=True, errors="coerce", format="mixed")
    if pd.api.types.is_datetime64_any_dtype(values):
        return times
    # Numbers among texts.
    counted = pd.to_numeric(values.where(times.isna()), errors="coerce")
    return times.where(counted.isna(), _of_numbers(counted, source)) if counted.notna().any() else times


def _of_numbers(values: pd.Series, source: Source) -> pd.Series:
    # Whole numbers beyond 64 bits, which are no times, are not taken for null by pandas itself.
    within = values.where(values.astype("float64").abs() < 2.0**63)
    times = pd.to_datetime(within, unit=source.unit, utc=True, errors="coerce")
    if values.notna().any() and not 2000 <= times.median().year < 2100:
        raise NoDataError(
            f"column {source.name!r}: {values.median():g} {source.unit} since 1970 is no time between 2000 and 2100; "
            "set its unit (s, ms, us or ns) in a mapping file and name it with --mapping"
        )
    return times


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
    frame = _requests(mapping.requests.read(folder))
    if frame.empty:
        raise NoDataError(f"no request in {folder}: its table has no rows")
    requests = _checked(frame, _FOREIGN_REQUEST, "requests", service, refused)
    if not requests.num_rows or (len(frame) >= _ENOUGH_ROWS and 2 * requests.num_rows < len(frame)):
        raise NoDataError(_most_refused(folder, len(frame), refused))
    if "inflight" not in frame:
        place = requests.schema.get_field_index("inflight")
        requests = requests.set_column(place, requests.schema.field(place), pa.array(_inflight(requests)))
    _write(requests, lake, "requests", service)
    if mapping.samples is not None and mapping.samples.files(folder):
        times = requests.column("time").cast(pa.int64()).to_numpy()
        bounds_us = (int(times.min()) - _HOUR_US, int(times.max()) + _HOUR_US)
        samples = _checked(_samples(mapping.samples.read(folder)), HOST_SAMPLE, "samples", service, refused, bounds_us)
        of_requests = pc.is_in(samples.column("host"), value_set=requests.column("host").unique())
        _write(samples.filter(of_requests), lake, "samples", service)
    return refused


def _most_refused(folder: Path, rows: int, refused: Counter[str]) -> str:
    """Says why most of the requests cannot be used, and what to do."""
    [(reason, count)] = refused.most_common(1)
    name, _, what = reason.removeprefix("requests:").partition(":")
    do = {
        "missing": "its values are not what the column should hold",
        "too_large": "is it of another unit? A mapping file gives its scale",
    }.get(what, "see docs/models.md")
    return (
        f"no good request, or too few, in {folder}: of {rows} rows {refused.total()} are refused, {count} of them for "
        f"{name}:{what}: {do} (--mapping)"
    )


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
    frame: pd.DataFrame,
    columns: tuple[Column, ...],
    kind: str,
    service: str,
    refused: Counter[str],
    bounds_us: tuple[int, int] | None = None,
) -> pa.Table:
    """The good rows as the lake's columns; the others are counted by their reasons."""
    known = frame.assign(service=service, host=frame["host"].map(host_name, na_action="ignore"))
    arrays = [_column(known.get(column.name), column, len(frame)) for column in columns]
    table = pa.table(arrays, names=[column.name for column in columns])
    times = table.column("time").drop_null().cast(pa.int64()).to_numpy()
    reasons = refusals(table, columns, *(bounds_us or plausible(times)))
    refused.update(f"{kind}:{reason}" for reason in reasons if reason)
    return table.filter(pa.array([reason is None for reason in reasons])).cast(SCHEMAS[kind])


def host_name(value: str) -> str:
    """The foreign name of a host as one that is allowed, such as `10.0.0.1-80`."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", value).lstrip("._-")[:64]


def _column(values: pd.Series | None, column: Column, rows: int) -> pa.Array:
    """A column to be checked: numbers as floats, those of whole numbers rounded; nulls where there is none."""
    if column.kind == "timestamp" and values is not None:
        return pa.Array.from_pandas(values.dt.as_unit("us"))
    stored = pa.string() if column.kind == "string" else pa.float64()
    if values is None:
        return pa.nulls(rows, stored)
    if column.kind == "int64":
        values = values.round()
    return pa.Array.from_pandas(values).cast(stored)


def plausible(times_us: Ints) -> tuple[int, int]:
    """Bounds of possible times: clocks that are years off are few, and far from the others."""
    if not times_us.size:
        return 0, 0
    low, high = np.quantile(times_us, [_EDGE, 1 - _EDGE])
    margin = max(high - low, _HOUR_US)
    return int(low - margin), int(high + margin)


def _inflight(requests: pa.Table) -> Ints:
    """Requests on the host when each was sent, from their beginnings and ends; shape (rows,)."""
    ended = requests.column("time").cast(pa.int64()).to_numpy()
    begun = ended - np.round(requests.column("duration_s").to_numpy() * US).astype(np.int64)
    hosts = requests.column("host").combine_chunks().dictionary_encode().indices.to_numpy()
    inflight = np.zeros(len(hosts), dtype=np.int64)
    for host in np.unique(hosts):
        of = hosts == host
        inflight[of] = in_flight_at(begun[of], begun[of], ended[of])
    return inflight


def _write(table: pa.Table, lake: Path, kind: str, service: str) -> None:
    for day, rows in by_date(table):
        write_table(partition(lake, kind, service, day) / "imported.parquet", rows)
