"""The watch over the last promotion: looks at it, rolls it back where it harms, and ends.

Its state lies in the registry alone, so any process can go on with it.
"""

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from fingerpost.abtest.experiment.pairs import Pairs, switchback_pairs
from fingerpost.abtest.experiment.slots import METRICS
from fingerpost.abtest.experiment.store import closed_for_harm, records_between, settle_us
from fingerpost.abtest.promotion.concurrent import WatchReading, read_watch
from fingerpost.abtest.promotion.outside import ask_during
from fingerpost.abtest.promotion.policy import load_policy
from fingerpost.abtest.promotion.promote import rollback
from fingerpost.abtest.promotion.record import note_applied, write_record
from fingerpost.abtest.results import read_time
from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.experiment import CHAMPION, EXPERIMENT_TAG, Experiment
from fingerpost.settings import Settings
from fingerpost.training.registry import WATCH_TAG, Registry, StaleEvidenceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchOutcome:
    """What one look found.

    Args:
        state: watching, kept (the time is up and nothing was wrong), rolled back.
        reading: the guardrails.
    """

    state: str
    version: str
    previous: str
    reason: str
    record: str
    reading: dict[str, Any]


def check_promotion(
    settings: Settings, who: str, now: datetime | None = None, ingested: bool = False
) -> WatchOutcome | None:
    """Looks once at the promotion that is watched; rolls it back if a guardrail is broken. None: none is watched.

    Guardrails are those of the comparison, the arm that the engine closed for gross harm, and the policy's own.

    Args:
        ingested: whether what waited was ingested just now.
    """
    registry, moment = Registry(settings), now or datetime.now(UTC)
    watch = registry.note(WATCH_TAG)
    if watch is None:
        return None
    version, previous = str(watch.get("version")), str(watch.get("previous"))
    since, until = read_time(watch.get("since")), read_time(watch.get("until"))
    if registry.version_of(CHAMPION) != version or since is None or until is None:
        # A promotion that was cut short, or undone by hand.
        _end(registry, watch)
        return None
    pairs = _pairs_so_far(settings, registry, version, moment, settle_us(settings, ingested))
    reading = read_watch(pairs, settings)
    now_us = round(moment.timestamp() * US)
    experiment = _experiment(registry)
    closed = closed_for_harm(settings, experiment, now_us) if experiment and experiment.champion == version else None
    told = {"model_name": registry.name, "champion": previous, "challenger": version}
    question = {**told, "reason": f"version {version} is watched until {until.isoformat()}"}
    named, problems = _ask_outside(settings, question) if moment < until else ([], [])
    broken = [*reading.broken, *([closed] if closed else []), *named]
    found = {"watch": watch, "reading": _plain(reading), "closed": closed, "named": named}
    if broken:
        why = f"watch over version {version}: {'; '.join(broken)}"
        try:
            done = rollback(settings, who, why, found, expected=version)
        except StaleEvidenceError:
            _end(registry, watch)
            return None
        logger.warning("rolled back", extra={"model_version": version, "reason": why})
        return WatchOutcome("rolled back", version, previous, why, done.record, _plain(reading))
    if moment.timestamp() < until.timestamp() + settle_us(settings) / US:
        why = "; ".join([f"until {until.isoformat()}", *problems])
        return WatchOutcome("watching", version, previous, why, "", _plain(reading))
    why = "no guardrail was broken" if reading.enough else "too few requests came to tell anything bad of it"
    record = write_record(registry, "kept", {**told, **found}, None, None, who, why)
    _end(registry, watch)
    note_applied(registry, record, "yes")
    return WatchOutcome("kept", version, previous, why, record, _plain(reading))


def _ask_outside(settings: Settings, question: dict[str, Any]) -> tuple[list[str], list[str]]:
    """As `ask_during`; without a policy that can be read nothing is asked, and the rest of the watch goes on."""
    try:
        return ask_during(load_policy(settings.promotion_policy).policy, "watch", question)
    except (FingerpostError, OSError) as error:
        logger.warning("the policy's guardrails are not asked: %s", error)
        return [], [f"the policy's guardrails are not asked: {error}"]


def _pairs_so_far(settings: Settings, registry: Registry, version: str, moment: datetime, settle: int) -> Pairs:
    """Pairs of slots of the watch; none where it could not be begun, or something else took its place."""
    now_us = round(moment.timestamp() * US)
    experiment = _experiment(registry)
    if experiment is None or experiment.champion != version:
        return Pairs(
            ("", ""),
            np.zeros(0, dtype=np.int64),
            {name: np.zeros((0, 2)) for name in METRICS},
            np.zeros((0, 2), dtype=np.int64),
        )
    records = records_between(settings.lake, settings.service, experiment.begin_us, now_us)
    return switchback_pairs(records, experiment, now_us - settle)


def _experiment(registry: Registry) -> Experiment | None:
    """The experiment of a watch, or None."""
    try:
        experiment = registry.experiment()
    except FingerpostError:
        return None
    return experiment if experiment is not None and experiment.purpose == "watch" else None


def _plain(reading: WatchReading) -> dict[str, Any]:
    return dict(to_jsonable_python(asdict(reading), inf_nan_mode="null"))


def _end(registry: Registry, watch: dict[str, Any]) -> None:
    """Removes the watch and its experiment, unless another has begun; the former champion has no slots any more."""
    with registry.lock():
        if registry.note(WATCH_TAG) == watch:
            registry.set_note(WATCH_TAG, None)
            experiment = _experiment(registry)
            if experiment is not None:
                registry.set_note(EXPERIMENT_TAG, None)
                registry.drop_challenger(experiment.challenger)
