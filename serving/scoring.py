"""Scoring a fleet: a model's predictions, and where it has none, what the fingerprints say."""

from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.serving.baseline import BaselineEstimates, estimate_baseline
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.scorer import ModelLogs, Predictions, Scorer


@dataclass(frozen=True)
class Scored:
    """A fleet with its predictions.

    Args:
        predictions: shape (H, C, 3), see `Predictions.stacked`.
        said: by the model.
    """

    fleet: FleetState
    reference: BaselineEstimates
    predictions: Floats
    scorer: Scorer
    said: ModelLogs | None

    @property
    def by_model(self) -> bool:
        """Whether a model predicted at all: without any host's history there is nothing to feed it with."""
        return self.said is not None and self.said.histories.known > 0

    @property
    def source(self) -> str:
        return self.scorer.source if self.by_model else "baseline"

    @property
    def version(self) -> str:
        """The version of the model that predicted; empty without one."""
        return self.scorer.version if self.by_model else ""

    @property
    def cells(self) -> int:
        """How many cells were scored for it."""
        return self.said.cells if self.said else self.predictions[..., 0].size

    def as_predictions(self) -> Predictions:
        return Predictions(*(self.predictions[..., place] for place in range(3)))


def score_fleet(fleet: FleetState, scorer: Scorer, before: Scored | None = None) -> Scored:
    """Scores a fleet; the same fleet is scored the same, whatever was before.

    Features compare hosts with each other, so a new history of one host changes the features of all: they are all
    scored again. While no history changes, what the model said before still holds.
    """
    reference = estimate_baseline(fleet, (before.fleet, before.reference) if before else None)
    said = scorer.logs(fleet, before.said if before is not None and before.scorer is scorer else None)
    logs = reference.filled()
    if said is not None:
        logs = np.where(np.isfinite(said.logs), said.logs, logs)
    return Scored(fleet, reference, Predictions.from_logs(logs).stacked(), scorer, said)


def sanity_check(new: Floats, old: Floats, max_ratio: float) -> str | None:
    """Why predictions are not to be served, or None.

    Args:
        new, old: predictions of the same cells, shape (H, C, 3), throughput, p50 and p99.
        max_ratio: by which the median of new / old may be off 1, up or down.
    """
    known = np.isfinite(old)
    if not known.any():
        return None
    if not np.isfinite(new[known]).all():
        return f"{int((~np.isfinite(new[known])).sum())} of {int(known.sum())} predictions are not finite"
    limits = ((1e-6, 1e9), (1e-7, 3600.0), (1e-7, 3600.0))
    for place, (low, high) in enumerate(limits):
        values = new[..., place][known[..., place]]
        if values.size and not (low <= values.min() and values.max() <= high):
            return f"predictions lie outside {low} to {high}: {values.min():.3g} to {values.max():.3g}"
        if values.size:
            off = float(np.median(np.abs(np.log(values / old[..., place][known[..., place]]))))
            if off > np.log(max_ratio):
                return f"half of the predictions are off the present ones by a factor of {np.exp(off):.3g} and more"
    return None
