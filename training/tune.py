"""Tuning by Optuna: batches of trials on purged folds in order of time, begun from what won before, kept on disk."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fingerpost.training.fit import DEFAULT_PARAMS
from fingerpost.training.study import Study, next_params, study_key
from fingerpost.training.trials import Planned, limits_of, run_trial, trial_data
from fingerpost.workers import THREADS, Workers


@dataclass(frozen=True)
class Tuning:
    """The outcome of a tuning.

    Args:
        value: mean over folds and targets of model error / EWMA error; less is better.
        history: value of each trial, None where it was given up.
    """

    params: dict[str, Any]
    value: float
    history: list[float | None]


@dataclass(frozen=True)
class TuningBudget:
    """How much to spend, and where trials are kept.

    Args:
        trials: most trials.
        timeout_s: most seconds; the batch under way is finished.
        storage: URL of a database; None: memory.
        study: name in the storage; a study of the same rows that was cut short goes on.
        batch: trials that are drawn together, and can be run side by side.
    """

    trials: int
    timeout_s: float
    storage: str | None = None
    study: str = "fingerpost"
    batch: int = 4


def tune(
    rows: pd.DataFrame,
    gap: pd.Timedelta,
    budget: TuningBudget,
    begin_with: Sequence[dict[str, Any]] = (),
    progress: Callable[[int, float], None] = lambda _number, _best: None,
    workers: Workers = THREADS,
) -> Tuning:
    """Searches LightGBM's parameters, beginning with the defaults and `begin_with`.

    What is tried depends on the rows and the budget, not on the workers, nor on how often the search was cut short: as
    long as time does not end it, the same comes out.

    Args:
        rows: training rows, ordered by time.
        gap: time left out between what is fitted and what is scored; at least one window.
        begin_with: parameters to try first, such as the champion's.
        progress: called after each trial with its place in the order they were done, and the best value.
        workers: who runs the trials.
    """
    deadline = time.monotonic() + budget.timeout_s
    data = trial_data(rows, gap)
    first_params: list[dict[str, Any]] = []
    for params in (DEFAULT_PARAMS, *begin_with):
        known = {name: params[name] for name in DEFAULT_PARAMS if name in params}
        if known not in first_params:
            first_params.append(known)
    study = Study(budget.storage, budget.study, study_key(data, first_params, budget.batch))
    finished, shown = study.finished(), 0
    for start in range(0, budget.trials, budget.batch):
        if start and time.monotonic() > deadline:
            break
        numbers = range(start, min(start + budget.batch, budget.trials))
        limits = limits_of((finished[number] for number in range(start)), len(data.cases))
        params_of = dict(zip(numbers, next_params(finished, numbers, first_params), strict=True))
        left = [number for number in numbers if number not in finished]
        shown += len(numbers) - len(left)
        for place, outcome in workers.map_unordered(
            run_trial, [Planned(params_of[each], limits) for each in left], data
        ):
            study.keep(left[place], outcome)
            finished[left[place]] = outcome
            shown += 1
            values = [each.value for each in finished.values() if each.value is not None]
            progress(shown - 1, min(values, default=float("nan")))
    # A study that went further with a larger budget counts as far as this one goes.
    mine = [finished[number] for number in sorted(finished) if number < numbers.stop]
    best = min(mine, key=lambda each: each.value if each.value is not None else float("inf"))
    return Tuning(dict(best.params), float(best.value or 0.0), [each.value for each in mine])
