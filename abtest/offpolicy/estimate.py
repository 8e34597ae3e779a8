"""Estimates what another policy would have cost from requests that the present policy routed."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic_core import to_jsonable_python

from fingerpost.abtest.experiment.confidence import MIN_BLOCKS, Estimate, clustered_mean, time_blocks
from fingerpost.arrays import Floats, Ints

MIN_EFFECTIVE = 100.0
MIN_DEVIATING = 25.0
# Policies that differ in less than this share of the requests are as good as the same.
_SAME = 0.001
# Requests of a cell that its category's mean counts for, in the model of costs.
_PRIOR_REQUESTS = 10.0
_FOLDS = 5


@dataclass(frozen=True)
class OffPolicy:
    """Estimates of a policy's mean cost, in the unit of the costs given.

    Args:
        usable: whether there is enough to say anything; the estimates are None otherwise.
        reason: why not.
        requests: those with a propensity and a known target policy.
        effective: of how many requests of its own the weighted ones are worth (Kish, 1965): (sum w)^2 / sum w^2.
        distance: share of the requests that the target policy would send elsewhere (total variation).
        deviating: the same number of those alone that went where the target policy would send more: what it does
            otherwise is known from these. Where policies mostly agree, `effective` is large without saying anything.
        largest_weight: none is cut, which would bias the estimates by what it takes.
        mean_weight: 1 on average, where propensities are right and all hosts that the target policy takes are explored.
        agreement: mean probability with which the target policy takes the host that was taken.
        logged: mean cost as it was.
        ips, snips, dr: mean cost by inverse propensity, the same self-normalised, and doubly robust.
        gain: `dr` less that of the reference policy, or less `logged` without one; below 0 the target policy is better.
    """

    usable: bool
    reason: str
    requests: int
    effective: float
    distance: float
    deviating: float
    largest_weight: float
    mean_weight: float
    agreement: float
    logged: Estimate | None = None
    ips: Estimate | None = None
    snips: Estimate | None = None
    dr: Estimate | None = None
    gain: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values; numbers that are not finite are None."""
        return dict(to_jsonable_python(self, inf_nan_mode="null"))


