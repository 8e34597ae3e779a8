"""Forecasts throughput and latency from fingerprints alone: the forecast before any model, which models correct."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.serving.fleet_state import FleetState, index_in
from fingerpost.telemetry.throughput import throughput_rps

# References move in steps of 5 %, so that predictions do not change with every small change of the fleet.
_STEP = 0.05
# A cell's own measurements weigh as much as what the fleet says of it once they rest on this many requests.
_PRIOR_REQUESTS = 3.0
_PRIOR_CELLS = 1.0
_TINY = 1e-9


@dataclass(frozen=True)
class BaselineEstimates:
    """What a fleet says of its cells; T = 3 targets, all on a log scale.

    Args:
        own: each cell's own estimates, shape (H, C, T); NaN where it was never measured.
        weight: trust in them, 0..1, shape (H, C).
        fleet: the fleet's mean for each category, shape (C, T), in steps; NaN where no host has served it.
        host: each host's mean ratio to the fleet, shape (H, T), in steps; of a new host its class's.
    """

    own: Floats
    weight: Floats
    fleet: Floats
    host: Floats

    def filled(self) -> Floats:
        """Estimates of all cells, shape (H, C, T): own ones as far as they are trusted, else fleet times host."""
        expected = self.fleet[None, :, :] + self.host[:, None, :]
        weight = np.where(np.isfinite(self.own), self.weight[:, :, None], 0.0)
        own = np.where(np.isfinite(self.own), self.own, 0.0)
        return np.where(np.isfinite(expected), weight * own + (1 - weight) * expected, self.own)


def estimate_baseline(
    fleet: FleetState, before: tuple[FleetState, BaselineEstimates] | None = None
) -> BaselineEstimates:
    """The reference of a fleet.

    Args:
        before: an earlier state with its reference: cells of hosts that did not change since are taken from there.
    """
    own, weight = _own(fleet, before)
    known = np.isfinite(own)
    trust = np.where(known, weight[:, :, None], 0.0)
    mass = trust.sum(axis=0)
    values = np.where(known, own, 0.0)
    mean = np.divide((trust * values).sum(axis=0), mass, out=np.full(mass.shape, np.nan), where=mass > 0)
    mean = _in_steps(mean)
    return BaselineEstimates(own, weight, mean, _in_steps(_host_ratios(fleet, own, trust, mean)))


def _own(fleet: FleetState, before: tuple[FleetState, BaselineEstimates] | None) -> tuple[Floats, Floats]:
    if before is None or before[0].categories != fleet.categories:
        return _estimates(fleet, slice(None))
    old, reference = before
    rows = index_in(old.hosts, fleet.hosts)
    own, weight = reference.own[rows], reference.weight[rows]
    changed = _changed_hosts(fleet, old, rows)
    if changed.any():
        own[changed], weight[changed] = _estimates(fleet, changed)
    return own, weight


def _changed_hosts(fleet: FleetState, before: FleetState, rows: Ints) -> NDArray[np.bool_]:
    same = [row >= 0 and before.states[row] is state for state, row in zip(fleet.states, rows.tolist(), strict=True)]
    return ~np.array(same, dtype=bool)


def _estimates(fleet: FleetState, rows: NDArray[np.bool_] | slice) -> tuple[Floats, Floats]:
    """Own estimates on a log scale, and trust in them, of some hosts.

    Throughput by the bottleneck law, of the same demands as that of windows, which models learn: memory counts where it
    was measured.
    """

    def cell(name: str) -> Floats:
        return fleet.cell_column(name)[rows]

    def host(name: str) -> Floats:
        return fleet.host_column(name)[rows][:, None]

    # Agents of before do not tell how long requests take with a free place.
    unloaded = np.where(np.isfinite(cell("unloaded_s")), cell("unloaded_s"), cell("latency_mean_s"))
    rate = throughput_rps(
        cell("cpu_s"),
        host("cores") - np.nan_to_num(host("background_cores")),
        unloaded,
        host("slots"),
        np.where(np.isnan(cell("mem_error_bytes")), cell("mem_bytes"), np.nan),
        host("mem_limit_bytes") - host("host_mem_bytes"),
    )
    values = np.stack([rate, cell("latency_p50_s"), cell("latency_p99_s")], axis=-1)
    logs = np.log(values, out=np.full(values.shape, np.nan), where=np.isfinite(values) & (values > 0))
    requests, measured = np.nan_to_num(cell("requests")), cell("measured")
    # Agents of before do not tell it: they measured what failed, too.
    measured = np.where(np.isfinite(measured), measured, requests * (1 - np.nan_to_num(cell("error_rate"))))
    return logs, measured / (measured + _PRIOR_REQUESTS)


def _host_ratios(fleet: FleetState, own: Floats, trust: Floats, mean: Floats) -> Floats:
    """Mean log ratio of each host to the fleet, shape (H, T), drawn to the mean of the host's class."""
    ratio = np.where((trust > 0) & np.isfinite(mean)[None], own - mean[None], 0.0)
    mass = trust.sum(axis=1)
    measured = (trust * ratio).sum(axis=1) / np.fmax(mass, _TINY)
    kinds = np.nan_to_num(np.stack([fleet.host_column("cores"), fleet.host_column("slots")], axis=1), nan=-1.0)
    _, members = np.unique(kinds.round(2), axis=0, return_inverse=True)
    members = members.reshape(-1)
    count = int(members.max(initial=-1)) + 1
    sums, masses = np.zeros((count, mean.shape[1])), np.zeros((count, mean.shape[1]))
    np.add.at(sums, members, measured * mass)
    np.add.at(masses, members, mass)
    kind = (sums / np.fmax(masses, _TINY))[members]
    return (measured * mass + kind * _PRIOR_CELLS) / (mass + _PRIOR_CELLS)


def _in_steps(values: Floats) -> Floats:
    return np.round(values / _STEP) * _STEP
