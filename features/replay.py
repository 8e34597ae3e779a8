"""Replays windows through the history of their hosts: training rows on the way, fingerprints at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.category import category_attributes
from fingerpost.clock import US
from fingerpost.features.definition import (
    BASELINE_COLUMNS,
    CATEGORICAL_FEATURES,
    NAIVE,
    NAIVE_COLUMNS,
    NUMERIC_FEATURES,
    OUTCOMES,
    schema_hash,
)
from fingerpost.features.fleet_features import CellFeatures, ChosenCells, FleetFeatures, request_types, without_cells
from fingerpost.features.outside import NOTHING, Outside
from fingerpost.features.thinning import Draws
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.history_block import blocks_of
from fingerpost.lake import write_atomically
from fingerpost.telemetry.history import History
from fingerpost.telemetry.history_state import LOADS, fresh_state, index_of_common, log_values, remap_state
from fingerpost.telemetry.windows import Arrays, select_window

# Before this many windows with requests there is next to nothing to predict from.
MIN_HISTORY_WINDOWS = 3
# Of the host whose cold start is simulated in a window, this share of the categories stays known.
_KEPT = 0.3
_SEED = 7


def was_saved(path: Path, window_s: float, halflife_s: float) -> bool:
    """Whether `Replay.save` wrote a file with these settings and this version's history."""
    if not path.exists():
        return False
    with np.load(path, allow_pickle=False) as saved:
        return "made_by" in saved and str(saved["made_by"]) == _made_by(window_s, halflife_s)


