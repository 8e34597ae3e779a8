"""From a challenger in the registry to a verdict in it, without anybody's doing: shadow first, then an experiment."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from fingerpost.abtest.experiment.store import RECORD_TAG, Evaluation, attend, evaluate, start, still_in_force, stop
from fingerpost.abtest.offpolicy.records import ChallengerOffPolicy, challenger_off_policy
from fingerpost.abtest.promotion.outside import ask_during
from fingerpost.abtest.promotion.policy import load_policy
from fingerpost.abtest.results import BETTER, NO_DIFFERENCE, ComparisonResult, log_result
from fingerpost.abtest.shadow.compare import ShadowReport, compare
from fingerpost.abtest.shadow.join import load_shadow
from fingerpost.clock import US, clock_us
from fingerpost.errors import NoDataError
from fingerpost.experiment import CHALLENGER, EXPERIMENT_TAG
from fingerpost.settings import Settings
from fingerpost.training.registry import HOLD_TAG, WATCH_TAG, Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What there is of an experiment after a look at it.

    Args:
        action: `started`, `goes on`, `stopped`, or `none`.
        why: of what was done, or why there is none.
        evaluation: as of now, if one is or was running.
    """

    action: str
    why: str
    evaluation: Evaluation | None = None


def compare_in_shadow(settings: Settings, hours: float, now_us: int) -> tuple[ShadowReport, ChallengerOffPolicy | None]:
    """Compares what both versions predicted with what followed, and what the challenger would have cost.

    What either comes to is logged as evidence.

    Returns:
        The comparison, and the off-policy estimate where there is anything to estimate from.
    """
    registry, from_us = Registry(settings), now_us - round(hours * 3600 * US)
    joined = load_shadow(settings.lake, settings.service, from_us, now_us, settings.window_s)
    report = compare(joined, settings.latency_weight, block_s=settings.shadow_block_s)
    if report.status != "insufficient":
        log_result(registry, "shadow", report.result())
    try:
        found = challenger_off_policy(settings, from_us, now_us)
    except NoDataError:
        return report, None
    result = found.result()
    if result is not None:
        log_result(registry, "offpolicy", result)
    return report, found


def advance_experiment(settings: Settings, ingested: bool = False) -> StepResult:
    """Looks at the experiment that runs, ends it when it is decided, and begins one where a challenger is due for it.

    A challenger is due once the shadow comparison has shown it to be no worse, if no experiment of it has been
    stopped before, and neither a hold nor a watch is on.

    Args:
        ingested: whether what waited was ingested just now.
    """
    registry = Registry(settings)
    experiment = registry.experiment()
    if experiment is None:
        why = not_due(settings, registry)
        if why is not None:
            return StepResult("none", why)
        begun = start(settings)
        return StepResult("started", f"experiment {begun.experiment.id}", None)
    if experiment.purpose == "watch":
        if registry.note(WATCH_TAG) is None:
            # The watch was ended, or never written, by somebody who was cut short.
            registry.set_note(EXPERIMENT_TAG, None)
        return StepResult("none", "the last promotion is watched")
    found = evaluate(settings, experiment, ingested=ingested)
    about = {"champion": experiment.champion, "challenger": experiment.challenger}
    told = {"model_name": registry.name, **about, "reason": f"experiment {experiment.id} goes on"}
    broken, problems = ask_during(load_policy(settings.promotion_policy).policy, "experiment", told)
    if broken and found.verdict.decided_at is None:
        verdict = replace(found.verdict, verdict="guardrail", rule="named", reason="; ".join(broken))
        verdict = replace(verdict, decided_at=max(verdict.pairs, 1))
        found = replace(found, verdict=verdict)
    verdict = found.verdict
    if not still_in_force(settings, experiment):
        stop(settings, verdict, "its versions are not champion and challenger any more")
        return StepResult("stopped", "its versions are not champion and challenger any more", found)
    if verdict.decided_at is None and not verdict.over:
        if not problems:
            attend(settings, experiment, clock_us())
        return StepResult("goes on", "; ".join([verdict.reason, *problems]), found)
    # Logged before it is ended: killed in between, it is ended the next time.
    log_result(registry, "experiment", found.result())
    stop(settings, verdict, verdict.reason)
    return StepResult("stopped", verdict.reason, found)


def not_due(settings: Settings, registry: Registry) -> str | None:
    """Why no experiment is to begin now; None: one is."""
    if not settings.experiment_auto:
        return "experiments are begun by people (FINGERPOST_EXPERIMENT_AUTO)"
    challenger = registry.version_of(CHALLENGER)
    if challenger is None:
        return "there is no challenger"
    if registry.note(HOLD_TAG) is not None or registry.note(WATCH_TAG) is not None:
        return "a hold or a watch is on"
    entry: Any = registry.version(challenger)
    if entry is not None and RECORD_TAG in entry.tags:
        return f"version {challenger} has had its experiment"
    shadow = registry.latest_result("shadow", challenger)
    if shadow is None:
        return f"version {challenger} has not been compared in the shadow yet"
    verdict = ComparisonResult.read(shadow["result"]).verdict
    return None if verdict in (BETTER, NO_DIFFERENCE) else f"version {challenger} is {verdict} in the shadow"
