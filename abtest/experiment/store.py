"""The life of an experiment: started, evaluated, stopped. It runs as long as its note is in the registry."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fingerpost.abtest.experiment.guardrails import Rules
from fingerpost.abtest.experiment.pairs import Pairs, switchback_pairs
from fingerpost.abtest.experiment.verdict import Verdict, judge
from fingerpost.abtest.promotion.policy import RampStep, load_policy
from fingerpost.abtest.results import ComparisonResult
from fingerpost.clock import US, clock_us
from fingerpost.closed_arms import CLOSED, confirmed
from fingerpost.errors import FingerpostError
from fingerpost.experiment import CONTROL, EXPERIMENT_TAG, TREATMENT, Experiment
from fingerpost.features.build import with_categories
from fingerpost.features.outside import events_in_lake
from fingerpost.features.windows import CATEGORY_COLUMNS, record_weights
from fingerpost.lake import read_frame, service_folder, write_text_atomically
from fingerpost.routing.trust import kept_trusts
from fingerpost.settings import Settings
from fingerpost.training.registry import Registry

logger = logging.getLogger(__name__)
_RATE_US = 600 * US
# On the challenger's version, after the experiment: how it ended, in short.
RECORD_TAG = "fingerpost.experiment.record"
KIND = "experiments"
COLUMNS = ("time", "status", "duration_s", "arm", "predicted_cost", "weight", *CATEGORY_COLUMNS)


@dataclass(frozen=True)
class Started:
    """The experiment that runs now, and whether this call began it (`new`) or it only went on."""

    experiment: Experiment
    new: bool


@dataclass(frozen=True)
class Evaluation:
    """The verdict on an experiment, and the pairs it rests on."""

    experiment: Experiment
    verdict: Verdict
    pairs: Pairs
    arm: str = TREATMENT

    @property
    def version(self) -> str:
        """The challenger that it judges."""
        return self.experiment.version_of(self.arm)

    def result(self) -> ComparisonResult:
        """The result that is logged, and read by the promotion's gates."""
        about = {"champion": self.experiment.champion, "challenger": self.version}
        return ComparisonResult.read({**self.verdict.to_json(), **about, "samples": self.verdict.pairs})


def running(settings: Settings) -> Experiment | None:
    """The experiment in the registry, or None. It may be past its end; it is there until it is stopped.

    Raises:
        FingerpostError: what lies there is no experiment.
    """
    return Registry(settings).experiment()


def start(
    settings: Settings,
    slot_s: float | None = None,
    washout_s: float | None = None,
    pairs: int | None = None,
    now_us: int | None = None,
    others: Sequence[str] = (),
) -> Started:
    """Begins an experiment of the version that `challenger` points at against that of `champion`.

    The one write to the registry is the whole of it: killed before, nothing has happened; after, calling again finds
    the experiment of the same two versions and goes on with it.

    Args:
        slot_s, washout_s, pairs: instead of the settings'.
        now_us: the present, microseconds since 1970; None: the clock's.
        others: versions of further challengers; each has as many pairs as a single one.

    Raises:
        FingerpostError: one of the others is not there, an alias is missing, both are the same version, or another
            experiment runs.
    """
    registry = Registry(settings)
    champion, challenger = (_alias(registry, each) for each in (CONTROL, TREATMENT))
    present = running(settings)
    if present is not None:
        asked = (champion, challenger, *(others or present.others))
        if (present.champion, present.challenger, *present.others) == asked:
            return Started(present, new=False)
        raise FingerpostError(
            f"experiment {present.id} of versions {present.champion} and {present.challenger} is there: "
            "`fingerpost experiment stop` ends it"
        )
    missing = [each for each in others if registry.version(each) is None]
    if missing:
        raise FingerpostError(f"{registry.name} has no version {missing[0]!r} to compare")
    now = clock_us() if now_us is None else now_us
    begin_us = begin_us_of(settings, now)
    slot_s = settings.experiment_slot_s if slot_s is None else slot_s
    each_pairs = settings.experiment_pairs if pairs is None else pairs
    steps = first_steps(load_policy(settings.promotion_policy).policy.experiment.steps, slot_s, each_pairs)
    taking_turns = 1 + len(others)
    experiment = Experiment(
        f"v{champion}-v{'-v'.join((challenger, *others))}-{begin_us // US}",
        settings.service,
        champion,
        challenger,
        begin_us,
        slot_s,
        settings.experiment_washout_s if washout_s is None else washout_s,
        each_pairs * taking_turns,
        steps=tuple((count * taking_turns, one_in, length_s) for count, one_in, length_s in steps),
        others=tuple(others),
        until_us=begin_us + round(settings.experiment_unattended_s * US),
    )
    registry.set_note(EXPERIMENT_TAG, experiment.to_note())
    # Who started another at the same moment has the last word.
    return Started(running(settings) or experiment, new=True)


