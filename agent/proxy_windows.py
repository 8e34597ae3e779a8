"""Windows of all hosts of a proxy, made from its log, as the reports that the engine takes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.agent.window_buffer import MAX_KEYS, categories_of
from fingerpost.arrays import Floats, Ints
from fingerpost.category import CategoryTable, Key, category_key, size_bucket
from fingerpost.clock import US
from fingerpost.telemetry.windows import Arrays, aggregate, aggregate_loads, in_flight, with_throughput
from fingerpost.window_report import MAX_KEYS as MOST_KEYS
from fingerpost.window_report import SAMPLE_COLUMNS, WindowReport, window_matrix

# Hosts with reports of their own; further ones are left out, and counted.
MAX_HOSTS = 5000
# A host without requests for so long is forgotten, seconds.
IDLE_S = 600.0
MAX_OPEN = 200_000
_COLUMNS = ("time", "status", "duration_s", "service_time_s", "cpu_s", "bytes_in", "inflight")
_DURATION, _SERVICE, _INFLIGHT = (_COLUMNS.index(name) for name in ("duration_s", "service_time_s", "inflight"))
_HOST, _KEY, _WEIGHT = range(len(_COLUMNS), len(_COLUMNS) + 3)
_NO_SAMPLES: dict[str, ArrayLike] = {"time_us": np.zeros(0, dtype=np.int64), "host": np.zeros(0, dtype=np.int64)}
_UNKNOWN = np.full(len(SAMPLE_COLUMNS), np.nan)


@dataclass
class _Host:
    """A host that the proxy sends requests to: when it was last seen, and how many reports of it were made."""

    seen_us: int
    sequence: int = 0


class ProxyWindows:
    """Collects requests of many hosts until their window closes; bounded, and what does not fit is counted.

    Args:
        service, proxy: that the reports are of.
        window_s: length of a window, seconds.
        counts: gets `hosts_over_cap`, `hosts_forgotten`, `late`, `history_dropped` and `history_folded`.
    """

    def __init__(self, service: str, proxy: str, window_s: float, counts: Counter[str]) -> None:
        self._service, self._proxy, self._window_s = service, proxy, window_s
        self._counts = counts
        self._open = self._closed = np.zeros((_WEIGHT + 1, 0))
        self._fresh: list[Floats] = []
        self._waiting = 0
        self._hosts: dict[str, _Host] = {}
        self._keys: list[Key] = []
        self._numbers: dict[Key, int] = {}

    @property
    def hosts(self) -> int:
        """How many hosts are known."""
        return len(self._hosts)

    def known(self, host: str, time_us: int) -> bool:
        """Whether requests of a host are taken: there is room for one more, or it is one of those known."""
        found = self._hosts.get(host)
        if found is None:
            if len(self._hosts) >= MAX_HOSTS:
                self._counts["hosts_over_cap"] += 1
                return False
            found = self._hosts[host] = _Host(time_us)
        found.seen_us = max(found.seen_us, time_us)
        return True

    def add(self, rows: Sequence[dict[str, Any]], weight: float) -> None:
        """Takes request records of known hosts, each of which stands for `weight` requests."""
        if not rows:
            return
        if self._waiting + len(rows) > MAX_OPEN:
            self._counts["history_dropped"] += len(rows)
            return
        place = {name: number for number, name in enumerate(self._hosts)}
        columns = [[row.get(name) for row in rows] for name in _COLUMNS]
        columns += [[place[row["host"]] for row in rows], [self._number(row) for row in rows], [weight] * len(rows)]
        self._fresh.append(np.array(columns, dtype=np.float64))
        self._waiting += len(rows)

    def close(self, end_us: int, now_us: int, boot_id: str, table: CategoryTable) -> Iterator[WindowReport]:
        """Takes out all windows that end by a time, as reports, in order of time; then forgets idle hosts."""
        rows = np.concatenate([self._open, *self._fresh], axis=1)
        due = rows[0] < end_us
        self._count_in_flight(rows, due)
        closed, self._open, self._fresh = rows[:, due], rows[:, ~due], []
        self._waiting = self._open.shape[1]
        if due.any():
            self._closed = closed[:, closed[0] >= end_us - self._window_s * US]
        names = list(self._hosts)
        yield from self._reports(closed, names, now_us, boot_id, table)
        self._forget(names, now_us)

    def begin_anew(self) -> None:
        """Forgets all requests of windows that are open."""
        self._open = self._closed = self._open[:, :0]
        self._fresh, self._waiting = [], 0

    def _reports(
        self, rows: Floats, names: Sequence[str], now_us: int, boot_id: str, table: CategoryTable
    ) -> Iterator[WindowReport]:
        windows = _windows(rows, categories_of(self._keys, table), self._window_s)
        if not len(windows["end_us"]):
            return
        matrix, ends, host = window_matrix(windows), windows["end_us"], windows["host"]
        categories = windows["category"].tolist()
        keys = self._counted_keys(rows)
        edges = np.flatnonzero((np.diff(ends) != 0) | (np.diff(host) != 0)) + 1
        begins = [0, *edges.tolist()]
        for begin, until in zip(begins, [*begins[1:], len(ends)], strict=True):
            name, end_us = names[int(host[begin])], int(ends[begin])
            about = self._hosts[name]
            about.sequence += 1
            yield WindowReport(
                *(self._service, name, "proxy", self._proxy, boot_id, about.sequence - 1, now_us),
                *(end_us, self._window_s, table.version),
                categories=tuple(table.names[place] for place in categories[begin:until]),
                windows=matrix[begin:until],
                load=None,
                sample=_UNKNOWN,
                keys=keys.get((end_us, int(host[begin])), ()),
            )

    def _count_in_flight(self, rows: Floats, due: NDArray[np.bool_]) -> None:
        """Counts for requests that are closed now what no host told; those that ended just before and after count."""
        unknown = due & np.isnan(rows[_INFLIGHT])
        if not unknown.any():
            return
        near = np.concatenate([self._closed, rows], axis=1)
        took_s = np.where(np.isfinite(near[_SERVICE]), near[_SERVICE], near[_DURATION])
        found = in_flight(near[0].astype(np.int64), took_s, near[_HOST].astype(np.int64), near[_WEIGHT])
        rows[_INFLIGHT, unknown] = found[self._closed.shape[1] :][unknown]

    def _counted_keys(self, rows: Floats) -> dict[tuple[int, int], tuple[tuple[Key, int], ...]]:
        """Of each window's end and host its most frequent keys, with how many requests they had."""
        span = round(self._window_s * US)
        ends = (rows[0].astype(np.int64) // span + 1) * span
        cells = np.stack([ends, rows[_HOST].astype(np.int64), rows[_KEY].astype(np.int64)])
        distinct, place = np.unique(cells, axis=1, return_inverse=True)
        requests = np.bincount(place.reshape(-1), rows[_WEIGHT], distinct.shape[1])
        found: dict[tuple[int, int], Counter[Key]] = {}
        for end_us, host, key, count in zip(*distinct.tolist(), requests.tolist(), strict=True):
            if self._keys[key]:
                found.setdefault((end_us, host), Counter())[self._keys[key]] += round(count)
        return {cell: tuple(counted.most_common(MOST_KEYS)) for cell, counted in found.items()}

    def _number(self, row: dict[str, Any]) -> int:
        raw = (
            *(row["method"], row["route"], size_bucket(row["bytes_in"])),
            *(row["auth"], row["user_agent_class"], row["region"]),
        )
        number = self._numbers.get(raw)
        if number is None:
            if len(self._keys) > MAX_KEYS:
                self._counts["history_folded"] += 1
                return MAX_KEYS  # which no category but `other` holds
            number = self._numbers[raw] = len(self._keys)
            self._keys.append(category_key(*raw) if number < MAX_KEYS else ())
        return number

    def _forget(self, names: Sequence[str], now_us: int) -> None:
        """Forgets hosts that are idle, and keys once there are many; what is open is numbered anew."""
        limit_us = now_us - round(IDLE_S * US)
        open_hosts = set(self._open[_HOST].astype(np.int64).tolist())
        kept = [
            number for number, name in enumerate(names)
            if self._hosts[name].seen_us >= limit_us or number in open_hosts
        ]  # fmt: skip
        if len(kept) < len(names):
            self._counts["hosts_forgotten"] += len(names) - len(kept)
            self._hosts = {names[number]: self._hosts[names[number]] for number in kept}
            self._open[_HOST] = np.searchsorted(kept, self._open[_HOST])
            self._closed = self._closed[:, :0]
        if len(self._keys) >= MAX_KEYS:
            used = np.unique(self._open[_KEY].astype(np.int64))
            self._open[_KEY] = np.searchsorted(used, self._open[_KEY])
            self._keys = [self._keys[number] for number in islice(used.tolist(), MAX_KEYS)]
            self._numbers = {}  # looked up again as they come; a key may then have two numbers, which harms nothing


def _windows(rows: Floats, category: Ints, window_s: float) -> Arrays:
    measured: dict[str, ArrayLike] = dict(zip(_COLUMNS, rows, strict=False))
    measured["time_us"] = rows[0].astype(np.int64)
    measured["host"], measured["weight"] = rows[_HOST].astype(np.int64), rows[_WEIGHT].astype(np.int64)
    measured["category"] = category[rows[_KEY].astype(np.int64)]
    windows = aggregate(measured, window_s)
    # Nobody samples the hosts here: their throughput is by how long requests take.
    loads = {**aggregate_loads(_NO_SAMPLES, window_s), "background_cores": np.zeros(0)}
    return with_throughput(windows, loads)
