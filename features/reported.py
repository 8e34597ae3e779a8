"""The windows that agents reported, from the lake: categories brought to one table, reporters of one host merged."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.category import SEPARATOR, CategoryTable, Key
from fingerpost.clock import US
from fingerpost.lake import read
from fingerpost.schemas import LOAD_SCHEMA, WINDOW_SCHEMA
from fingerpost.window_merge import added_rows, completed_rows
from fingerpost.window_report import COUNTS, WINDOW_COLUMNS

logger = logging.getLogger(__name__)
Bools = NDArray[np.bool_]
_REQUESTS = WINDOW_COLUMNS.index("requests")


@dataclass(frozen=True)
class Reported:
    """Reported windows and loads of a service over some span of time, as `fingerpost.schemas` has them."""

    service: str
    window_s: float
    rows: pa.Table
    load_rows: pa.Table

    def hosts(self) -> list[str]:
        """The hosts that reported, or that a proxy reported on."""
        return sorted(
            {name for each in (self.rows, self.load_rows) for name in each.column("host").unique().to_pylist()}
        )

    def windows(self, table: CategoryTable) -> pa.Table:
        """The windows as `fingerpost.records.WINDOW` defines them, one for each (end, host, category of the table)."""
        frame = self.rows.to_pandas()
        folded = {name: table.fold(name) for name in frame["category"].unique()}
        cells = frame[["time", "host"]].assign(category=frame["category"].map(folded))
        groups = cells.groupby(["time", "host", "category"], sort=True)
        keys, group = groups.size().index, groups.ngroup().to_numpy(dtype=np.int64)
        matrix = frame[list(WINDOW_COLUMNS)].to_numpy(dtype=np.float64)
        own = (frame["source"] == "host").to_numpy()
        told = _merged(matrix, group, own, len(keys), self._told_by_agent(keys))
        kept = told[:, _REQUESTS] > 0
        return self._table(keys[kept], told[kept])

    def loads(self) -> pa.Table:
        """The loads as `fingerpost.records.HOST_WINDOW` defines them; those of the host's own agent come first."""
        frame = self.load_rows.to_pandas().sort_values(["time", "host", "source", "reporter"])
        chosen = frame.drop_duplicates(["time", "host"])
        return pa.Table.from_pandas(chosen[LOAD_SCHEMA.names], LOAD_SCHEMA, preserve_index=False)

    def _told_by_agent(self, keys: pd.MultiIndex) -> Bools:
        """Whether the host's own agent told of the window that each key is of."""
        told = set()
        for rows in (self.rows, self.load_rows):
            agents = rows.filter(pc.equal(rows.column("source"), "host")).select(["time", "host"]).to_pandas()
            told |= set(agents.drop_duplicates().itertuples(index=False, name=None))
        return np.array([(time, host) in told for time, host, _ in keys], dtype=np.bool_)

    def _table(self, keys: pd.MultiIndex, told: Floats) -> pa.Table:
        columns: dict[str, object] = dict(zip(WINDOW_COLUMNS, told.T, strict=True))
        columns.update({name: told[:, WINDOW_COLUMNS.index(name)].astype(np.int64) for name in COUNTS})
        columns.update(
            zip(("time", "host", "category"), (keys.get_level_values(place) for place in range(3)), strict=True)
        )
        columns["service"] = self.service
        columns["window_s"] = self.window_s
        columns["rate_rps"] = told[:, _REQUESTS] / self.window_s
        columns["mem_bytes"] = told[:, WINDOW_COLUMNS.index("mem_mean_bytes")] * told[:, _REQUESTS]
        frame = pd.DataFrame(columns, index=range(len(keys)))
        return pa.Table.from_pandas(frame[WINDOW_SCHEMA.names], WINDOW_SCHEMA, preserve_index=False)


def read_reported(
    lake: Path, service: str, days: Sequence[str], bounds_us: tuple[int, int], window_s: float
) -> Reported:
    """The reported windows that begin within some bounds.

    Those of another length than `window_s` are left out, and told of in the log.

    Args:
        days: partitions to look into.
        bounds_us: from, inclusive, to, exclusive, microseconds since 1970.
    """
    span_us = round(window_s * US)
    ends_us = (bounds_us[0] + span_us, bounds_us[1] + span_us)
    rows = read(lake, "reported_windows", service, *ends_us, on=days)
    fits = pc.equal(rows.column("window_s"), window_s)
    if rows.num_rows and not pc.all(fits).as_py():
        logger.warning("reported windows of another length than %g s are left out", window_s, extra={"days": days})
        rows = rows.filter(fits)
    return Reported(service, window_s, rows, read(lake, "reported_loads", service, *ends_us, on=days))


def reported_counts(keys: pd.DataFrame) -> list[tuple[Key, int]]:
    """Requests of each finest category, for `fit_categories`; of a host with an agent by what that tells alone.

    Args:
        keys: rows of `fingerpost.records.REPORTED_KEY`.
    """
    by_agent = set(keys.loc[keys["source"] == "host", "host"])
    counted = keys[(keys["source"] == "host") | ~keys["host"].isin(by_agent)]
    total: Counter[Key] = Counter()
    for key, requests in counted.groupby("key")["requests"].sum().items():
        total[tuple(str(key).split(SEPARATOR))] += int(requests)
    return list(total.items())


def _merged(matrix: Floats, group: Ints, own: Bools, count: int, by_agent: Bools) -> Floats:
    """Rows of each group by the rule of `fingerpost.window_merge`, shape (count, columns)."""
    if own.all():
        return added_rows(matrix, group, count)
    told, seen = (added_rows(matrix[chosen], group[chosen], count) for chosen in (own, ~own))
    return np.where(by_agent[:, None], completed_rows(told, seen), seen)
