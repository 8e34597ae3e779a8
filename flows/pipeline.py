"""The whole loop once: ingest, features, training."""

from typing import Any

from prefect import flow

from fingerpost.flows.features import features_flow
from fingerpost.flows.ingest import ingest_flow
from fingerpost.flows.steps import tell_failure, without_secrets
from fingerpost.flows.train import train_flow


@flow(name="pipeline", timeout_seconds=10800, on_crashed=[tell_failure])
@without_secrets
def pipeline_flow() -> dict[str, Any]:
    """Runs ingest, features and training in series, each as a flow of its own."""
    return {"ingest": ingest_flow(), "features": features_flow(), "train": train_flow()}
