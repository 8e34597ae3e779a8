"""A date's records as windows: made again only if the records, or what the windows depend on, have changed."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fingerpost.category import CategoryTable, Key
from fingerpost.features.definition import schema_hash
from fingerpost.features.partitions import (
    bounds_us,
    counts_from_json,
    counts_to_json,
    input_files,
    manifest,
    read_manifest,
    write_manifest,
)
from fingerpost.features.windows import build_windows, category_counts, loads_table, windows_table
from fingerpost.lake import partition, write_atomically, write_text_atomically
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, Column
from fingerpost.schemas import arrow_schema

_RECORD_COLUMNS = [
    *("time", "service", "host", "method", "route", "status", "bytes_in", "auth", "user_agent_class", "region"),
    *("duration_s", "service_time_s", "inflight", "cpu_s", "cpu_attributed", "mem_bytes"),
]


@dataclass(frozen=True)
class FeatureSettings:
    """What features depend on, beside the records.

    Args:
        window_s, halflife_s: seconds.
        shift_s: windows begin this much later than at multiples of their length, and all times are told as if they
            did not: other windows over the same records, to learn from.
        max_categories, min_category_requests, route_templates: of `fit_categories`.
        category_drift: new categories are adopted when at least this share of all requests would be in another one
            than now.
    """

    window_s: float
    halflife_s: float
    max_categories: int
    min_category_requests: int
    route_templates: tuple[str, ...] = ()
    shift_s: float = 0.0
    category_drift: float = 0.05


def count_categories(lake: Path, target: Path, service: str, day: str) -> list[tuple[Key, int]]:
    """Requests of each finest category on a date; counted again only if its records changed."""
    folder = partition(target, "counts", service, day)
    wanted = manifest(lake, service, day, 1.0, {})
    if read_manifest(folder) != wanted:
        requests = _load(lake, "requests", service, day, (1.0, 0.0), REQUEST_RECORD, _RECORD_COLUMNS[:10])
        write_text_atomically(folder / "counts.json", counts_to_json(category_counts(requests)))
        write_manifest(folder, wanted)
    return counts_from_json((folder / "counts.json").read_text())


def make_windows(
    lake: Path, target: Path, service: str, day: str, table: CategoryTable, settings: FeatureSettings
) -> bool:
    """Makes the windows of a date, if they are not what its records would give; tells whether it did."""
    folder = partition(target, "windows", service, day)
    depends = {
        "window_s": str(settings.window_s),
        "categories": table.version,
        "schema_hash": schema_hash(),
        "shift_s": str(settings.shift_s),
    }
    shift_s = settings.shift_s
    wanted = manifest(lake, service, day, settings.window_s, depends, shift_s)
    if read_manifest(folder) == wanted:
        return False
    span = (settings.window_s, shift_s)
    requests = _load(lake, "requests", service, day, span, REQUEST_RECORD, _RECORD_COLUMNS)
    samples = _load(lake, "samples", service, day, span, HOST_SAMPLE, [each.name for each in HOST_SAMPLE])
    for frame in (requests, samples):
        frame["time"] = frame["time"] - pd.Timedelta(seconds=shift_s)
    windowed = build_windows(requests, samples, table, settings.window_s)
    write_table(loads_table(windowed), {}, partition(target, "loads", service, day) / "loads.parquet")
    write_table(
        windows_table(windowed, service, settings.window_s), {"schema_hash": schema_hash()}, folder / "windows.parquet"
    )
    # What was replayed from the windows before is out of date from here on.
    (partition(target, "history", service, day) / "history.npz").unlink(missing_ok=True)
    write_manifest(folder, wanted)
    return True


def names_of(target: Path, service: str, day: str) -> tuple[set[str], set[str]]:
    """Hosts and categories of a date's windows and loads."""
    windows = pq.read_table(
        partition(target, "windows", service, day) / "windows.parquet", columns=["host", "category"], partitioning=None
    )
    loads = pq.read_table(
        partition(target, "loads", service, day) / "loads.parquet", columns=["host"], partitioning=None
    )
    hosts = {*windows.column("host").unique().to_pylist(), *loads.column("host").unique().to_pylist()}
    return hosts, set(windows.column("category").unique().to_pylist())


def _load(
    lake: Path,
    kind: str,
    service: str,
    day: str,
    span: tuple[float, float],
    columns: tuple[Column, ...],
    names: list[str],
) -> pd.DataFrame:
    """The records whose windows begin on a date; `span` is the windows' length and shift, seconds."""
    files = [str(path) for path in input_files(lake, kind, service, day, *span)]
    schema = arrow_schema(columns)
    if not files:
        return schema.empty_table().select(names).to_pandas()
    low, high = (pa.scalar(edge, pa.timestamp("us", tz="UTC")) for edge in bounds_us(day, *span))
    wanted = (ds.field("time") >= low) & (ds.field("time") < high)
    table = ds.dataset(files, schema=schema, format="parquet").to_table(columns=names, filter=wanted)
    # In order of time: `last seen` must not depend on how files happen to be listed.
    return table.sort_by("time").to_pandas()


def write_table(table: pa.Table, metadata: dict[str, str], path: Path) -> None:
    """Writes a Parquet file whole or not at all, with metadata."""
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    write_atomically(path, partial(pq.write_table, table, compression="zstd"))
