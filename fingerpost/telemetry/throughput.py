"""Throughput by the bottleneck law of operational analysis, and the service times that it rests on."""

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats, Ints, safe_ratio
from fingerpost.clock import US

_MIN_CORES = 0.05
# Requests that a core is taken to serve at once where nobody told: those that compute for more than a quarter of their
# time are bound by CPU then, all others by waiting.
PLACES_A_CORE = 4.0
# By which power of the number on a host the weight of a request falls that came there, where slots are not known.
CROWDED = 3.0
# Of a time that would be less than nothing without waiting, this part of its share of the mean is left.
_MIN_SHARE = 0.1
_US_IN_MS = 1000


def throughput_rps(
    cpu_s: ArrayLike,
    cores_left: ArrayLike,
    service_time_s: ArrayLike = np.nan,
    slots: ArrayLike = np.nan,
    mem_bytes: ArrayLike = np.nan,
    mem_left_bytes: ArrayLike = np.nan,
) -> Floats:
    """The rate at which a host could serve one category alone: the least over resources of capacity / demand.

    CPU: cores left / CPU-seconds a request. Slots: slots / unloaded service time. Memory: the requests that fit at once
    into the memory left / unloaded service time. (Denning and Buzen, The operational analysis of queueing network
    models, 1978.) A resource whose capacity or demand is not known does not count. Slots that nobody told, as of a host
    that is known from its log alone, are assumed: PLACES_A_CORE (of one core, where cores are not known either). So
    requests that wait more than they compute count by how long they take, and others by their CPU, on one scale for all
    such hosts, which is what a choice between them needs.

    Args:
        cpu_s: CPU-seconds a request, any shape.
        cores_left: cores not taken by other things than requests; at least 0.05 is assumed.
        service_time_s: mean service time a request takes where it need not wait, seconds: see `unloaded_s`.
        slots: requests the host serves at once.
        mem_bytes: memory a request holds, bytes.
        mem_left_bytes: memory the host has left, bytes.

    Returns:
        Requests a second; NaN where no resource is known.
    """
    given = (cpu_s, cores_left, service_time_s, slots, mem_bytes, mem_left_bytes)
    cpu, cores, service, told, held, left = (np.asarray(each, dtype=np.float64) for each in given)
    cores = np.maximum(cores, _MIN_CORES)
    assumed = PLACES_A_CORE * np.where(np.isnan(cores), 1.0, cores)
    bounds = np.broadcast_arrays(
        safe_ratio(cores, cpu),
        safe_ratio(np.where(np.isnan(told), assumed, told), service),
        safe_ratio(safe_ratio(left, held), service),
    )
    return np.fmin.reduce(np.stack(bounds), axis=0)  # fmin passes over NaN


def unloaded_s(
    service_time_s: ArrayLike,
    inflight: ArrayLike,
    slots: ArrayLike,
    source: Ints | None = None,
) -> tuple[Floats, Floats]:
    """What service times would have been with a free place, and how much each of them tells.

    A request that came when `inflight` others were on a host of so many slots had one to itself if they were fewer.
    Else it waited for `inflight` + 1 - slots of them to end, one at each slots-th part of their mean service time. That
    mean is known: on average a request takes (inflight + 1) / slots of it in all. What waited tells the less, the
    longer it did. Unlike the least of many times this does not change with how many requests, or which load, it is told
    by; and a cheap request behind dear ones stays a cheap one.

    Where slots are not known, nor is who waited: times are left as they are, and what found n others weighs
    (n + 1) ^ -CROWDED. So what came when the host was least crowded tells most.

    Args:
        service_time_s, inflight, slots: shape (n,).
        source: the host, and time, that each request was at, indices from 0, shape (n,); None: all at the same.

    Returns:
        Seconds, and their weights, above 0, at most 1.
    """
    seconds = np.asarray(service_time_s, dtype=np.float64)
    place = np.zeros(seconds.shape, dtype=np.int64) if source is None else source
    found = np.maximum(np.asarray(inflight, dtype=np.float64) + 1, 1.0)
    share = np.asarray(slots, dtype=np.float64) / found
    share = np.broadcast_to(np.where(share < 1, share, 1.0), seconds.shape)
    known = np.isfinite(seconds)
    total = np.bincount(place, np.where(known, seconds * share, 0.0))
    mean = total / np.maximum(np.bincount(place, known), 1)
    waited = (1 / share - 1) * mean[place]
    weight = np.where(np.isfinite(found) & np.isnan(slots), found**-CROWDED, share**2)
    return np.maximum(seconds - waited, _MIN_SHARE * seconds * share), weight


def at_resolution(seconds: Floats, source: Ints) -> Floats:
    """Replaces times of 0 by half of the least that their log could have written.

    The resolution is that of the other times of the same source: whole seconds, whole milliseconds, or microseconds;
    milliseconds where all are 0. Without it a request of less than a millisecond would take no time at all, and nothing
    could be said of how many of them a host can serve.

    Args:
        seconds: shape (n,); NaN where not known.
        source: which were written by the same log, indices from 0, shape (n,).
    """
    zero = seconds == 0
    if not zero.any():
        return seconds
    micros = np.rint(np.nan_to_num(seconds) * US)
    count = int(source.max()) + 1
    finer, fine, some = (
        np.bincount(source, weights=each, minlength=count) > 0
        for each in (micros % _US_IN_MS != 0, micros % US != 0, micros != 0)
    )
    half_us = np.where(finer, 1.0, np.where(fine | ~some, _US_IN_MS, US)) / 2
    return np.where(zero, half_us[source] / US, seconds)
