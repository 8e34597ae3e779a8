"""Measures the noise of windows: how well their outcomes could be predicted by anybody who knew the truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats
from fingerpost.features.build import load_categories
from fingerpost.features.definition import NAIVE, OUTCOMES, naive_column
from fingerpost.features.windows import Windowed, build_windows
from fingerpost.lake import dates, read
from fingerpost.telemetry.history_state import log_values
from fingerpost.training.evaluate import log_mae

_SEED = 7
_CELL = ["time", "host", "category"]


@dataclass(frozen=True)
class Ceiling:
    """What of a target's error is noise, on windows of two requests and more.

    Args:
        rows: how many there are.
        noise: mean absolute error of a window's outcome by chance, as a log.
        naive: error of the best naive forecast.
        model: error of the model.
    """

    rows: int
    noise: float
    naive: float
    model: float

    @property
    def skill(self) -> float:
        """The highest skill that is conceivable: of whoever knows the truth, and not the chance."""
        return 1 - self.noise / self.naive

    @property
    def share(self) -> float:
        """The model's skill as a share of that."""
        return (1 - self.model / self.naive) / self.skill


def half_differences(lake: Path, target: Path, service: str, window_s: float) -> pd.DataFrame:
    """Differences of OUTCOMES, as logs, between random halves of each window's requests; `time` is its beginning.

    A half has half of the requests, so the difference of two is twice as noisy as the whole window.

    Args:
        lake, target: where the records, and the categories, are.
    """
    table, parts = load_categories(target, service), []
    for day in dates(lake, "requests", service):
        requests = read(lake, "requests", service, on=[day]).to_pandas()
        samples = read(lake, "samples", service, on=[day]).to_pandas()
        first = np.random.default_rng(_SEED).random(len(requests)) < 0.5
        windowed = [build_windows(requests[half], samples, table, window_s) for half in (first, ~first)]
        one, other = (_outcomes(each, window_s) for each in windowed)
        parts.append(one - other.reindex(one.index))
    return pd.concat(parts).dropna(how="all").reset_index()


def _outcomes(windowed: Windowed, window_s: float) -> pd.DataFrame:
    ends = pd.to_datetime(windowed.windows["end_us"], unit="us", utc=True) - pd.Timedelta(seconds=window_s)
    hosts, categories = np.array(windowed.hosts), np.array(windowed.categories)
    names = (hosts[windowed.windows["host"]], categories[windowed.windows["category"]])
    values = log_values(windowed.windows)[: len(OUTCOMES)]
    index = pd.MultiIndex.from_arrays([pd.Index(ends), *names], names=_CELL)
    return pd.DataFrame(dict(zip(OUTCOMES, values, strict=True)), index=index)


def ceiling_of(target: str, halves: pd.DataFrame, rows: pd.DataFrame, predicted: Floats) -> Ceiling | None:
    """The ceiling of a target on held-out rows; None: no window of them has two requests that measured it.

    Args:
        halves: of `half_differences`.
        predicted: of the model, logs, shape (rows,).
    """
    known = rows[_CELL].astype({"host": str, "category": str}).merge(halves[[*_CELL, target]], on=_CELL, how="left")
    noise = known[target].abs().to_numpy() / 2
    actual = rows[target].to_numpy(np.float64)
    both = np.isfinite(noise) & np.isfinite(actual) & np.isfinite(predicted)
    if not both.any():
        return None
    naive = min(log_mae(actual[both], rows[naive_column(view, target)].to_numpy()[both]) for view in NAIVE)
    return Ceiling(int(both.sum()), float(noise[both].mean()), naive, log_mae(actual[both], predicted[both]))
