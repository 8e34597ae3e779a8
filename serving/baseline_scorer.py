"""Predictions from fingerprints alone, for the time before a model, or when none can be used."""

import numpy as np
from numpy.typing import NDArray

from serving.baseline import Reference
from serving.fleet_state import FleetState
from serving.scorer import Predictions


class BaselineScorer:
    """Rolling averages of the fingerprints; cells a host has not served are the fleet's mean times the host's ratio."""

    source = "baseline"
    version = ""

    def score(self, fleet: FleetState, reference: Reference, cells: NDArray[np.bool_] | None = None) -> Predictions:  # noqa: ARG002
        """See `Scorer.score`; all cells, since it costs next to nothing."""
        return Predictions.from_logs(reference.filled())
