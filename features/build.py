"""The features step: from the lake's records to windows, training rows and the latest fingerprints, as Parquet.

Date by date: only dates whose records changed are windowed again, and the replay goes on from the history kept before
the first of them, or in the middle of it (`fingerpost.features.open_date`). Memory is bounded by a date's records,
whatever the length of the history.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fingerpost.category import CategoryTable, Key, fit_categories
from fingerpost.clock import US
from fingerpost.errors import NoDataError
from fingerpost.features.definition import CATEGORICAL_FEATURES, schema_hash
from fingerpost.features.open_date import OpenDate
from fingerpost.features.outside import Outside, events_in_lake, outside_of
from fingerpost.features.prepare import FeatureSettings, count_categories, input_files, make_windows, names_of
from fingerpost.features.replay import Replay
from fingerpost.features.thinning import RECENT_HOURS, Thinning, kept, limits, recent_from_us
from fingerpost.features.windows import assign_categories, windowed_of
from fingerpost.fingerprint import Fingerprint, pack
from fingerpost.lake import (
    dates,
    partition,
    published_categories,
    read,
    row_count,
    service_folder,
    write_table,
    write_text_atomically,
)
from fingerpost.workers import SERIAL, Workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeaturesReport:
    """What one features step made.

    Args:
        dates_made: dates that were windowed in this run; all others were as they should be.
        dates_replayed: dates whose training rows were made in this run.
        windows_replayed: how many windows, each of all hosts, were replayed in this run.
    """

    request_records: int
    windows: int
    training_rows: int
    hosts: list[str]
    categories: list[str]
    category_version: str
    schema_hash: str
    as_of: str
    dates_made: list[str]
    dates_replayed: list[str]
    windows_replayed: int


def build_features(
    lake: Path, service: str, settings: FeatureSettings, out: Path | None = None, workers: Workers = SERIAL
) -> FeaturesReport:
    """Brings windows, training rows and latest fingerprints of one service up to date with what arrived.

    Writes `categories/service=S.json`, and under `service=S/date=D` of each kind `windows/`, `loads/`, `features/` and
    `history/`, and `fingerprints/service=S/latest.parquet`; each file whole or not at all. Killed and run again, or run
    twice, it ends the same.

    Args:
        lake: where the records and reported windows are.
        out: where to write to; None: the lake.
        workers: who counts and windows the dates, each of which stands for itself; the replay, where every window
            needs the one before, is done here.

    Raises:
        NoDataError: there are no windows and no request records.
    """
    target = out or lake
    kinds = ("requests", "reported_windows")
    known = sorted({day for kind in kinds for day in dates(lake, kind, service)})
    days = [day for day in known if any(input_files(lake, kind, service, day, 1.0) for kind in kinds)]
    if not days:
        raise NoDataError(
            f"no windows and no request records of service {service!r} in {lake}: run `fingerpost run ingest` "
            "after an agent has reported"
        )
    where = (lake, target, service)
    counts = dict(zip(days, workers.map(_count, days, where), strict=True))
    table = _categories(target, service, counts, settings)
    windowed = workers.map(_window, days, (*where, table.to_json(), settings))
    made = [day for day, changed in zip(days, windowed, strict=True) if changed]
    outside = outside_of(service, events_in_lake(lake, service), settings.calendar, settings.holidays)
    replay, replayed, count = _replay(target, service, days, made, table, settings, outside)
    _write_fingerprints(fingerprints_path(target, service), replay.fingerprints(service, table.version))
    return FeaturesReport(
        sum(count for each in counts.values() for _, count in each),
        row_count(target, "windows", service),
        row_count(target, "features", service),
        replay.hosts,
        replay.categories,
        table.version,
        schema_hash(),
        datetime.fromtimestamp(replay.history.now_us / US, UTC).isoformat(),
        made,
        replayed,
        count,
    )


def fingerprints_path(lake: Path, service: str) -> Path:
    """Where the latest fingerprint of every host is, as of the last window in the lake; see `load_fingerprints`."""
    return service_folder(lake, "fingerprints", service) / "latest.parquet"


def load_fingerprints(path: Path) -> list[bytes]:
    """Packed fingerprints (`fingerpost.fingerprint.pack`), as the last features step left them.

    Raises:
        FileNotFoundError: there are none yet.
        ValueError, OSError: the file cannot be read, or is no such file.
    """
    try:
        table = pq.read_table(path, columns=["fingerprint"], partitioning=None)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {error}") from error
    packed: list[bytes] = table.column("fingerprint").to_pylist()
    return packed


def _write_fingerprints(path: Path, made: Sequence[Fingerprint]) -> None:
    columns = {
        "host": pa.array([each.host for each in made], pa.string()),
        "time": pa.array([each.time_us for each in made], pa.timestamp("us", tz="UTC")),
        "fingerprint": pa.array([pack(each) for each in made], pa.binary()),
    }
    write_table(path, pa.table(columns))


def load_categories(lake: Path, service: str) -> CategoryTable:
    """The service's categories, as the last features step chose them."""
    return CategoryTable.from_json(json.loads(published_categories(lake, service).read_text()))


def with_categories(records: pd.DataFrame, lake: Path, service: str) -> pd.DataFrame:
    """Request records with their `category`, by the categories in force.

    Raises:
        FileNotFoundError: there are none yet.
    """
    if records.empty:
        return records.assign(category=[])
    places, names = assign_categories(records, load_categories(lake, service))
    return records.assign(category=np.array(names, dtype=object)[places])


