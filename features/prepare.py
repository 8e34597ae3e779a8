"""A date's windows, as reported or made of its records: again only if these, or what else they depend on, changed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from fingerpost.category import CategoryTable, Key
from fingerpost.clock import US
from fingerpost.features.definition import schema_hash
from fingerpost.features.reported import read_reported, reported_counts
from fingerpost.features.thinning import RECENT_HOURS
from fingerpost.features.windows import CATEGORY_COLUMNS, build_windows, category_counts, loads_table, windows_table
from fingerpost.lake import parquet_files, partition, read, write_table, write_text_atomically

# What windows are made of.
INPUTS = ("requests", "samples", "reported_windows", "reported_loads", "reported_keys")
_DAY_S = 86_400
_ORDER = [("time", "ascending"), ("host", "ascending"), ("category", "ascending")]
# How a partition came about: `inputs`, of `file_marks`, and `settings`, what else it depends on.
Manifest = dict[str, dict[str, Any]]
_RECORD_COLUMNS = (
    *("time", "host", *CATEGORY_COLUMNS, "status"),
    *("duration_s", "service_time_s", "inflight", "cpu_s", "cpu_attributed", "mem_bytes"),
)


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
        max_rows, recent_hours: about how many training rows to keep of each date, and about as many of the latest
            hours; None: all.
        calendar, holidays: of `fingerpost.features.outside.outside_of`.
    """

    window_s: float
    halflife_s: float
    max_categories: int
    min_category_requests: int
    route_templates: tuple[str, ...] = ()
    shift_s: float = 0.0
    category_drift: float = 0.05
    max_rows: int | None = None
    recent_hours: float = RECENT_HOURS
    calendar: Path | None = None
    holidays: str = ""


def count_categories(lake: Path, target: Path, service: str, day: str) -> list[tuple[Key, int]]:
    """Requests of each finest category on a date; counted again only if its records or reports changed."""
    folder = partition(target, "counts", service, day)
    wanted = _manifest(lake, service, day, 1.0, {})
    if read_manifest(folder) != wanted:
        bounds_us = _bounds_us(day, 1.0)
        records = read(lake, "requests", service, *bounds_us, ("host", *CATEGORY_COLUMNS)).to_pandas()
        keys = read(lake, "reported_keys", service, *bounds_us, on=[day]).to_pandas()
        # Records of a host that reports are a sample, and its requests are in its keys.
        records = records[~records["host"].isin(keys["host"])]
        counted = [[list(key), count] for key, count in (*category_counts(records), *reported_counts(keys))]
        write_text_atomically(folder / "counts.json", json.dumps(counted))
        write_manifest(folder, wanted)
    return [(tuple(key), int(count)) for key, count in json.loads((folder / "counts.json").read_text())]


def make_windows(
    lake: Path, target: Path, service: str, day: str, table: CategoryTable, settings: FeatureSettings
) -> bool:
    """Makes the windows of a date, if they are not what its records and reports would give; tells whether it did.

    Windows of a host that reports them are those that it reported; of other hosts they are made of their records.
    """
    folder = partition(target, "windows", service, day)
    depends = {
        "window_s": str(settings.window_s),
        "categories": table.version,
        "schema_hash": schema_hash(),
        "shift_s": str(settings.shift_s),
    }
    wanted = _manifest(lake, service, day, settings.window_s, depends, settings.shift_s)
    if read_manifest(folder) == wanted:
        return False
    bounds_us = _bounds_us(day, settings.window_s, settings.shift_s)
    # In order of time: `last seen` must not depend on how files happen to be listed.
    requests = read(lake, "requests", service, *bounds_us, _RECORD_COLUMNS).to_pandas()
    samples = read(lake, "samples", service, *bounds_us).to_pandas()
    for frame in (requests, samples):
        frame["time"] = frame["time"] - pd.Timedelta(seconds=settings.shift_s)
    reported = read_reported(lake, service, _dates_read(day, settings.window_s), bounds_us, settings.window_s)
    hosts = reported.hosts()
    requests, samples = (frame[~frame["host"].isin(hosts)] for frame in (requests, samples))
    windowed = build_windows(requests, samples, table, settings.window_s)
    loads = pa.concat_tables([loads_table(windowed), reported.loads()]).sort_by(_ORDER[:2])
    write_table(partition(target, "loads", service, day) / "loads.parquet", loads)
    windows = windows_table(windowed, service, settings.window_s)
    if not settings.shift_s:  # shifted windows over the same requests can be made of records alone
        windows = pa.concat_tables([windows, reported.windows(table)]).sort_by(_ORDER)
    write_table(folder / "windows.parquet", windows, {"schema_hash": schema_hash()})
    # What was replayed from the windows before is out of date from here on.
    (partition(target, "history", service, day) / "history.npz").unlink(missing_ok=True)
    write_manifest(folder, wanted)
    return True


def names_of(target: Path, service: str, day: str) -> tuple[set[str], set[str]]:
    """Hosts and categories of a date's windows and loads."""
    windows = read(target, "windows", service, columns=["host", "category"], on=[day])
    loads = read(target, "loads", service, columns=["host"], on=[day])
    hosts = {*windows.column("host").unique().to_pylist(), *loads.column("host").unique().to_pylist()}
    return hosts, set(windows.column("category").unique().to_pylist())


def input_files(lake: Path, kind: str, service: str, day: str, window_s: float, shift_s: float = 0.0) -> list[Path]:
    """The files that windows of a date are made from; where windows straddle midnight, the next day's too."""
    days = _dates_read(day, window_s, shift_s)
    return [path for each in days for path in parquet_files(partition(lake, kind, service, each))]


def _dates_read(day: str, window_s: float, shift_s: float = 0.0) -> list[str]:
    straddle = shift_s or _DAY_S % window_s
    return [day, str(date.fromisoformat(day) + timedelta(days=1))] if straddle else [day]


def _manifest(
    lake: Path, service: str, day: str, window_s: float, settings: dict[str, str], shift_s: float = 0.0
) -> Manifest:
    """The manifest that the date would have if it were made now."""
    files = [path for kind in INPUTS for path in input_files(lake, kind, service, day, window_s, shift_s)]
    return {"inputs": file_marks(lake, files), "settings": settings}


def file_marks(lake: Path, files: Iterable[Path]) -> dict[str, Any]:
    """Files by their paths in the lake, with [size, time of change in ns]."""
    stats = {str(path.relative_to(lake)): path.stat() for path in files}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a partition's folder, or None."""
    try:
        made_from = json.loads((folder / "made_from.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return made_from if isinstance(made_from, dict) and made_from.keys() == {"inputs", "settings"} else None


def write_manifest(folder: Path, made_from: Manifest) -> None:
    """Written last: a partition without it is made again."""
    write_text_atomically(folder / "made_from.json", json.dumps(made_from, indent=1))


def _bounds_us(day: str, window_s: float, shift_s: float = 0.0) -> tuple[int, int]:
    """The times whose windows begin on a date: from, inclusive, and to, exclusive; microseconds since 1970.

    Args:
        shift_s: how much later than at multiples of their length windows begin.
    """
    span = round(window_s * US)
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    edges = [round((start + timedelta(days=days)).timestamp()) * US for days in (0, 1)]
    low, high = (-(-edge // span) * span for edge in edges)
    shift = round(shift_s * US)
    return low + shift, high + shift
