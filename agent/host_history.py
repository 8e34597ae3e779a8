"""The history of one host as its agent follows it: window by window, as the features step replays it.

The same functions make windows and history there and here, so a model is fed with what it was trained on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.agent.window_buffer import WindowBuffer, categories_of, windows_of
from fingerpost.arrays import Floats, Ints
from fingerpost.category import CategoryTable
from fingerpost.clock import US
from fingerpost.history_block import HistoryBlock, rows_of_most
from fingerpost.telemetry.history import HISTORY_COLUMNS, HISTORY_SCHEMA, History
from fingerpost.telemetry.history_state import index_of_common, remap_state
from fingerpost.telemetry.windows import select_window

# A window is closed so long after its end: by then the log has the requests that ended in it.
SETTLE_US = 2 * US
_EVIDENCE = HISTORY_COLUMNS.index("evidence")
_NOTHING = {"host": np.zeros(0, dtype=np.int64)}
_ONE_HOST = (np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))


class HostHistory:
    """Takes in request records and host samples; `block` is what goes into fingerprints.

    Requests that are seen only after their window was closed are left out, and counted.

    Args:
        table: the categories to begin with.
        window_s, halflife_s: as the features step has them, seconds.
    """

    def __init__(self, table: CategoryTable, window_s: float, halflife_s: float) -> None:
        self.table = table
        self.window_s, self.halflife_s = window_s, halflife_s
        self.history = History(1, len(table.names), window_s, halflife_s)
        self.recent = WindowBuffer()
        self._category: Ints = np.zeros(0, dtype=np.int64)
        self._numbering = 0
        self._span_us = round(window_s * US)
        self._block: HistoryBlock | None = None

    @property
    def counts(self) -> Counter[str]:
        """Requests that came too late, or were too many."""
        return self.recent.counts

    def add_requests(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes request records that have passed the door."""
        self.recent.add(rows)

    def add_sample(self, row: dict[str, Any]) -> None:
        """Takes a host sample that has passed the door."""
        self.recent.add_sample(row)

    def close(self, now_us: int) -> bool:
        """Takes in the windows that are over; tells whether there were any.

        Args:
            now_us: the present, microseconds since 1970; or, while a long log is caught up with, the time read up to.
        """
        end_us = (now_us - SETTLE_US) // self._span_us * self._span_us
        if self.history.now_us > now_us + self._span_us:
            # The clock went back: what comes now would be too late for ever.
            self._begin_anew()
        self.recent.gather(self.history.now_us)
        if end_us <= self.history.now_us:
            return False
        self._observe(self.history, *self.recent.close(end_us), end_us)
        self._block = None
        return True

    def use_table(self, table: CategoryTable) -> None:
        """Goes over to other categories.

        What is still there is replayed with them, as the features step does. Of what is not, categories of the same
        name keep their history.
        """
        if table.version == self.table.version:
            return
        old, names = self.history, self.table.names
        self.table, self._category, self._block = table, np.zeros(0, dtype=np.int64), None
        self.history = History(1, len(table.names), self.window_s, self.halflife_s)
        for requests, samples in self.recent.closed():
            self._observe(self.history, requests, samples)
        if not self.recent.complete:
            remap_state(old.state, self.history.state, _ONE_HOST, index_of_common(names, table.names))
        self.history.state["now_us"][0] = old.now_us

    def block(self) -> HistoryBlock | None:
        """The history as of the last window; None before the first."""
        history = self.history
        if self._block is None and history.now_us:
            seen = np.flatnonzero(history.state["seen"][0])
            cells = history.columns()[0, seen]
            rows = rows_of_most(cells[:, _EVIDENCE])
            self._block = HistoryBlock(
                HISTORY_SCHEMA,
                self.window_s,
                self.halflife_s,
                history.now_us,
                tuple(self.table.names[place] for place in seen[rows].tolist()),
                cells[rows].astype(np.float32),
                history.host_values()[0].astype(np.float32),
            )
        return self._block

    def _begin_anew(self) -> None:
        counts, self.recent = self.counts, WindowBuffer()
        self.recent.counts = counts
        self._category, self._block = np.zeros(0, dtype=np.int64), None
        self.history = History(1, len(self.table.names), self.window_s, self.halflife_s)

    def restore(self, state: Mapping[str, NDArray[Any]], names: Sequence[str], recent: WindowBuffer) -> None:
        """Goes on from an earlier life.

        Args:
            state: of its history, whose places stand for `names`.
            recent: what it had open.
        """
        self.history = History(1, len(self.table.names), self.window_s, self.halflife_s)
        remap_state(state, self.history.state, _ONE_HOST, index_of_common(names, self.table.names))
        self.recent, self._category, self._block = recent, np.zeros(0, dtype=np.int64), None

    def _observe(self, history: History, requests: Floats, samples: Floats, end_us: int = 0) -> None:
        windows, loads = windows_of(requests, samples, self._categories(), self.window_s)
        for each_us in np.unique(np.r_[windows["end_us"], loads["end_us"]]).tolist():
            history.observe(each_us, select_window(windows, each_us), select_window(loads, each_us))
        if history.now_us < end_us:
            history.observe(end_us, _NOTHING, _NOTHING)  # the host was silent, and that is known

    def _categories(self) -> Ints:
        """The category of every key; looked up once for each table."""
        keys = self.recent.keys
        if self._numbering != self.recent.numbering:
            self._category, self._numbering = np.zeros(0, dtype=np.int64), self.recent.numbering
        fresh = categories_of(keys[len(self._category) :], self.table)
        self._category = np.concatenate([self._category, fresh])
        return self._category
