"""Keeps training rows in LightGBM's bins: made once, for all the boosters that are fitted to parts of them.

To put rows into bins takes as long as a hundred rounds of boosting.
"""

import os
import threading
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.features.definition import CATEGORICAL_FEATURES, FEATURES

# What of LightGBM's settings is of the bins; fits of binned rows must have the same.
BINNING: dict[str, Any] = {"max_bin": 127, "deterministic": True, "force_col_wise": True, "verbosity": -1}


class Bins:
    """The bins of a matrix, and parts of its rows; a copy that is sent to another process makes its own there.

    Args:
        matrix: encoded features, shape (rows, features).
        least_in_leaf: the least `min_data_in_leaf` of all fits; features are left out by which rows cannot be split in
            two parts of so many.
        threads: that bins are made by; None: all cores.
    """

    def __init__(self, matrix: Floats, least_in_leaf: int, threads: int | None = None) -> None:
        self.matrix = matrix
        self._how = (least_in_leaf, threads)
        self._lock = threading.RLock()
        self._made: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[type["Bins"], tuple[Any, ...]]:
        return Bins, (self.matrix, *self._how)

    def part(self, places: Ints, label: Floats, weight: Floats) -> Any:
        """Some of the rows as a `lightgbm.Dataset`.

        Args:
            places: of the rows, ascending, shape (n,).
            label, weight: of these, shape (n,).
        """
        rows = self.kept(None, self._all).subset(places.tolist()).construct()
        return rows.set_label(label).set_weight(weight)

    def kept(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under a key; made at the first call. Nothing may change it any more: many fits share it."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def _all(self) -> Any:
        import lightgbm

        least_in_leaf, threads = self._how
        return lightgbm.Dataset(
            self.matrix,
            np.zeros(len(self.matrix)),
            feature_name=list(FEATURES),
            categorical_feature=[FEATURES.index(name) for name in CATEGORICAL_FEATURES],
            params={**BINNING, "min_data_in_leaf": least_in_leaf, "num_threads": threads or os.cpu_count() or 1},
        ).construct()
