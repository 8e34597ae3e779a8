"""Scoring a fleet anew, as far as it has changed."""

from dataclasses import dataclass

import numpy as np

from serving.baseline import Reference, changed_cells, refer
from serving.fleet_state import FleetState, Floats, places
from serving.scorer import Predictions, Scorer


@dataclass(frozen=True)
class Scored:
    """A fleet with its predictions.

    Args:
        predictions: shape (H, C, 3), see `Predictions.stacked`.
        cells: how many were scored for it.
    """

    fleet: FleetState
    reference: Reference
    predictions: Floats
    scorer: Scorer
    cells: int

    def as_predictions(self) -> Predictions:
        return Predictions(*(self.predictions[..., place] for place in range(3)))


def score_fleet(fleet: FleetState, scorer: Scorer, before: Scored | None = None) -> Scored:
    """Scores the cells that have changed since `before` was scored by the same scorer; all of them without one."""
    reference = refer(fleet, (before.fleet, before.reference) if before else None)
    if before is None or before.scorer is not scorer:
        predictions = scorer.score(fleet, reference).stacked()
        return Scored(fleet, reference, predictions, scorer, predictions[..., 0].size)
    cells = changed_cells(fleet, reference, before.fleet, before.reference)
    if before.fleet.hosts == fleet.hosts and before.fleet.categories == fleet.categories:
        predictions = before.predictions.copy()
    else:
        rows, columns = places(before.fleet.hosts, fleet.hosts), places(before.fleet.categories, fleet.categories)
        predictions = before.predictions[rows][:, columns]
    count = int(cells.sum())
    if count:
        predictions[cells] = scorer.score(fleet, reference, cells).stacked()[cells]
    return Scored(fleet, reference, predictions, scorer, count)


def objection(new: Floats, old: Floats, max_ratio: float) -> str | None:
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
