"""The history of one host as its agent follows it: window by window, as the features step replays it.

The same functions make windows and history there and here, so a model is fed with what it was trained on.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from fingerpost.agent.ended_windows import EndedWindows
from fingerpost.agent.window_buffer import (
    MAX_KEYS,
    REQUEST_ROWS,
    SAMPLE_ROWS,
    WindowBuffer,
    categories_of,
    windows_of,
)
from fingerpost.arrays import Ints
from fingerpost.bounded import Bounds, unpacked
from fingerpost.category import CategoryTable
from fingerpost.clock import US
from fingerpost.history_block import HistoryBlock, blocks_of
from fingerpost.lake import write_atomically
from fingerpost.telemetry.history import HISTORY_SCHEMA, History
from fingerpost.telemetry.history_state import CELL_STATE, fresh_state, index_of_common, remap_state
from fingerpost.telemetry.windows import SETTLE_S, Arrays, select_window

logger = logging.getLogger(__name__)
SETTLE_US = round(SETTLE_S * US)
_NOTHING = {"host": np.zeros(0, dtype=np.int64)}
_ONE_HOST = (np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
_FORMAT = 1
_MAX_BYTES = 64 * 2**20
# The finest keys and those of the category table, each a list of its own, and some besides.
_BOUNDS = Bounds(containers=MAX_KEYS + 8192, array=32_768, map=256, text=8192, binary=_MAX_BYTES)


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
        self.ended = EndedWindows()
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
        requests, samples = self.recent.close(end_us)
        windows, loads = windows_of(requests, samples, self._categories(), self.window_s)
        self.ended.add(self.table, windows, loads)
        self.ended.count(requests, self.recent.keys)
        self._follow(self.history, windows, loads, end_us)
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
            self._follow(self.history, *windows_of(requests, samples, self._categories(), self.window_s))
        if not self.recent.complete:
            remap_state(old.state, self.history.state, _ONE_HOST, index_of_common(names, table.names))
        self.history.state["now_us"][0] = old.now_us

    def block(self) -> HistoryBlock | None:
        """The history as of the last window; None before the first."""
        if self._block is None and self.history.now_us:
            (self._block,) = blocks_of(self.history, self.table.names)
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

    def _follow(self, history: History, windows: Arrays, loads: Arrays, end_us: int = 0) -> None:
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


class HistoryFile:
    """Keeps a history in step with how far its agent has read.

    It is saved before the agent notes how far it has read. If it ends in between, the same batch is read again: what is
    in the history already is then skipped.

    Args:
        path: of the file.
        history: that is kept; what an earlier life saved with the same settings is taken up.
        batch: name of the batch that is being read, of `Source.batch_name`.
    """

    def __init__(self, path: Path, history: HostHistory, batch: str) -> None:
        self._path, self._history = path, history
        self._taken = self._skip = 0
        try:
            self._load(batch)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("the history begins anew, its file cannot be read: %s: %s", type(error).__name__, error)

    def add_requests(self, rows: list[dict[str, Any]]) -> None:
        """Takes the next request records of the batch."""
        self._taken += len(rows)
        skipped = min(self._skip, len(rows))
        self._skip -= skipped
        self._history.add_requests(rows[skipped:] if skipped else rows)

    def save(self, batch: str) -> None:
        """Writes what is known by now.

        Raises:
            OSError: it cannot be written.
        """
        history = self._history
        history.recent.gather(history.history.now_us)
        requests, keys = history.recent.open_keys()
        seen = np.flatnonzero(history.history.state["seen"][0])
        state = {
            name: _packed(each[..., seen] if name in CELL_STATE else each)
            for name, each in history.history.state.items()
        }
        about = {
            "format": _FORMAT,
            **_depends(history),
            "table": history.table.to_json(),
            "names": [history.table.names[place] for place in seen.tolist()],
            "state": state,
            "requests": requests.tobytes(),
            "samples": history.recent.samples.tobytes(),
            "keys": keys,
            "batch": batch,
            "taken": self._taken,
        }
        data = msgpack.packb(about)
        write_atomically(self._path, lambda temporary: temporary.write_bytes(data))

    def committed(self) -> None:
        """The agent has noted how far it has read: another batch begins."""
        self._taken = self._skip = 0

    def _load(self, batch: str) -> None:
        if self._path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        given = unpacked(self._path.read_bytes(), _BOUNDS)
        history = self._history
        wanted = {"format": _FORMAT, **_depends(history)}
        if {name: given[name] for name in wanted} != wanted:
            raise ValueError("saved by another version, or with another window_s or halflife_s")
        names = [str(name) for name in given["names"]]
        state = fresh_state(1, len(names))
        for name, fresh in state.items():
            fresh[...] = _unpacked(given["state"][name], fresh)
        recent = WindowBuffer()
        recent.restore(
            np.frombuffer(given["requests"]).reshape(REQUEST_ROWS, -1).copy(),
            np.frombuffer(given["samples"]).reshape(SAMPLE_ROWS, -1).copy(),
            [tuple(map(str, key)) for key in given["keys"]],
        )
        if recent.requests.shape[1] and not 0 <= recent.requests[-1].max() < len(recent.keys):
            raise ValueError("its keys do not fit")
        history.table = CategoryTable.from_json(given["table"])
        history.restore(state, names, recent)
        # What was read from the same beginning will be read again.
        self._skip = int(given["taken"]) if given["batch"] == batch else 0


def _depends(history: HostHistory) -> dict[str, Any]:
    return {"schema": HISTORY_SCHEMA, "window_s": float(history.window_s), "halflife_s": float(history.halflife_s)}


def _packed(values: NDArray[Any]) -> bytes:
    return values.astype("<f8").tobytes() if values.dtype.kind == "f" else values.astype("<i8").tobytes()


def _unpacked(raw: bytes, like: NDArray[Any]) -> NDArray[Any]:
    return np.frombuffer(raw, dtype="<f8" if like.dtype.kind == "f" else "<i8").reshape(like.shape)
