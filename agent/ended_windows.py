"""The windows that have ended at a host and are yet to be reported, and how often each finest category came."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fingerpost.agent.options import AgentOptions
from fingerpost.agent.window_buffer import KEY_ROW
from fingerpost.arrays import Floats, Floats32
from fingerpost.category import SEPARATOR, CategoryTable, Key
from fingerpost.clock import US
from fingerpost.records import MAX_TEXT
from fingerpost.telemetry.windows import Arrays, select_window
from fingerpost.window_report import (
    MAX_KEYS,
    MAX_ROWS,
    SAMPLE_COLUMNS,
    WINDOW_COLUMNS,
    WindowReport,
    load_row,
    window_matrix,
)

# While nothing can be reported the oldest windows go: as many as a day has.
_MOST = 8640
_KEYS_EVERY_S = 60.0
# Of a host sample, what a report tells.
_SAMPLED = {"host_mem_bytes": "mem_bytes", "host_inflight": "inflight"}


@dataclass(frozen=True)
class EndedWindow:
    """One window, as `WindowReport` tells it."""

    end_us: int
    category_version: str
    categories: tuple[str, ...]
    windows: Floats32
    load: Floats32 | None


class EndedWindows:
    """Bounded; what does not fit is counted.

    Args:
        clock: seconds that never jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: deque[EndedWindow] = deque()
        self._keys: Counter[Key] = Counter()
        self._keys_told_s = clock()
        self.counts: Counter[str] = Counter()

    def add(self, table: CategoryTable, windows: Arrays, loads: Arrays) -> None:
        """Takes windows and loads of one host, as `fingerpost.agent.window_buffer.windows_of` makes them."""
        for end_us in np.unique(np.r_[windows["end_us"], loads["end_us"]]).tolist():
            rows, load = select_window(windows, end_us), select_window(loads, end_us)
            names = [table.names[place] for place in rows["category"].tolist()]
            kept = [place for place, name in enumerate(names) if len(name) <= MAX_TEXT]
            if len(kept) > MAX_ROWS:
                busiest = np.argsort(-rows["requests"][kept], kind="stable")[:MAX_ROWS]
                kept = sorted(kept[place] for place in busiest.tolist())
            self.counts["window_rows_dropped"] += len(names) - len(kept)
            told = tuple(names[place] for place in kept)
            self._windows.append(EndedWindow(end_us, table.version, told, window_matrix(rows)[kept], load_row(load)))
        while len(self._windows) > _MOST:
            self._windows.popleft()
            self.counts["windows_dropped"] += 1

    def count(self, requests: Floats, keys: Sequence[Key]) -> None:
        """Counts the finest categories of requests.

        Args:
            requests: columns of `WindowBuffer.close`.
            keys: of `WindowBuffer`, that the requests number.
        """
        numbers, counts = np.unique(requests[KEY_ROW].astype(np.int64), return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            key = keys[number]
            if key and len(SEPARATOR.join(key)) <= MAX_TEXT:
                self._keys[key] += count

    def take(self) -> list[EndedWindow]:
        """Hands out the windows in order, and forgets them."""
        taken, self._windows = list(self._windows), deque()
        return taken

    def take_keys(self) -> tuple[tuple[Key, int], ...]:
        """Hands out the most frequent keys once a minute, and forgets all; in between none."""
        now_s = self._clock()
        if now_s - self._keys_told_s < _KEYS_EVERY_S:
            return ()
        self._keys_told_s = now_s
        taken, self._keys = self._keys, Counter()
        return tuple(taken.most_common(MAX_KEYS))


class Numbering:
    """Makes the reports of one life of an agent, numbered from 0.

    Args:
        boot_id: of this life.
    """

    def __init__(self, options: AgentOptions, boot_id: str) -> None:
        self._options, self._boot_id = options, boot_id
        self._sequence = 0

    def reports(
        self, ended: EndedWindows, version: str, sample: Mapping[str, Any] | None, time_us: int
    ) -> list[WindowReport]:
        """A report of each window that has ended; if none has, one that says that the host is there.

        Args:
            version: of the category table in force.
            sample: the latest of the host; None: there is none, and so nothing says that the host is there.
            time_us: the present, microseconds since 1970.
        """
        windows = ended.take()
        if not windows and sample is not None:
            windows = [EndedWindow(0, version, (), _NO_ROWS, None)]
        return [self._report(each, ended, sample, time_us) for each in windows]

    def _report(
        self, window: EndedWindow, ended: EndedWindows, sample: Mapping[str, Any] | None, time_us: int
    ) -> WindowReport:
        options, number = self._options, self._sequence
        self._sequence += 1
        return WindowReport(
            service=options.service,
            host=options.host,
            source="host",
            reporter=options.host,
            boot_id=self._boot_id,
            sequence=number,
            time_us=max(time_us, window.end_us - round(options.window_s * US)),
            end_us=window.end_us,
            window_s=options.window_s,
            category_version=window.category_version,
            categories=window.categories,
            windows=window.windows,
            load=window.load,
            sample=_sample_row(sample or {}),
            keys=ended.take_keys(),
            landed=options.deliver == "engine",
        )


_NO_ROWS = np.zeros((0, len(WINDOW_COLUMNS)), dtype=np.float32)


def _sample_row(sample: Mapping[str, Any]) -> Floats:
    values = (sample.get(_SAMPLED.get(name, name)) for name in SAMPLE_COLUMNS)
    return np.array([np.nan if value is None else float(value) for value in values])
