"""The retention flow: what is too old leaves the lake, past dates become one file each."""

from typing import Any

from prefect import flow

from fingerpost.abtest.drift.gate import prune_reports
from fingerpost.features.maintenance import apply_retention, compact
from fingerpost.flows.steps import leave_table, reported, run_step, settings_of, tell_failure
from fingerpost.lake import remove_left_over


@flow(name="retention", timeout_seconds=7200, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def retention_flow(service: str = "") -> dict[str, Any]:
    """Removes what is past its age, then merges small files; leaves a table of both."""
    settings = settings_of(service)
    removed = run_step(
        "retention",
        lambda: apply_retention(settings.lake, settings.service, settings.max_age_days, settings.max_quarantine_mb),
    )
    left_over = run_step("left-over temporary files", lambda: remove_left_over(settings.lake))
    merged = run_step("compaction", lambda: compact(settings.lake, settings.service))
    reports = run_step("old drift reports", lambda: prune_reports(settings))
    result = {
        "removed": removed,
        "left_over": left_over,
        "partitions_merged": merged.partitions,
        "files_merged": merged.files,
        "reports": reports,
    }
    leave_table(settings, "retention", [{"what": key, "count": value} for key, value in result.items()])
    return result
