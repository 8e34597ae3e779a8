"""Computes what a fleet could carry at most of a mix, and how much of that a way of routing can use."""

from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.errors import FingerpostError

# Hosts and categories beyond these are grouped: the programme grows with their product.
_MOST_GROUPS, _MOST_CATEGORIES = 40, 30
_SEED = 7


def capacity_rps(service_s: Floats, slots: Floats, mix: Floats) -> float:
    """The greatest rate of `best_split`, requests a second."""
    return best_split(service_s, slots, mix)[0]


def best_split(service_s: Floats, slots: Floats, mix: Floats) -> tuple[float, Floats]:
    """The greatest rate at which every category can be split over the hosts with no host busier than all the time.

    Linear programme: maximise lambda over lambda, x >= 0 such that `sum_h x[c, h] = lambda * mix[c]` and
    `sum_c x[c, h] * service_s[c, h] <= slots[h]` (the capacity region of parallel servers whose rates depend on the
    class; Harrison and Lopez, 1999). No policy is stable above it.

    Args:
        service_s: mean service times, seconds, shape (C, H).
        slots: requests each host serves at once, shape (H,); 0 for a host that is not there.
        mix: shares of the categories, shape (C,).

    Returns:
        Requests a second; and of each category the rate that each host takes of it then, shape (C, H).

    Raises:
        FingerpostError: no host can serve.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    if not (slots > 0).any():
        raise FingerpostError("no host is up: there is no capacity to take a share of")
    categories, hosts = service_s.shape
    cell = np.arange(categories * hosts)
    category, host = cell // hosts, cell % hosts
    rate = len(cell)
    balance = coo_matrix(
        (
            np.concatenate([np.ones(len(cell)), -mix]),
            (np.concatenate([category, np.arange(categories)]), np.concatenate([cell, np.full(categories, rate)])),
        ),
        shape=(categories, rate + 1),
    )
    # Seconds scaled to the mean service time, which keeps the solver's tolerances meaningful.
    scale = float(service_s.mean())
    busy = coo_matrix((service_s.ravel() / scale, (host, cell)), shape=(hosts, rate + 1))
    objective = np.zeros(rate + 1)
    objective[rate] = -1.0
    solved = linprog(
        objective, A_ub=busy.tocsr(), b_ub=slots, A_eq=balance.tocsr(), b_eq=np.zeros(categories), method="highs"
    )
    if not solved.success:
        raise FingerpostError(f"the bound could not be computed: {solved.message}")
    return float(-solved.fun) / scale, solved.x[:rate].reshape(categories, hosts) / scale


@dataclass(frozen=True)
class FleetCapacity:
    """What a fleet could carry of the present mix, requests a second.

    Args:
        rate_rps: what it carries now.
        bound_rps: the most that any routing could carry (`best_split`).
        blind_rps: the most of a routing that keeps hosts equally busy and knows no categories: each host gets the mix.
        present_rps: the most of the present split over hosts, whose busiest host is full first.
        busiest: how busy that host is now, 0..1 and above.
        grouped: whether alike hosts, or rare categories, were taken together.
    """

    rate_rps: float
    bound_rps: float
    blind_rps: float
    present_rps: float
    busiest: float
    grouped: bool

    @property
    def used_share(self) -> float:
        """Share of the bound in use, 0..1 and above."""
        return self.rate_rps / self.bound_rps

    @property
    def saved_share(self) -> float:
        """Share of the hosts that routing by category can do without, 0..1, at equal load of those that are left."""
        return max(0.0, 1 - self.blind_rps / self.bound_rps)


def fleet_capacity(throughput_rps: Floats, rates_rps: Floats) -> FleetCapacity | None:
    """What a fleet could carry; None: there is no traffic, or nothing is predicted of it.

    Args:
        throughput_rps: rate at which each host could serve each category alone, shape (H, C); NaN where not known.
        rates_rps: requests a second that each host serves of each category, shape (H, C).
    """
    served, known = rates_rps.sum(axis=0), np.isfinite(throughput_rps) & (throughput_rps > 0)
    # A cell that is not known is as the others of its category; a category that is known of no host is left out.
    chosen = (served > 0) & known.any(axis=0)
    if not chosen.any():
        return None
    cost = np.where(known, 1 / np.where(known, throughput_rps, 1.0), np.nan)[:, chosen]
    cost = np.where(np.isfinite(cost), cost, np.nanmean(cost, axis=0)[None])
    rates, total = rates_rps[:, chosen], float(served[chosen].sum())
    mix = served[chosen] / total
    busy = (rates * cost).sum(axis=1)
    blind = float((1 / (cost @ mix)).sum())
    grouped_cost, slots, grouped_mix = _grouped(cost, mix)
    bound = capacity_rps(grouped_cost.T, slots, grouped_mix)
    return FleetCapacity(
        rate_rps=total,
        # Grouping must not make less of a fleet than a routing that needs no groups.
        bound_rps=max(bound, blind),
        blind_rps=blind,
        present_rps=total / float(busy.max()),
        busiest=float(busy.max()),
        grouped=len(slots) < len(cost) or len(grouped_mix) < len(mix),
    )


def _grouped(cost: Floats, mix: Floats) -> tuple[Floats, Floats, Floats]:
    """Groups of hosts by categories, for a programme of bounded size.

    Rare categories are taken together at their mean cost on each host, hosts that are alike at their mean cost.

    Args:
        cost: seconds of a host that a request takes, shape (H, C).

    Returns:
        Cost of groups, shape (G, K); hosts in each, shape (G,); shares of the kept categories, shape (K,).
    """
    if len(mix) > _MOST_CATEGORIES:
        order = np.argsort(-(mix * cost.mean(axis=0)), kind="stable")
        kept, rest = order[: _MOST_CATEGORIES - 1], order[_MOST_CATEGORIES - 1 :]
        rare = (cost[:, rest] @ mix[rest] / mix[rest].sum())[:, None]
        cost, mix = np.concatenate([cost[:, kept], rare], axis=1), np.append(mix[kept], mix[rest].sum())
    if len(cost) <= _MOST_GROUPS:
        return cost, np.ones(len(cost)), mix
    from scipy.cluster.vq import kmeans2

    profile = np.log(cost) * np.sqrt(mix)
    _, group = kmeans2(profile, _MOST_GROUPS, minit="++", rng=_SEED, iter=20)
    _, group = np.unique(group, return_inverse=True)
    count = np.bincount(group).astype(np.float64)
    sums = np.zeros((len(count), len(mix)))
    np.add.at(sums, group, cost)
    return sums / count[:, None], count, mix
