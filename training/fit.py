"""Fitting LightGBM to the corrections of blended naive forecasts."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.definition import CATEGORICAL_FEATURES, FEATURES, TARGETS
from fingerpost.errors import NoDataError
from training.blend import Blend
from training.bundle import ModelBundle
from training.encoder import Encoder

DEFAULT_PARAMS: dict[str, Any] = {
    "learning_rate": 0.03,
    "num_leaves": 8,
    "min_data_in_leaf": 60,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "lambda_l2": 10.0,
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


def fit_target(
    train: pd.DataFrame, valid: pd.DataFrame, target: str, blend: Blend, encoder: Encoder, params: dict[str, Any]
) -> Any:
    """Fits one booster, stopped where the later rows no longer gain.

    Args:
        train, valid: training rows, the later ones in `valid`.
        blend: what to correct.

    Returns:
        A `lightgbm.Booster` with its `best_iteration`.

    Raises:
        NoDataError: the target was never measured.
    """
    import lightgbm

    train_set = _dataset(train, target, blend, encoder)
    matrix, correction, weight = _learnable(valid, target, blend, encoder)
    return lightgbm.train(
        {**_FIXED, **params},
        train_set,
        num_boost_round=_ROUNDS,
        valid_sets=[train_set.create_valid(matrix, correction, weight=weight)],
        callbacks=[lightgbm.early_stopping(_PATIENCE, verbose=False)],
    )


def fit_bundle(train: pd.DataFrame, valid: pd.DataFrame, params: dict[str, Any]) -> ModelBundle:
    """Fits all targets: how many rounds is found on the later rows, then all rows are learned for as many."""
    import lightgbm

    rows = pd.concat([train, valid], ignore_index=True)
    encoder = Encoder.fit(rows)
    boosters, blends = {}, {}
    for target in TARGETS:
        stopped = fit_target(train, valid, target, Blend.fit(train, target), encoder, params)
        blends[target] = Blend.fit(rows, target)
        data = _dataset(rows, target, blends[target], encoder)
        boosters[target] = lightgbm.train({**_FIXED, **params}, data, num_boost_round=stopped.best_iteration)
    return ModelBundle(boosters, blends, encoder)


def _dataset(rows: pd.DataFrame, target: str, blend: Blend, encoder: Encoder) -> Any:
    import lightgbm

    matrix, correction, weight = _learnable(rows, target, blend, encoder)
    return lightgbm.Dataset(
        matrix,
        correction,
        weight=weight,
        feature_name=list(FEATURES),
        categorical_feature=list(CATEGORICAL_FEATURES),
        free_raw_data=False,
    )


def _learnable(
    rows: pd.DataFrame, target: str, blend: Blend, encoder: Encoder
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Matrix, correction to learn, and weight of the rows where the target was measured.

    A window of many requests is measured better; the gain flattens, since load differs within a window too.
    """
    known = rows[np.isfinite(rows[target].to_numpy(np.float64))]
    if known.empty:
        raise NoDataError(f"{target} was not measured in any window: is CPU or are slots reported by the agents?")
    correction = known[target].to_numpy(np.float64) - blend.predict(known, target)
    return encoder.encode(known), correction, np.sqrt(known["requests"].to_numpy(np.float64))
