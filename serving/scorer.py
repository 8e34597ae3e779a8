"""The interface between fleets and models: what predicts, and what it predicts."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.histories import Histories

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


@dataclass(frozen=True)
class ModelLogs:
    """What a model says of a fleet.

    Args:
        logs: of the targets, shape (H, C, 3); NaN where it can say nothing.
        cells: how many were scored for it; 0 if an earlier answer still held.
    """

    histories: Histories
    logs: Floats
    cells: int


class Scorer(Protocol):
    """Predicts the cells of fleets."""

    @property
    def source(self) -> str:
        """`champion`, `challenger` or `baseline`."""

    @property
    def version(self) -> str:
        """The model's version; empty without a model."""

    def logs(self, fleet: FleetState, before: ModelLogs | None = None) -> ModelLogs | None:
        """What it says beyond what fingerprints say by themselves; None: nothing.

        It depends on the histories of all hosts and on nothing else: the same histories have the same logs.

        Args:
            before: of this scorer, which is given again if no history has changed.
        """
