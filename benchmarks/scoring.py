"""How fast predictions are refreshed: cells a second on one core, with a model of realistic size."""

import time
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.features.definition import CATEGORICAL_FEATURES, NAIVE, NUMERIC_FEATURES, TARGETS, naive_column
from fingerpost.serving.predictor import predict_cells
from fingerpost.training.bundle import Blend, Encoder, ModelBundle
from fingerpost.training.manifest import NEW, OWN

_TREES = 200
_LEAVES = 31
_TRAINING_ROWS = 20_000
_SEED = 7


def measure_scoring(hosts: int, categories: int) -> dict[str, Any]:
    """Scores every cell of a made-up fleet on one thread.

    Returns:
        `cells`, `seconds` of the best of three rounds, `cells_per_s`; the model has 200 trees of 31 leaves a target.
    """
    fingerprints = _fingerprints(hosts, categories)
    bundle = _bundle(_fingerprints(100, _TRAINING_ROWS // 100))
    seconds = min(_timed(bundle, fingerprints) for _ in range(3))
    cells = len(fingerprints)
    return {
        "hosts": hosts,
        "categories": categories,
        "cells": cells,
        "seconds": round(seconds, 3),
        "cells_per_s": round(cells / seconds),
    }


def _timed(bundle: ModelBundle, fingerprints: pd.DataFrame) -> float:
    began = time.perf_counter()
    predict_cells(bundle, fingerprints, 0.0)
    return time.perf_counter() - began


def _fingerprints(hosts: int, categories: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(_SEED), hosts * categories
    frame = pd.DataFrame(rng.normal(size=(rows, len(NUMERIC_FEATURES))), columns=list(NUMERIC_FEATURES))
    for view in NAIVE:
        for target in TARGETS:
            frame[naive_column(view, target)] = rng.normal(size=rows)
    names = np.array([f"c{number}" for number in range(categories)], dtype=object)
    for name in CATEGORICAL_FEATURES:
        frame[name] = np.tile(names, hosts)
    frame["category"] = np.tile(names, hosts)
    frame["host"] = np.repeat(np.array([f"h{number}" for number in range(hosts)], dtype=object), categories)
    return frame


def _bundle(rows: pd.DataFrame) -> ModelBundle:
    import lightgbm

    encoder = Encoder.fit(rows)
    matrix = encoder.encode(rows)
    rng = np.random.default_rng(_SEED)
    params = {"objective": "regression_l1", "num_leaves": _LEAVES, "verbosity": -1, "num_threads": 1}
    boosters = {}
    for target in TARGETS:
        wanted = matrix[:, rng.integers(0, len(NUMERIC_FEATURES), 6)].sum(axis=1) * 0.1
        boosters[target] = [lightgbm.train(params, lightgbm.Dataset(matrix, wanted), num_boost_round=_TREES)]
    return ModelBundle(boosters, {target: Blend((0.1,) * len(OWN), (0.2,) * len(NEW)) for target in TARGETS}, encoder)
