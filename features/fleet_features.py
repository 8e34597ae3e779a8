"""From the histories of hosts to the features of cells: where hosts are compared, and the only place.

A pure function of the stored history, so that what is served is what was trained on.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.category import category_attributes
from fingerpost.features.definition import (
    BASELINE_VIEW,
    ERROR_VIEWS,
    HOST_FEATURES,
    NAIVE,
    NUMERIC_FEATURES,
    OUTCOMES,
    OUTSIDE_FEATURES,
    OWN_VIEWS,
    TARGETS,
    TRAFFIC_FEATURES,
)
from fingerpost.features.peers import PeerEstimates, estimate_from_peers
from fingerpost.telemetry.baseline import BASELINE_INPUTS, baseline_of, host_kinds
from fingerpost.telemetry.history import HISTORY_COLUMNS, HISTORY_HOST_COLUMNS
from fingerpost.telemetry.history_state import QUANTITIES

_H = {name: index for index, name in enumerate(HISTORY_COLUMNS)}
_M = {name: index for index, name in enumerate(HISTORY_HOST_COLUMNS)}
_F = {name: index for index, name in enumerate(NUMERIC_FEATURES)}
DUE = "host_due"
_DAY_S = 86_400
_WEEK_S = 7 * _DAY_S
# A cell's own average counts for half when it was seen in this many windows.
_HALF_BELIEF_WINDOWS = 2.0
# Counts, rates and ages span orders of magnitude.
_ON_LOG_SCALE = {
    *("requests_last", "rate_rps_last", "rate_rps_ewma", "bytes_in", "inflight", "seen_windows", "evidence", "age_s"),
    *("host_inflight", "host_sample_age_s", "host_rate_rps_last", "host_rate_rps_ewma", "host_age_s", "host_gap_s"),
    *(name for name in OUTSIDE_FEATURES if name.endswith("_s")),
    *("host_since_gap_s", "host_known_s", "host_spell_s", "host_fine_s", "host_work", "host_mem_full_s"),
}


@dataclass(frozen=True)
class ChosenCells:
    """Any n cells of a fleet of H hosts and C categories.

    Args:
        host, category: indices, shape (n,).
    """

    host: Ints
    category: Ints

    @property
    def count(self) -> int:
        return len(self.host)

    def of_cells(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of all cells, shape (H, C), to those of these, shape (n,)."""
        return np.asarray(values[self.host, self.category])

    def of_hosts(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of hosts, shape (H,), to those of the cells, shape (n,)."""
        return np.asarray(values[self.host])

    def of_categories(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of categories, shape (C,), to those of the cells, shape (n,)."""
        return np.asarray(values[self.category])

    def history(self, history: NDArray[Any]) -> Floats:
        """Histories, shape (H, C, K), to columns of these cells side by side, float64, shape (K, n)."""
        return np.ascontiguousarray(history[self.host, self.category].T, dtype=np.float64)


@dataclass(frozen=True)
class HostsCells:
    """All cells of the hosts from `begin` to before `end`, host by host: the same as those chosen, without look-ups.

    Args:
        categories: how many there are, C.
    """

    begin: int
    end: int
    categories: int

    @property
    def count(self) -> int:
        return (self.end - self.begin) * self.categories

    def of_cells(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[self.begin : self.end].reshape(-1)

    def of_hosts(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values[self.begin : self.end], self.categories)

    def of_categories(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.tile(values, self.end - self.begin)

    def history(self, history: NDArray[Any]) -> Floats:
        part = history[self.begin : self.end]
        return np.ascontiguousarray(part.reshape(self.count, part.shape[2]).T, dtype=np.float64)


@dataclass(frozen=True)
class CellFeatures:
    """Features and naive forecasts of n cells.

    Args:
        numeric: NUMERIC_FEATURES, shape (n, features), NaN where not known.
        naive: `last`, `ewma` and `median` of OUTCOMES as logs, each of shape (outcomes, n), filled where the cell was
            never seen: as its category is on the fleet times the host's ratio, else as the host is, else as all are.
        own: whether the cell has a history of its own, shape (n,).
    """

    numeric: Floats
    naive: dict[str, Floats]
    own: np.ndarray


def request_types(categories: Sequence[str]) -> Ints:
    """The request type of each category, as an index."""
    names = [category_attributes(name)["request_type"] for name in categories]
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)


class FleetFeatures:
    """A fleet at a time, its hosts compared with each other once, whichever cells' features are then asked for.

    Attributes:
        baseline: what the engine's baseline says of every cell, as logs, shape (H, C, targets).
        now_us: the time of prediction.

    Args:
        history: of `fingerpost.telemetry.history.History.columns`, shape (H, C, K), float64 or 32.
        host_values: of `fingerpost.telemetry.history.History.host_values`, shape (H, M).
        types: of `request_types`, shape (C,).
        now_us: the time of prediction, microseconds since 1970.
        outside: of `fingerpost.features.outside.OutsideOfHosts.at`, as of the same time; None: nothing is known.
    """

    def __init__(
        self,
        history: NDArray[Any],
        host_values: Floats,
        types: Ints,
        now_us: int,
        outside: Mapping[str, Floats] | None = None,
    ) -> None:
        self._history, self._host_values, self.now_us = history, host_values, now_us
        current = history[..., _H["age_s"]] == 0
        self._shared: dict[str, PeerEstimates] = {}
        self._fill: dict[str, Floats] = {}
        self._elsewhere: dict[str, Floats] = {}
        for quantity in QUANTITIES:
            ewma, last, level = (self._column(f"{quantity}_{view}") for view in ("ewma", "last", "level"))
            shared = estimate_from_peers(ewma, types)
            self._shared[quantity], self._fill[quantity] = shared, _fill(ewma, shared)
            self._elsewhere[quantity] = _off_elsewhere(last - level, current)
        inputs = history[..., [_H[name] for name in BASELINE_INPUTS]].astype(np.float64)
        cores, slots = (host_values[:, _M[name]] for name in ("host_cores", "host_slots"))
        self.baseline = baseline_of(inputs, host_kinds(cores, slots)).filled()
        known = outside or {name: np.full(len(host_values), np.nan) for name in OUTSIDE_FEATURES}
        told = {name: _scaled(name, values) for name, values in known.items()}
        self._of_hosts = {**_host_columns(host_values), **_off_hosts(host_values), **told}
        self._of_all = {**_fleet_rates(host_values), **_off_fleet(host_values), **_time_of(now_us)}
        self._of_categories = _category_rates(self._column("rate_rps_last"), self._column("seen_windows"))

    def of(self, cells: ChosenCells | HostsCells, out: Floats | None = None) -> CellFeatures:
        """Features of some cells.

        Args:
            out: where the features are written to and stay, a feature side by side: shape (features, n); None: anew.
        """
        out = np.empty((len(NUMERIC_FEATURES), cells.count)) if out is None else out
        history = cells.history(self._history)
        seen = np.nan_to_num(history[_H["seen_windows"]])
        naive: dict[str, list[Floats]] = {view: [] for view in NAIVE}
        for quantity in QUANTITIES:
            fill = cells.of_cells(self._fill[quantity])
            ewma = history[_H[f"{quantity}_ewma"]]
            base = out[_F[f"{quantity}_ewma"]]
            base[:] = np.where(np.isfinite(ewma), ewma, fill)
            for view in OWN_VIEWS:
                np.subtract(history[_H[f"{quantity}_{view}"]], base, out=out[_F[f"{quantity}_{view}"]])
            for view in ERROR_VIEWS:
                out[_F[f"{quantity}_{view}"]] = history[_H[f"{quantity}_{view}"]]
            for name, values in self._shared_views(quantity, base, seen, np.isfinite(ewma), cells).items():
                out[_F[name]] = values
            out[_F[f"{quantity}_category_off"]] = cells.of_cells(self._elsewhere[quantity])
            if quantity in TARGETS:
                baseline = cells.of_cells(self.baseline[..., TARGETS.index(quantity)])
                np.subtract(baseline, base, out=out[_F[f"{quantity}_{BASELINE_VIEW}"]])
            if quantity in OUTCOMES:
                for view in NAIVE:
                    values = history[_H[f"{quantity}_{view}"]]
                    naive[view].append(np.where(np.isfinite(values), values, fill))
        for name in TRAFFIC_FEATURES:
            out[_F[name]] = _scaled(name, history[_H[name]])
        for name, values in self._of_hosts.items():
            out[_F[name]] = cells.of_hosts(values)
        for name, values in self._of_categories.items():
            out[_F[name]] = cells.of_categories(values)
        for name, value in self._of_all.items():
            out[_F[name]] = value
        return CellFeatures(out.T, {view: np.stack(rows) for view, rows in naive.items()}, seen > 0)

    def with_due(self, due: Floats) -> "FleetFeatures":
        """The same at a time between windows, when what recurs makes hosts otherwise slow; `due` has shape (H,)."""
        later = copy.copy(self)
        later._of_hosts = {**self._of_hosts, DUE: _scaled(DUE, due)}
        return later

    def _column(self, name: str) -> Floats:
        """A column of the history of all cells, shape (H, C)."""
        return np.asarray(self._history[..., _H[name]], dtype=np.float64)

    def _shared_views(
        self, quantity: str, base: Floats, seen: Floats, own: np.ndarray, cells: ChosenCells | HostsCells
    ) -> dict[str, Floats]:
        shared = self._shared[quantity]
        fleet, peers = cells.of_cells(shared.fleet), cells.of_cells(shared.peers)
        # The best guess without the cell itself: hosts that resemble it, else its type's ratio, else the fleet.
        by_type = fleet + np.nan_to_num(cells.of_cells(shared.type_ratio))
        guess = np.where(np.isfinite(peers), peers, by_type)
        trust = np.where(own, seen / (seen + _HALF_BELIEF_WINDOWS), 0.0)
        shrunk = np.where(np.isfinite(guess), (1 - trust) * (guess - base), 0.0)
        return {
            f"{quantity}_fleet": fleet - base,
            f"{quantity}_type": by_type - base,
            f"{quantity}_host": cells.of_cells(shared.host_ratio),
            f"{quantity}_peers": peers - base,
            f"{quantity}_shrunk": shrunk,
        }


def without_cells(history: Floats, host: int, categories: Ints) -> Floats:
    """The history as if a host had never served some categories."""
    hidden = history.copy()
    hidden[host, categories] = np.nan
    for name in ("requests_last", "rate_rps_last", "rate_rps_ewma", "seen_windows", "evidence"):
        hidden[host, categories, _H[name]] = 0.0
    return hidden


def _fill(ewma: Floats, shared: PeerEstimates) -> Floats:
    """What a cell is forecast as that was never seen, shape (H, C)."""
    fleet = np.where(np.isfinite(shared.fleet), shared.fleet, _mean(ewma))
    return fleet + np.nan_to_num(shared.host_ratio)


def _off_elsewhere(off: Floats, current: np.ndarray) -> Floats:
    """How far a category is off its levels just now on the other hosts; `off` is of all cells, shape (H, C)."""
    known = current & np.isfinite(off)
    clean = np.where(known, off, 0.0)
    others = known.sum(axis=0) - known
    return np.divide(clean.sum(axis=0) - clean, others, out=np.full(off.shape, np.nan), where=others > 0)


def _off_hosts(host_values: Floats) -> dict[str, Floats]:
    """How far hosts are off their levels just now."""
    pairs = [(quantity, view) for quantity in QUANTITIES for view in ("off", "drift")]
    return {f"{quantity}_host_{view}": host_values[:, _M[f"host_{quantity}_{view}"]] for quantity, view in pairs}


def _off_fleet(host_values: Floats) -> dict[str, float]:
    """How far the fleet, and its worst host, are off their levels just now."""
    columns = {}
    for quantity in QUANTITIES:
        off, drift = (host_values[:, _M[f"host_{quantity}_{view}"]] for view in ("off", "drift"))
        columns[f"{quantity}_fleet_off"] = _mean(off)
        columns[f"{quantity}_fleet_drift"] = _mean(drift)
        columns[f"{quantity}_worst_off"] = np.max(np.abs(off), initial=0.0, where=np.isfinite(off))
    return columns


def _host_columns(host_values: Floats) -> dict[str, Floats]:
    return {name: _scaled(name, host_values[:, _M[name]]) for name in HOST_FEATURES}


def _fleet_rates(host_values: Floats) -> dict[str, float]:
    return {
        f"fleet_rate_rps_{view}": float(np.log1p(np.nansum(host_values[:, _M[f"host_rate_rps_{view}"]])))
        for view in ("last", "ewma")
    }


def _category_rates(rate_rps: Floats, seen_windows: Floats) -> dict[str, Floats]:
    return {
        "category_rate_rps_last": np.log1p(np.nansum(rate_rps, axis=0)),
        "category_hosts": (np.nan_to_num(seen_windows) > 0).sum(axis=0).astype(np.float64),
    }


def _time_of(now_us: int) -> dict[str, float]:
    """Time of day and week as points on a circle, UTC; 1970 began on a Thursday."""
    seconds = now_us / 1e6
    day, week = 2 * np.pi * seconds / _DAY_S, 2 * np.pi * (seconds + 3 * _DAY_S) / _WEEK_S
    return {"day_sin": np.sin(day), "day_cos": np.cos(day), "week_sin": np.sin(week), "week_cos": np.cos(week)}


def _scaled(name: str, values: Floats) -> Floats:
    return np.asarray(np.log1p(np.maximum(values, 0.0))) if name in _ON_LOG_SCALE else values


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan
