"""The deployments with their schedules, served from one process."""

from datetime import timedelta
from typing import Any

from prefect import serve
from prefect.deployments.runner import EntrypointType

from fingerpost.settings import Settings
from flows.features import features_flow
from flows.ingest import ingest_flow
from flows.pipeline import pipeline_flow
from flows.train import train_flow


def deployments(settings: Settings) -> list[Any]:
    """A deployment for every flow: ingest and features at intervals, training by cron, the pipeline on demand.

    One run of each at a time; the next waits.
    """
    common: dict[str, Any] = {"entrypoint_type": EntrypointType.MODULE_PATH, "tags": [settings.service]}
    common["concurrency_limit"] = 1
    return [
        ingest_flow.to_deployment(
            "scheduled",
            interval=timedelta(seconds=settings.ingest_every_s),
            description="Batches into the lake.",
            **common,
        ),
        features_flow.to_deployment(
            "scheduled",
            interval=timedelta(seconds=settings.features_every_s),
            description="Windows and features.",
            **common,
        ),
        train_flow.to_deployment(
            "scheduled", cron=settings.train_cron, description="Tune, train, evaluate, register.", **common
        ),
        pipeline_flow.to_deployment("on-demand", description="Ingest, features and training in series.", **common),
    ]


def serve_deployments(settings: Settings) -> None:
    """Registers the deployments and runs what they schedule, until it is told to stop."""
    serve(*deployments(settings))
