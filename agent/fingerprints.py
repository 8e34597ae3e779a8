"""Fingerprints of this host: their host's figures, and their categories' as rows for the lake and as metrics."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.history_block import FORECASTS, HistoryBlock
from fingerpost.telemetry.history import HISTORY_HOST_PLACE
from fingerpost.telemetry.host_attribution import Costs

# Columns of FINGERPRINT_CELL by the column of the history that they come from; the first are kept as logs there.
_LOGS = {**FORECASTS, "cpu_s": "cpu_request_s_mixed"}
_PLAIN = {
    "requests": "evidence",
    "rate_rps": "rate_rps_ewma",
    "error_rate": "error_share",
    "inflight_mean": "inflight",
    "age_s": "age_s",
}
_HOST = {
    "cpu_util": "host_cpu_util_ewma",
    "background_cores": "host_background_cores",
    "host_rate_rps": "host_rate_rps_ewma",
}
_SAMPLED = {"host_mem_bytes": "mem_bytes", "host_inflight": "inflight"}


@dataclass(frozen=True)
class Report:
    """A fingerprint with what categories cost.

    Args:
        categories: that `costs` are of, in their order; after a restart the history may still have earlier ones.
    """

    fingerprint: Fingerprint
    categories: tuple[str, ...]
    costs: Costs

    def cells(self) -> list[dict[str, Any]]:
        """`category`, and what is known of FINGERPRINT_CELL, of each category that the host has served."""
        made, block = self.fingerprint, self.fingerprint.history
        if block is None:
            return []
        names = {name: place for place, name in enumerate(self.categories)}
        own = np.array([names.get(name, -1) for name in block.categories], dtype=np.intp)
        columns = dict(zip(_LOGS, np.exp(block.columns([*_LOGS.values()])).T, strict=True))
        columns.update(zip(_PLAIN, block.columns([*_PLAIN.values()]).T, strict=True))
        columns["age_s"] = columns["age_s"] + (made.time_us - block.as_of_us) / US
        costs = {name: np.append(values, np.nan)[own] for name, values in vars(self.costs).items()}
        columns.update({"cpu_attributed_s" if name == "cpu_s" else name: values for name, values in costs.items()})
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        return [
            {"category": category, **_known(dict(zip(columns, row, strict=True)))}
            for category, row in zip(block.categories, rows, strict=True)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `fingerpost.records.FINGERPRINT`, one for each category that the host has served."""
        made = self.fingerprint
        common = {
            "time": made.time_us,
            "service": made.service,
            "host": made.host,
            "boot_id": made.boot_id,
            "sequence": made.sequence,
            "halflife_s": made.history.halflife_s if made.history else None,
            "category_version": made.category_version,
            **_known(dict(zip(FINGERPRINT_HOST_COLUMNS, made.host_values.tolist(), strict=True))),
        }
        return [{**common, **cell} for cell in self.cells()]


def host_values(sample: dict[str, Any], block: HistoryBlock | None) -> Floats:
    """FINGERPRINT_HOST_COLUMNS by the latest sample of the host and its history; NaN where not known."""
    values = []
    for name in FINGERPRINT_HOST_COLUMNS:
        if name in _HOST:
            values.append(np.nan if block is None else float(block.host_values[HISTORY_HOST_PLACE[_HOST[name]]]))
        else:
            value = sample.get(_SAMPLED.get(name, name))
            values.append(np.nan if value is None else float(value))
    return np.array(values, dtype=np.float64)


def _known(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
