"""The experiment flow: begins, evaluates and ends the experiment of a challenger."""

import logging
from typing import Any

from prefect import flow

from fingerpost.abtest.experiment.advance import StepResult, advance_experiment
from fingerpost.abtest.experiment.guardrails import Rules
from fingerpost.abtest.experiment.store import Evaluation
from fingerpost.abtest.experiment.verdict import primary_sequence
from fingerpost.abtest.promotion.watch import WatchOutcome, check_promotion
from fingerpost.abtest.reports import write_experiment_report
from fingerpost.experiment import EXPERIMENT_TAG
from fingerpost.flows.alerts import send_alert
from fingerpost.flows.ingest import ingest_waiting
from fingerpost.flows.steps import leave_markdown, reported, run_step, settings_of, tell_failure
from fingerpost.shown import markdown_name
from fingerpost.training.registry import Registry

logger = logging.getLogger(__name__)
_WHO = "flow experiment"
# Of the sequence of a further challenger, the latest among them.
_MAX_POINTS = 100


@flow(name="experiment", timeout_seconds=1800, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def experiment_flow(service: str = "") -> dict[str, Any]:
    """Looks at the watch, then takes the service's experiment one step on.

    It leaves the verdict as a table, and pictures in `reports/`.

    The result is `Verdict.to_json` with `action` and `why`; where none was evaluated, `verdict` is None.
    """
    settings = settings_of(service)
    # What is judged now is to be what came by now: it saves a minute of harm.
    ingested = Registry(settings).note(EXPERIMENT_TAG) is not None
    if ingested:
        run_step("ingest", lambda: ingest_waiting(settings))
    watched: WatchOutcome | None = run_step("watch", lambda: check_promotion(settings, _WHO, ingested=ingested))
    if watched is not None and watched.state == "rolled back":
        send_alert(settings, "rollback", f"version {watched.previous} is champion again: {watched.reason}")
    done: StepResult = run_step("experiment", lambda: advance_experiment(settings, ingested))
    logger.info("experiment: %s: %s", done.action, done.why)
    said = {"action": done.action, "why": done.why}
    found = done.evaluation
    if found is None:
        return {"experiment": None, "verdict": None, **said}
    if found.verdict.verdict == "guardrail":
        send_alert(settings, "guardrail", f"experiment {found.experiment.id} was stopped: {found.verdict.reason}")
    folder = settings.home / "reports" / "experiments" / found.experiment.id
    text = f"{write_experiment_report(found, folder)}\nPictures: {markdown_name(str(folder))}\n"
    for each in done.others:
        text += f"\n{write_experiment_report(each, folder / each.arm)}"
        if each.verdict.verdict == "guardrail":
            send_alert(settings, "guardrail", f"version {each.version} in {found.experiment.id}: {each.verdict.reason}")
    leave_markdown(settings, "experiment", text, description="What the experiment has shown so far")
    rules = Rules.of(settings).shared(1 + len(done.others))
    return {
        **found.verdict.to_json(),
        **said,
        "sequence": primary_sequence(found.pairs, rules),
        "others": [_short(each, rules) for each in done.others],
    }


def _short(each: Evaluation, rules: Rules) -> dict[str, Any]:
    """What the page shows of a further challenger; a flow's result has to be short."""
    told, sequence = each.verdict.to_json(), primary_sequence(each.pairs, rules)
    step = 1 + len(sequence["pair"]) // _MAX_POINTS
    names = ("verdict", "rule", "reason", "pairs", "planned", "effects")
    return {
        "version": each.version,
        **{name: told[name] for name in names},
        "sequence": {name: values[::-step][::-1] for name, values in sequence.items()},
    }
