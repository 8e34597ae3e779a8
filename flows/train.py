"""The training flow: tune, train, evaluate, register."""

import logging
from dataclasses import asdict
from functools import partial
from typing import Any

from prefect import flow

from fingerpost.flows.alerts import send_alert
from fingerpost.flows.steps import leave_markdown, reported, run_step, settings_of, tell_failure
from fingerpost.shown import markdown_text
from fingerpost.training.train import TrainingReport, train

logger = logging.getLogger(__name__)


@flow(name="train", timeout_seconds=7200, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def train_flow(service: str = "", urgent: bool = False) -> dict[str, Any]:
    """Trains a new model version of the service; leaves a table of its skill.

    Args:
        urgent: it may take the place of a challenger that is in an experiment.
    """
    settings = settings_of(service)
    tell = partial(logger.info, "training: %s")
    # Once more only: registering twice makes two versions, and tuning goes on where it was.
    report: TrainingReport = run_step("train", lambda: train(settings.lake, settings, tell, urgent), retries=1)
    # That the baseline goes on serving is no failure: most fleets have nothing to anticipate.
    if report.refused:
        send_alert(settings, "refused model", f"version {report.model_version}: {report.reason}")
    leave_markdown(settings, "training", _markdown(report), description="How good the new version is")
    return {**asdict(report), "skill": {target: each.skill for target, each in report.scores.items()}}


def ask_for_training(service: str, urgent: bool = False, key: str | None = None) -> str:
    """Asks the training's deployment for a run, so that no two train at once; returns the run's name.

    Args:
        key: a second request with the same key starts no second run; None: each does.

    Raises:
        ObjectNotFound: no schedules serve the deployment.
    """
    from prefect.deployments import run_deployment

    run: Any = run_deployment(
        f"train/{service}",
        parameters={"service": service, "urgent": urgent},
        timeout=0,
        as_subflow=False,
        idempotency_key=key,
    )
    return str(run.name)


def _markdown(report: TrainingReport) -> str:
    rows = "\n".join(
        f"| {target} | {each.rows} | {each.model:.4f} | {each.best_naive} {each.naive[each.best_naive]:.4f} "
        f"| {each.skill:+.3f} |"
        for target, each in report.scores.items()
    )
    role = "champion" if report.champion else "challenger" if report.challenger else "neither champion nor challenger"
    return (
        f"# {report.model_name} version {report.model_version}: {role}\n\n{markdown_text(report.reason)}.\n\n"
        f"Trained on {report.train_rows} rows, tested on the {report.test_rows} after them.\n\n"
        f"| target | rows | log-MAE | best naive | skill |\n|---|---|---|---|---|\n{rows}\n"
    )
