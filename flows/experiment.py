"""The experiment flow: begins, evaluates and ends the experiment of a challenger."""

import logging
from typing import Any

from prefect import flow

from fingerpost.abtest.experiment.advance import StepResult, advance_experiment
from fingerpost.abtest.experiment.guardrails import Rules
from fingerpost.abtest.experiment.verdict import primary_sequence
from fingerpost.abtest.promotion.watch import WatchOutcome, check_promotion
from fingerpost.abtest.reports import write_experiment_report
from fingerpost.flows.alerts import send_alert
from fingerpost.flows.steps import leave_markdown, reported, run_step, settings_of, tell_failure
from fingerpost.shown import markdown_name

logger = logging.getLogger(__name__)
_WHO = "flow experiment"


@flow(name="experiment", timeout_seconds=1800, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def experiment_flow(service: str = "") -> dict[str, Any]:
    """Looks at the watch, then takes the service's experiment one step on.

    It leaves the verdict as a table, and pictures in `reports/`.

    The result is `Verdict.to_json` with `action` and `why`; where none was evaluated, `verdict` is None.
    """
    settings = settings_of(service)
    watched: WatchOutcome | None = run_step("watch", lambda: check_promotion(settings, _WHO))
    if watched is not None and watched.state == "rolled back":
        send_alert(settings, "rollback", f"version {watched.previous} is champion again: {watched.reason}")
    done: StepResult = run_step("experiment", lambda: advance_experiment(settings))
    logger.info("experiment: %s: %s", done.action, done.why)
    said = {"action": done.action, "why": done.why}
    found = done.evaluation
    if found is None:
        return {"experiment": None, "verdict": None, **said}
    if found.verdict.verdict == "guardrail":
        send_alert(settings, "guardrail", f"experiment {found.experiment.id} was stopped: {found.verdict.reason}")
    folder = settings.home / "reports" / "experiments" / found.experiment.id
    text = f"{write_experiment_report(found, folder)}\nPictures: {markdown_name(str(folder))}\n"
    leave_markdown(settings, "experiment", text, description="What the experiment has shown so far")
    return {**found.verdict.to_json(), **said, "sequence": primary_sequence(found.pairs, Rules.of(settings))}
