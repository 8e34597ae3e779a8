"""A blend of naive forecasts: what every booster corrects."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.definition import naive_column

_MAX_ROWS = 50_000
_HUBER = 0.1


@dataclass(frozen=True)
class Blend:
    """log y = ewma + weights . (differences of the other views from it).

    The weights lie in 0..1 and there is no constant: a combination of forecasts (Bates and Granger, 1969) errs little
    outside of what it was fitted to, which a free regression over a short history does not promise.

    Args:
        weights: one for each of: last, level, median, fleet and host, the host just now.
    """

    weights: tuple[float, ...]

    @classmethod
    def fit(cls, rows: pd.DataFrame, target: str) -> "Blend":
        """Fits by a smooth absolute loss (pseudo-Huber, scale 0.1); on the latest 50,000 rows at most."""
        from scipy.optimize import minimize

        rows = rows[np.isfinite(rows[target].to_numpy(np.float64))].tail(_MAX_ROWS)
        differences = _differences(rows, target)
        wanted = (rows[target] - rows[naive_column("ewma", target)]).to_numpy(np.float64)
        usable = np.isfinite(wanted)
        differences, wanted = differences[usable], wanted[usable]

        def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            error = differences @ weights - wanted
            root = np.sqrt(error**2 + _HUBER**2)
            return float(root.mean()), differences.T @ (error / root) / len(error)

        count = differences.shape[1]
        found = minimize(loss, np.full(count, 0.1), jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * count)
        return cls(tuple(float(weight) for weight in found.x))

    def predict(self, rows: pd.DataFrame, target: str) -> NDArray[np.float64]:
        """Logs of the forecast, shape (rows,)."""
        ewma = rows[naive_column("ewma", target)].to_numpy(np.float64)
        return ewma + _differences(rows, target) @ np.array(self.weights)


def _differences(rows: pd.DataFrame, target: str) -> NDArray[np.float64]:
    """The views less the EWMA, shape (rows, 5); a view that is not known agrees with the EWMA."""
    ewma = rows[naive_column("ewma", target)].to_numpy(np.float64)
    views = [
        rows[naive_column("last", target)].to_numpy(np.float64) - ewma,
        rows[f"{target}_level"].to_numpy(np.float64) - ewma,
        rows[naive_column("median", target)].to_numpy(np.float64) - ewma,
        rows[f"{target}_fleet"].to_numpy(np.float64) + rows[f"{target}_host"].to_numpy(np.float64) - ewma,
        rows[f"{target}_now"].to_numpy(np.float64),
    ]
    return np.nan_to_num(np.stack(views, axis=1), nan=0.0, posinf=0.0, neginf=0.0)
