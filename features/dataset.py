"""Replaying windows through fingerprints: training rows on the way, the features to serve at the end."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.definition import CATEGORICAL_FEATURES, NAIVE, NUMERIC_FEATURES, QUANTITIES, TARGETS, naive_column
from features.fingerprint import Fingerprints, Floats, Ints
from fingerpost.category import CategoryTable, category_attributes

_US = 1_000_000
_HOST_VALUES = ["cpu_util", "mem_share", "inflight", "background_cores", "cores", "slots"]
# Before this many windows with requests there is next to nothing to predict from.
MIN_HISTORY_WINDOWS = 3


@dataclass(frozen=True)
class _Step:
    """What one window showed, as indices and arrays; see `Fingerprints.observe`."""

    end_us: int
    host: Ints
    category: Ints
    values: Floats
    traffic: Floats
    host_rows: Ints
    host_values: Floats


class Replay:
    """The windows of one service in order of time.

    Args:
        windows: of `build_windows`.
        host_windows: of `host_windows`.
        table: the categories that the windows were built with; it gives their order.
        window_s, halflife_s: seconds.
    """

    def __init__(
        self,
        windows: pd.DataFrame,
        host_windows: pd.DataFrame,
        table: CategoryTable,
        window_s: float,
        halflife_s: float,
    ) -> None:
        self.hosts = sorted(set(windows["host"]) | set(host_windows["host"]))
        seen = set(windows["category"])
        self.categories = [name for name in table.names if name in seen]
        self._window_s = window_s
        self._halflife_s = halflife_s
        self._windows = windows.sort_values("time", kind="stable")
        self._host_windows = host_windows.sort_values("time", kind="stable")

    def run(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Replays all windows, once.

        Returns:
            The training rows: one for every cell of every window that had requests, features as of the window's
            beginning; `time` (the window's beginning: the time of prediction), `host`, `category`, FEATURES, the naive
            forecasts and the TARGETS (as logs, NaN where not measured), and `requests` of the window.
            And the latest: features and naive forecasts of every host for every category, as of the last window's end.
        """
        prints = Fingerprints(len(self.hosts), len(self.categories), self._window_s, self._halflife_s)
        parts: list[pd.DataFrame] = []
        history = 0
        for step in self._steps():
            began_us = step.end_us - round(self._window_s * _US)
            # A gap: what is known is older than the window's beginning, which `age_s` would not tell.
            if history >= MIN_HISTORY_WINDOWS and began_us == prints.now_us and step.host.size:
                frame = self._frame(prints, step.host, step.category)
                for target, values in zip(TARGETS, step.values, strict=False):
                    frame[target] = values
                frame["requests"] = step.traffic[0]
                parts.append(frame)
            prints.observe(
                step.end_us, step.host, step.category, step.values, step.traffic, step.host_rows, step.host_values
            )
            history += step.host.size > 0
        rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        host, category = np.meshgrid(np.arange(len(self.hosts)), np.arange(len(self.categories)), indexing="ij")
        return rows, self._frame(prints, host.ravel(), category.ravel())

    def _frame(self, prints: Fingerprints, host: Ints, category: Ints) -> pd.DataFrame:
        frame = pd.DataFrame(prints.features(host, category), columns=list(NUMERIC_FEATURES))
        names = np.array(self.categories, dtype=object)
        attributes = [category_attributes(name) for name in self.categories]
        for attribute in CATEGORICAL_FEATURES:
            frame[attribute] = np.array([each[attribute] for each in attributes], dtype=object)[category]
        frame.insert(0, "category", names[category])
        frame.insert(0, "host", np.array(self.hosts, dtype=object)[host])
        frame.insert(0, "time", pd.Timestamp(prints.now_us, unit="us", tz="UTC").as_unit("us"))
        forecasts = prints.naive(host, category)
        for view in NAIVE:
            for target, values in zip(TARGETS, forecasts[view], strict=True):
                frame[naive_column(view, target)] = values
        return frame

    def _steps(self) -> Iterator[_Step]:
        host_index = {name: index for index, name in enumerate(self.hosts)}
        category_index = {name: index for index, name in enumerate(self.categories)}
        hosts_at = dict(tuple(self._host_windows.groupby("time")))
        windows_at = dict(tuple(self._windows.groupby("time")))
        times: list[pd.Timestamp] = sorted({*self._host_windows["time"], *self._windows["time"]})
        for time in times:
            cells = windows_at.get(time, self._windows.iloc[:0])
            sampled = hosts_at.get(time, self._host_windows.iloc[:0])
            yield _Step(
                int(time.as_unit("us").asm8.astype(np.int64)),
                _indices(cells["host"], host_index),
                _indices(cells["category"], category_index),
                _quantities(cells),
                cells[["requests", "errors", "bytes_in_mean", "inflight_mean"]].to_numpy(np.float64).T,
                _indices(sampled["host"], host_index),
                sampled[_HOST_VALUES].to_numpy(np.float64).T,
            )


def _indices(names: pd.Series, index: dict[str, int]) -> Ints:
    return np.array([index[name] for name in names], dtype=np.int64)


def _quantities(cells: pd.DataFrame) -> Floats:
    """Logs of QUANTITIES, shape (4, n); what is absent, or not above 0, is NaN."""
    values = np.stack(
        [
            cells["throughput_rps"].to_numpy(np.float64),
            cells["latency_p50_s"].to_numpy(np.float64),
            cells["latency_p99_s"].to_numpy(np.float64),
            (cells["cpu_s"] / cells["requests"]).to_numpy(np.float64),
        ]
    )
    if len(values) != len(QUANTITIES):
        raise AssertionError("quantities and their names have come apart")
    positive = np.isfinite(values) & (values > 0)
    return np.where(positive, np.log(np.where(positive, values, 1.0)), np.nan)