def begin_us_of(settings: Settings, now_us: int) -> int:
    """When an experiment can begin that is written now: every engine has seen it by then."""
    return now_us + round(max(3 * settings.model_poll_s, 1.0) * US)


def first_steps(steps: Sequence[RampStep], slot_s: float, pairs: int) -> tuple[tuple[int, int, float], ...]:
    """The steps of the policy, with slots no longer than the others; at least one of the pairs comes after them."""
    found: list[tuple[int, int, float]] = []
    left = pairs - 1
    for each in steps:
        count = min(each.pairs, left)
        if count > 0:
            found.append((count, each.one_in, min(each.slot_s, slot_s)))
        left -= count
    return tuple(found)


def attend(settings: Settings, experiment: Experiment, now_us: int) -> None:
    """Lets the challenger route on: the experiment was looked at, and nothing is wrong with it."""
    wanted_us = now_us + round(settings.experiment_unattended_s * US)
    if experiment.until_us and wanted_us - experiment.until_us > settings.experiment_unattended_s * US / 4:
        registry = Registry(settings)
        if registry.experiment() == experiment:
            registry.set_note(EXPERIMENT_TAG, replace(experiment, until_us=wanted_us).to_note())


def usual_rate_rps(settings: Settings, now_us: int) -> float:
    """Requests a second of the last ten minutes that are in the lake."""
    until = now_us - settle_us(settings)
    records = read_frame(settings.lake, "requests", settings.service, until - _RATE_US, until, ("time", "weight"))
    return float(record_weights(records).sum() / (_RATE_US / US))


def still_in_force(settings: Settings, experiment: Experiment) -> bool:
    """Whether its versions still are champion and challenger; otherwise the engine serves something else.

    Of several challengers any may have the alias: the best is given it at the end.
    """
    registry = Registry(settings)
    challengers = (experiment.challenger, *experiment.others)
    return registry.version_of(CONTROL) == experiment.champion and registry.version_of(TREATMENT) in challengers


def evaluate(
    settings: Settings, experiment: Experiment, now_us: int | None = None, ingested: bool = False
) -> Evaluation:
    """Judges the first challenger of an experiment; see `evaluate_all`."""
    return evaluate_all(settings, experiment, now_us, ingested)[0]


def evaluate_all(
    settings: Settings, experiment: Experiment, now_us: int | None = None, ingested: bool = False
) -> list[Evaluation]:
    """Reads the request records of the experiment's time and judges its challengers, each by its pairs.

    What all of them are wrongly called together stays alpha: each has its part of it.

    A slot is over when its records can be in the lake, see `settle_us`.

    Args:
        now_us: the present, microseconds since 1970; None: the clock's.
        ingested: whether what waited was ingested just now.
    """
    now = clock_us() if now_us is None else now_us
    settle = settle_us(settings, ingested)
    until = min(now, experiment.end_us + settle)
    # Requests that end after the last slot began in it.
    records = records_between(settings.lake, experiment.service, experiment.begin_us, until + US)
    over = now >= experiment.end_us + settle
    known = kept_trusts(settings.home / "routing" / f"{experiment.service}.table")
    events = events_in_lake(settings.lake, experiment.service, (CLOSED,))
    count = len(experiment.treatments)
    rules, planned = Rules.of(settings).shared(count), experiment.pairs // count
    found = []
    for arm in experiment.treatments:
        pairs = switchback_pairs(records, experiment, until - settle, arm)
        verdict = judge(pairs, rules, planned, over)
        closed = confirmed(events, experiment, now, arm)
        if closed and verdict.decided_at is None:
            verdict = replace(
                verdict, verdict="guardrail", rule="gross harm", reason=closed, decided_at=max(verdict.pairs, 1)
            )
        versions = {each: experiment.version_of(each) for each in (CONTROL, arm)}
        trusts = {side: known[version] for side, version in versions.items() if version in known}
        about = replace(verdict, experiment=asdict(experiment), trusts=trusts)
        found.append(Evaluation(experiment, about, pairs, arm))
    return found


