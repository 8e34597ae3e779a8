"""What a table says of hosts beside their speed: how likely a request succeeds, and how far a new host is ramped up.

A host's failures count for all its categories.
"""

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats

# A rate rests on as many requests as these, that succeeded, before there are any.
_PRIOR_REQUESTS = 3.0
# Where hosts do not differ at all, a cell's own requests count beside so many of the others'.
_MAX_PRIOR_REQUESTS = 1e4
_MIN_WEIGHT = 0.1
_WEIGHT_STEPS = 20


def success_rates(requests: ArrayLike, errors: ArrayLike) -> Floats:
    """The share of requests that is expected to succeed, by host and category.

    It is estimated from the whole to the part, each drawn to the one before where requests are few: the category on the
    *other* hosts; times how the host does over all its categories, beside what those would have come to elsewhere; and
    the cell itself, the more so the more the hosts differ in the category beyond chance. So a route that fails on all
    hosts speaks against none of them, and a host that fails everywhere is no better where it was not tried yet.
    (Shrinkage to a group's mean: Efron and Morris, 1975; variance between groups by moments: DerSimonian and Laird,
    1986.)

    Args:
        requests: of every cell, the old ones weighing less, shape (hosts, categories); NaN or 0: none.
        errors: how many of them the host failed, same shape.

    Returns:
        Same shape, above 0, at most 1; 1 where nothing is known.
    """
    count = np.maximum(np.nan_to_num(np.asarray(requests, dtype=np.float64)), 0.0)
    bad = np.clip(np.nan_to_num(np.asarray(errors, dtype=np.float64)), 0.0, count)
    prior = np.minimum(_success_elsewhere(count, bad) * host_success(count, bad)[:, None], 1.0)
    strength = _prior_requests(count, bad)
    return np.minimum((count - bad + strength * prior) / (count + strength), 1.0)


def host_success(count: Floats, bad: Floats) -> Floats:
    """How much more, or less, than on the other hosts requests of the same categories succeed on each host.

    Args:
        count, bad: requests and how many of them the host failed, shape (hosts, categories).

    Returns:
        Ratios to what was to be expected, above 0, shape (hosts,); 1 where nothing is known.
    """
    expected, found = (count * _success_elsewhere(count, bad)).sum(axis=1), (count - bad).sum(axis=1)
    return (found + _PRIOR_REQUESTS) / (expected + _PRIOR_REQUESTS)


def _success_elsewhere(count: Floats, bad: Floats) -> Floats:
    """The share of a category's requests that succeeds on the other hosts, shape (hosts, categories).

    Where they have few, it is drawn to what succeeds there of all categories.
    """
    elsewhere, bad_elsewhere = count.sum(axis=0) - count, bad.sum(axis=0) - bad
    failed = bad_elsewhere.sum(axis=1) / (elsewhere.sum(axis=1) + _PRIOR_REQUESTS)
    return 1 - (bad_elsewhere + _PRIOR_REQUESTS * failed[:, None]) / (elsewhere + _PRIOR_REQUESTS)


def _prior_requests(count: Floats, bad: Floats) -> Floats:
    """How many requests of others a cell's own count beside, by category: variance within hosts over that between."""
    total = count.sum(axis=0)
    mean = bad.sum(axis=0) / np.maximum(total, 1.0)
    within = mean * (1 - mean)
    rate = np.divide(bad, count, out=np.zeros_like(count), where=count > 0)
    spread = (count * (rate - mean) ** 2).sum(axis=0) - within * np.maximum((count > 0).sum(axis=0) - 1, 0)
    size = total - (count**2).sum(axis=0) / np.maximum(total, 1.0)
    between = np.maximum(spread, 0.0) / np.maximum(size, 1.0)
    return np.clip(within / np.maximum(between, 1e-12), _PRIOR_REQUESTS, _MAX_PRIOR_REQUESTS)


def slow_start_weights(known_s: ArrayLike, slow_start_s: float, measured: ArrayLike = False) -> Floats:
    """The share of its full weight that each host has by now; where all are new, none is newer than another.

    Args:
        known_s: since each host was first heard of, seconds, shape (hosts,).
        slow_start_s: over which a new host is ramped up; 0: not at all.
        measured: hosts whose predictions know how fast they are since they came back, of a shape that fits: ramped up
            beside it they would be taken to be slow twice. They have their full weight.

    Returns:
        Same shape, 0.1 to 1 in steps of a twentieth, so that tables do not change all the time.
    """
    known = np.asarray(known_s, dtype=np.float64)
    if not known.size or slow_start_s <= 0:
        return np.ones(known.shape)
    share = np.clip(known / slow_start_s, _MIN_WEIGHT, 1.0)
    ramped = np.ceil(share / share.max() * _WEIGHT_STEPS) / _WEIGHT_STEPS
    return np.asarray(np.where(measured, 1.0, ramped))