class Replay:
    """The windows of one service in order of time.

    Args:
        hosts, categories: names; indices in windows are places in these.
        window_s, halflife_s: seconds.
        history: to go on from; None: a fresh one.
        windows_seen: windows with requests that `history` has seen.
        outside: events and holidays.
    """

    @classmethod
    def resume(
        cls,
        path: Path,
        hosts: Sequence[str],
        categories: Sequence[str],
        window_s: float,
        halflife_s: float,
        outside: Outside = NOTHING,
    ) -> "Replay":
        """The replay that `save` wrote, with places for these hosts and categories.

        Those that it did not know have no history; those that it knew but that are not named are dropped.

        Raises:
            FileNotFoundError: nothing was saved.
        """
        with np.load(path, allow_pickle=False) as saved:
            state = fresh_state(len(hosts), len(categories))
            old = {name: saved[f"state_{name}"] for name in state}
            places = (index_of_common(saved[name].tolist(), to) for name, to in _named(hosts, categories))
            remap_state(old, state, *places)
            history = History(len(hosts), len(categories), window_s, halflife_s, state)
            return cls(hosts, categories, window_s, halflife_s, history, int(saved["windows_seen"][0]), outside)

    def __init__(
        self,
        hosts: Sequence[str],
        categories: Sequence[str],
        window_s: float,
        halflife_s: float,
        history: History | None = None,
        windows_seen: int = 0,
        outside: Outside = NOTHING,
    ) -> None:
        self.hosts, self.categories = list(hosts), list(categories)
        self.history = history or History(len(hosts), len(categories), window_s, halflife_s)
        self.windows_seen = windows_seen
        self._window_s, self._halflife_s = window_s, halflife_s
        self._span_us = round(window_s * US)
        self._types = request_types(categories)
        self._outside = outside.of_hosts(self.hosts)

    def run(self, windows: Arrays, loads: Arrays, simulate_cold_start: bool = True) -> pd.DataFrame:
        """Takes in windows, all later than those before.

        Args:
            windows, loads: of `fingerpost.telemetry.windows`, ordered by time. `hidden` cells (optional)
                get their rows, but the history never hears of them. Of the rows of a window its `share` (optional) is
                kept, without one all; the history hears of all windows.
            simulate_cold_start: also make rows of hosts as if they were new to most categories, to learn from.

        Returns:
            The training rows: one for every cell of every window that had requests, features as of the window's
            beginning; `time` (the window's beginning: the time of prediction), `host`, `category`, FEATURES, the naive
            forecasts and the OUTCOMES (as logs, NaN where not measured), `requests` of the window, whether the cell
            had a history of its `own`, whether the row simulates a `cold_start`, its `draw` (0..1) and its `weight`,
            1 / the share of rows that was kept of such a time, and BASELINE_COLUMNS, what the engine would have served
            without a model (NaN in cold starts).
        """
        rows = _Rows()
        drawn = Draws(self.hosts, self.categories).of(*(windows[name] for name in ("end_us", "host", "category")))
        windows = {"share": np.ones(len(drawn)), **windows, "draw": drawn}
        for end_us in np.unique(np.r_[windows["end_us"], loads["end_us"]]).tolist():
            step = select_window(windows, end_us)
            host = step["host"].astype(np.int64)
            chosen = step["draw"] < step["share"]
            if self.windows_seen >= MIN_HISTORY_WINDOWS and chosen.any():
                self._add_rows(rows, {name: each[chosen] for name, each in step.items()}, host, simulate_cold_start)
            shown = ~step["hidden"] if "hidden" in step else slice(None)
            self.history.observe(
                end_us, {name: each[shown] for name, each in step.items()}, select_window(loads, end_us)
            )
            self.windows_seen += host.size > 0
        return rows.frame(self.hosts, self.categories)

    def _add_rows(self, rows: "_Rows", cells: Arrays, present: Ints, simulate_cold_start: bool) -> None:
        """Adds the rows of some cells of a window.

        Args:
            present: hosts that served in the window, one for each of all its cells.
        """
        end_us = int(cells["end_us"][0])
        began_us = end_us - self._span_us
        history, values = self.history.columns(began_us), self.history.host_values(began_us)
        host, category = cells["host"].astype(np.int64), cells["category"].astype(np.int64)
        outside = self._outside.at(began_us)
        fleet = FleetFeatures(history, values, self._types, began_us, outside)
        found = fleet.of(ChosenCells(host, category))
        rows.add(began_us, cells, found, fleet.baseline[host, category].T, cold_start=False)
        if not simulate_cold_start:
            return
        chosen, hidden = self._as_if_new(end_us, present, history)
        mask = (host == chosen) & np.isin(category, hidden)
        if mask.any():
            unseen = without_cells(history, chosen, hidden)
            fleet = FleetFeatures(unseen, values, self._types, began_us, outside)
            found = fleet.of(ChosenCells(host[mask], category[mask]))
            unknown = np.full((len(BASELINE_COLUMNS), int(mask.sum())), np.nan)
            rows.add(began_us, {name: each[mask] for name, each in cells.items()}, found, unknown, cold_start=True)

    def save(self, path: Path, **about: NDArray[Any]) -> None:
        """Writes the history whole or not at all: arrays by name, never anything that could be executed.

        Args:
            about: what else to keep beside it.
        """
        arrays: dict[str, Any] = {
            **{name: np.array(each, dtype=np.str_) for name, each in _named(self.hosts, self.categories)},
            **{f"state_{name}": each for name, each in self.history.state.items()},
            "windows_seen": np.array([self.windows_seen]),
            "made_by": np.array(_made_by(self._window_s, self._halflife_s)),
            **about,
        }

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)

        write_atomically(path, write)

    def fingerprints(self, service: str, category_version: str) -> list[Fingerprint]:
        """Every host's fingerprint as of the last window's end, as an agent that saw the same would send it."""
        history, names = self.history, tuple(self.categories)
        loads = dict(zip(LOADS, history.state["load"], strict=True))
        known = {"cpu_util": loads["cpu_util"], "host_inflight": loads["inflight"], "cores": loads["cores"]}
        known |= {"slots": loads["slots"], "background_cores": loads["background_cores"]}
        unknown = np.full(len(self.hosts), np.nan)
        sent = np.stack([known.get(name, unknown) for name in FINGERPRINT_HOST_COLUMNS], axis=1)
        return [
            Fingerprint(service, host, "lake", 0, history.now_us, category_version, names, values, block)
            for host, values, block in zip(self.hosts, sent, blocks_of(history, names), strict=True)
        ]

    def _as_if_new(self, end_us: int, present: Ints, history: Floats) -> tuple[int, Ints]:
        """A host of this window and the categories it shall not have served; the same whenever it is asked."""
        rng = np.random.default_rng((_SEED, end_us))
        return int(rng.choice(present)), np.flatnonzero(rng.random(history.shape[1]) >= _KEPT)


