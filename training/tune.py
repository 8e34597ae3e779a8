"""Tuning by Optuna: trials on purged folds in order of time, begun from what won before, kept on disk."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from features.definition import TARGETS, naive_column, schema_hash
from training.blend import Blend
from training.encoder import Encoder
from training.evaluate import log_mae
from training.fit import DEFAULT_PARAMS, Learnable, fit_booster, learnable, training_matrix
from training.splits import purged_folds

_FOLDS = 2
_ROUNDS = 200


@dataclass(frozen=True)
class Tuning:
    """The outcome of a tuning.

    Args:
        value: mean over folds and targets of model error / EWMA error; less is better.
        history: value of each trial of this run, None where it was pruned.
    """

    params: dict[str, Any]
    value: float
    history: list[float | None]


@dataclass(frozen=True)
class TuningBudget:
    """How much to spend, and where trials are kept.

    Args:
        trials: most trials.
        timeout_s: most seconds; the trial under way is finished.
        storage: URL of a database; None: memory.
        study: name in the storage; a study that was cut short goes on.
    """

    trials: int
    timeout_s: float
    storage: str | None = None
    study: str = "fingerpost"


@dataclass(frozen=True)
class _Case:
    """One target on one fold."""

    target: str
    train: Learnable
    valid: Learnable
    blend: Blend
    naive: float


def tune(
    rows: pd.DataFrame,
    gap: pd.Timedelta,
    budget: TuningBudget,
    begin_with: Sequence[dict[str, Any]] = (),
    progress: Callable[[int, float], None] = lambda _number, _best: None,
) -> Tuning:
    """Searches LightGBM's parameters, beginning with the defaults and `begin_with`.

    Args:
        rows: training rows, ordered by time.
        gap: time left out between what is fitted and what is scored; at least one window.
        begin_with: parameters to try first, such as the champion's.
        progress: called after each trial with its number and the best value.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    cases = _cases(rows, gap)

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial)
        ratios: list[float] = []
        for step, case in enumerate(cases):
            booster = fit_booster(case.train, case.blend, case.target, params, case.valid, _ROUNDS)
            predicted = case.blend.predict(case.valid.matrix, case.target) + booster.predict(
                case.valid.matrix, num_iteration=booster.best_iteration
            )
            error = log_mae(case.valid.outcome, predicted)
            ratios.append(error / case.naive if case.naive > 0 else 1.0)
            trial.report(sum(ratios) / len(ratios), step)
            # Earlier runs were scored on other rows, where all may have been better: the first trial is never pruned.
            if step + 1 < len(cases) and trial.number > before and trial.should_prune():
                raise optuna.TrialPruned
        return sum(ratios) / len(ratios)

    study = optuna.create_study(
        storage=budget.storage,
        # Trials of other features say little of these.
        study_name=f"{budget.study}-{schema_hash()}",
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=7),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    before = len(study.trials)
    # Unfinished trials of a run that was killed are tried again.
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(trial.params)
    for params in (DEFAULT_PARAMS, *begin_with):
        study.enqueue_trial({name: params[name] for name in DEFAULT_PARAMS if name in params})
    done = before

    def count(_study: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        nonlocal done
        done += 1
        values = [each.value for each in _study.trials[before:] if each.state == optuna.trial.TrialState.COMPLETE]
        progress(done - before - 1, min((value for value in values if value is not None), default=float("nan")))

    study.optimize(objective, n_trials=budget.trials, timeout=budget.timeout_s, callbacks=[count])
    # Only trials of this run were scored on these rows.
    mine = study.trials[before:]
    complete = [trial for trial in mine if trial.state == optuna.trial.TrialState.COMPLETE]
    best = min(complete, key=lambda trial: trial.value if trial.value is not None else float("inf"))
    history = [trial.value if trial in complete else None for trial in mine]
    return Tuning(dict(best.params), float(best.value or 0.0), history)


def suggest(trial: Any) -> dict[str, Any]:
    """The parameters of a trial, within the bounds that are searched."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.15, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 4, 32, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 20, 300, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.1, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
    }


def _cases(rows: pd.DataFrame, gap: pd.Timedelta) -> list[_Case]:
    encoder = Encoder.fit(rows)
    matrix = training_matrix(encoder, rows)
    happened = ~rows["rehearsed"].to_numpy(bool)
    cases = []
    for earlier, later in purged_folds(rows["time"], _FOLDS, gap):
        scored = later & happened
        for target in TARGETS:
            train = learnable(rows[earlier], matrix[earlier], target)
            valid = learnable(rows[scored], matrix[scored], target)
            naive = log_mae(rows.loc[scored, target], rows.loc[scored, naive_column("ewma", target)])
            blend = Blend.fit(train.matrix, train.outcome, target)
            cases.append(_Case(target, train, valid, blend, naive))
    return cases
