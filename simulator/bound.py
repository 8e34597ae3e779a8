"""The bound: what the fleet could carry at most, whatever the policy. Loads are shares of it."""

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.routing.capacity import best_split, capacity_rps
from fingerpost.simulator.fleet import Fleet

_SAMPLES = 12


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
