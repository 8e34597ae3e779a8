"""Tunes LightGBM's parameters by Optuna on purged folds in order of time; trials are kept in a database."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fingerpost import __version__
from fingerpost.features.definition import TARGETS, naive_column, schema_hash
from fingerpost.training.bins import Bins
from fingerpost.training.bundle import Blend, Encoder
from fingerpost.training.evaluate import purged_folds
from fingerpost.training.fit import (
    DEFAULT_PARAMS,
    WEIGHT_COLUMNS,
    TargetPart,
    fit_part,
    target_part,
    training_matrix,
    training_set,
)
from fingerpost.training.loss import loss_of
from fingerpost.workers import THREADS, Workers

if TYPE_CHECKING:
    import optuna

FOLDS = 2
ROUNDS = 200
LEAST_IN_LEAF = 20
# Finished trials before which none is pruned.
_MIN_TRIALS = 3
# Studies that are kept of one model: the one under way, and those it may be compared with.
_KEPT_STUDIES = 3


@dataclass(frozen=True)
class Tuning:
    """The outcome of a tuning.

    Args:
        value: mean over folds and targets of model error / EWMA error; less is better.
        history: value of each finished trial, None where it was pruned.
    """

    params: dict[str, Any]
    value: float
    history: list[float | None]


@dataclass(frozen=True)
class TuningBudget:
    """How much to spend, and where trials are kept.

    Args:
        trials: finished trials, over all runs on the same rows.
        timeout_s: most seconds of this run; trials under way are finished.
        storage: URL of a database; None: memory.
        model: whose tuning it is.
        jobs: trials that run side by side; with 1 the same rows give the same trials.
    """

    trials: int
    timeout_s: float
    storage: str | None = None
    model: str = "fingerpost"
    jobs: int = 1


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
    """The data that all trials are scored on.

    Args:
        rows: WEIGHT_COLUMNS and the targets.
        bins: of their features.
    """

    rows: pd.DataFrame
    bins: Bins
    cases: tuple[Case, ...]


def tune(
    rows: pd.DataFrame,
    gap: pd.Timedelta,
    budget: TuningBudget,
    begin_with: Sequence[dict[str, Any]] = (),
    progress: Callable[[int, float], None] = lambda _number, _best: None,
    workers: Workers = THREADS,
) -> Tuning:
    """Searches LightGBM's parameters, beginning with the defaults and `begin_with`.

    Finished trials of earlier runs on the same rows count, and one that was killed is tried again. A trial that fails
    is logged and does not end the search.

    Args:
        rows: training rows, ordered by time.
        gap: time left out between what is fitted and what is scored; at least one window.
        begin_with: parameters to try first, such as the champion's.
        progress: called after each trial with the number of the last finished one, from 0, and the best value.
        workers: who fits and scores.

    Raises:
        Exception: of the last trial, where all failed; NoDataError where there is too little to learn from.
    """
    import optuna
    from optuna.trial import TrialState
    from threadpoolctl import threadpool_limits

    from fingerpost.training.draws import Draws

    first: list[dict[str, Any]] = []
    for params in ({}, *begin_with):
        whole = {name: type(usual)(params.get(name, usual)) for name, usual in DEFAULT_PARAMS.items()}
        if whole not in first:
            first.append(whole)
    data = trial_data(rows, gap, min(LEAST_IN_LEAF, *(whole["min_data_in_leaf"] for whole in first)))
    study = open_study(budget.storage, budget.model, _study_key(rows, gap, first))
    study.sampler = draws = Draws(first)
    errors: list[Exception] = []

    def finished() -> "list[optuna.trial.FrozenTrial]":
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def objective(trial: "optuna.Trial") -> float:
        try:
            draws.begin(trial)
            return _score(trial, data, workers)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            errors.append(error)
            raise

    def tell(_study: "optuna.Study", _trial: "optuna.trial.FrozenTrial") -> None:
        done = finished()
        best = min((each.values[0] for each in done if each.state == TrialState.COMPLETE), default=float("nan"))
        progress(len(done) - 1, best)

    if (left := budget.trials - len(finished())) > 0:
        # Around all trials: of two that overlap, one would give BLAS its threads back in the middle of the other.
        with threadpool_limits(1, "blas"):
            jobs = min(budget.jobs, workers.size, left)
            study.optimize(objective, left, budget.timeout_s, jobs, catch=(Exception,), callbacks=[tell])
    history = [each.values[0] if each.state == TrialState.COMPLETE else None for each in finished()]
    if not any(value is not None for value in history):
        raise errors[-1]
    return Tuning(dict(study.best_params), study.best_value, history)


def open_study(storage: str | None, model: str, key: str) -> "optuna.Study":
    """The study of a model and a key, made where there is none; of the model's others the oldest are deleted.

    Args:
        storage: URL of a database; None: memory.
        key: of all that the outcomes of trials depend on, beside their parameters.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Of PostgreSQL's drivers this program has psycopg 3.
    where: optuna.storages.BaseStorage = (
        optuna.storages.RDBStorage(storage.replace("postgresql://", "postgresql+psycopg://", 1))
        if storage
        else optuna.storages.InMemoryStorage()
    )
    # A model's name holds no `@`, so that no other model's studies begin the same.
    study = optuna.create_study(storage=where, study_name=f"{model}@{key}", load_if_exists=True)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_MIN_TRIALS)
    # In the order they were made.
    others = [name for name in optuna.get_all_study_names(where) if name.startswith(f"{model}@")]
    for old in [name for name in others if name != study.study_name][: 1 - _KEPT_STUDIES]:
        optuna.delete_study(study_name=old, storage=where)
    return study


