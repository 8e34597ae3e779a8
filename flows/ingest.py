"""The ingest flow: batches from the inbox into the lake, and what is too old out of it."""

from typing import Any

from prefect import flow

from fingerpost.features.ingest import IngestReport, ingest
from fingerpost.features.maintenance import apply_retention, lake_lock
from fingerpost.features.object_store import object_lake
from fingerpost.flows.steps import leave_table, reported, run_step, settings_of, tell_failure
from fingerpost.settings import Settings

_DAY_S = 86400.0


@flow(name="ingest", timeout_seconds=600, on_failure=[tell_failure], on_crashed=[tell_failure])
@reported
def ingest_flow(service: str = "") -> dict[str, Any]:
    """Ingests every waiting batch of the service; leaves a table of what came and what was refused."""
    settings = settings_of(service)
    report: IngestReport = run_step("ingest", lambda: ingest_waiting(settings))
    leave_table(
        settings,
        "ingest",
        _table(report),
        description=f"Ingest of service `{settings.service}`",
    )
    return report.to_json()


def ingest_waiting(settings: Settings) -> IngestReport:
    """Ingests every batch that waits; others that ingest meanwhile are waited for."""
    with lake_lock(settings.lake, settings.service):
        max_age_s = settings.max_age_days * _DAY_S
        store = object_lake(settings)
        batches = store.fetch(settings.service) if store else []
        if store:
            store.announce()
        report = ingest(settings.lake, settings.service, settings.clock_skew_s, max_age_s)
        apply_retention(settings.lake, settings.service, settings.max_age_days, settings.max_quarantine_mb)
        if store:
            # Only what is there in the lake's own place needs to wait no longer.
            store.push(settings.service)
            store.drop(batches)
    return report


def _table(report: IngestReport) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"what": "batches", "reason": "", "count": report.files},
        {"what": "request records", "reason": "accepted", "count": report.request_records},
        {"what": "host samples", "reason": "accepted", "count": report.host_samples},
        {"what": "windows of categories", "reason": "accepted", "count": report.windows},
        {"what": "fingerprint cells", "reason": "accepted", "count": report.fingerprint_cells},
    ]
    rows += [{"what": "rows", "reason": f"refused {name}", "count": n} for name, n in sorted(report.refused.items())]
    rows += [{"what": "files", "reason": f"refused {name}", "count": n} for name, n in report.refused_files.items()]
    return rows
