"""How good predictions are, against the naive forecasts anyone could make."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fingerpost.features.definition import NAIVE, naive_column
from fingerpost.training.bundle import ModelBundle


@dataclass(frozen=True)
class TargetScore:
    """Errors of one target on held-out rows: mean absolute differences of natural logs."""

    rows: int
    model: float
    naive: dict[str, float]

    @property
    def best_naive(self) -> str:
        return min(self.naive, key=lambda view: self.naive[view])

    @property
    def skill(self) -> float:
        """1 - model / best naive forecast: above 0 is better than simply remembering."""
        best = self.naive[self.best_naive]
        return 1 - self.model / best if best > 0 else 0.0


def log_mae(actual_log: ArrayLike, predicted_log: ArrayLike) -> float:
    """Mean absolute difference of two arrays of logs, over pairs where both are finite; NaN where there are none."""
    error = np.abs(np.asarray(actual_log, dtype=np.float64) - np.asarray(predicted_log, dtype=np.float64))
    error = error[np.isfinite(error)]
    return float(error.mean()) if error.size else float("nan")


def score(bundle: ModelBundle, rows: pd.DataFrame) -> dict[str, TargetScore]:
    """Scores a model and the naive forecasts on the same rows, target by target."""
    predicted = bundle.predict_log(rows)
    scores = {}
    for target in bundle.targets:
        actual = rows[target].to_numpy(np.float64)
        scores[target] = TargetScore(
            rows=int(np.isfinite(actual).sum()),
            model=log_mae(actual, predicted[target]),
            naive={view: log_mae(actual, rows[naive_column(view, target)]) for view in NAIVE},
        )
    return scores


def error_table(bundle: ModelBundle, rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Log-MAE of model and EWMA by `host` or `category`, worst first by the model's throughput."""
    predicted = bundle.predict_log(rows)
    errors = pd.DataFrame({by: rows[by].astype("str")})
    for target in bundle.targets:
        errors[f"{target}_model"] = np.abs(rows[target] - predicted[target])
        errors[f"{target}_ewma"] = np.abs(rows[target] - rows[naive_column("ewma", target)])
    table = errors.groupby(by).mean()
    table.insert(0, "rows", errors.groupby(by).size())
    return table.sort_values(f"{bundle.targets[0]}_model", ascending=False).reset_index()


def mean_skill(scores: dict[str, TargetScore]) -> float:
    """The mean of the targets' skills."""
    return float(np.mean([each.skill for each in scores.values()]))
