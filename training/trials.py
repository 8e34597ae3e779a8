"""One trial of a tuning: parameters scored on all targets and folds; the same wherever it is run."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.features.definition import TARGETS, naive_column
from fingerpost.training.blend import Blend
from fingerpost.training.encoder import Encoder
from fingerpost.training.evaluate import log_mae
from fingerpost.training.fit import LEARNED, fit_booster, training_matrix, training_set
from fingerpost.training.splits import purged_folds

FOLDS = 2
ROUNDS = 200
# Finished trials before which none is given up.
_MIN_TRIALS = 3


@dataclass(frozen=True)
class Case:
    """One target on one fold.

    Args:
        earlier, later: masks of the rows that are fitted and scored.
        naive: error of the rolling average.
    """

    target: str
    earlier: NDArray[np.bool_]
    later: NDArray[np.bool_]
    blend: Blend
    naive: float


@dataclass(frozen=True)
class TrialData:
    """What all trials are scored on.

    Args:
        rows: LEARNED and the targets.
        matrix: features, shape (rows, features).
    """

    rows: pd.DataFrame
    matrix: Floats
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Planned:
    """A trial to be run.

    Args:
        limits: mean after each case, above which it is given up.
    """

    params: dict[str, Any]
    limits: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """A trial that was run.

    Args:
        means: after each case the mean over cases of model error / naive error; less is better.
        given_up: whether it was not worth finishing.
    """

    params: dict[str, Any]
    means: list[float]
    given_up: bool

    @property
    def value(self) -> float | None:
        """The mean over all cases; None where it was given up."""
        return None if self.given_up else self.means[-1]


def trial_data(rows: pd.DataFrame, gap: pd.Timedelta) -> TrialData:
    """Folds and blends, once for all trials.

    Args:
        rows: training rows, ordered by time.
        gap: time left out between what is fitted and what is scored; at least one window.
    """
    encoder = Encoder.fit(rows)
    matrix = training_matrix(encoder, rows)
    happened = ~rows["rehearsed"].to_numpy(bool)
    cases = []
    for earlier, later in purged_folds(rows["time"], FOLDS, gap):
        scored = later & happened
        for target in TARGETS:
            train = training_set(rows[earlier], matrix[earlier], target)
            naive = log_mae(rows.loc[scored, target], rows.loc[scored, naive_column("ewma", target)])
            blend = Blend.fit(train.matrix, train.outcome, target)
            cases.append(Case(target, earlier, scored, blend, naive))
    return TrialData(rows[[*LEARNED, *TARGETS]], matrix, tuple(cases))


def run_trial(data: TrialData, planned: Planned) -> Outcome:
    """Fits and scores case by case; given up where even its best mean so far is above the limit."""
    ratios: list[float] = []
    means: list[float] = []
    for case, limit in zip(data.cases, planned.limits, strict=True):
        train = training_set(data.rows[case.earlier], data.matrix[case.earlier], case.target)
        valid = training_set(data.rows[case.later], data.matrix[case.later], case.target)
        booster = fit_booster(train, case.blend, case.target, planned.params, valid, ROUNDS)
        predicted = case.blend.predict(valid.matrix, case.target) + booster.predict(
            valid.matrix, num_iteration=booster.best_iteration, num_threads=1
        )
        error = log_mae(valid.outcome, predicted)
        ratios.append(error / case.naive if case.naive > 0 else 1.0)
        means.append(sum(ratios) / len(ratios))
        if len(means) < len(data.cases) and min(means) > limit:
            return Outcome(planned.params, means, given_up=True)
    return Outcome(planned.params, means, given_up=False)


def limits_of(outcomes: Iterable[Outcome], cases: int) -> tuple[float, ...]:
    """After each case the median over finished trials: the median rule (Golovin et al., Google Vizier, 2017)."""
    finished = [each.means for each in outcomes if not each.given_up]
    if len(finished) < _MIN_TRIALS:
        return (float("inf"),) * cases
    return tuple(float(median) for median in np.median(finished, axis=0))
