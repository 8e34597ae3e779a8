"""Holds a trained model with its evaluation results before it is registered."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats
from fingerpost.events import Event
from fingerpost.features.definition import TARGETS
from fingerpost.features.thinning import thinned
from fingerpost.settings import Settings
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.calibration import PROMISED, share_under, shift_to
from fingerpost.training.evaluate import TargetScore, mean_skill, score, time_split
from fingerpost.training.fit import fit_bundles, refit_bundle
from fingerpost.training.manifest import Verdict
from fingerpost.training.ranking import Ranking, Replay, rank_quality, rank_table, verdict_on
from fingerpost.training.tune import Tuning, TuningBudget, tune
from fingerpost.workers import THREADS, Workers, workers_of


@dataclass(frozen=True)
class Candidate:
    """A trained model with its evidence.

    Args:
        bundle: fitted to `train` alone: all the evidence is of it.
        refitted: the same, fitted to the rows of `test` too: what is registered.
        train, test: the rows it was fitted to (validation included) and scored on; `train` may hold cold starts.
        ranks: of `fingerpost.training.ranking.rank_table`, on `test`.
        verdict: who is to serve which categories, by their choices on `test`.
        replay: what choosing hosts would have cost on `test` as the verdict has it served, beside the baseline; where
            the baseline serves all, by the model.
        coverage: share of requests under each predicted latency on `test`: `raw`, and as `served` with its shift.
        predicted: what `bundle` predicts of `test`, as `ModelBundle.predict_log` has it.
        halflife_s, window_s: of the features.
        events: that are known, to be shown beside what was measured.
    """

    bundle: ModelBundle
    refitted: ModelBundle
    tuning: Tuning
    scores: dict[str, TargetScore]
    train: pd.DataFrame
    test: pd.DataFrame
    ranks: pd.DataFrame
    ranking: Ranking
    verdict: Verdict
    replay: Replay
    coverage: dict[str, dict[str, float]]
    predicted: dict[str, Floats]
    window_s: float
    halflife_s: float
    events: tuple[Event, ...] = ()


def make_candidate(
    rows: pd.DataFrame,
    settings: Settings,
    progress: Callable[[str], None] = lambda _text: None,
    begin_with: tuple[dict[str, Any], ...] = (),
    storage: str | None = None,
    events: tuple[Event, ...] = (),
) -> Candidate:
    """Tunes, fits, calibrates and scores a model on training rows; registers nothing.

    Args:
        settings: among others, the Dask cluster that tunes and fits, if there is one.
        begin_with: parameters to try first.
        storage: URL of the database that keeps the trials; None: memory.
        events: of `Candidate`.

    Raises:
        FingerpostError: the cluster cannot be used.
    """
    gap = pd.Timedelta(seconds=settings.window_s)
    earlier, later = time_split(rows["time"], settings.test_share, gap)
    happened = ~rows["cold_start"].to_numpy(bool)
    past, test = rows[earlier].reset_index(drop=True), rows[later & happened].reset_index(drop=True)
    best = float("nan")

    def tell(number: int, value: float) -> None:
        nonlocal best
        best = value
        progress(f"trial {number + 1} of {settings.tuning_trials}, best ratio {value:.3f}")

    budget = TuningBudget(
        settings.tuning_trials, settings.tuning_timeout_s, storage, settings.model_name, settings.tuning_jobs
    )
    fitting, validating = time_split(past["time"], settings.test_share, gap)
    train, valid = past[fitting], past[validating & ~past["cold_start"].to_numpy(bool)]
    with workers_of(settings, THREADS) as workers:
        tuning = tune(thinned(past, settings.max_tuning_rows), gap, budget, begin_with, tell, workers)
        progress("fitting")
        bundle = fit_calibrated(train, valid, tuning.params, workers)
        refitted = refit_bundle(bundle, rows, tuning.params, workers)
    predicted = bundle.predict_log(test)
    ranks, scores = rank_table(bundle, test, predicted), score(bundle, test, predicted)
    verdict, replay = verdict_on(ranks, mean_skill(scores), settings.baseline_margin)
    coverage = {
        target: {
            "promised": share,
            "raw": share_under(test, predicted[target]),
            "served": share_under(test, predicted[target] + bundle.shifts.get(target, 0.0)),
        }
        for target, share in PROMISED.items()
    }
    return Candidate(
        bundle, replace(refitted, verdict=verdict), tuning, scores, past, test, ranks, rank_quality(ranks),
        verdict, replay, coverage, predicted, settings.window_s, settings.halflife_s, events,
    )  # fmt: skip


def fit_calibrated(
    train: pd.DataFrame, valid: pd.DataFrame, params: dict[str, Any], workers: Workers = THREADS
) -> ModelBundle:
    """A model with the shift of its p99, learned on rows that the model it is learned with has not seen."""
    target = "latency_p99_s"
    probing = (train, train.iloc[-max(20, len(train) // 5) :], (target,))
    bundle, probe = fit_bundles([(train, valid, TARGETS), probing], params, workers=workers)
    shift = shift_to(valid, probe.predict_log(valid)[target], PROMISED[target])
    return replace(bundle, shifts={target: shift if np.isfinite(shift) else 0.0})
