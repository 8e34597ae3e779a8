"""The drift flow: champion and challenger against what is measured now; a new training where that asks for one."""

import time
from functools import partial
from typing import Any

from prefect import flow

from fingerpost.abtest.drift.gate import check_drift, retrain_pause_s, retrain_reason
from fingerpost.abtest.drift.verdict import DriftVerdict
from fingerpost.abtest.results import DRIFT
from fingerpost.experiment import CHALLENGER, CHAMPION
from fingerpost.flows.alerts import send_alert
from fingerpost.flows.steps import leave_markdown, reported, run_step, settings_of, tell_failure
from fingerpost.flows.train import ask_for_training, train_flow
from fingerpost.shown import markdown_text
from fingerpost.training.registry import WATCH_TAG, Registry


@flow(name="drift", timeout_seconds=1800, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def drift_flow(service: str = "") -> dict[str, Any]:
    """Checks drift of the champion and the challenger; leaves a report, and has a new version trained if need be."""
    settings = settings_of(service)
    registry = Registry(settings)
    verdicts: dict[str, DriftVerdict] = {}
    runs: dict[str, str] = {}
    watch = registry.note(WATCH_TAG) or {}
    for alias in (CHAMPION, CHALLENGER):
        version = registry.version_of(alias)
        # The champion of before has slots while the promotion is watched; it is no answer to drift.
        if version is not None and (alias == CHAMPION or version != watch.get("previous")):
            verdicts[alias], runs[alias] = run_step(f"drift of the {alias}", partial(check_drift, settings, version))
    found = {alias: {**verdict.to_json(), "run_id": runs[alias]} for alias, verdict in verdicts.items()}
    leave_markdown(settings, "drift", _markdown(verdicts), description="Has the world changed")
    champion = verdicts.get(CHAMPION)
    if champion is not None and champion.verdict == DRIFT:
        send_alert(settings, "drift", f"version {champion.model_version}: {'; '.join(champion.reasons)}")
    age_s = time.time() - registry.newest_version_s()
    pause_s = retrain_pause_s(settings.retrain_pause_s, registry.newer_than_champion())
    why = retrain_reason(champion, verdicts.get(CHALLENGER), age_s, pause_s)
    return {**found, "retrain": why, "training": _train(settings.service) if why else None}


def _train(service: str) -> str:
    """Has the training's deployment train; without one, trains here."""
    from prefect.exceptions import ObjectNotFound

    try:
        return ask_for_training(service, urgent=True)
    except ObjectNotFound:
        return str(train_flow(service, urgent=True)["model_version"])


def _markdown(verdicts: dict[str, DriftVerdict]) -> str:
    parts = []
    for alias, verdict in verdicts.items():
        rows = "\n".join(
            f"| {each.name} | {each.distance:.3f} | {each.threshold:g} | {'drifted' if each.drifted else ''} |"
            for each in verdict.columns
        )
        tests = "\n".join(
            f"- {'passed' if test.passed else '**failed**'}: {markdown_text(test.description)}"
            for test in verdict.tests
        )
        reasons = "\n".join(f"- {markdown_text(reason)}" for reason in verdict.reasons)
        live = "\n".join(
            f"| {each.target} | {markdown_text(each.category) or 'all'} | {each.error:.3f} | {each.low:.3f} to "
            f"{each.high:.3f} | {each.beyond} of {each.windows} | {'drift' if each.found else ''} |"
            for each in verdict.live
            if each.found or not each.category
        )
        parts.append(
            f"# {alias}, version {verdict.model_version}: {verdict.verdict}\n\n{reasons}\n\n"
            f"| live error of | category | now | interval when tested | windows beyond | |\n|---|---|---|---|---|---|\n"
            f"{live}\n\n"
            f"| column | distance | limit | |\n|---|---|---|---|\n{rows}\n\n{tests}\n"
        )
    return "\n".join(parts) or "There is no champion yet.\n"
