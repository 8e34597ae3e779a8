"""How long the boosters of all targets take to fit, with the default parameters and the program's own loss."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fingerpost.features.definition import TARGETS
from fingerpost.training.fit import DEFAULT_PARAMS, ROUNDS, boosted

_SEED = 7


def measure_training(rows: int, columns: int) -> dict[str, Any]:
    """Fits a booster for each target to made-up rows, all rounds, a thread a target.

    Returns:
        `seconds` in all, and what was fitted.
    """
    rng = np.random.default_rng(_SEED)
    matrix = rng.normal(size=(rows, columns))
    # Half of the columns matter; the rest is noise, as features are.
    outcome = np.tanh(matrix[:, : columns // 2]).sum(axis=1) * 0.1 + rng.standard_t(3, rows) * 0.2
    weight = np.ones(rows)
    began = time.perf_counter()
    with ThreadPoolExecutor(len(TARGETS)) as pool:
        fitted = list(pool.map(lambda seed: boosted(matrix, outcome, weight, DEFAULT_PARAMS, ROUNDS, seed), range(3)))
    seconds = time.perf_counter() - began
    return {
        "rows": rows,
        "columns": columns,
        "targets": len(fitted),
        "rounds": ROUNDS,
        "leaves": DEFAULT_PARAMS["num_leaves"],
        "seconds": round(seconds, 2),
    }