def _made_by(window_s: float, halflife_s: float) -> str:
    return f"{schema_hash()} {window_s} {halflife_s}"


def _named(hosts: Sequence[str], categories: Sequence[str]) -> tuple[tuple[str, Sequence[str]], ...]:
    """What the places of a history stand for, by the name under which it is saved."""
    return (("hosts", hosts), ("categories", categories))


class _Rows:
    """Training rows as they come, in pieces."""

    def __init__(self) -> None:
        self._parts: list[tuple[Arrays, CellFeatures, Floats]] = []

    def add(self, began_us: int, cells: Arrays, found: CellFeatures, baseline: Floats, cold_start: bool) -> None:
        count = len(cells["host"])
        told = {
            **{name: cells[name] for name in ("host", "category", "requests", "draw")},
            **dict(zip(OUTCOMES, log_values(cells), strict=False)),
            **{"time_us": np.full(count, began_us), "cold_start": np.full(count, cold_start)},
            "weight": 1 / cells["share"],
        }
        self._parts.append((told, found, baseline))

    def frame(self, hosts: Sequence[str], categories: Sequence[str]) -> pd.DataFrame:
        if not self._parts:
            return pd.DataFrame()
        told, found, baseline = zip(*self._parts, strict=True)
        features = CellFeatures(
            np.concatenate([each.numeric for each in found]),
            {view: np.concatenate([each.naive[view] for each in found], axis=1) for view in NAIVE},
            np.concatenate([each.own for each in found]),
        )
        columns = {name: np.concatenate([each[name] for each in told]) for name in told[0]}
        host, category = (columns.pop(name).astype(np.int64) for name in ("host", "category"))
        frame = frame_of(columns.pop("time_us"), host, category, features, hosts, categories)
        measured = {name: columns[name] for name in (*OUTCOMES, "requests", "cold_start", "draw", "weight")}
        measured.update(zip(BASELINE_COLUMNS, np.concatenate(baseline, axis=1), strict=True))
        return pd.concat([frame, pd.DataFrame(measured)], axis=1)


def frame_of(
    time_us: Ints, host: Ints, category: Ints, found: CellFeatures, hosts: Sequence[str], categories: Sequence[str]
) -> pd.DataFrame:
    """Features as a frame: `time`, `host`, `category`, FEATURES, the naive forecasts and `own`."""
    times = pd.Series(time_us.astype("datetime64[us]")).dt.tz_localize("UTC")
    names = {
        "host": pd.Categorical.from_codes(host, pd.Index(hosts)),
        "category": pd.Categorical.from_codes(category, pd.Index(categories)),
    }
    attributes = [category_attributes(name) for name in categories]
    for attribute in CATEGORICAL_FEATURES:
        values = [each[attribute] for each in attributes]
        distinct = sorted(set(values))
        codes = np.array([distinct.index(value) for value in values])
        names[attribute] = pd.Categorical.from_codes(codes[category], pd.Index(distinct))
    naive = np.concatenate([found.naive[view] for view in NAIVE])
    return pd.concat(
        [
            pd.DataFrame({"time": times, "host": names.pop("host"), "category": names.pop("category")}),
            pd.DataFrame(found.numeric, columns=list(NUMERIC_FEATURES)),
            pd.DataFrame(names),
            pd.DataFrame(naive.T, columns=list(NAIVE_COLUMNS)),
            pd.DataFrame({"own": found.own}),
        ],
        axis=1,
    )
