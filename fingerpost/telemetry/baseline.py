"""Forecasts throughput and latency by the hosts' rolling states alone: served until a model is better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Floats, Ints, decayed, safe_ratio
from fingerpost.history_block import FORECASTS

# Estimates of the fleet move in steps of 5 %, so that predictions do not change with every small change of the fleet.
_STEP = 0.05
# A cell's own forecast weighs as much as the fleet's once it rests on this many requests.
_PRIOR_REQUESTS = 3.0
_PRIOR_CELLS = 1.0
# The rolling average counts as so many requests beside those of the latest window, of the host and again of the cell.
_USUAL_REQUESTS = 25.0
# What a window said counts half after so long.
_LATEST_HALFLIFE_S = 15.0
_TINY = 1e-9
# Of HISTORY_COLUMNS, what the baseline is made of; the forecasts, as logs, first.
BASELINE_INPUTS = (*FORECASTS.values(), "throughput_rps_last", "requests_last", "evidence", "error_share", "age_s")
_PLACE = {name: place for place, name in enumerate(BASELINE_INPUTS)}


@dataclass(frozen=True)
class BaselineEstimates:
    """Estimates of all cells of a fleet; T = 3 targets, all on a log scale.

    Args:
        own: each cell's own forecasts, shape (H, C, T); NaN where it was never measured.
        weight: trust in them, 0..1, shape (H, C).
        fleet: the fleet's mean for each category, shape (C, T), in steps; NaN where no host has served it.
        host: each host's mean ratio to the fleet, shape (H, T), in steps; of a new host its class's.
        kind: what the other hosts of each host's class have beyond fleet and host, by category, in steps; of a shape
            that fits (H, C, T).
    """

    own: Floats
    weight: Floats
    fleet: Floats
    host: Floats
    kind: Floats

    def filled(self) -> Floats:
        """Estimates of all cells, shape (H, C, T): own ones as far as they are trusted, else what is expected."""
        expected = self.fleet[None, :, :] + self.host[:, None, :] + self.kind
        weight = np.where(np.isfinite(self.own), self.weight[:, :, None], 0.0)
        own = np.where(np.isfinite(self.own), self.own, 0.0)
        return np.where(np.isfinite(expected), weight * own + (1 - weight) * expected, self.own)


def host_kinds(cores: Floats, slots: Floats, classes: Sequence[str] | None = None) -> Ints:
    """Numbers the classes of hosts: by the class that was announced, else by cores and slots.

    Args:
        cores, slots: of the hosts, shape (H,); NaN where not known.
        classes: as announced, H of them; empty: not announced.

    Returns:
        Shape (H,), from 0.
    """
    named = np.array(list(classes) if classes is not None else [""] * len(cores), dtype=str)
    _, name = np.unique(named, return_inverse=True)
    sizes = np.where((named == "")[:, None], np.nan_to_num(np.stack([cores, slots], axis=1), nan=-1.0), -1.0)
    _, kinds = np.unique(np.column_stack([name.reshape(-1), sizes.round(2)]), axis=0, return_inverse=True)
    return np.asarray(kinds.reshape(-1), dtype=np.int64)


def baseline_of(cells: Floats, kinds: Ints) -> BaselineEstimates:
    """What the histories of a fleet forecast without a model.

    Args:
        cells: BASELINE_INPUTS of every cell, shape (H, C, 8); NaN where not known.
        kinds: of `host_kinds`.
    """
    evidence, errors, age_s, latest = (
        cells[..., _PLACE[name]] for name in ("evidence", "error_share", "age_s", "throughput_rps_last")
    )
    requests = cells[..., _PLACE["requests_last"]] * (1 - errors)
    own = cells[..., : len(FORECASTS)].copy()
    own[..., 0] = follow_latest(own[..., 0], latest, requests * decayed(np.maximum(age_s, 0), _LATEST_HALFLIFE_S))
    return estimate_baseline(own, evidence, errors, kinds)


def follow_latest(usual: Floats, latest: Floats, requests: Floats) -> Floats:
    """Moves rolling averages of throughput by what the latest windows measured: alone they know a spell too late.

    What slows a host down slows most of its categories: so the ratio of the host over all of them moves first, then
    each cell, both drawn to what was before in proportion to requests (the mean of normal observations whose prior
    counts as so many of them). Requests are to fade by age: a host to which nothing is sent, since it was slow, is soon
    taken to be what it usually is, and is tried again.

    Args:
        usual, latest: logs of the rolling average and of the last window, shape (H, C); NaN where never measured.
        requests: that measured something in that window, less by its age, shape (H, C).

    Returns:
        Logs, shape (H, C).
    """
    known = np.isfinite(usual) & np.isfinite(latest)
    weight = np.where(known, np.nan_to_num(requests), 0.0)
    # Each request takes so many seconds of the host; these add up, rates do not.
    before, took = (np.exp(-np.where(known, each, 0.0)) for each in (usual, latest))
    of_host = weight.sum(axis=1)
    ratio = np.nan_to_num(safe_ratio((weight * took).sum(axis=1), (weight * before).sum(axis=1)), nan=1.0)
    expected = before * ((of_host * ratio + _USUAL_REQUESTS) / (of_host + _USUAL_REQUESTS))[:, None]
    moved = -np.log((weight * took + _USUAL_REQUESTS * expected) / (weight + _USUAL_REQUESTS))
    return np.where(known, moved, usual)


def estimate_baseline(own: Floats, evidence: Floats, error_share: Floats, kinds: Ints) -> BaselineEstimates:
    """Estimates every cell of a fleet of H hosts and C categories.

    Args:
        own: forecasts of each cell's history, as logs, `fingerpost.history_block.FORECASTS`, shape (H, C, T); NaN where
            it was never measured.
        evidence, error_share: of the cells' histories, shape (H, C).
        kinds: of `host_kinds`.
    """
    # Failed requests measure nothing.
    measured = np.nan_to_num(evidence * (1 - error_share))
    weight = measured / (measured + _PRIOR_REQUESTS)
    known = np.isfinite(own)
    trust = np.where(known, weight[:, :, None], 0.0)
    mean = _in_steps(safe_ratio((trust * np.where(known, own, 0.0)).sum(axis=0), trust.sum(axis=0)))
    host = _in_steps(_host_ratios(own, trust, mean, kinds))
    return BaselineEstimates(own, weight, mean, host, _kind_ratios(own, trust, mean, host, kinds))


def _host_ratios(own: Floats, trust: Floats, mean: Floats, kinds: Ints) -> Floats:
    """Mean log ratio of each host to the fleet, shape (H, T), drawn to the mean of the host's class."""
    ratio = np.where((trust > 0) & np.isfinite(mean)[None], own - mean[None], 0.0)
    mass = trust.sum(axis=1)
    measured = (trust * ratio).sum(axis=1) / np.fmax(mass, _TINY)
    count = int(kinds.max(initial=-1)) + 1
    sums, masses = np.zeros((count, mean.shape[1])), np.zeros((count, mean.shape[1]))
    np.add.at(sums, kinds, measured * mass)
    np.add.at(masses, kinds, mass)
    kind = (sums / np.fmax(masses, _TINY))[kinds]
    return (measured * mass + kind * _PRIOR_CELLS) / (mass + _PRIOR_CELLS)


def _kind_ratios(own: Floats, trust: Floats, mean: Floats, host: Floats, kinds: Ints) -> Floats:
    """Mean log ratio, by category, of the other hosts of a host's class to what fleet and host say; 0 without others.

    Hosts of one class are good at the same things: so a host that is new to a category, or to the fleet, is expected to
    do as its class does there.
    """
    found, sizes = np.unique(kinds, return_counts=True)
    if len(found) < 2 or sizes.max() < 2:
        return np.zeros((1, 1, 1))
    expected = mean[None] + host[:, None]
    usable = (trust > 0) & np.isfinite(expected)
    mass, sums = np.where(usable, trust, 0.0), np.where(usable, trust * (own - expected), 0.0)
    order = np.argsort(kinds, kind="stable")
    begins = np.append(0, np.cumsum(sizes)[:-1])
    place = np.searchsorted(found, kinds)
    of_class = [np.add.reduceat(each[order], begins, axis=0)[place] - each for each in (sums, mass)]
    return _in_steps(of_class[0] / (of_class[1] + _PRIOR_CELLS))


def _in_steps(values: Floats) -> Floats:
    return np.round(values / _STEP) * _STEP
