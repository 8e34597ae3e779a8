"""Tuning by Optuna: few trials, the hopeless ones pruned after their first targets."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from features.definition import TARGETS, naive_column
from training.blend import Blend
from training.encoder import Encoder
from training.evaluate import log_mae
from training.fit import DEFAULT_PARAMS, fit_target


@dataclass(frozen=True)
class Tuning:
    """The outcome of a tuning.

    Args:
        value: mean over targets of model error / EWMA error, on the validation rows; less is better.
        history: value of each trial, None where it was pruned.
    """

    params: dict[str, Any]
    value: float
    history: list[float | None]


def tune(
    train: pd.DataFrame,
    valid: pd.DataFrame,
    trials: int,
    timeout_s: float,
    progress: Callable[[int, float], None],
) -> Tuning:
    """Searches LightGBM's parameters, beginning with the defaults.

    Args:
        train, valid: training rows, the later ones in `valid`.
        trials: most trials.
        timeout_s: most seconds; the trial under way is finished.
        progress: called after each trial with its number and the best value.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    encoder = Encoder.fit(train)
    blends = {target: Blend.fit(train, target) for target in TARGETS}
    matrix = encoder.encode(valid)
    bases = {target: blends[target].predict(valid, target) for target in TARGETS}
    naive = {target: log_mae(valid[target], valid[naive_column("ewma", target)]) for target in TARGETS}

    def objective(trial: optuna.Trial) -> float:
        params = {
            "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 4, 31, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 20, 200, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.4, 1.0),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
            "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
        }
        ratios: list[float] = []
        for step, target in enumerate(TARGETS):
            booster = fit_target(train, valid, target, blends[target], encoder, params)
            correction = booster.predict(matrix, num_iteration=booster.best_iteration)
            error = log_mae(valid[target], bases[target] + correction)
            ratios.append(error / naive[target] if naive[target] else 1.0)
            trial.report(sum(ratios) / len(ratios), step)
            if step + 1 < len(TARGETS) and trial.should_prune():
                raise optuna.TrialPruned
        return sum(ratios) / len(ratios)

    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=7),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.enqueue_trial(DEFAULT_PARAMS)
    study.optimize(
        objective, n_trials=trials, timeout=timeout_s, callbacks=[lambda s, t: progress(t.number, s.best_value)]
    )
    history = [trial.value if trial.state == optuna.trial.TrialState.COMPLETE else None for trial in study.trials]
    return Tuning(dict(study.best_params), float(study.best_value), history)