def closed_for_harm(settings: Settings, experiment: Experiment, now_us: int) -> str | None:
    """Why the engine closed the new version's arm for good, or None; see `fingerpost.closed_arms`."""
    return confirmed(events_in_lake(settings.lake, experiment.service, (CLOSED,)), experiment, now_us)


def records_between(lake: Path, service: str, begin_us: int, end_us: int) -> pd.DataFrame:
    """Request records of a span of time with what experiments compare, and their `category`.

    Before there are categories it is the method and the route.
    """
    records = read_frame(lake, "requests", service, begin_us, end_us, COLUMNS)
    try:
        return with_categories(records, lake, service)
    except FileNotFoundError:
        return records.assign(category=records["method"].astype("str") + " " + records["route"].astype("str"))


def settle_us(settings: Settings, ingested: bool = False) -> int:
    """How long records take to the lake at most, as a rule, microseconds: two batches of the agents and one ingest.

    Args:
        ingested: whether what waited was ingested just now: what is then not there was sent within three batches, one
            of the agent, one of the engine, and one to spare.
    """
    return round(
        (3 * settings.agent_batch_s if ingested else 2 * settings.agent_batch_s + settings.ingest_every_s) * US
    )


def stop(
    settings: Settings,
    verdict: Verdict | None,
    why: str,
    now_us: int | None = None,
    others: Sequence[Evaluation] = (),
) -> Path | None:
    """Ends the experiment: its record is kept in the lake and, in short, on the challenger's version; then it goes.

    In this order, so that killed in between, the next call does the same again.

    Args:
        verdict: as of now, if it could be told.
        why: who or what ended it.
        others: on further challengers.

    Returns:
        The record's file; None if no experiment was there. What lay there and was none is removed.
    """
    registry = Registry(settings)
    try:
        experiment = running(settings)
    except FingerpostError as error:
        logger.warning("removed from the registry: %s", error)
        registry.set_note(EXPERIMENT_TAG, None)
        return None
    if experiment is None:
        return None
    stopped_us = clock_us() if now_us is None else now_us
    found = verdict.to_json() if verdict else None
    record = {"experiment": asdict(experiment), "stopped_us": stopped_us, "why": why, "verdict": found}
    if experiment.others:
        record["others"] = {each.version: each.verdict.to_json() for each in others}
    path = service_folder(settings.lake, KIND, experiment.service) / f"{experiment.id}.json"
    write_text_atomically(path, json.dumps(record, indent=1))
    verdicts = {experiment.challenger: found, **dict.fromkeys(experiment.others)}
    verdicts.update({each.version: each.verdict.to_json() for each in others})
    for version, of_version in verdicts.items():
        names = ("verdict", "rule", "reason", "pairs")
        about = {name: of_version[name] for name in names} if of_version else {}
        registry.tag_version(version, RECORD_TAG, json.dumps({"id": experiment.id, "why": why[:200], **about}))
    registry.set_note(EXPERIMENT_TAG, None)
    return path


def records_of(settings: Settings) -> list[dict[str, Any]]:
    """The records of the experiments that were stopped, in the order in which they began."""
    folder = service_folder(settings.lake, KIND, settings.service)
    found = [json.loads(path.read_text()) for path in folder.glob("*.json") if not path.name.startswith(".")]
    return sorted(found, key=lambda record: record["experiment"]["begin_us"])


def _alias(registry: Registry, alias: str) -> str:
    version = registry.version_of(alias)
    if version is None:
        raise FingerpostError(f"{registry.name} has no {alias}: set this alias to a version in the registry first")
    return version
