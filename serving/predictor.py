"""From fingerprints to predictions: every host for every category, and which is best."""

from typing import Any

import numpy as np
import pandas as pd

from fingerpost.routing.cost import routing_cost
from fingerpost.training.bundle import ModelBundle


def predict_cells(bundle: ModelBundle, fingerprints: pd.DataFrame, latency_weight: float) -> pd.DataFrame:
    """Predictions of all cells, with the cost of the next request.

    Args:
        fingerprints: of `fingerpost.features.replay.Replay.latest`.
        latency_weight: of `routing_cost`.

    Returns:
        `host`, `category`, the targets, `cost_s`, and `best`: True for the host with the least cost of its category.
    """
    cells = pd.concat([fingerprints[["host", "category"]].astype("str"), bundle.predict(fingerprints)], axis=1)
    errors = fingerprints["error_share"].fillna(0.0).clip(0.0, 1.0)
    inflight = np.expm1(fingerprints["host_inflight"].fillna(0.0))  # the feature is on a log scale
    cells["cost_s"] = routing_cost(
        inflight, cells["throughput_rps"], cells["latency_p50_s"], 1.0 - errors, latency_weight
    )
    cells["best"] = cells.index.isin(cells.groupby("category")["cost_s"].idxmin())
    return cells


def cells_to_json(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Cells as plain objects; what is not finite becomes null."""
    plain = cells.astype(object).where(cells.notna() & ~cells.isin([np.inf, -np.inf]), None)
    return plain.to_dict("records")  # type: ignore[return-value]
