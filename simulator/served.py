"""The engine's predictions of a run, made by the product's code of what agents tell it, when they tell it.

Windows, histories, the baseline, features, models and success rates are those that serve; so are the delays: a window
is closed `settle_s` after its end, and each host's agent reports every `report_s`, as soon as a window is closed.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats, significant
from fingerpost.category import SEPARATOR, category_key
from fingerpost.clock import US
from fingerpost.features.fleet_features import CellFeatures, FleetFeatures, HostsCells, request_types
from fingerpost.features.replay import Replay
from fingerpost.routing.success import slow_start_weights, success_rates
from fingerpost.simulator.fleet import Bools
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk, Table
from fingerpost.simulator.telemetry import Telemetry, joined
from fingerpost.telemetry.baseline import BASELINE_INPUTS, baseline_of, host_kinds
from fingerpost.telemetry.history import (
    HISTORY_HOST_PLACE,
    HISTORY_PLACE,
    History,
    extrapolate_history,
    measured_again,
)
from fingerpost.telemetry.recurrence import due_between
from fingerpost.telemetry.windows import APART_S, Arrays, select_window
from fingerpost.training.evaluate import time_split
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle

if TYPE_CHECKING:
    from fingerpost.training.bundle import ModelBundle

# What the table is made of.
_TARGETS = ("throughput_rps", "latency_p50_s")
_BASELINE = [HISTORY_PLACE[name] for name in BASELINE_INPUTS]
_EVIDENCE, _ERRORS = HISTORY_PLACE["evidence"], HISTORY_PLACE["error_share"]
_LATER_SHARE = 0.2


@dataclass
class _Told:
    """A closed window on its way: the hosts' histories as of its end.

    Attributes:
        due_s: when each host's agent reports it, shape (H,); infinite: not, or it has.
    """

    as_of_us: int
    due_s: Floats
    cells: Floats
    host_values: Floats


class Served:
    """Follows a run as the engine does.

    Args:
        bundle: the model; None: the baseline serves.
        seed: of the times at which agents report.
    """

    def __init__(self, scenario: Scenario, seed: int, bundle: "ModelBundle | None" = None) -> None:
        self._telling, self._bundle = scenario.telemetry, bundle
        self._source = Telemetry(scenario)
        self._categories = category_names(scenario.categories)
        self._types = request_types(self._categories)
        hosts, self._shape = scenario.hosts, (scenario.hosts, scenario.categories)
        self._history = History(*self._shape, self._telling.window_s, self._telling.halflife_s)
        # As the engine has them, and as of when; a host that never told anything has 0.
        self._cells, self._host_values = self._history.columns(), self._history.host_values()
        self._as_of_us, self._heard_s = np.zeros(hosts, dtype=np.int64), np.full(hosts, -np.inf)
        self._first_s, self._gone = np.full(hosts, np.inf), np.zeros(hosts, dtype=np.bool_)
        apart_s = min(APART_S, self._telling.report_s)
        self._phase_s = self._telling.settle_s + np.random.default_rng([seed, 8]).random(hosts) * apart_s
        self._cores, self._slots = np.full((2, hosts), np.nan)
        self._coming: deque[_Told] = deque()
        self._due = np.full(hosts, np.nan)
        self._table: Table | None = None

    def observe(self, chunk: Chunk) -> None:
        """Follows the windows that ended within the span."""
        up = chunk.samples.up
        told = self._telling.hosts_tell
        known = self._telling.cpu != "unknown"
        self._cores = chunk.samples.cores.astype(np.float64) if known else np.full(len(up), np.nan)
        self._slots = chunk.samples.slots.astype(np.float64) if told else np.full(len(up), np.nan)
        self._note_reports(chunk.end_s, up)
        ended = self._source.closed(chunk)
        if ended is None:
            return
        windows, loads = ended
        for end_us in np.unique(np.concatenate([windows["end_us"], loads["end_us"]])).tolist():
            self._history.observe(end_us, select_window(windows, end_us), select_window(loads, end_us))
            closed_s = self._source.seconds(end_us) + self._telling.settle_s
            report_s = self._telling.report_s
            due_s = self._phase_s + np.ceil((closed_s - self._phase_s) / report_s - 1e-9) * report_s
            cells = self._history.columns().astype(np.float32).astype(np.float64)
            self._coming.append(_Told(end_us, np.where(up, due_s, np.inf), cells, self._history.host_values()))

    def table(self, now_s: float) -> Table:
        """What is predicted by what agents have told; the same object as long as that is the same."""
        fresh = self._take(now_s)
        live = now_s - self._heard_s <= self._telling.ttl_s
        weights = self._weights(now_s, live)
        due = self._due_at(now_s) if self._bundle is not None else self._due
        moves = not np.array_equal(due, self._due, equal_nan=True)
        if self._table is None or fresh or moves or (self._table.weights != weights).any():
            self._due = due
            self._table = self._made(live, weights)
        return self._table

    def features(self) -> CellFeatures:
        """Of all cells, host by host, as of the latest window that any host has told of."""
        return self._features().of(HostsCells(0, *self._shape))

    def _features(self) -> FleetFeatures:
        cells, values, now_us = self._forward()
        return FleetFeatures(cells, values, self._types, now_us)

    @property
    def _as_of_s(self) -> Floats:
        """Up to when each host's windows are known, seconds since the start of the run, shape (H,)."""
        return np.array([self._source.seconds(as_of_us) for as_of_us in self._as_of_us.tolist()])

    def _due_at(self, now_s: float) -> Floats:
        """What is due on each host now, between windows."""
        values = self._forward()[1]
        due, after = (values[:, HISTORY_HOST_PLACE[name]] for name in ("host_due", "host_due_after"))
        return due_between(due, after, np.maximum(np.floor(now_s) - self._as_of_s, 0.0), self._telling.window_s)

    def _note_reports(self, now_s: float, up: Bools) -> None:
        """An agent that is up reports, if only that its host is there."""
        told_s = self._phase_s + np.floor((now_s - self._phase_s) / self._telling.report_s) * self._telling.report_s
        heard = up & (told_s >= np.maximum(self._heard_s, 0.0))
        # Another life of a host's agent: the host is ramped up as if it were new.
        anew = heard & (self._gone | np.isinf(self._first_s)) & (told_s > self._heard_s)
        self._first_s = np.where(anew, told_s, self._first_s)
        self._heard_s = np.where(heard, told_s, self._heard_s)
        self._gone = (self._gone | ~up) & ~anew

    def _take(self, now_s: float) -> bool:
        """Takes in what agents have reported by now; tells whether there was any."""
        fresh = False
        for told in self._coming:
            arrived = told.due_s <= now_s + 1e-9
            fresh |= bool(arrived.any())
            self._cells[arrived], self._host_values[arrived] = told.cells[arrived], told.host_values[arrived]
            self._as_of_us[arrived] = told.as_of_us
            told.due_s[arrived] = np.inf
        while self._coming and np.isinf(self._coming[0].due_s).all():
            self._coming.popleft()
        return fresh

    def _weights(self, now_s: float, live: Bools) -> Floats:
        known_s = np.maximum(now_s - self._first_s, 0.0)
        weights = np.ones(len(live))
        again = measured_again(self._host_values, self._as_of_s - self._first_s, self._telling.window_s)
        weights[live] = slow_start_weights(known_s[live], self._telling.slow_start_s, again[live])
        return weights

    def _made(self, live: Bools, weights: Floats) -> Table:
        cells = np.where(live[:, None, None], self._cells, np.nan)
        evidence, errors = cells[..., _EVIDENCE], cells[..., _ERRORS]
        slots = np.where(live, self._slots, np.nan)
        logs = baseline_of(cells[..., _BASELINE], host_kinds(self._cores, slots)).filled()
        if self._bundle is not None and (self._as_of_us > 0).any():
            matrix = self._encoded(self._bundle)
            served = self._bundle.served_logs(matrix)
            model = np.stack([served[target].reshape(self._shape) for target in _TARGETS], axis=-1)
            logs = np.where(np.isfinite(model) & live[:, None, None], model, logs[..., : len(_TARGETS)])
        rate, latency = (significant(np.exp(logs[..., place])) for place in range(len(_TARGETS)))
        return Table(rate, latency, significant(success_rates(evidence, evidence * errors)), weights, slots, evidence)

    def _encoded(self, bundle: "ModelBundle") -> Floats:
        category = np.tile(np.arange(self._shape[1]), self._shape[0])
        numeric = self._features().with_due(self._due).of(HostsCells(0, *self._shape)).numeric
        return bundle.encoder.encode_cells(numeric, self._categories, category)

    def _forward(self) -> tuple[Floats, Floats, int]:
        """Histories as models are fed them: of hosts that are more than a window behind, brought forward."""
        now_us = int(self._as_of_us.max())
        cells, values = self._cells, self._host_values
        window_s, halflife_s = self._telling.window_s, self._telling.halflife_s
        behind_s = np.where(self._as_of_us > 0, (now_us - self._as_of_us) / US, 0.0)
        late = np.flatnonzero(behind_s > window_s + 1e-6)
        if late.size:
            cells, values = cells.copy(), values.copy()
        for host in late.tolist():
            moved = extrapolate_history(cells[host], values[host], behind_s[host], window_s, halflife_s)
            cells[host], values[host] = moved
        return cells, values, now_us


def training_rows(scenario: Scenario, parts: Sequence[tuple[Arrays, Arrays]]) -> pd.DataFrame:
    """The rows that the features step would make of a run's windows and loads."""
    windows, loads = joined([each for each, _ in parts]), joined([each for _, each in parts])
    hosts = [f"host-{number}" for number in range(scenario.hosts)]
    telling = scenario.telemetry
    replay = Replay(hosts, category_names(scenario.categories), telling.window_s, telling.halflife_s)
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