def trial_data(rows: pd.DataFrame, gap: pd.Timedelta, least_in_leaf: int = LEAST_IN_LEAF) -> TrialData:
    """Makes folds and blends, once for all trials.

    Args:
        rows: training rows, ordered by time.
        gap: time left out between what is fitted and what is scored; at least one window.
        least_in_leaf: the least `min_data_in_leaf` that is tried.

    Raises:
        NoDataError: a fold is too short, or a target is not known in one.
    """
    encoder = Encoder.fit(rows)
    matrix = training_matrix(encoder, rows)
    happened = ~rows["cold_start"].to_numpy(bool)
    cases = []
    for earlier, later in purged_folds(rows["time"], FOLDS, gap):
        scored = later & happened
        for target in TARGETS:
            train = training_set(rows[earlier], matrix[earlier], target)
            judged = rows.loc[scored, [target, naive_column("ewma", target), "weight"]]
            naive = _loss(target, judged[target], judged[naive_column("ewma", target)], judged["weight"])
            blend = Blend.fit(train.matrix, train.outcome, target)
            cases.append(Case(target, earlier, scored, blend, naive))
    bins = Bins(matrix, least_in_leaf)
    return TrialData(rows[[*WEIGHT_COLUMNS, *TARGETS]], bins, tuple(cases))


def score_case(data: TrialData, item: tuple[int, dict[str, Any]]) -> float:
    """Fits and scores a case, given by its number, with some parameters: model error / naive error."""
    number, params = item
    case = data.cases[number]
    valid = training_set(data.rows[case.later], data.bins.matrix[case.later], case.target)

    def part(chosen: NDArray[np.bool_]) -> TargetPart:
        return target_part(data.bins, data.rows, chosen, case.target, case.blend)

    train, judged = data.bins.kept(number, lambda: (part(case.earlier), part(case.later)))
    booster = fit_part(train, case.target, params, judged, ROUNDS)
    predicted = case.blend.predict(valid.matrix, case.target) + booster.predict(
        valid.matrix, num_iteration=booster.best_iteration, num_threads=1
    )
    later = data.rows.loc[case.later, [case.target, "weight"]]
    stands_for = later.loc[np.isfinite(later[case.target]), "weight"]
    return _loss(case.target, valid.outcome, predicted, stands_for) / case.naive if case.naive > 0 else 1.0


def _loss(target: str, outcome: ArrayLike, predicted: ArrayLike, weight: ArrayLike) -> float:
    """What boosters of the target are fitted to lessen; of rows in which both are known."""
    known = np.isfinite(outcome) & np.isfinite(predicted)
    logs = (np.asarray(each, dtype=np.float64)[known] for each in (predicted, outcome, weight))
    return loss_of(target).measure(*logs)


def _score(trial: "optuna.Trial", data: TrialData, workers: Workers) -> float:
    """The mean over all cases of model error / naive error; pruned where it is above the median after a case."""
    import optuna

    params = {
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.15, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 4, 32, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", LEAST_IN_LEAF, 300, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.1, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
    }
    ratios: list[float] = []
    for number in range(len(data.cases)):
        ratios += workers.map(score_case, [(number, params)], data)
        trial.report(fmean(ratios), number)
        if number + 1 < len(data.cases) and trial.should_prune():
            raise optuna.TrialPruned
    return fmean(ratios)


def _study_key(rows: pd.DataFrame, gap: pd.Timedelta, first: Sequence[dict[str, Any]]) -> str:
    """A hash of all that the outcomes of the trials depend on, beside their parameters, and of those to begin with."""
    libraries = [__version__, *(version(name) for name in ("lightgbm", "optuna", "numpy"))]
    about = (schema_hash(), libraries, FOLDS, ROUNDS, gap, first)
    digest = hashlib.blake2b(repr(about).encode(), digest_size=8)
    digest.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().data)
    return digest.hexdigest()
