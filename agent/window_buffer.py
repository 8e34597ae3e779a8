"""Request records and host samples as plain columns: those of windows still open, and the latest of those closed."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.category import CategoryTable, Key, category_key, size_bucket
from fingerpost.records import SIGNS
from fingerpost.telemetry.windows import (
    Arrays,
    aggregate,
    aggregate_loads,
    in_flight,
    memory_columns,
    with_background,
    with_throughput,
)

Bools = NDArray[np.bool_]

MAX_OPEN = 50_000
MAX_KEPT = 30_000
MAX_KEYS = 8192
_MAX_SAMPLES = 20_000
_REQUEST = (
    "time",
    "status",
    "duration_s",
    "service_time_s",
    "cpu_s",
    "cpu_attributed",
    "mem_bytes",
    "bytes_in",
    "inflight",
)
_SAMPLE = ("time", "cpu_util", "cores", "mem_bytes", "mem_limit_bytes", "inflight", "slots", *SIGNS)
_DURATION, _SERVICE, _INFLIGHT = (_REQUEST.index(name) for name in ("duration_s", "service_time_s", "inflight"))
KEY_ROW = len(_REQUEST)  # the row of the keys' numbers
REQUEST_ROWS, SAMPLE_ROWS = KEY_ROW + 1, len(_SAMPLE)


class WindowBuffer:
    """Bounded; what does not fit is counted. Requests keep their finest category, so that any table can assign them.

    Times are whole microseconds since 1970, which 64-bit floats hold exactly until the year 2255.
    """

    def __init__(self) -> None:
        self.requests = np.zeros((REQUEST_ROWS, 0))
        self.samples = np.zeros((SAMPLE_ROWS, 0))
        self.keys: list[Key] = []
        self._numbers: dict[Key, int] = {}
        self._closed: deque[tuple[Floats, Floats]] = deque()
        self._fresh: list[Floats] = []
        self._fresh_samples: list[list[float]] = []
        self.complete = True  # whether all that was ever closed is still here
        self.numbering = 0  # another one: the keys were numbered anew
        self.counts: Counter[str] = Counter()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes request records that have passed the door."""
        if not rows:
            return
        columns = [[row.get(name) for row in rows] for name in _REQUEST]
        numbers = np.array([self._number(row) for row in rows], dtype=np.float64)
        self._fresh.append(np.vstack([np.array(columns, dtype=np.float64), numbers]))

    def add_sample(self, row: dict[str, Any]) -> None:
        """Takes a host sample that has passed the door."""
        values = [row.get(name) for name in _SAMPLE]
        self._fresh_samples.append([np.nan if value is None else value for value in values])

    def gather(self, after_us: int) -> None:
        """Joins what came to what is open; what is of windows that ended by `after_us` comes too late."""
        requests = np.concatenate([self.requests, *self._fresh], axis=1)
        samples = self.samples
        if self._fresh_samples:
            samples = np.concatenate([samples, np.array(self._fresh_samples).T], axis=1)
        self._fresh, self._fresh_samples = [], []
        timely = requests[0] >= after_us
        self.counts["history_late"] += int((~timely).sum())
        kept = requests[:, timely]
        self.counts["history_dropped"] += max(0, kept.shape[1] - MAX_OPEN)
        self.requests = kept[:, -MAX_OPEN:]
        self.samples = samples[:, samples[0] >= after_us][:, -_MAX_SAMPLES:]

    def close(self, end_us: int) -> tuple[Floats, Floats]:
        """Takes out, and keeps for a while, the requests and samples of before a time."""
        due, due_samples = self.requests[0] < end_us, self.samples[0] < end_us
        if due.any():
            self._count_in_flight(due)
        closed = (self.requests[:, due], self.samples[:, due_samples])
        self.requests, self.samples = self.requests[:, ~due], self.samples[:, ~due_samples]
        if due.any() or due_samples.any():
            self._closed.append(closed)
        while self._held() > MAX_KEPT:
            self._closed.popleft()
            self.complete = False
        if len(self.keys) >= MAX_KEYS:
            self._renumber()
        return closed

    def closed(self) -> list[tuple[Floats, Floats]]:
        """What `close` gave of late, in order."""
        return list(self._closed)

    def restore(self, requests: Floats, samples: Floats, keys: Sequence[Key]) -> None:
        """Takes over what an earlier life had open."""
        self.requests, self.samples, self.keys = requests, samples, list(keys)
        self.complete = False

    def open_keys(self) -> tuple[Floats, list[Key]]:
        """The open requests with their keys numbered anew, and these keys."""
        numbers, places = np.unique(self.requests[KEY_ROW].astype(np.int64), return_inverse=True)
        return np.vstack([self.requests[:KEY_ROW], places[None]]), [self.keys[number] for number in numbers.tolist()]

    def _count_in_flight(self, due: Bools) -> None:
        """Counts for requests that are closed now what nobody told; those that ended just before and after count."""
        unknown = due & np.isnan(self.requests[_INFLIGHT])
        if not unknown.any():
            return
        before = self._closed[-1][0] if self._closed else self.requests[:, :0]
        near = np.concatenate([before, self.requests], axis=1)
        took_s = np.where(np.isfinite(near[_SERVICE]), near[_SERVICE], near[_DURATION])
        found = in_flight(near[0].astype(np.int64), took_s, np.zeros(near.shape[1], dtype=np.int64))
        self.requests[_INFLIGHT, unknown] = found[before.shape[1] :][unknown]

    def _held(self) -> int:
        return sum(requests.shape[1] + samples.shape[1] for requests, samples in self._closed)

    def _number(self, row: dict[str, Any]) -> int:
        size = size_bucket(row["bytes_in"])
        raw = (row["method"], row["route"], size, row["auth"], row["user_agent_class"], row["region"])
        number = self._numbers.get(raw)
        if number is None:
            if len(self.keys) > MAX_KEYS:
                self.counts["history_folded"] += 1
                return MAX_KEYS  # which no category but `other` holds
            number = self._numbers[raw] = len(self.keys)
            self.keys.append(category_key(*raw) if number < MAX_KEYS else ())
        return number

    def _renumber(self) -> None:
        """Forgets the keys of requests that are gone; `closed` arrays are changed in place."""
        held = [self.requests, *(requests for requests, _ in self._closed), *self._fresh]
        used = np.unique(np.concatenate([each[KEY_ROW] for each in held]).astype(np.int64))
        for each in held:
            each[KEY_ROW] = np.minimum(np.searchsorted(used, each[KEY_ROW]), MAX_KEYS)
        self.keys = [self.keys[number] for number in used.tolist()][:MAX_KEYS]
        self.numbering += 1
        self._numbers = {}  # looked up again as they come; a key may then have two numbers, which harms nothing


