"""Features of cells from fingerprints: the same function makes training rows and serves."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fingerpost.category import ATTRIBUTES, category_attributes
from serving.baseline import Reference
from serving.fleet_state import CELL, FleetState, Floats

_LOG_CELL = ("requests", "rate_rps", "latency_mean_s", "cpu_s", "mem_bytes", "inflight_mean", "age_s")
_PLAIN_CELL = ("error_rate", "cpu_known")
_VIEWS = ("own_off", "fleet", "host", "weight")
_HOST = ("cpu_util", "cores", "mem_share", "host_inflight", "slots", "background_cores", "host_rate_rps")
FEATURES = (
    *(f"log_{name}" for name in _LOG_CELL),
    *_PLAIN_CELL,
    *(f"{target}_{view}" for target in ("throughput", "p50", "p99") for view in _VIEWS[:3]),
    "own_weight",
    *_HOST,
    *ATTRIBUTES,
)
_TINY = 1e-6


def schema_hash() -> str:
    """A hash of the features, in order."""
    return hashlib.sha256("\n".join(FEATURES).encode()).hexdigest()[:12]


def vocabulary_of(categories: Sequence[str]) -> dict[str, list[str]]:
    """The values of every category attribute, in order; a value's place is its code."""
    rows = [category_attributes(name) for name in categories]
    return {attribute: sorted({row[attribute] for row in rows}) for attribute in ATTRIBUTES}


def attribute_codes(categories: Sequence[str], vocabulary: Mapping[str, Sequence[str]]) -> Floats:
    """The codes of categories' attributes, shape (C, 5); NaN for values that training has not seen."""
    codes = [{value: float(code) for code, value in enumerate(vocabulary[name])} for name in ATTRIBUTES]
    rows = [category_attributes(name) for name in categories]
    found = [[code.get(row[name], np.nan) for code, name in zip(codes, ATTRIBUTES, strict=True)] for row in rows]
    return np.array(found, dtype=np.float64).reshape(len(categories), len(ATTRIBUTES))


def cell_features(
    fleet: FleetState, reference: Reference, codes: Floats, cells: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The features of some cells.

    Args:
        codes: of `attribute_codes`.
        cells: which, shape (H, C).

    Returns:
        Shape (number of cells, features), in the order of FEATURES; cells in row-major order.
    """
    rows, columns = np.nonzero(cells)
    values = fleet.cells[rows, columns]
    matrix = np.empty((len(rows), len(FEATURES)), dtype=np.float32)
    place = 0

    def add(block: Floats) -> None:
        nonlocal place
        width = block.shape[1]
        matrix[:, place : place + width] = block
        place += width

    add(np.log(values[:, [CELL[name] for name in _LOG_CELL]] + _TINY))
    add(values[:, [CELL[name] for name in _PLAIN_CELL]])
    own = reference.own[rows, columns]
    fleet_mean, host_ratio = reference.fleet[columns], reference.host[rows]
    views = np.stack([own - fleet_mean - host_ratio, fleet_mean, host_ratio], axis=-1)
    add(views.reshape(len(rows), -1))
    add(reference.weight[rows, columns][:, None])
    add(_host_block(fleet)[rows])
    add(codes[columns])
    return matrix


def _host_block(fleet: FleetState) -> Floats:
    share = fleet.host_column("host_mem_bytes") / fleet.host_column("mem_limit_bytes")
    return np.stack([share if name == "mem_share" else fleet.host_column(name) for name in _HOST], axis=1)
