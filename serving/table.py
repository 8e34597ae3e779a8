"""The routing table: an immutable snapshot of what is predicted, the same for the same inputs on every replica."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fingerpost.arrays import Floats, Floats32, Ints
from fingerpost.routing.success import success_rates
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.scorer import Predictions

# Digits that are kept: more would make tables larger and their versions change for nothing.
_DIGITS = 4
_MIN_WEIGHT = 0.1
_WEIGHT_STEPS = 20


@dataclass(frozen=True)
class RoutingTable:
    """Predictions of one service for every host and category; H hosts and C categories, sorted by name.

    Args:
        version: hash of all that follows: the same content has the same version everywhere.
        source: `champion` or `baseline`: what predicted.
        routes: route templates that requests are brought to before their category is looked up.
        times_us: of the hosts' fingerprints, shape (H,).
        weights: 0..1, less than 1 for hosts that are being ramped up, shape (H,).
        inflight, slots: as the hosts told, shape (H,); NaN where not known.
        throughput_rps, latency_p50_s, latency_p99_s, success_rate: shape (C, H); NaN where nothing can be said.
        age_s: of each cell's last request when its fingerprint was made, seconds, shape (C, H).
        arm, experiment: the arm of the experiment it is the table of, and the experiment's id; empty: of none.
    """

    service: str
    version: str
    source: str
    model_version: str
    category_version: str
    as_of_us: int
    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    routes: tuple[str, ...]
    times_us: Ints
    weights: Floats32
    inflight: Floats32
    slots: Floats32
    throughput_rps: Floats32
    latency_p50_s: Floats32
    latency_p99_s: Floats32
    success_rate: Floats32
    age_s: Floats32
    arm: str = ""
    experiment: str = ""


def of_arm(table: RoutingTable, arm: str, experiment: str) -> RoutingTable:
    """The table as that of an experiment's arm, which is another version of it."""
    version = hashlib.sha256(repr((table.version, arm, experiment)).encode()).hexdigest()[:20]
    return replace(table, arm=arm, experiment=experiment, version=version)


def build_table(
    fleet: FleetState,
    predictions: Predictions,
    source: str,
    model_version: str,
    routes: Sequence[str],
    slow_start_s: float,
) -> RoutingTable:
    """The table of a fleet and its predictions."""
    cells = [
        _short(values).T.copy()
        for values in (
            predictions.throughput_rps,
            predictions.latency_p50_s,
            predictions.latency_p99_s,
            success_rates(
                fleet.cell_column("requests"), fleet.cell_column("requests") * fleet.cell_column("error_rate")
            ),
            fleet.cell_column("age_s"),
        )
    ]
    host_values = [
        _weights(fleet, slow_start_s),
        *(_short(fleet.host_column(name)) for name in ("host_inflight", "slots")),
    ]
    names = (fleet.service, source, model_version, fleet.category_version, fleet.hosts, fleet.categories, tuple(routes))
    digest = hashlib.sha256(repr((names, fleet.as_of_us)).encode())
    for values in (fleet.times_us, *host_values, *cells):
        digest.update(np.ascontiguousarray(values).data)
    weights, inflight, slots = host_values
    throughput_rps, latency_p50_s, latency_p99_s, success_rate, age_s = cells
    return RoutingTable(
        fleet.service,
        digest.hexdigest()[:20],
        source,
        model_version,
        fleet.category_version,
        fleet.as_of_us,
        fleet.hosts,
        fleet.categories,
        tuple(routes),
        fleet.times_us,
        weights,
        inflight,
        slots,
        throughput_rps,
        latency_p50_s,
        latency_p99_s,
        success_rate,
        age_s,
    )


def _weights(fleet: FleetState, slow_start_s: float) -> Floats32:
    """The share of its full weight each host has by now; where all are new, none is newer than another."""
    if not fleet.hosts or slow_start_s <= 0:
        return np.ones(len(fleet.hosts), dtype=np.float32)
    known_us = fleet.as_of_us - np.array([state.first_seen_us for state in fleet.states], dtype=np.float64)
    share = np.clip(known_us / (slow_start_s * 1e6), _MIN_WEIGHT, 1.0)
    return (np.ceil(share / share.max() * _WEIGHT_STEPS) / _WEIGHT_STEPS).astype(np.float32)


def _short(values: Floats) -> Floats32:
    """Rounded to 4 significant digits."""
    size = np.abs(values)
    known = np.isfinite(values) & (size > 0)
    power = np.floor(np.log10(size, out=np.zeros(values.shape), where=known))
    scale = 10.0 ** (_DIGITS - 1 - power)
    rounded = np.divide(np.round(values * scale), scale, out=np.zeros(values.shape), where=known)
    return np.where(known | (values == 0), rounded, np.nan).astype(np.float32)
