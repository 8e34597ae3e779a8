"""Learned predictions: the project's own windows, histories, features and models, fed with a simulation's telemetry."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fingerpost.category import SEPARATOR, category_key
from fingerpost.features.fleet_features import CellFeatures, cell_features, request_types
from fingerpost.features.replay import MIN_HISTORY_WINDOWS, Replay
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk, Table
from fingerpost.simulator.telemetry import Telemetry, joined
from fingerpost.telemetry.history import History
from fingerpost.telemetry.windows import Arrays, select_window
from fingerpost.training.evaluate import time_split
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle

if TYPE_CHECKING:
    from fingerpost.training.bundle import ModelBundle

# What the table is made of.
_TARGETS = ("throughput_rps", "latency_p50_s")
_LATER_SHARE = 0.2


class Learned:
    """A model that follows a run live: histories go on with every window that ends, tables are predicted from them.

    Args:
        bundle: predicts `throughput_rps` and `latency_p50_s`.
    """

    def __init__(self, bundle: "ModelBundle", scenario: Scenario) -> None:
        self._bundle = bundle
        self._telemetry = Telemetry(scenario.predictions.window_s)
        self._categories = category_names(scenario.categories)
        self._types = request_types(self._categories)
        self._shape = (scenario.hosts, scenario.categories)
        self._history = History(*self._shape, scenario.predictions.window_s, halflife_s(scenario))
        self._host, self._category = np.divmod(np.arange(scenario.hosts * scenario.categories), scenario.categories)
        self._windows_seen = 0
        self._table: Table | None = None

    def observe(self, chunk: Chunk) -> None:
        """Follows the windows that ended within the span."""
        ended = self._telemetry.closed(chunk)
        if ended is None:
            return
        windows, loads = ended
        for end_us in np.unique(np.concatenate([windows["end_us"], loads["end_us"]])).tolist():
            step = select_window(windows, end_us)
            self._history.observe(end_us, step, select_window(loads, end_us))
            self._windows_seen += len(step["host"]) > 0
        self._table = None

    def features(self) -> CellFeatures:
        """Of all cells, host by host, as of the end of the last window."""
        history, values = self._history.columns(), self._history.host_values()
        return cell_features(history, values, self._types, self._history.now_us, self._host, self._category)

    def table(self, now_s: float) -> Table:  # noqa: ARG002
        """What is predicted since the last window; all hosts equal as long as there is no history to speak of."""
        if self._windows_seen < MIN_HISTORY_WINDOWS:
            return Table(np.ones(self._shape), np.ones(self._shape))
        if self._table is None:
            matrix = self._bundle.encoder.encode_cells(self.features().numeric, self._categories, self._category)
            served = self._bundle.served_logs(matrix)
            throughput, latency = (np.exp(served[target]).reshape(self._shape) for target in _TARGETS)
            self._table = Table(throughput, latency)
        return self._table


def training_rows(scenario: Scenario, parts: Sequence[tuple[Arrays, Arrays]]) -> pd.DataFrame:
    """The rows that the features step would make of a run's windows and loads."""
    windows, loads = joined([each for each, _ in parts]), joined([each for _, each in parts])
    hosts = [f"host-{number}" for number in range(scenario.hosts)]
    replay = Replay(hosts, category_names(scenario.categories), scenario.predictions.window_s, halflife_s(scenario))
    return replay.run(windows, loads)


def fit(rows: pd.DataFrame, window_s: float) -> "ModelBundle":
    """The model that training would fit, with its default parameters instead of tuned ones.

    Raises:
        NoDataError: there are too few rows to learn from.
    """
    earlier, later = time_split(rows["time"], _LATER_SHARE, pd.Timedelta(seconds=window_s))
    valid = rows[later & ~rows["cold_start"].to_numpy(bool)]
    return fit_bundle(rows[earlier], valid, DEFAULT_PARAMS, _TARGETS)


def category_names(count: int) -> list[str]:
    """Names of so many categories, each a request type of its own."""
    keys = (category_key("GET", f"/{number}", "0", "none", "other", "none") for number in range(count))
    return [SEPARATOR.join(key) for key in keys]


def halflife_s(scenario: Scenario) -> float:
    """The middle half-life of histories: what fades to 1/e in `memory_s`, to 1/2 in this."""
    return float(np.log(2) * scenario.predictions.memory_s)
