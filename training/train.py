"""The training step: tune, fit, evaluate, register; what is good enough becomes challenger."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fingerpost.experiment import CHALLENGER, CHAMPION
from fingerpost.features.build import load_training_rows
from fingerpost.features.outside import events_in_lake, outside_of
from fingerpost.settings import Settings
from fingerpost.training.candidate import make_candidate
from fingerpost.training.evaluate import TargetScore, mean_skill
from fingerpost.training.manifest import Verdict
from fingerpost.training.ranking import MIN_CHOICES, Replay, choices_in_words, verdict_in_words
from fingerpost.training.registration import champion_params, register
from fingerpost.training.registry import VERDICT_TAG, Registry

logger = logging.getLogger(__name__)


def silent(_text: str) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class TrainingReport:
    """The outcome of a training.

    Args:
        champion: whether the version now is the champion.
        challenger: whether it now is the challenger, to be compared with the champion.
        refused: a champion serves, and this version is not even good enough to be compared with it.
        reason: why, or why not.
        regret: mean excess true cost of the hosts predicted best; see `fingerpost.training.ranking`.
        coverage: share of requests under the served p99.
    """

    model_name: str
    model_version: str
    champion: bool
    challenger: bool
    refused: bool
    reason: str
    scores: dict[str, TargetScore]
    train_rows: int
    test_rows: int
    regret: float
    coverage: float


def objection_to_serving(verdict: Verdict, replay: Replay, margin: float) -> str | None:
    """Why a version is not to take over from the baseline, or None.

    Args:
        verdict, replay: of `verdict_on`.
        margin: by how much its choices may cost more, as a share of the cost of a choice at random.
    """
    if verdict.serves:
        return None
    if not replay.groups:
        return "there was no choice of hosts to replay, and its predictions are no better"
    if replay.groups < MIN_CHOICES:
        return f"only {replay.groups} choices could be replayed, {MIN_CHOICES} are needed"
    if replay.excess > margin:
        return f"it chooses worse hosts: {choices_in_words(replay)}"
    return f"it is not shown to choose better hosts: {choices_in_words(replay)}"


def train(
    lake: Path, settings: Settings, progress: Callable[[str], None] = silent, urgent: bool = False
) -> TrainingReport:
    """Trains on the lake's features and registers the model.

    While there is no champion the baseline serves: what the fingerprints alone say. A version becomes champion or
    challenger only if, on held-out later windows, it chooses hosts better than the baseline, beyond chance: in all
    categories together, or in some, which it then serves alone; see `verdict_on`. Where there is a champion, a version
    must also beat the best naive forecast on average over the targets to become challenger; whether it is promoted is
    for comparisons with the champion to say.

    Args:
        urgent: also take the place of a challenger that is in an experiment.

    Raises:
        NoDataError: there is too little to train on.
    """
    rows = load_training_rows(lake, settings.service, settings.max_training_rows, settings.training_recent_hours)
    registry = Registry(settings)
    params = champion_params(registry)
    storage = settings.tuning_storage or f"sqlite:///{settings.home / 'tuning.db'}"
    told = events_in_lake(lake, settings.service)
    known = outside_of(settings.service, told, settings.calendar, settings.holidays)
    candidate = make_candidate(rows, settings, progress, (params,) if params else (), storage, known.events)
    progress("registering")
    new_version = register(registry, candidate, settings.service)
    skill, present = mean_skill(candidate.scores), registry.version_of(CHAMPION)
    worse = objection_to_serving(candidate.verdict, candidate.replay, settings.baseline_margin)
    who = verdict_in_words(candidate.verdict, candidate.test["category"].nunique())
    verdict = f"{'beats' if skill > 0 else 'does not beat'} the best naive forecast: mean skill {skill:+.3f}"
    described = registry.description(new_version)
    challenger = False
    if described:
        # That training was finished, and others may have decided about its version since.
        challenger = registry.version_of(CHALLENGER) == new_version
        reason = f"trained before, from the same telemetry: {described}"
    elif worse and present != new_version:
        goes_on = "the baseline goes on serving" if present is None else f"version {present} stays champion"
        reason = f"{verdict}; {goes_on}: {worse}"
    elif present in (None, new_version):
        registry.set_champion(new_version)
        present = new_version
        reason = f"{verdict}; champion, {who}: {choices_in_words(candidate.replay)}"
    elif skill > settings.challenger_min_skill:
        other = registry.set_challenger(new_version, urgent)
        challenger = other is None
        reason = f"{verdict}; challenger of version {present}, {who}: {choices_in_words(candidate.replay)}"
        if other:
            reason = f"{verdict}; version {other} stays challenger, since it is in an experiment"
    else:
        reason = f"{verdict}; version {present} stays champion"
    if not described:
        registry.tag_version(new_version, VERDICT_TAG, who)
        registry.describe(new_version, reason)
    logger.info("trained", extra={"model_version": new_version, "challenger": challenger, "reason": reason})
    return TrainingReport(
        registry.name,
        new_version,
        present == new_version,
        challenger,
        present not in (None, new_version) and not challenger,
        reason,
        candidate.scores,
        len(candidate.train),
        len(candidate.test),
        candidate.ranking.regret,
        candidate.coverage["latency_p99_s"]["served"],
    )
