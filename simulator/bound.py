"""The bound: what the fleet could carry at most, whatever the policy. Loads are shares of it."""

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.errors import FingerpostError
from fingerpost.simulator.fleet import Fleet

_SAMPLES = 12


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


def category_split(fleet: Fleet) -> Floats:
    """How an operator who knew all mean speeds would divide each category by hand, rates of shape (C, H)."""
    service_s, mix = effective_service_s(fleet, slice(None)).mean(axis=0), fleet.mix.mean(axis=0)
    return best_split(service_s, np.where(fleet.present.any(axis=0), fleet.servers, 0.0), mix)[1]


def effective_service_s(fleet: Fleet, ticks: int | slice) -> Floats:
    """Mean service times at some ticks when all servers of a host are busy with the mean mix, shape (..., C, H).

    Reservoirs are left out: what they take depends on what is sent.
    """
    beside = fleet.crowding + (fleet.harm @ fleet.mix.mean(axis=0))[:, None]
    return np.asarray(fleet.service_s[ticks] * (1 + beside * (fleet.servers - 1)))


def fleet_capacity_rps(fleet: Fleet, begin_tick: int) -> float:
    """Mean of `capacity_rps` over moments of the measured time, since speeds, hosts and mix may change."""
    last = len(fleet.service_s) - 1
    moments = np.unique(np.linspace(min(begin_tick, last), last, _SAMPLES).astype(np.int64))
    bounds: list[float] = []
    for place, tick in enumerate(moments):
        before = moments[place - 1]
        if place and all(
            np.array_equal(each[tick], each[before]) for each in (fleet.service_s, fleet.present, fleet.mix)
        ):
            bounds.append(bounds[-1])
            continue
        slots = np.where(fleet.present[tick], fleet.servers, 0.0)
        bounds.append(capacity_rps(effective_service_s(fleet, int(tick)), slots, fleet.mix[tick]))
    return float(np.mean(bounds))
