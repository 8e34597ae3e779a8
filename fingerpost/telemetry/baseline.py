"""Forecasts throughput and latency by the hosts' rolling states alone: served until a model is better."""

from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Floats, safe_ratio

# Estimates of the fleet move in steps of 5 %, so that predictions do not change with every small change of the fleet.
_STEP = 0.05
# A cell's own forecast weighs as much as the fleet's once it rests on this many requests.
_PRIOR_REQUESTS = 3.0
_PRIOR_CELLS = 1.0
_TINY = 1e-9


@dataclass(frozen=True)
class BaselineEstimates:
    """Estimates of all cells of a fleet; T = 3 targets, all on a log scale.

    Args:
        own: each cell's own forecasts, shape (H, C, T); NaN where it was never measured.
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
    own: Floats, evidence: Floats, error_share: Floats, cores: Floats, slots: Floats
) -> BaselineEstimates:
    """Estimates every cell of a fleet of H hosts and C categories.

    Args:
        own: forecasts of each cell's history, as logs, `fingerpost.history_block.FORECASTS`, shape (H, C, T); NaN where
            it was never measured.
        evidence, error_share: of the cells' histories, shape (H, C).
        cores, slots: of the hosts, shape (H,); hosts that agree in both are of one class; NaN where not known.
    """
    # Failed requests measure nothing.
    measured = np.nan_to_num(evidence * (1 - error_share))
    weight = measured / (measured + _PRIOR_REQUESTS)
    known = np.isfinite(own)
    trust = np.where(known, weight[:, :, None], 0.0)
    mean = _in_steps(safe_ratio((trust * np.where(known, own, 0.0)).sum(axis=0), trust.sum(axis=0)))
    return BaselineEstimates(own, weight, mean, _in_steps(_host_ratios(own, trust, mean, cores, slots)))


def _host_ratios(own: Floats, trust: Floats, mean: Floats, cores: Floats, slots: Floats) -> Floats:
    """Mean log ratio of each host to the fleet, shape (H, T), drawn to the mean of the host's class."""
    ratio = np.where((trust > 0) & np.isfinite(mean)[None], own - mean[None], 0.0)
    mass = trust.sum(axis=1)
    measured = (trust * ratio).sum(axis=1) / np.fmax(mass, _TINY)
    kinds = np.nan_to_num(np.stack([cores, slots], axis=1), nan=-1.0)
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
