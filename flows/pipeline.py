"""The whole loop once: ingest, features, training."""

from typing import Any

from prefect import flow

from fingerpost.flows.features import features_flow
from fingerpost.flows.ingest import ingest_flow
from fingerpost.flows.steps import reported, tell_failure
from fingerpost.flows.train import train_flow


@flow(name="pipeline", timeout_seconds=10800, on_crashed=[tell_failure])
@reported
def pipeline_flow(service: str = "") -> dict[str, Any]:
    """Runs ingest, features and training of a service in series, each as a flow of its own."""
    ingested = ingest_flow(service)
    features = features_flow(service, ask=False)
    return {"ingest": ingested, "features": features, "train": train_flow(service)}