def load_training_rows(lake: Path, service: str, max_rows: int, recent_hours: float = RECENT_HOURS) -> pd.DataFrame:
    """Training rows of the whole history, ordered by time: the latest hours, and of the rest what fits, at random.

    Both are thinned where they are more than half of `max_rows`; see `fingerpost.features.thinning`. Rows of another
    version's features are left out, and named in the log.

    Args:
        max_rows: about how many there may be.
        recent_hours: how long the latest hours are.

    Returns:
        Rows as of `Replay.run`; `weight` times a value sums to what all rows of the history would.

    Raises:
        NoDataError: there are none.
    """
    days = [day for day in dates(lake, "features", service) if _is_of_this_version(lake, service, day)]
    if not days:
        raise NoDataError(f"no features of service {service!r} in {lake}: run `fingerpost run features` first")
    drawn = read(lake, "features", service, columns=["time", "draw"], on=days)
    time_us, draw = drawn.column("time").cast("int64").to_numpy(), drawn.column("draw").to_numpy()
    begin_us = recent_from_us(int(time_us.max()), recent_hours)
    older, recent = limits(draw, time_us >= begin_us, max_rows)
    # Date by date: what is not kept is never in memory all at once.
    is_recent = pc.field("time") >= pa.scalar(begin_us, drawn.schema.field("time").type)
    where = pc.field("draw") < pc.if_else(is_recent, recent, older)
    tables = [read(lake, "features", service, on=[day], where=where) for day in days]
    frame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    for name in ("host", "category", *CATEGORICAL_FEATURES):
        frame[name] = frame[name].astype("str").astype("category")
    frame = frame.sort_values(["time", "host", "category", "cold_start"], ignore_index=True)
    return kept(frame, np.where(frame["time"].astype("int64") >= begin_us, recent, older))


def _is_of_this_version(lake: Path, service: str, day: str) -> bool:
    path = partition(lake, "features", service, day) / "features.parquet"
    if not path.exists():
        return False
    found = (pq.read_schema(path).metadata or {}).get(b"schema_hash", b"unknown").decode()
    if found != schema_hash():
        # Of a date whose records are gone: it cannot be made again.
        logger.warning(
            "training rows are left out, they were made by another version",
            extra={"file": str(path), "schema": found, "schema_of_this_version": schema_hash()},
        )
    return found == schema_hash()


def _count(where: tuple[Path, Path, str], day: str) -> list[tuple[Key, int]]:
    return count_categories(*where, day)


def _window(shared: tuple[Path, Path, str, dict[str, object], FeatureSettings], day: str) -> bool:
    # The categories as JSON: a table keeps what it has looked up, which cannot be sent.
    lake, target, service, table, settings = shared
    return make_windows(lake, target, service, day, CategoryTable.from_json(table), settings)


def _categories(
    target: Path, service: str, counts: dict[str, list[tuple[Key, int]]], settings: FeatureSettings
) -> CategoryTable:
    """The categories in force: those there are, unless the traffic has come to differ much."""
    total: Counter[Key] = Counter()
    for each in counts.values():
        for key, count in each:
            total[key] += count
    limits = (settings.max_categories, settings.min_category_requests)
    fitted = fit_categories(total.items(), *limits, settings.route_templates)
    if published_categories(target, service).exists():
        present = load_categories(target, service)
        moved = sum(count for key, count in total.items() if present.assign(key) != fitted.assign(key))
        fits = len(present.names) <= settings.max_categories
        if fits and moved < settings.category_drift * sum(total.values()):
            return present
    write_text_atomically(published_categories(target, service), json.dumps(fitted.to_json(), indent=1))
    return fitted


def _replay(
    target: Path,
    service: str,
    days: list[str],
    made: list[str],
    table: CategoryTable,
    settings: FeatureSettings,
    outside: Outside,
) -> tuple[Replay, list[str], int]:
    """Replays the dates from the first without a history of these settings on; tells which, and how many windows."""
    known = {day: names_of(target, service, day) for day in days}
    hosts = sorted({name for each in known.values() for name in each[0]})
    seen = {name for each in known.values() for name in each[1]}
    categories = [name for name in table.names if name in seen]
    span = (settings.window_s, settings.halflife_s)
    each = {
        day: OpenDate(
            partition(target, "history", service, day) / "history.npz",
            partition(target, "features", service, day) / "features.parquet",
            *span,
        )
        for day in days
    }
    stale = (place for place, day in enumerate(days) if day in made or not each[day].is_done)
    start = next(stale, len(days))
    # Killed from here on, the next run replays them all the same.
    for day in days[start + 1 :]:
        each[day].forget()
    thinning = None
    if settings.max_rows is not None and (ends := read(target, "windows", service, columns=["time"], on=days[-1:])):
        last_us = int(pc.max(ends.column("time")).cast("int64").as_py())
        recent_us = recent_from_us(last_us, settings.recent_hours)
        thinning = Thinning(settings.max_rows, recent_us, settings.recent_hours)
    count, replay = 0, None
    for day in days[start:]:
        windowed = windowed_of(read(target, "windows", service, on=[day]), read(target, "loads", service, on=[day]))
        placed = windowed.placed(hosts, categories)
        replay = replay or each[day].resume(*placed, hosts, categories, outside)
        replay = replay or _as_of_end(
            each[days[start - 1]].history if start else None, hosts, categories, span, outside
        )
        count += each[day].run(replay, *placed, thinning, is_latest=day == days[-1])
    for day in days[:-1]:
        each[day].close()
    replay = replay or _as_of_end(each[days[-1]].history, hosts, categories, span, outside)
    return replay, days[start:], count


def _as_of_end(
    history: Path | None, hosts: list[str], categories: list[str], span: tuple[float, float], outside: Outside
) -> Replay:
    """The replay as of the end of a date; None: there is none before."""
    if history is None:
        return Replay(hosts, categories, *span, outside=outside)
    return Replay.resume(history, hosts, categories, *span, outside)
