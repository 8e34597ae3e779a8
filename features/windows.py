"""Windows as frames: request records and host samples in, what `fingerpost.telemetry.windows` makes of them out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.category import SIZE_LIMITS, SIZE_NAMES, CategoryTable, Key, category_key
from fingerpost.records import SIGNS
from fingerpost.schemas import LOAD_SCHEMA, WINDOW_SCHEMA
from fingerpost.telemetry.windows import (
    Arrays,
    aggregate,
    aggregate_loads,
    memory_columns,
    with_background,
    with_throughput,
)

# What of a request record its category is made of.
CATEGORY_COLUMNS = ("method", "route", "bytes_in", "auth", "user_agent_class", "region")
_MEASURED = ("status", "duration_s", "service_time_s", "cpu_s", "cpu_attributed", "mem_bytes", "bytes_in", "inflight")


@dataclass(frozen=True)
class Windowed:
    """Windows and loads of one service over some span of time, by index.

    Args:
        windows: of `fingerpost.telemetry.windows.with_throughput`.
        loads: of `fingerpost.telemetry.windows.with_background`.
        hosts, categories: names, in order of their indices.
    """

    windows: Arrays
    loads: Arrays
    hosts: list[str]
    categories: list[str]

    def placed(self, hosts: Sequence[str], categories: Sequence[str]) -> tuple[Arrays, Arrays]:
        """Windows and loads with indices into other lists of names, which hold all of these."""
        host = np.array([list(hosts).index(name) for name in self.hosts], dtype=np.int64)
        category = np.array([list(categories).index(name) for name in self.categories], dtype=np.int64)
        windows = {
            **self.windows,
            "host": host[self.windows["host"].astype(np.int64)],
            "category": category[self.windows["category"].astype(np.int64)],
        }
        return windows, {**self.loads, "host": host[self.loads["host"].astype(np.int64)]}


def numbers(values: pd.Series) -> Floats:
    """A column of numbers as float64, shape (rows,): NaN where it is null."""
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def record_weights(records: pd.DataFrame) -> Floats:
    """How many requests each record stands for, shape (rows,): 1 where it is not of a sample."""
    if "weight" not in records:
        return np.ones(len(records))
    weight = numbers(records["weight"])
    return np.where(weight >= 1, weight, 1.0)


def in_flight_at(at: Ints, begun: Ints, ended: Ints) -> Ints:
    """Counts the requests in flight at each moment: begun before it, and not ended by it.

    Args:
        at: moments, shape (n,).
        begun, ended: when each request began and ended, shape (m,), in the unit of `at`.

    Returns:
        Counts, shape (n,). A request takes no part in the count at its own beginning.
    """
    before = np.searchsorted(np.sort(begun), at, side="left")
    return np.maximum(before - np.searchsorted(np.sort(ended), at, side="right"), 0)


def category_counts(requests: pd.DataFrame) -> list[tuple[Key, int]]:
    """How many requests each finest category has, for `fit_categories`.

    Args:
        requests: request records.
    """
    codes, keys = _coded_keys(requests)
    return list(zip(keys, np.bincount(codes, minlength=len(keys)).tolist(), strict=True))


def assign_categories(requests: pd.DataFrame, table: CategoryTable) -> tuple[Ints, list[str]]:
    """The category of every request, as an index into the names returned; each combination is looked up once."""
    codes, keys = _coded_keys(requests)
    assigned = [table.assign(key) for key in keys]
    seen = set(assigned)
    names = [name for name in table.names if name in seen]
    places = np.array([names.index(name) for name in assigned], dtype=np.int64)
    return (places[codes] if len(codes) else np.zeros(0, dtype=np.int64)), names


def build_windows(requests: pd.DataFrame, samples: pd.DataFrame, table: CategoryTable, window_s: float) -> Windowed:
    """Windows of (host, category) and loads of hosts.

    Args:
        requests: request records of one service.
        samples: host samples of the service.
        window_s: length of a window, seconds; windows end at multiples of it since 1970.
    """
    hosts = sorted(set(requests["host"].unique()) | set(samples["host"].unique()))
    category, categories = assign_categories(requests, table)
    columns: dict[str, NDArray[Any]] = {name: numbers(requests[name]) for name in _MEASURED if name in requests}
    loads = aggregate_loads(
        {
            "time_us": _micros(samples["time"]),
            "host": _places(samples["host"], hosts),
            **memory_columns(numbers(samples["mem_bytes"]), numbers(samples["mem_limit_bytes"])),
            **{name: numbers(samples[name]) for name in ("cpu_util", "cores", "inflight", "slots")},
            **{name: numbers(samples[name]) for name in SIGNS if name in samples},
        },
        window_s,
    )
    windows = aggregate(
        {
            "time_us": _micros(requests["time"]),
            "host": _places(requests["host"], hosts),
            "category": category,
            **columns,
        },
        window_s,
        loads,
    )
    loads = with_background(loads, windows, window_s)
    return Windowed(with_throughput(windows, loads), loads, hosts, categories)


def windows_table(windowed: Windowed, service: str, window_s: float) -> pa.Table:
    """The windows as `fingerpost.records.WINDOW` defines them."""
    arrays = dict(windowed.windows)
    requests = arrays["requests"].astype(np.float64)
    arrays.update(
        time=arrays.pop("end_us"),
        rate_rps=requests / window_s,
        mem_bytes=arrays["mem_mean_bytes"].astype(np.float64) * requests,
        window_s=np.full(len(requests), window_s),
    )
    names = {
        "service": pa.array([service] * len(requests), pa.string()),
        "host": _names(windowed.hosts, arrays.pop("host")),
        "category": _names(windowed.categories, arrays.pop("category")),
    }
    return _table(WINDOW_SCHEMA, arrays, names)


def loads_table(windowed: Windowed) -> pa.Table:
    """The loads as `fingerpost.records.LOAD` defines them."""
    arrays = dict(windowed.loads)
    arrays["time"] = arrays.pop("end_us")
    return _table(LOAD_SCHEMA, arrays, {"host": _names(windowed.hosts, arrays.pop("host"))})


def windowed_of(windows: pa.Table, loads: pa.Table) -> Windowed:
    """What `windows_table` and `loads_table` were made of."""
    hosts = sorted({*windows.column("host").unique().to_pylist(), *loads.column("host").unique().to_pylist()})
    categories = windows.column("category").unique().to_pylist()
    return Windowed(
        _arrays(windows, {"host": hosts, "category": categories}), _arrays(loads, {"host": hosts}), hosts, categories
    )


def _arrays(table: pa.Table, names: dict[str, list[str]]) -> Arrays:
    arrays: Arrays = {}
    for name in table.column_names:
        column = table.column(name)
        if name in names:
            arrays[name] = _places(column.to_pandas(), names[name])
        elif name == "time":
            arrays["end_us"] = column.cast(pa.int64()).to_numpy()
        elif name != "service":
            arrays[name] = column.to_numpy()
    return arrays


def _table(schema: pa.Schema, arrays: Arrays, names: dict[str, pa.Array]) -> pa.Table:
    columns = [
        names[field.name] if field.name in names else pa.array(arrays[field.name]).cast(field.type) for field in schema
    ]
    return pa.table(columns, schema=schema)


def _names(names: list[str], places: NDArray[Any]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), pa.array(names, pa.string())).cast(
        pa.string()
    )


def _places(values: pd.Series, names: list[str]) -> Ints:
    return pd.Categorical(values, categories=names).codes.astype(np.int64)


def _micros(times: pd.Series) -> Ints:
    return times.dt.as_unit("us").astype("int64").to_numpy()


def _coded_keys(requests: pd.DataFrame) -> tuple[Ints, list[Key]]:
    """The finest category of every request as a code, and the categories by code, in order of their first requests."""
    names = list(CATEGORY_COLUMNS)
    buckets = np.searchsorted(SIZE_LIMITS, requests["bytes_in"].to_numpy(), side="right")
    finest = requests[names].assign(bytes_in=buckets)
    codes = finest.groupby(names, sort=False, dropna=False, observed=True).ngroup()
    keys = [
        category_key(str(method), str(route), SIZE_NAMES[bucket], *map(str, rest))
        for method, route, bucket, *rest in finest[~codes.duplicated()].itertuples(index=False, name=None)
    ]
    return codes.to_numpy().astype(np.int64), keys
