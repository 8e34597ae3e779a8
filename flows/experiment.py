"""The experiment flow: what the experiment that runs has shown so far."""

import logging
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from abtest.evaluation import Evaluation, evaluate
from abtest.experiments import running
from abtest.plots import differences, latencies
from abtest.reports import verdict_markdown
from fingerpost.settings import get_settings

logger = logging.getLogger(__name__)


@task(retries=2, retry_delay_seconds=5, timeout_seconds=900)
def evaluate_running() -> Evaluation | None:
    """The verdict on the experiment in the registry, or None."""
    settings = get_settings()
    experiment = running(settings)
    return evaluate(settings, experiment) if experiment else None


@flow(name="experiment", timeout_seconds=1800)
def experiment_flow() -> dict[str, Any]:
    """Evaluates the service's experiment; leaves its verdict as a table, and pictures in `reports/`.

    The result is `Verdict.to_json`; where no experiment runs, its `experiment` and `verdict` are None.
    """
    found = evaluate_running()
    if found is None:
        logger.info("no experiment runs")
        return {"experiment": None, "verdict": None}
    folder = get_settings().home / "reports" / "experiments" / found.experiment.id
    folder.mkdir(parents=True, exist_ok=True)
    differences(found.pairs, found.verdict.alpha).savefig(folder / "differences.png")
    latencies(found.pairs).savefig(folder / "latencies.png")
    text = f"{verdict_markdown(found.verdict)}\nPictures: `{folder}`\n"
    create_markdown_artifact(key="experiment", markdown=text, description="What the experiment has shown so far")
    logger.info("experiment %s: %s", found.experiment.id, found.verdict.verdict)
    return found.verdict.to_json()
