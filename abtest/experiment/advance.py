"""From a challenger in the registry to a verdict in it, without anybody's doing: shadow first, then an experiment."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fingerpost.abtest.experiment.store import (
    RECORD_TAG,
    Evaluation,
    attend,
    evaluate,
    evaluate_all,
    start,
    still_in_force,
    stop,
)
from fingerpost.abtest.experiment.verdict import PRIMARY
from fingerpost.abtest.offpolicy.records import ChallengerOffPolicy, challenger_off_policy
from fingerpost.abtest.promotion.decide import offline_gate
from fingerpost.abtest.promotion.outside import ask_during
from fingerpost.abtest.promotion.policy import load_policy
from fingerpost.abtest.results import BETTER, GUARDRAIL, NO_DIFFERENCE, WORSE, ComparisonResult, log_result
from fingerpost.abtest.shadow.compare import ShadowReport, compare
from fingerpost.abtest.shadow.join import load_shadow
from fingerpost.clock import US, clock_us
from fingerpost.errors import NoDataError
from fingerpost.experiment import CHALLENGER, CHAMPION, EXPERIMENT_TAG, Experiment
from fingerpost.settings import Settings
from fingerpost.training.registry import HOLD_TAG, OUTCOME_TAG, WATCH_TAG, Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What there is of an experiment after a look at it.

    Args:
        action: `started`, `goes on`, `stopped`, or `none`.
        why: of what was done, or why there is none.
        evaluation: as of now, if one is or was running; of several challengers, of the first.
        others: of further challengers.
    """

    action: str
    why: str
    evaluation: Evaluation | None = None
    others: tuple[Evaluation, ...] = ()


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
        begun = start(settings, others=further_challengers(settings, registry))
        return StepResult("started", f"experiment {begun.experiment.id}", None)
    if experiment.purpose == "watch":
        if registry.note(WATCH_TAG) is None:
            # The watch was ended, or never written, by somebody who was cut short.
            registry.set_note(EXPERIMENT_TAG, None)
        return StepResult("none", "the last promotion is watched")
    if experiment.others:
        return _advance_several(settings, registry, experiment, ingested)
    found = evaluate(settings, experiment, ingested=ingested)
    about = {"champion": experiment.champion, "challenger": experiment.challenger}
    told = {"model_name": registry.name, **about, "reason": f"experiment {experiment.id} goes on"}
    broken, problems = ask_during(load_policy(settings.promotion_policy).policy, "experiment", told)
    if broken and found.verdict.decided_at is None:
        found = _ended_by(found, "; ".join(broken))
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


def _advance_several(settings: Settings, registry: Registry, experiment: Experiment, ingested: bool) -> StepResult:
    """The same of several challengers: each is logged once it is decided, and the best that passes has the alias then.

    Killed in between, the next look does the same again.
    """
    policy = load_policy(settings.promotion_policy).policy
    found = evaluate_all(settings, experiment, ingested=ingested)
    told = {"model_name": registry.name, "champion": experiment.champion, "challenger": experiment.challenger}
    told["reason"] = f"experiment {experiment.id} of versions {', '.join(each.version for each in found)} goes on"
    broken, problems = ask_during(policy, "experiment", told)
    if broken:
        found = [_ended_by(each, "; ".join(broken)) if each.verdict.decided_at is None else each for each in found]
    verdicts = [each.verdict for each in found]
    if not still_in_force(settings, experiment):
        why = "its versions are not champion and challenger any more"
        stop(settings, verdicts[0], why, others=found[1:])
        return StepResult("stopped", why, found[0], tuple(found[1:]))
    said = "; ".join(f"version {each.version}: {each.verdict.verdict}, {each.verdict.reason}" for each in found)
    if any(each.decided_at is None for each in verdicts) and not verdicts[0].over:
        out = tuple(each.arm for each in found if each.verdict.verdict in (WORSE, GUARDRAIL))
        if out != experiment.out:
            experiment = replace(experiment, out=out)
            registry.set_note(EXPERIMENT_TAG, experiment.to_note())
        if not problems:
            attend(settings, experiment, clock_us())
        return StepResult("goes on", "; ".join([said, *problems]), found[0], tuple(found[1:]))
    best = best_of(found, policy.experiment.accept, policy.experiment.min_samples)
    for each in found:
        rivals = {one.version: one.verdict.verdict for one in found if one is not each}
        result = each.result().model_copy(update={"rivals": rivals, "chosen": best.version if best else None})
        log_result(registry, "experiment", result)
        if best is not None and each is not best:
            registry.tag_version(each.version, OUTCOME_TAG, _fate(each, best, policy.experiment.accept))
    if best is not None:
        registry.set_challenger(best.version)
    stop(settings, verdicts[0], said, others=found[1:])
    return StepResult("stopped", said, found[0], tuple(found[1:]))


def best_of(found: Sequence[Evaluation], accept: Sequence[str], min_samples: int) -> Evaluation | None:
    """The challenger to promote: one that is better before one that is not worse, then the one of least latency."""
    passed = [each for each in found if each.verdict.verdict in accept and each.verdict.pairs >= min_samples]

    def rank(each: Evaluation) -> tuple[bool, float]:
        effect = each.verdict.effects.get(PRIMARY)
        known = effect is not None and math.isfinite(effect.estimate)
        return each.verdict.verdict != BETTER, effect.estimate if effect is not None and known else math.inf

    return min(passed, key=rank, default=None)


def _fate(each: Evaluation, best: Evaluation, accept: Sequence[str]) -> str:
    """What becomes of a challenger that is not the best one."""
    if each.verdict.verdict in accept:
        return f"{each.verdict.verdict}, not best: version {best.version} is, in experiment {each.experiment.id}"[:500]
    return f"rejected: {each.verdict.verdict} in experiment {each.experiment.id}: {each.verdict.reason}"[:500]


def _ended_by(found: Evaluation, why: str) -> Evaluation:
    """An evaluation that a guardrail of the policy ends."""
    verdict = replace(found.verdict, verdict="guardrail", rule="named", reason=why)
    return replace(found, verdict=replace(verdict, decided_at=max(verdict.pairs, 1)))


def further_challengers(settings: Settings, registry: Registry) -> list[str]:
    """The newest versions since the champion, beside the challenger, that its experiment is to compare as well.

    Such that have had no experiment, were not rejected, and pass the policy's gate of held-out skill; at most as many
    as the policy says.
    """
    policy = load_policy(settings.promotion_policy).policy
    most, taken = policy.experiment.challengers - 1, registry.version_of(CHALLENGER)
    champion = registry.version_of(CHAMPION)
    if most < 1 or champion is None:
        return []
    found = []
    for entry in registry.versions_since(champion):
        version = str(entry.version)
        if version == taken or RECORD_TAG in entry.tags or OUTCOME_TAG in entry.tags:
            continue
        if offline_gate(policy.offline, registry.offline_evidence(version)).status in ("pass", "off"):
            found.append(version)
        if len(found) == most:
            break
    return found


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
