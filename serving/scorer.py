"""The interface between fleets and models: what predicts, and what it predicts."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.baseline import Reference
from serving.fleet_state import FleetState, Floats

TARGETS = ("throughput_rps", "latency_p50_s", "latency_p99_s")


@dataclass(frozen=True)
class Predictions:
    """Predictions for every cell, each of shape (H, C); NaN where nothing can be said.

    Args:
        throughput_rps: rate the host could serve the category at, alone.
        latency_p50_s, latency_p99_s: seconds, at the host's present load.
    """

    throughput_rps: Floats
    latency_p50_s: Floats
    latency_p99_s: Floats

    @classmethod
    def from_logs(cls, logs: Floats) -> "Predictions":
        """From logs of the targets, shape (H, C, 3); p99 is never below p50."""
        values = np.exp(logs)
        return cls(values[..., 0], values[..., 1], np.fmax(values[..., 2], values[..., 1]))

    def stacked(self) -> Floats:
        """All targets, shape (H, C, 3), in the order of TARGETS."""
        return np.stack([self.throughput_rps, self.latency_p50_s, self.latency_p99_s], axis=-1)


class Scorer(Protocol):
    """Predicts the cells of fleets.

    A cell's predictions depend on its host's fingerprint, on the reference of its host and of its category, and on
    nothing else: so only cells where one of these has changed need scoring again.
    """

    @property
    def source(self) -> str:
        """`champion`, `challenger` or `baseline`."""

    @property
    def version(self) -> str:
        """The model's version; empty without a model."""

    def score(self, fleet: FleetState, reference: Reference, cells: NDArray[np.bool_] | None = None) -> Predictions:
        """The predictions.

        Args:
            cells: those to score, shape (H, C); all if absent. The others' predictions mean nothing.
        """
