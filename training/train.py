"""The training step: split by time, tune, fit, evaluate, register, and point `champion` at what is better."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from features.build import load_training_rows
from fingerpost.settings import Settings
from training.evaluate import TargetScore, mean_skill, score
from training.fit import fit_bundle
from training.registry import Candidate, champion_version, describe, register, set_champion
from training.splits import time_split
from training.tune import tune

logger = logging.getLogger(__name__)


def silent(_text: str) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class TrainingReport:
    """The outcome of a training.

    Args:
        champion: whether the new version now is the champion.
        reason: why, or why not.
    """

    model_name: str
    model_version: str
    champion: bool
    reason: str
    scores: dict[str, TargetScore]
    train_rows: int
    test_rows: int


def make_candidate(rows: pd.DataFrame, settings: Settings, progress: Callable[[str], None] = silent) -> Candidate:
    """Tunes, fits and scores a model on training rows; touches nothing outside."""
    gap = pd.Timedelta(seconds=settings.window_s)
    earlier, later = time_split(rows["time"], settings.test_share, gap)
    past, test = rows[earlier], rows[later]
    fitting, validating = time_split(past["time"], settings.test_share, gap)
    train, valid = past[fitting], past[validating]
    tuning = tune(
        train,
        valid,
        settings.tuning_trials,
        settings.tuning_timeout_s,
        lambda number, best: progress(f"trial {number + 1} of {settings.tuning_trials}, best ratio {best:.3f}"),
    )
    bundle = fit_bundle(train, valid, tuning.params)
    return Candidate(bundle, tuning, score(bundle, test), past, test, settings.window_s, settings.halflife_s)


def train(lake: Path, settings: Settings, progress: Callable[[str], None] = silent) -> TrainingReport:
    """Trains on the lake's features and registers the model.

    The new version becomes champion if, on held-out later windows, it beats the best naive forecast on average over the
    targets; or if there is no champion at all, since the engine would have nothing to serve.

    Raises:
        NoDataError: there is too little to train on.
    """
    rows = load_training_rows(lake, settings.service, settings.max_training_rows)
    candidate = make_candidate(rows, settings, progress)
    progress("registering")
    name = settings.model_name
    new_version = register(candidate, settings.mlflow, name, settings.service)
    skill, present = mean_skill(candidate.scores), champion_version(settings.mlflow, name)
    verdict = f"{'beats' if skill > 0 else 'does not beat'} the best naive forecast: mean skill {skill:+.3f}"
    better = skill > 0 or present is None
    if better:
        set_champion(settings.mlflow, name, new_version)
        reason = verdict if skill > 0 else f"{verdict}; champion all the same, as the first version there is"
    else:
        reason = f"{verdict}; version {present} stays champion"
    describe(settings.mlflow, name, new_version, reason)
    logger.info("trained", extra={"model_version": new_version, "champion": better, "reason": reason})
    return TrainingReport(
        name, new_version, better, reason, candidate.scores, len(candidate.train), len(candidate.test)
    )
