"""Splits telemetry by time, and scores predictions against the naive forecasts anyone could make."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Floats
from fingerpost.errors import NoDataError
from fingerpost.features.definition import NAIVE, naive_column
from fingerpost.training.bundle import ModelBundle

MIN_PART_ROWS = 20


def time_split(times: pd.Series, later_share: float, gap: pd.Timedelta) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the earlier and the later rows, by their distinct times of prediction.

    Args:
        times: time of prediction of every row; its outcome is known one window later.
        later_share: share of the distinct times that is later, 0..1.
        gap: rows less than this before the first later time are in neither part; at least one window.

    Raises:
        NoDataError: a part would have fewer than 20 rows.
    """
    distinct = np.sort(times.unique())
    if len(distinct) < 2:
        raise NoDataError(f"telemetry of {len(distinct)} windows cannot be split by time: measure for longer")
    first_later = distinct[min(len(distinct) - 1, round(len(distinct) * (1 - later_share)))]
    earlier = (times <= first_later - gap).to_numpy()
    later = (times >= first_later).to_numpy()
    _check_sizes(earlier, later)
    return earlier, later


def purged_folds(times: pd.Series, folds: int, gap: pd.Timedelta) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Masks of earlier and later rows, fold by fold: the later parts follow each other, all before them is earlier.

    Time-series cross-validation, purged (Lopez de Prado, Advances in financial machine learning, 2018, chapter 7):
    between the two parts of a fold lies at least `gap`. The later parts together are the last half of the times.

    Raises:
        NoDataError: a part would have fewer than 20 rows.
    """
    distinct = np.sort(times.unique())
    edges = [round(len(distinct) * (0.5 + 0.5 * fold / folds)) for fold in range(folds + 1)]
    found = []
    for low, high in itertools.pairwise(edges):
        if low >= high or low < 1:
            raise NoDataError(f"telemetry of {len(distinct)} windows cannot be split into folds: measure for longer")
        earlier = (times <= distinct[low] - gap).to_numpy()
        later = (times.ge(distinct[low]) & times.le(distinct[high - 1])).to_numpy()
        _check_sizes(earlier, later)
        found.append((earlier, later))
    return found


def _check_sizes(earlier: NDArray[np.bool_], later: NDArray[np.bool_]) -> None:
    for name, part in (("earlier", earlier), ("later", later)):
        if part.sum() < MIN_PART_ROWS:
            raise NoDataError(
                f"only {part.sum()} rows in the {name} part of a split by time, {MIN_PART_ROWS} are needed: "
                "measure for longer"
            )


@dataclass(frozen=True)
class TargetScore:
    """Errors of one target on held-out rows: mean absolute differences of natural logs.

    Args:
        request_skill: the skill where rows count by their requests.
    """

    rows: int
    model: float
    naive: dict[str, float]
    request_skill: float = float("nan")

    @property
    def best_naive(self) -> str:
        return min(self.naive, key=lambda view: self.naive[view])

    @property
    def skill(self) -> float:
        """1 - model / best naive forecast: above 0 is better than simply remembering."""
        best = self.naive[self.best_naive]
        return 1 - self.model / best if best > 0 else 0.0


def log_mae(actual_log: ArrayLike, predicted_log: ArrayLike, weight: ArrayLike = 1.0) -> float:
    """Mean absolute difference of two arrays of logs, over pairs where both are finite; NaN where there are none.

    Args:
        weight: of each pair, one for all or shape (n,).
    """
    error = np.abs(np.asarray(actual_log, dtype=np.float64) - np.asarray(predicted_log, dtype=np.float64))
    known = np.isfinite(error)
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float64), error.shape)[known]
    return float(np.average(error[known], weights=weights)) if weights.sum() > 0 else float("nan")


def score(
    bundle: ModelBundle, rows: pd.DataFrame, predicted: Mapping[str, Floats] | None = None
) -> dict[str, TargetScore]:
    """Scores a model and the naive forecasts on the same rows, target by target.

    Args:
        predicted: of `bundle.predict_log`; None: it is asked.
    """
    predicted = bundle.predict_log(rows) if predicted is None else predicted
    scores = {}
    weight = rows["weight"].to_numpy(np.float64)
    requests = rows["requests"].to_numpy(np.float64) * weight
    for target in bundle.targets:
        actual = rows[target].to_numpy(np.float64)
        weighted = TargetScore(
            rows=0,
            model=log_mae(actual, predicted[target], requests),
            naive={view: log_mae(actual, rows[naive_column(view, target)], requests) for view in NAIVE},
        )
        scores[target] = TargetScore(
            rows=int(np.isfinite(actual).sum()),
            model=log_mae(actual, predicted[target], weight),
            naive={view: log_mae(actual, rows[naive_column(view, target)], weight) for view in NAIVE},
            request_skill=weighted.skill,
        )
    return scores


def error_table(predicted: Mapping[str, Floats], rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Log-MAE of model and EWMA by `host` or `category`, worst first by the model's first target.

    Args:
        predicted: of `ModelBundle.predict_log`, of these rows.
    """
    errors = pd.DataFrame({by: rows[by].astype("str")})
    for target in predicted:
        errors[f"{target}_model"] = np.abs(rows[target] - predicted[target])
        errors[f"{target}_ewma"] = np.abs(rows[target] - rows[naive_column("ewma", target)])
    table = errors.groupby(by).mean()
    table.insert(0, "rows", errors.groupby(by).size())
    return table.sort_values(f"{next(iter(predicted))}_model", ascending=False).reset_index()


def mean_skill(scores: dict[str, TargetScore]) -> float:
    """The mean of the targets' skills."""
    return float(np.mean([each.skill for each in scores.values()]))