def categories_of(keys: Sequence[Key], table: CategoryTable) -> Ints:
    """The place of every key's category in `table.names`."""
    place = {name: number for number, name in enumerate(table.names)}
    return np.array([place[table.assign(key)] for key in keys], dtype=np.int64)


def windows_of(requests: Floats, samples: Floats, category: Ints, window_s: float) -> tuple[Arrays, Arrays]:
    """Windows and loads of one host, as the features step makes them of many.

    Args:
        requests, samples: of `WindowBuffer.close`.
        category: of each key, see `categories_of`.
    """
    measured: dict[str, ArrayLike] = {**dict(zip(_REQUEST, requests[:KEY_ROW], strict=True)), **_of_one_host(requests)}
    measured["category"] = category[requests[KEY_ROW].astype(np.int64)]
    load: dict[str, ArrayLike] = {**dict(zip(_SAMPLE, samples, strict=True)), **_of_one_host(samples)}
    load.update(memory_columns(load["mem_bytes"], load["mem_limit_bytes"]))
    loads = aggregate_loads(load, window_s)
    windows = aggregate(measured, window_s, loads)
    loads = with_background(loads, windows, window_s)
    return with_throughput(windows, loads, sampled=True), loads


def _of_one_host(rows: Floats) -> Arrays:
    return {"time_us": rows[0].astype(np.int64), "host": np.zeros(rows.shape[1], dtype=np.int64)}
