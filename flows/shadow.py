"""The shadow flow: champion and challenger by what they predicted."""

import logging
import time
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from abtest.plots import shadow_errors
from abtest.reports import shadow_markdown
from abtest.shadow import ShadowReport, compare
from abtest.shadow_join import load_shadow
from fingerpost.settings import get_settings

logger = logging.getLogger(__name__)
US = 1_000_000


@task(retries=2, retry_delay_seconds=5, timeout_seconds=900)
def compare_shadow(hours: float) -> ShadowReport:
    """Compares what both predicted in the last hours with what followed."""
    settings = get_settings()
    now_us = time.time_ns() // 1000
    joined = load_shadow(settings.lake, settings.service, now_us - round(hours * 3600 * US), now_us, settings.window_s)
    return compare(joined, settings.latency_weight)


@flow(name="shadow", timeout_seconds=1800)
def shadow_flow(hours: float = 24.0) -> dict[str, Any]:
    """Compares champion and challenger in the shadow; leaves a table of errors, and a picture in `reports/`."""
    report = compare_shadow(hours)
    folder = get_settings().home / "reports" / "shadow"
    folder.mkdir(parents=True, exist_ok=True)
    if report.rows:
        shadow_errors(report).savefig(folder / f"v{report.versions[0]}-v{report.versions[1]}.png")
    text = f"{shadow_markdown(report)}\nPictures: `{folder}`\n"
    create_markdown_artifact(key="shadow", markdown=text, description="Champion and challenger by what they predicted")
    logger.info("shadow: %s", report.status)
    return report.to_json()
