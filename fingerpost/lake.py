"""Reads and writes the telemetry lake: paths, spans of time as tables, files whole or not at all."""

import contextlib
import functools
import operator
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fingerpost.names import is_name

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

INBOX = "inbox"
QUARANTINE = "quarantine"
# What engines write beside the inbox: predictions of champion and challenger, and how far the champion was off.
PREDICTIONS, LIVE_ERRORS = "predictions", "live_errors"
# Behind the name of a batch that was taken out of the inbox, which then begins with a dot.
TAKEN = ".taken"
# As a column to read: the path of the file that a row is in.
FILE = "file"
# The temporary files of `write_atomically`; none takes an hour to write.
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
_LEFT_OVER_S = 3600.0
_DATE = "date=" + "-".join(["[0-9]" * 4, "[0-9]" * 2, "[0-9]" * 2])
_DAY_US = 86_400_000_000
# Their rows lie in the partition of the date that a window begins on; its `time`, when it ends, may be on the next.
_BY_BEGIN = ("windows", "loads", "reported_windows", "reported_loads")
# Kinds as they arrive whose `time` is the end of a span.
ENDED = ("reported_windows", "reported_loads")
# Compaction and retention may take files away between listing and reading them.
_READ_ATTEMPTS = 3


def partition(lake: Path, kind: str, service: str, date: str) -> Path:
    """The folder of one kind of data, service and date (`YYYY-MM-DD`): `KIND/service=S/date=D`."""
    return lake / kind / f"service={service}" / f"date={date}"


def service_folder(lake: Path, kind: str, service: str) -> Path:
    """The folder of one kind of data of one service: `KIND/service=S`."""
    return lake / kind / f"service={service}"


def services_in(lake: Path) -> list[str]:
    """The services that the lake or its inbox has data of, in order."""
    folders = (*lake.glob("*/service=*"), *lake.glob(f"{INBOX}/*/service=*"))
    names = {path.name.removeprefix("service=") for path in folders if path.is_dir()}
    return sorted(name for name in names if is_name(name))


def take_batch(path: Path) -> Path | None:
    """Takes a batch out of its agent's reach, under another name; None if it is gone. One that was taken stays so.

    Its agent may replace a batch that waits by a longer one of the same name; so what is removed is what was read.
    """
    if path.name.endswith(TAKEN):
        return path
    taken = path.with_name(f".{path.name}{TAKEN}")
    try:
        return path.rename(taken)
    except FileNotFoundError:  # a bound, or a person, removed it
        return None


def batch_name(taken: Path) -> str:
    """The name that a taken batch had."""
    return taken.name[1 : -len(TAKEN)]


def published_categories(lake: Path, service: str) -> Path:
    """The file of a service's category table, as the features step chose it."""
    return lake / "categories" / f"service={service}.json"


def date_of(time_us: int) -> str:
    """The UTC date of a time in microseconds since 1970, as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d")


def dates(lake: Path, kind: str, service: str) -> list[str]:
    """The dates that a service has data of one kind of, in order."""
    return sorted(path.name.removeprefix("date=") for path in service_folder(lake, kind, service).glob(_DATE))


def read(
    lake: Path,
    kind: str,
    service: str,
    begin_us: int | None = None,
    end_us: int | None = None,
    columns: Sequence[str] | None = None,
    on: Sequence[str] | None = None,
    where: "pc.Expression | None" = None,
) -> "pa.Table":
    """Reads rows of one kind of data of a service, ordered by `time`; equal times in the order of their files' names.

    Args:
        kind: of a folder of the lake, such as `requests`, `windows` or `predictions`.
        begin_us, end_us: bounds of `time`, from inclusive, to exclusive, microseconds since 1970; None: unbounded.
        columns: those to read; None: all. One that a file lacks is null there. `FILE` is the path of a row's file.
        on: dates of the partitions to read, `YYYY-MM-DD`; None: all that can hold such times.
        where: condition that rows must meet, in columns that all files have; None: none.
    """
    place = (lake, kind, service)
    for _ in range(_READ_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return _scan(_partition_files(*place, begin_us, end_us, on), kind, begin_us, end_us, columns, where)
    return _scan(_partition_files(*place, begin_us, end_us, on), kind, begin_us, end_us, columns, where)


def read_frame(
    lake: Path, kind: str, service: str, begin_us: int, end_us: int, columns: Sequence[str] | None = None
) -> "pd.DataFrame":
    """Reads as `read` does, into a frame; `time` must be among the columns, and is there as integer `time_us` too."""
    table = read(lake, kind, service, begin_us, end_us, columns)
    frame: pd.DataFrame = table.to_pandas()
    return frame.assign(time_us=table.column("time").cast("int64").to_numpy())


def row_count(lake: Path, kind: str, service: str) -> int:
    """How many rows of one kind of data a service has."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in parquet_files(service_folder(lake, kind, service)))


def write_table(path: Path, table: "pa.Table", metadata: Mapping[str, str] | None = None) -> None:
    """Writes a Parquet file whole or not at all, with metadata beside that of the table."""
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


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


def _partition_files(
    lake: Path, kind: str, service: str, begin_us: int | None, end_us: int | None, on: Sequence[str] | None
) -> list[str]:
    """The files of the dates that can hold such times."""
    first = "" if begin_us is None else date_of(begin_us - (_DAY_US if kind in _BY_BEGIN else 0))
    last = "9999" if end_us is None else date_of(end_us - 1)
    days = (day for day in (dates(lake, kind, service) if on is None else on) if first <= day <= last)
    return [str(path) for day in days for path in parquet_files(partition(lake, kind, service, day))]


def _scan(
    paths: list[str],
    kind: str,
    begin_us: int | None,
    end_us: int | None,
    columns: Sequence[str] | None,
    where: "pc.Expression | None",
) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.dataset as ds

    schema = _schema(paths, kind, columns or ())
    names = schema.names if columns is None else columns
    if not paths:
        return pa.schema([schema.field(name) for name in names]).empty_table()
    edges = [None if edge is None else pa.scalar(edge, schema.field("time").type) for edge in (begin_us, end_us)]
    bounds = [] if edges[0] is None else [ds.field("time") >= edges[0]]
    bounds += [] if edges[1] is None else [ds.field("time") < edges[1]]
    bounds += [] if where is None else [where]
    table = ds.dataset(paths, schema=schema, format="parquet").to_table(
        columns=["__filename" if name == FILE else name for name in names],
        filter=functools.reduce(operator.and_, bounds) if bounds else None,
    )
    table = table.rename_columns(list(names))
    return table.sort_by("time") if "time" in names else table


def _schema(paths: list[str], kind: str, columns: Sequence[str]) -> "pa.Schema":
    """The schema to read files by: the kind's, else all columns that the files have, and nulls for what none has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fingerpost.schemas import SCHEMAS

    found = SCHEMAS.get(kind) or pa.unify_schemas(
        [pa.schema({"time": pa.timestamp("us", tz="UTC")}), *(_without_dictionaries(pq.read_schema(p)) for p in paths)],
        promote_options="permissive",
    )
    found = pa.schema([field.with_nullable(True) for field in found])
    absent = [pa.field(name, pa.string() if name == FILE else pa.null()) for name in columns if name not in found.names]
    return pa.schema([*found, *absent])


def _without_dictionaries(schema: "pa.Schema") -> "pa.Schema":
    """Dictionaries differ from file to file."""
    import pyarrow as pa

    return pa.schema(
        [(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type) for field in schema]
    )
