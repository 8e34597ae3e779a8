"""What the statistics read of the lake: rows of one kind and a span of time, as frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fingerpost.lake import date_of, parquet_files, partition, service_folder

if TYPE_CHECKING:
    import pandas as pd

# What pairs and off-policy estimates need of a request record; the latter also what its category is made of.
OUTCOME_COLUMNS = ("time", "host", "status", "duration_s", "policy", "arm", "model_version", "propensity")
CATEGORY_COLUMNS = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")


def read_span(
    lake: Path, kind: str, service: str, from_us: int, to_us: int, columns: Sequence[str] | None = None
) -> "pd.DataFrame":
    """The rows of a kind whose `time` is in [from_us, to_us), ordered by it.

    `time_us` is that time as a number, `file` the name of the row's file without its ending.

    Args:
        kind: `requests`, `windows`, `loads` or `predictions`.
        columns: those to read, `time` among them; None: all. A column that a file lacks is null.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    bounds = [pa.scalar(value, pa.timestamp("us", tz="UTC")) for value in (from_us, to_us)]
    parts: list[Any] = []
    for day in _days(lake, kind, service, from_us, to_us):
        for path in parquet_files(partition(lake, kind, service, day)):
            file = pq.ParquetFile(path)
            present = file.schema_arrow.names
            table = file.read([name for name in columns if name in present] if columns else None)
            time = table.column("time")
            table = table.filter(pc.and_(pc.greater_equal(time, bounds[0]), pc.less(time, bounds[1])))
            if table.num_rows:
                stem = pa.DictionaryArray.from_arrays(np.zeros(table.num_rows, np.int32), [path.stem])
                parts.append(_plain(table).append_column("file", stem.cast(pa.string())))
    if not parts:
        return pd.DataFrame({name: [] for name in [*(columns or ("time",)), "file", "time_us"]})
    merged = pa.concat_tables(parts, promote_options="permissive")
    for name in set(columns or ()) - set(merged.column_names):
        merged = merged.append_column(name, pa.nulls(merged.num_rows))
    frame = merged.to_pandas()
    frame["time_us"] = merged.column("time").cast(pa.int64()).to_numpy()
    return frame.iloc[np.argsort(frame["time_us"].to_numpy(), kind="stable")].reset_index(drop=True)


def with_categories(records: "pd.DataFrame", lake: Path, service: str) -> "pd.DataFrame":
    """Request records with their `category`, by the categories in force.

    Raises:
        NoDataError: there are none yet.
    """
    import numpy as np

    from fingerpost.features.build import load_categories
    from fingerpost.features.windows import assign_categories

    if records.empty:
        return records.assign(category=[])
    places, names = assign_categories(records, load_categories(lake, service))
    return records.assign(category=np.array(names, dtype=object)[places])


def _plain(table: Any) -> Any:
    """Names as plain text: files differ in their dictionaries, and some have none."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.string()))
    return table


def _days(lake: Path, kind: str, service: str, from_us: int, to_us: int) -> list[str]:
    present = sorted(path.name.removeprefix("date=") for path in service_folder(lake, kind, service).glob("date=*"))
    return [day for day in present if date_of(from_us) <= day <= date_of(max(to_us - 1, from_us))]
