"""Gives request records the CPU that they cost their host."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.request_status import measures
from fingerpost.telemetry.host_attribution import HostAttribution
from fingerpost.telemetry.throughput import at_resolution


def attribute(
    attribution: HostAttribution, rows: list[dict[str, Any]], category: NDArray[np.integer[Any]], now_s: float
) -> None:
    """Has checked request records attributed: `cpu_s` is what each cost, and `cpu_attributed` whether by attribution.

    Args:
        rows: changed in place.
        category: the index of each one's category.
    """
    if not rows:
        return
    service_s = _column(rows, "service_time_s")
    took_s = np.where(np.isfinite(service_s), service_s, _column(rows, "duration_s"))
    took_s = at_resolution(took_s, np.zeros(len(rows), dtype=np.int64))
    measured = measures(_column(rows, "status"))
    end_s, within_s = _column(rows, "time") / US, _column(rows, "cpu_s")
    cpu_s, attributed = attribution.add_requests(end_s, took_s, within_s, measured, category.astype(np.int64), now_s)
    for row, cost_s, by_category in zip(rows, cpu_s.tolist(), attributed.tolist(), strict=True):
        if math.isfinite(cost_s):
            row["cpu_s"], row["cpu_attributed"] = cost_s, int(by_category)


def _column(rows: list[dict[str, Any]], name: str) -> Floats:
    return np.array([np.nan if (value := row.get(name)) is None else value for row in rows], dtype=np.float64)
