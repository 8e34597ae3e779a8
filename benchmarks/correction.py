"""`python -m benchmarks correction`: what it would be worth to correct the champion's predictions between trainings.

Each cell's mean error so far, drawn to none and bounded, is taken off what the model says next. Of a prediction only
the past is used: the errors of windows that had ended by then.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats, decayed
from fingerpost.settings import Settings
from fingerpost.training.backtest import backtest
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.evaluate import TargetScore, score

# Requests that stand for a model that is right; the most that is taken off, on a log scale.
PRIOR_REQUESTS, BOUND = 100.0, 0.3
# As `fingerpost evaluate` has it.
_TEST_SHARE = 0.3


def measure_correction(
    folder: Path, window_s: float, halflives_s: Sequence[float], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Backtests telemetry as `fingerpost evaluate` does, with corrections of several half-lives.

    Returns:
        A row for each half-life, 0 for none: the skill of every target, and where rows count by their requests.
    """
    rows: list[dict[str, Any]] = []

    def tested(bundle: ModelBundle, test: pd.DataFrame, predicted: dict[str, Floats]) -> None:
        rows.append(_row(0.0, score(bundle, test, predicted)))
        for halflife_s in halflives_s:
            moved = {
                target: logs + correction(test, logs, test[target].to_numpy(np.float64), halflife_s)
                for target, logs in predicted.items()
                if target in bundle.targets
            }
            rows.append(_row(halflife_s, score(bundle, test, moved)))

    backtest(folder, window_s, _TEST_SHARE, Settings(), progress=progress, tested=tested)
    return rows


def correction(test: pd.DataFrame, predicted: Floats, actual: Floats, halflife_s: float) -> Floats:
    """What is to be added to predictions, by the errors of earlier windows, shape (n,): the next begins as one ends.

    Args:
        test: rows with `host`, `category`, `time` of prediction and `requests`.
        predicted, actual: logs, shape (n,); NaN where nothing was measured.
        halflife_s: after which an error counts half.
    """
    cells = test.groupby(["host", "category"], observed=True, sort=False).ngroup().to_numpy()
    weight, total, seen_s = np.zeros((3, cells.max(initial=-1) + 1))
    added = np.zeros(len(test))
    time_s = (test["time"] - test["time"].min()).dt.total_seconds().to_numpy()
    requests = test["requests"].to_numpy(np.float64)
    for now_s in np.unique(time_s):
        rows = np.flatnonzero(time_s == now_s)
        of = cells[rows]
        fade = decayed(now_s - seen_s[of], halflife_s)
        weight[of], total[of] = weight[of] * fade, total[of] * fade
        seen_s[of] = now_s
        added[rows] = np.clip(total[of] / (weight[of] + PRIOR_REQUESTS), -BOUND, BOUND)
        error = actual[rows] - predicted[rows]
        known = np.isfinite(error)
        weight[of] += np.where(known, requests[rows], 0.0)
        total[of] += np.where(known, error, 0.0) * requests[rows]
    return added


def _row(halflife_s: float, scores: dict[str, TargetScore]) -> dict[str, Any]:
    found: dict[str, Any] = {"halflife_s": halflife_s}
    for target, each in scores.items():
        found[target] = {"skill": round(each.skill, 4), "request_skill": round(each.request_skill, 4)}
    return found
