"""Predictions from fingerprints alone, for the time before a model, or when none can be used."""

from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.scorer import ModelLogs


class BaselineScorer:
    """Rolling averages of the fingerprints; cells a host has not served are the fleet's mean times the host's ratio."""

    source = "baseline"
    version = ""

    def logs(self, fleet: FleetState, before: ModelLogs | None = None) -> None:
        """Nothing: see `Scorer.logs`."""
