"""The shadow flow: champion and challenger by what they predicted."""

import logging
from typing import Any

from prefect import flow

from fingerpost.abtest.experiment.advance import compare_in_shadow
from fingerpost.abtest.offpolicy.records import ChallengerOffPolicy
from fingerpost.abtest.reports import interval, shadow_errors, shadow_markdown
from fingerpost.abtest.shadow.compare import ShadowReport
from fingerpost.clock import clock_us
from fingerpost.flows.steps import leave_markdown, reported, run_step, settings_of, tell_failure
from fingerpost.shown import markdown_name, markdown_text

logger = logging.getLogger(__name__)


@flow(name="shadow", timeout_seconds=1800, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def shadow_flow(service: str = "", hours: float = 24.0) -> dict[str, Any]:
    """Compares champion and challenger in the shadow; leaves a table of errors, and a picture in `reports/`."""
    settings = settings_of(service)
    found: tuple[ShadowReport, ChallengerOffPolicy | None] = run_step(
        "compare", lambda: compare_in_shadow(settings, hours, clock_us())
    )
    report, off_policy = found
    folder = settings.home / "reports" / "shadow"
    folder.mkdir(parents=True, exist_ok=True)
    if report.rows:
        shadow_errors(report).savefig(folder / f"v{report.versions[0]}-v{report.versions[1]}.png")
    text = f"{shadow_markdown(report)}\n{_off_policy_markdown(off_policy)}\nPictures: {markdown_name(str(folder))}\n"
    leave_markdown(
        settings,
        "shadow",
        text,
        description="Champion and challenger by what they predicted",
    )
    logger.info("shadow: %s", report.status)
    return {**report.to_json(), "off_policy": off_policy.to_json() if off_policy else None}


def _off_policy_markdown(found: ChallengerOffPolicy | None) -> str:
    if found is None:
        return "Nothing to estimate a policy from yet.\n"
    estimate = found.estimate
    if found.unreliable is not None:
        return f"No off-policy estimate: {markdown_text(found.unreliable)}.\n"
    return (
        f"Had the challenger routed, the mean latency would have been {interval(estimate.dr)} s instead of "
        f"{interval(estimate.logged)} s ({estimate.requests} requests).\n"
    )
