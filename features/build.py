"""The features step: from the lake's records to windows, training rows and the latest fingerprints, as Parquet."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from features.dataset import Replay
from features.definition import schema_hash
from features.windows import build_windows, category_counts, host_windows
from fingerpost.category import CategoryTable, fit_categories
from fingerpost.errors import NoDataError
from fingerpost.lake import parquet_files, partition, service_folder, write_atomically, write_text_atomically
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, Column
from fingerpost.schemas import WINDOW_SCHEMA, arrow_schema

_RECORD_COLUMNS = [
    *("time", "service", "host", "method", "route", "status", "bytes_in", "auth", "user_agent_class", "region"),
    *("duration_s", "service_time_s", "inflight", "cpu_s"),
]


@dataclass(frozen=True)
class FeaturesReport:
    """What one features step made."""

    request_records: int
    windows: int
    training_rows: int
    hosts: list[str]
    categories: list[str]
    category_version: str
    schema_hash: str
    as_of: str


def build_features(
    lake: Path, service: str, window_s: float, halflife_s: float, max_categories: int, min_category_requests: int
) -> FeaturesReport:
    """Builds windows, training rows and latest fingerprints of one service from all its records.

    Writes `categories/service=S.json`, `windows/service=S/date=D/windows.parquet`, `features/service=S/date=D/
    features.parquet` and `fingerprints/service=S/latest.parquet`; each whole or not at all.

    Raises:
        NoDataError: there are no request records.
    """
    requests = _load(lake, "requests", service, REQUEST_RECORD, _RECORD_COLUMNS)
    samples = _load(lake, "samples", service, HOST_SAMPLE, [column.name for column in HOST_SAMPLE])
    if requests.empty:
        raise NoDataError(
            f"no request records of service {service!r} in {lake}: run `fingerpost run ingest` "
            "after an agent has reported"
        )
    table = fit_categories(category_counts(requests), max_categories, min_category_requests)
    hosts = host_windows(samples, requests, window_s)
    windows = build_windows(requests, hosts, table, window_s)
    replay = Replay(windows, hosts, table, window_s, halflife_s)
    rows, latest = replay.run()
    write_text_atomically(categories_path(lake, service), json.dumps(table.to_json(), indent=1))
    _write_by_date(lake, "windows", service, windows, WINDOW_SCHEMA)
    if not rows.empty:
        _write_by_date(lake, "features", service, rows, None)
    report = FeaturesReport(
        len(requests),
        len(windows),
        len(rows),
        replay.hosts,
        replay.categories,
        table.version,
        schema_hash(),
        latest["time"].iloc[0].isoformat(),
    )
    metadata = {"schema_hash": report.schema_hash, "category_version": table.version}
    _write_frame(latest, None, metadata, fingerprints_path(lake, service))
    return report


def categories_path(lake: Path, service: str) -> Path:
    return lake / "categories" / f"service={service}.json"


def fingerprints_path(lake: Path, service: str) -> Path:
    return service_folder(lake, "fingerprints", service) / "latest.parquet"


def load_categories(lake: Path, service: str) -> CategoryTable:
    """The service's categories, as the last features step chose them."""
    return CategoryTable.from_json(json.loads(categories_path(lake, service).read_text()))


def load_training_rows(lake: Path, service: str, max_rows: int) -> pd.DataFrame:
    """The latest training rows, ordered by time.

    Raises:
        NoDataError: there are none.
    """
    files = list(parquet_files(service_folder(lake, "features", service)))
    if not files:
        raise NoDataError(f"no features of service {service!r} in {lake}: run `fingerpost run features` first")
    frame = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
    return frame.sort_values(["time", "host", "category"], ignore_index=True).tail(max_rows).reset_index(drop=True)


def _load(lake: Path, kind: str, service: str, columns: tuple[Column, ...], names: list[str]) -> pd.DataFrame:
    files = [str(path) for path in parquet_files(service_folder(lake, kind, service))]
    schema = arrow_schema(columns)
    if not files:
        return schema.empty_table().select(names).to_pandas()
    # In order of time and file: `last seen` must not depend on how files happen to be listed.
    table = ds.dataset(files, schema=schema, format="parquet").to_table(columns=names)
    return table.sort_by("time").to_pandas()


def _write_by_date(lake: Path, kind: str, service: str, frame: pd.DataFrame, schema: pa.Schema | None) -> None:
    for date, rows in frame.groupby(frame["time"].dt.strftime("%Y-%m-%d")):
        path = partition(lake, kind, service, str(date)) / f"{kind}.parquet"
        _write_frame(rows, schema, {"schema_hash": schema_hash()}, path)


def _write_frame(frame: pd.DataFrame, schema: pa.Schema | None, metadata: dict[str, str], path: Path) -> None:
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    write_atomically(path, partial(pq.write_table, table, compression="zstd"))
