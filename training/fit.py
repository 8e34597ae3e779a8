"""Fitting LightGBM to the corrections of naive forecasts."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.definition import CATEGORICAL_FEATURES, FEATURES, NAIVE, TARGETS, naive_column
from fingerpost.errors import NoDataError
from training.bundle import ModelBundle
from training.encoder import Encoder

DEFAULT_PARAMS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "lambda_l2": 1.0,
}
_FIXED: dict[str, Any] = {
    "objective": "regression_l1",
    "metric": "l1",
    "bagging_freq": 1,
    "boost_from_average": False,
    "verbosity": -1,
    "seed": 7,
    "deterministic": True,
    "force_col_wise": True,
}
_ROUNDS = 400
_PATIENCE = 30


def best_base(rows: pd.DataFrame, target: str) -> str:
    """The naive forecast with the least mean absolute error of logs on these rows."""
    return min(NAIVE, key=lambda view: float(np.nanmean(np.abs(rows[target] - rows[naive_column(view, target)]))))


def fit_target(
    train: pd.DataFrame, valid: pd.DataFrame, target: str, base: str, encoder: Encoder, params: dict[str, Any]
) -> Any:
    """Fits one booster, stopped where the later rows no longer gain.

    Args:
        train, valid: training rows, the later ones in `valid`.
        base: the naive forecast to correct.

    Returns:
        A `lightgbm.Booster` cut to its best iteration.

    Raises:
        NoDataError: the target was never measured.
    """
    import lightgbm

    parts = []
    for rows in (train, valid):
        known = np.isfinite(rows[target].to_numpy(np.float64))
        if not known.any():
            raise NoDataError(f"{target} was not measured in any window: is CPU or are slots reported by the agents?")
        rows = rows[known]
        correction = (rows[target] - rows[naive_column(base, target)]).to_numpy(np.float64)
        parts.append((encoder.encode(rows), correction, _weights(rows)))
    names = {"feature_name": list(FEATURES), "categorical_feature": list(CATEGORICAL_FEATURES)}
    train_set = lightgbm.Dataset(parts[0][0], parts[0][1], weight=parts[0][2], free_raw_data=False, **names)
    valid_set = train_set.create_valid(parts[1][0], parts[1][1], weight=parts[1][2])
    booster = lightgbm.train(
        {**_FIXED, **params},
        train_set,
        num_boost_round=_ROUNDS,
        valid_sets=[valid_set],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )
    return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))


def fit_bundle(train: pd.DataFrame, valid: pd.DataFrame, params: dict[str, Any]) -> ModelBundle:
    """Fits all targets."""
    encoder = Encoder.fit(train)
    bases = {target: best_base(train, target) for target in TARGETS}
    boosters = {target: fit_target(train, valid, target, bases[target], encoder, params) for target in TARGETS}
    return ModelBundle(boosters, bases, encoder)


def _weights(rows: pd.DataFrame) -> NDArray[np.float64]:
    """A window of many requests is measured better; the gain flattens, since load differs within a window too."""
    return np.sqrt(rows["requests"].to_numpy(np.float64))