def evaluate_policy(
    time_us: ArrayLike,
    category: ArrayLike,
    host: ArrayLike,
    cost: ArrayLike,
    propensity: ArrayLike,
    probability: Floats,
    stands_for: ArrayLike | None = None,
    reference: Floats | None = None,
    alpha: float = 0.05,
    min_effective: float = MIN_EFFECTIVE,
) -> OffPolicy:
    """Inverse propensity, self-normalised and doubly robust estimates with intervals over blocks of time.

    With weights `w = probability of the target policy / propensity`: IPS is mean(w c) (Horvitz and Thompson, 1952),
    SNIPS is sum(w c) / sum(w) (Swaminathan and Joachims, 2015), and doubly robust is the mean of
    `sum_a probability_a q_a + w (c - q_host)` (Dudik, Langford and Li, Doubly Robust Policy Evaluation, 2011)
    with a model `q` of the cost by category and host that never saw the request's own stretch of time. DR is right if
    propensities are, whatever the model; the better the model, the narrower it is.

    All of them take each request's cost as it is under the load that the logged policy made: a policy that moves much
    of the traffic also moves the load, which only an experiment shows.

    Args:
        time_us: when requests ended, shape (n,).
        category, host: indices, shape (n,).
        cost: seconds, bounded (see `capped_cost`).
        propensity: probability with which the host was taken, in (0, 1]; rows where it is not known do not count.
        probability: of the target policy, shape (n, hosts); rows with NaN do not count.
        stands_for: requests that each row is a sample of, shape (n,); None: each is one. Rows count that often.
        reference: probability of a policy to compare with, as `probability`: what the replay does not know of loads and
            tables is the same in both, and cancels. None: the gain is over what was logged.
        min_effective: below this many effective requests nothing is said.
    """
    chance = np.asarray(propensity, dtype=np.float64)
    known = (chance > 0) & np.isfinite(probability).all(axis=1) & np.isfinite(np.asarray(cost, dtype=np.float64))
    if reference is not None:
        known &= np.isfinite(reference).all(axis=1)
    times, chance = np.asarray(time_us, dtype=np.int64)[known], chance[known]
    group, taken = (np.asarray(each, dtype=np.int64)[known] for each in (category, host))
    paid, target = np.asarray(cost, dtype=np.float64)[known], probability[known]
    count = len(paid)
    rows = np.ones(count) if stands_for is None else np.asarray(stands_for, dtype=np.float64)[known]
    likely = target[np.arange(count), taken]
    weight = likely / chance
    block = time_blocks(times)
    effective, deviating = _effective(rows * weight), _effective(rows * np.maximum(weight - 1, 0.0))
    # Of the two ways to tell it this one is bounded, so few requests will do.
    distance = float(np.average(np.maximum(1 - weight, 0.0), weights=rows)) if count else 0.0
    blocks = len(np.unique(block))
    said = OffPolicy(
        False,
        "",
        count,
        effective,
        distance,
        deviating,
        largest_weight=float(weight.max(initial=0.0)),
        mean_weight=float(np.average(weight, weights=rows)) if count else 0.0,
        agreement=float(np.average(likely, weights=rows)) if count else 0.0,
    )
    if effective < min_effective or blocks < MIN_BLOCKS or (distance > _SAME and deviating < MIN_DEVIATING):
        reason = (
            f"{count} requests in {blocks} blocks of time are worth {effective:.0f} that the target policy had routed, "
            f"and {deviating:.0f} of what it does otherwise; at least {min_effective:g} in {MIN_BLOCKS}, and "
            f"{MIN_DEVIATING:g}, are needed: measure for longer or explore more"
        )
        return replace(said, reason=reason)
    model = cost_model(group, taken, paid, block, target.shape[1], rows)
    left = paid - model[np.arange(count), taken]

    def doubly_robust(of: Floats) -> Floats:
        return np.asarray((of * model).sum(axis=1) + of[np.arange(count), taken] / chance * left)

    robust = doubly_robust(target)
    against = paid if reference is None else doubly_robust(reference[known])
    return replace(
        said,
        usable=True,
        logged=clustered_mean(paid, block, rows, alpha),
        ips=clustered_mean(weight * paid, block, rows, alpha),
        snips=clustered_mean(paid, block, rows * weight, alpha),
        dr=clustered_mean(robust, block, rows, alpha),
        gain=clustered_mean(robust - against, block, rows, alpha),
    )


def _effective(weight: Floats) -> float:
    """How many equal weights are worth as much (Kish, Survey Sampling, 1965)."""
    return float(weight.sum() ** 2 / max(float(np.square(weight).sum()), 1e-300))


def cost_model(
    category: Ints, host: Ints, cost: Floats, block: Ints, hosts: int, stands_for: Floats | None = None
) -> Floats:
    """Mean cost of each request's category on every host, shape (n, hosts), without the blocks of its own fold.

    Means of cells with few requests lean on their category's, these on the overall mean.
    """
    rows = np.ones(len(cost)) if stands_for is None else stands_for
    categories = int(category.max(initial=0)) + 1
    cell = category * hosts + host
    fold = block * _FOLDS // (int(block.max(initial=0)) + 1)
    found = np.empty((len(cost), hosts))
    for number in range(_FOLDS):
        own = fold == number
        seen = ~own
        among = seen if seen.any() else own
        overall = float(np.average(cost[among], weights=rows[among]))

        def sums(place: Ints, count: int, of: NDArray[np.bool_] = seen) -> tuple[Floats, Floats]:
            requests = np.bincount(place[of], weights=rows[of], minlength=count).astype(np.float64)
            total = np.bincount(place[of], weights=rows[of] * cost[of], minlength=count).astype(np.float64)
            return requests, total

        requests, total = sums(category, categories)
        by_category = (total + _PRIOR_REQUESTS * overall) / (requests + _PRIOR_REQUESTS)
        requests, total = (each.reshape(categories, hosts) for each in sums(cell, categories * hosts))
        by_cell = (total + _PRIOR_REQUESTS * by_category[:, None]) / (requests + _PRIOR_REQUESTS)
        found[own] = by_cell[category[own]]
    return found


def capped_cost(duration_s: ArrayLike, failed: ArrayLike, cap_s: float) -> Floats:
    """Latency up to a cap; a request that failed costs the cap, so that failing fast does not pay."""
    duration = np.asarray(duration_s, dtype=np.float64)
    return np.where(np.asarray(failed, dtype=bool), cap_s, np.minimum(duration, cap_s))
