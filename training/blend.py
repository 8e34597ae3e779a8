"""A blend of naive forecasts: what every booster corrects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.features.definition import NUMERIC_FEATURES

# What a cell with a history of its own is blended from, and one without.
OWN = ("last", "previous", "short", "long", "level", "median", "mixed", "shrunk", "host_off", "category_off")
NEW = ("shrunk", "type", "peers", "host_off", "category_off")
_MAX_ROWS = 50_000
_MIN_ROWS = 50
_SCALE = 0.1
_PLACE = {name: place for place, name in enumerate(NUMERIC_FEATURES)}


@dataclass(frozen=True)
class Blend:
    """log y = rolling average + weights . (differences of the other views from it).

    The weights lie in 0..1 and there is no constant: a combination of forecasts (Bates and Granger, 1969) errs little
    outside of what it was fitted to, which a free regression over a short history does not promise. Where the cell has
    no history of its own, the rolling average is the fleet's for the category times the host's ratio to it.

    Args:
        own: a weight for each of OWN, for cells with a history.
        new: a weight for each of NEW, for cells without.
    """

    own: tuple[float, ...]
    new: tuple[float, ...]

    @classmethod
    def fit(cls, matrix: Floats, outcome: Floats, target: str) -> "Blend":
        """Fits by a smooth absolute loss (pseudo-Huber, scale 0.1); on the latest 50,000 rows of either kind.

        Args:
            matrix: features as `fingerpost.training.encoder.Encoder` orders them, shape (n, features).
            outcome: logs, shape (n,).
        """
        seen = _own(matrix)
        own = _fit(matrix, outcome, target, OWN, seen)
        new = _fit(matrix, outcome, target, NEW, ~seen)
        # With too few to learn from, the compromise between similar hosts and the fleet stands.
        return cls(
            own if own is not None else tuple(1.0 if view == "mixed" else 0.0 for view in OWN),
            new if new is not None else tuple(1.0 if view == "shrunk" else 0.0 for view in NEW),
        )

    def predict(self, matrix: Floats, target: str) -> Floats:
        """Logs of the forecast, shape (n,)."""
        base = matrix[:, _PLACE[f"{target}_ewma"]]
        own = _differences(matrix, target, OWN) @ np.array(self.own)
        new = _differences(matrix, target, NEW) @ np.array(self.new)
        blended: Floats = base + np.where(_own(matrix), own, new)
        return blended


def _own(matrix: Floats) -> NDArray[np.bool_]:
    seen: NDArray[np.bool_] = matrix[:, _PLACE["seen_windows"]] > 0
    return seen


def _differences(matrix: Floats, target: str, views: tuple[str, ...]) -> Floats:
    """The views less the rolling average, shape (n, views); a view that is not known agrees with it."""
    # A view side by side, whichever way the features lie, so that the sums are the same to the bit.
    picked = np.asfortranarray(matrix[:, [_PLACE[f"{target}_{view}"] for view in views]])
    return np.where(np.isfinite(picked), picked, 0.0)


def _fit(
    matrix: Floats, outcome: Floats, target: str, views: tuple[str, ...], where: NDArray[np.bool_]
) -> tuple[float, ...] | None:
    from scipy.optimize import minimize

    wanted = outcome - matrix[:, _PLACE[f"{target}_ewma"]]
    usable = np.flatnonzero(where & np.isfinite(wanted))[-_MAX_ROWS:]
    if len(usable) < _MIN_ROWS:
        return None
    differences, wanted = _differences(matrix[usable], target, views), wanted[usable]

    def loss(weights: Floats) -> tuple[float, Floats]:
        error = differences @ weights - wanted
        root = np.sqrt(error**2 + _SCALE**2)
        return float(root.mean()), differences.T @ (error / root) / len(error)

    count = len(views)
    found = minimize(loss, np.full(count, 0.1), jac=True, method="L-BFGS-B", bounds=[(0.0, 1.0)] * count)
    return tuple(float(weight) for weight in found.x)
