"""The rolling state of a service's hosts, kept from the windows that their reporters send; vectorised over hosts.

Every worker and replica that shares the store reads the same reports in the same order, and has the same state.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Ints
from fingerpost.bounded import Bounds, unpacked
from fingerpost.clock import US
from fingerpost.history_block import HistoryBlock, blocks_of
from fingerpost.serving.histories import HistoryForm
from fingerpost.telemetry.history import HISTORY_SCHEMA, History
from fingerpost.telemetry.history_state import CELL_STATE, HOST_STATE, fresh_state, remap_state
from fingerpost.window_merge import merge_reports
from fingerpost.window_report import LOAD_COLUMNS, WINDOW_COLUMNS, WindowReport

logger = logging.getLogger(__name__)
# A reporter that told nothing for so long is not waited for.
_LIVE_US = 60 * US
_MAX_BYTES = 16 * 2**20
_STATE = Bounds(containers=8, array=8192, map=256, text=1024, binary=_MAX_BYTES)


class FleetHistory:
    """Holds what `fingerpost.telemetry.history` says of every host, for categories by their names.

    Args:
        form: of windows and half-life; windows of another length are not taken.
        max_categories: kept at once; past it those go that no host has served for longest.

    Attributes:
        counts: what was passed over: `windows_late`, and `cells_dropped`, whose categories had no room.
    """

    def __init__(self, form: HistoryForm, max_categories: int) -> None:
        self._form, self._most = form, max_categories
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._categories: list[str] = []
        self._category: dict[str, int] = {}
        self._history = History(0, 0, form.window_s, form.halflife_s)
        # By place of the host: end of its last window.
        self._end_us: Ints = np.zeros(0, dtype=np.int64)
        # By host: the end of the last window of each reporter, and windows by their end that not all have told of.
        self._told_us: dict[str, dict[str, int]] = {}
        self._waiting: dict[str, dict[int, list[WindowReport]]] = {}
        self.counts: Counter[str] = Counter()

    def observe(self, reports: Iterable[WindowReport]) -> None:
        """Takes in windows in the order in which they came; those of a host that come too late are counted.

        Where several report on a host, a window is taken in once all of them have told of it, or one of a later one.
        """
        by_end: dict[int, list[WindowReport]] = {}
        for report in reports:
            for ready in self._ready(report):
                by_end.setdefault(ready.end_us, []).append(ready)
        for end_us in sorted(by_end):
            self._observe(end_us, by_end[end_us])

    def waits(self, host: str) -> bool:
        """Whether a window of a host waits for what others tell of it: its state has not all that was reported."""
        return bool(self._waiting.get(host))

    def blocks(self, hosts: Sequence[str]) -> dict[str, HistoryBlock]:
        """The histories of some hosts, each as of its last window; none of a host without one."""
        found: dict[str, HistoryBlock] = {}
        places = np.array([self._places.get(host, -1) for host in hosts], dtype=np.int64)
        ends = np.where(places >= 0, self._end_us[places] if len(self._end_us) else 0, 0)
        for end_us in np.unique(ends[ends > 0]).tolist():
            chosen = np.flatnonzero(ends == end_us)
            made = blocks_of(self._history.of_hosts(places[chosen], end_us), self._categories)
            found.update(zip([hosts[number] for number in chosen.tolist()], made, strict=True))
        return found

    def end_us(self, host: str) -> int:
        """End of a host's last window, microseconds since 1970; 0: it has none."""
        place = self._places.get(host)
        return 0 if place is None else int(self._end_us[place])

    def forget(self, host: str) -> None:
        """Drops a host; its place is another's later."""
        self._told_us.pop(host, None)
        self._waiting.pop(host, None)
        place = self._places.pop(host, None)
        if place is not None:
            self._clear(place)
            self._free.append(place)

    def packed(self, host: str) -> bytes | None:
        """The state of a host as bytes, in 32-bit floats; None: it has none."""
        place = self._places.get(host)
        if place is None or not self._end_us[place]:
            return None
        state = self._history.state
        seen = np.flatnonzero(state["seen"][place])
        arrays = {name: _raw(state[name][..., place, seen]) for name in CELL_STATE}
        arrays.update({name: _raw(state[name][..., place]) for name in HOST_STATE})
        about = {
            "made_by": self._made_by(),
            "names": [self._categories[number] for number in seen.tolist()],
            "end_us": int(self._end_us[place]),
            "state": arrays,
        }
        made: bytes = msgpack.packb(about)
        return made

    def restore(self, host: str, packed: bytes) -> None:
        """Goes on from `packed` of an earlier life.

        Raises:
            ValueError: it is of another version or other settings, or no such thing.
        """
        try:
            given = unpacked(packed, _STATE)
            if given["made_by"] != self._made_by():
                raise ValueError(f"it was made by {given['made_by']!r}")
            names, end_us = [str(name) for name in given["names"]], int(given["end_us"])
            old = fresh_state(1, len(names))
            for name in (*CELL_STATE, *HOST_STATE):
                old[name][...] = _values(given["state"][name], old[name])
        except (TypeError, KeyError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        place, columns = self._place(host), self._columns(names)
        kept = np.flatnonzero(columns >= 0)
        old["now_us"][0] = max(self._history.now_us, end_us)
        one, none = np.array([place]), np.zeros(1, dtype=np.int64)
        remap_state(old, self._history.state, (one, none), (columns[kept], kept))
        self._end_us[place] = end_us

    def _ready(self, report: WindowReport) -> list[WindowReport]:
        """The windows of a host that are whole now, in order, merged by the rule of `fingerpost.window_merge`."""
        host, end_us = report.host, report.end_us
        if not end_us:
            return []
        told, waiting = self._told_us.setdefault(host, {}), self._waiting.setdefault(host, {})
        told[report.reporter] = max(end_us, told.get(report.reporter, 0))
        if end_us <= self.end_us(host):
            self.counts["windows_late"] += 1
            return []
        waiting.setdefault(end_us, []).append(report)
        latest = max(told.values())
        for silent in [name for name, last_us in told.items() if last_us < latest - _LIVE_US]:
            del told[silent]
        whole_us = max(min(told.values()), latest - round(self._form.window_s * US))
        ready = [merge_reports(waiting.pop(each)) for each in sorted(waiting) if each <= whole_us]
        if ready:
            place = self._place(host)
            self._end_us[place] = ready[-1].end_us
        return ready

    def _observe(self, end_us: int, reports: Sequence[WindowReport]) -> None:
        places = np.array([self._place(report.host) for report in reports], dtype=np.int64)
        rows = [len(report.categories) for report in reports]
        for report in reports:
            self._columns(report.categories)  # all of them have their places, or none, before the first is used
        names = [name for report in reports for name in report.categories]
        columns = np.array([self._category.get(name, -1) for name in names], dtype=np.int64)
        kept = columns >= 0
        self.counts["cells_dropped"] += int((~kept).sum())
        matrix = np.concatenate([report.windows for report in reports]).astype(np.float64)[kept]
        windows: dict[str, NDArray[Any]] = dict(zip(WINDOW_COLUMNS, matrix.T, strict=True))
        windows.update(host=np.repeat(places, rows)[kept], category=columns[kept])
        sampled = [
            (place, report.load) for place, report in zip(places, reports, strict=True) if report.load is not None
        ]
        loaded = np.array([load for _, load in sampled], dtype=np.float64).reshape(-1, len(LOAD_COLUMNS))
        loads: dict[str, NDArray[Any]] = dict(zip(LOAD_COLUMNS, loaded.T, strict=True))
        loads["host"] = np.array([place for place, _ in sampled], dtype=np.int64)
        self._history.observe_some(end_us, windows, loads)

    def _place(self, host: str) -> int:
        place = self._places.get(host)
        if place is None:
            if not self._free:
                self._grow(max(8, 2 * len(self._end_us)), len(self._history.state["seen"].T))
            place = self._places[host] = self._free.pop()
        return place

    def _columns(self, names: Sequence[str]) -> Ints:
        """The places of a host's categories, new ones if need be; -1: there are too many."""
        missing = [name for name in names if name not in self._category]
        if missing:
            excess = len(self._categories) + len(missing) - self._most
            if excess > 0:
                self._make_room(excess, names)
            missing = missing[: max(0, self._most - len(self._categories))]
            wanted, width = len(self._categories) + len(missing), self._history.state["seen"].shape[1]
            if wanted > width:
                self._grow(len(self._end_us), min(self._most, max(16, wanted, width * 5 // 4)))
            self._category.update({name: len(self._categories) + place for place, name in enumerate(missing)})
            self._categories.extend(missing)
        return np.array([self._category.get(name, -1) for name in names], dtype=np.int64)

    def _make_room(self, excess: int, names: Sequence[str]) -> None:
        """Drops what no host has served for long, then what one host alone serves that has more than this one.

        So a host that makes up categories cannot push out those of others.
        """
        width, state = len(self._categories), self._history.state
        served = state["seen"][:, :width] > 0
        latest, hosts = state["seen_us"][:, :width].max(axis=0, initial=0), served.sum(axis=0)
        stale = latest < self._history.now_us - 10 * round(self._form.halflife_s * US)
        of_host = (served * served.sum(axis=1, keepdims=True)).max(axis=0, initial=0)
        droppable = stale | ((hosts <= 1) & (of_host > len(names)))
        droppable[[self._category[name] for name in names if name in self._category]] = False
        order = np.lexsort((latest, ~stale))
        gone = order[droppable[order]][:excess]
        kept = np.setdiff1d(np.arange(width), gone)
        self._rebuild(len(self._end_us), state["seen"].shape[1], kept)
        self._categories = [self._categories[number] for number in kept.tolist()]
        self._category = {name: number for number, name in enumerate(self._categories)}

    def _grow(self, hosts: int, categories: int) -> None:
        before = len(self._end_us)
        self._rebuild(hosts, categories, np.arange(len(self._categories)))
        self._free.extend(range(hosts - 1, before - 1, -1))
        self._end_us = np.pad(self._end_us, (0, hosts - before))

    def _rebuild(self, hosts: int, categories: int, kept: Ints) -> None:
        """Moves the state into a history of another shape, with some of its categories, side by side."""
        old = self._history
        self._history = History(hosts, categories, self._form.window_s, self._form.halflife_s)
        every = np.arange(len(self._end_us))
        remap_state(old.state, self._history.state, (every, every), (np.arange(len(kept)), kept))

    def _clear(self, place: int) -> None:
        fresh = fresh_state(1, self._history.state["seen"].shape[1])
        for name in CELL_STATE:
            self._history.state[name][..., place, :] = fresh[name][..., 0, :]
        for name in HOST_STATE:
            self._history.state[name][..., place] = fresh[name][..., 0]
        self._end_us[place] = 0

    def _made_by(self) -> list[Any]:
        return [HISTORY_SCHEMA, float(self._form.window_s), float(self._form.halflife_s)]


def _raw(values: NDArray[Any]) -> bytes:
    return values.astype("<f4").tobytes() if values.dtype.kind == "f" else values.astype("<i8").tobytes()


def _values(raw: bytes, like: NDArray[Any]) -> NDArray[Any]:
    """The values that `_raw` wrote of an array without its axis of hosts."""
    given = np.frombuffer(raw, dtype="<f4" if like.dtype.kind == "f" else "<i8")
    return given.reshape(like.shape)
