"""How well hosts are predicted that no model has seen: hosts held out, then joining with little history."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fingerpost.errors import NoDataError
from fingerpost.features.prepare import FeatureSettings
from fingerpost.features.replay import Replay
from fingerpost.features.windows import Windowed, windowed_of
from fingerpost.lake import dates, read
from fingerpost.telemetry.windows import Arrays
from fingerpost.training.evaluate import TargetScore, log_mae
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle
from fingerpost.training.splits import time_split

_FOLDS = 2
# Of the categories, the share that a new host serves; the others are what is predicted.
_SERVED = 0.3
_SEED = 7
# Dates looked at, the latest first.
_MAX_DATES = 3


def leave_hosts_out_score(
    lake: Path, service: str, settings: FeatureSettings, test_share: float, target: str = "throughput_rps"
) -> TargetScore:
    """Scores one target on hosts that took no part in training, in categories they have not served.

    Every second host (by name) is held out in turn: a model is trained on the earlier windows of the others; then those
    hosts join, as if they were new, and serve three tenths of the categories. What they would do with the others is
    scored from their second window on. The naive forecasts have no history of these cells either; they are the fleet's
    mean of the category times the host's mean ratio to it.

    Args:
        lake: with windows made by the features step.
        target: one of OUTCOMES.

    Raises:
        NoDataError: fewer than four hosts, or too little to train on.
    """
    windowed = _all_windows(lake, service)
    if len(windowed.hosts) < 2 * _FOLDS:
        raise NoDataError(f"{len(windowed.hosts)} hosts are too few to hold some out: {2 * _FOLDS} are needed")
    errors: dict[str, list[np.ndarray]] = {"model": []}
    for fold in range(_FOLDS):
        rows, predicted = _fold(windowed, range(fold, len(windowed.hosts), _FOLDS), settings, test_share, target)
        errors["model"].append(np.abs(rows[target].to_numpy() - predicted))
        for view in ("last", "ewma", "median"):
            errors.setdefault(view, []).append(
                np.abs(rows[target].to_numpy() - rows[f"naive_{view}_{target}"].to_numpy())
            )
    means = {name: log_mae(np.concatenate(each), 0.0) for name, each in errors.items()}
    measured = int(np.isfinite(np.concatenate(errors["model"])).sum())
    return TargetScore(measured, means.pop("model"), means)


def _fold(
    windowed: Windowed, held_out: Sequence[int], settings: FeatureSettings, test_share: float, target: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of what new hosts have not served yet, and what is predicted of them (logs)."""
    parts = (windowed.windows, windowed.loads)
    ends = np.unique(windowed.windows["end_us"])
    join_us = ends[round(len(ends) * (1 - test_share))]
    kept = [~np.isin(each["host"], held_out) for each in parts]
    early = [each["end_us"] <= join_us for each in parts]
    earlier = [_where(parts[place], kept[place] & early[place]) for place in (0, 1)]
    joined = [_where(parts[place], kept[place] | ~early[place]) for place in (0, 1)]

    def rows_of(windows: Arrays, loads: Arrays, simulate_cold_start: bool) -> pd.DataFrame:
        replay = Replay(windowed.hosts, windowed.categories, settings.window_s, settings.halflife_s)
        return replay.run(windows, loads, simulate_cold_start)

    past = rows_of(earlier[0], earlier[1], True).sort_values(["time", "host", "category"], ignore_index=True)
    fitting, validating = time_split(past["time"], 0.25, pd.Timedelta(seconds=settings.window_s))
    bundle = fit_bundle(past[fitting], past[validating], DEFAULT_PARAMS, (target,))
    new = np.isin(joined[0]["host"], held_out)
    served = np.random.default_rng(_SEED).random((len(windowed.hosts), len(windowed.categories))) < _SERVED
    hidden = new & ~served[joined[0]["host"].astype(np.int64), joined[0]["category"].astype(np.int64)]
    rows = rows_of({**joined[0], "hidden": hidden}, joined[1], False)
    chosen = rows["host"].isin([windowed.hosts[host] for host in held_out]) & ~rows["own"] & rows["host_age_s"].notna()
    rows = rows[chosen].reset_index(drop=True)
    return rows, bundle.predict_log(rows)[target]


def _all_windows(lake: Path, service: str) -> Windowed:
    days = dates(lake, "windows", service)[-_MAX_DATES:]
    return windowed_of(*(read(lake, kind, service, on=days) for kind in ("windows", "loads")))


def _where(arrays: Arrays, mask: np.ndarray) -> Arrays:
    return {name: values[mask] for name, values in arrays.items()}
