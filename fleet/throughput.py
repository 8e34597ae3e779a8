"""Throughput by the bottleneck law of operational analysis."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LEAST_CORES = 0.05


def throughput_rps(
    cpu_s: ArrayLike,
    cores_left: ArrayLike,
    service_time_s: ArrayLike = np.nan,
    slots: ArrayLike = np.nan,
    mem_bytes: ArrayLike = np.nan,
    mem_left_bytes: ArrayLike = np.nan,
) -> NDArray[np.float64]:
    """The rate at which a host could serve one category alone: the least over resources of capacity / demand.

    CPU: cores left / CPU-seconds a request. Slots: slots / unloaded service time. Memory: the requests that fit at once
    into the memory left / unloaded service time. (Denning and Buzen, The operational analysis of queueing network
    models, 1978.) A resource whose capacity or demand is not known does not count.

    Args:
        cpu_s: CPU-seconds a request, any shape.
        cores_left: cores not taken by other things than requests; at least 0.05 is assumed.
        service_time_s: service time a request takes on the idle host, seconds.
        slots: requests the host serves at once.
        mem_bytes: memory a request holds, bytes.
        mem_left_bytes: memory the host has left, bytes.

    Returns:
        Requests a second; NaN where no resource is known.
    """
    service_time = np.asarray(service_time_s, dtype=np.float64)
    concurrency = _ratio(mem_left_bytes, mem_bytes)
    bounds = np.broadcast_arrays(
        _ratio(np.maximum(np.asarray(cores_left, dtype=np.float64), _LEAST_CORES), cpu_s),
        _ratio(slots, service_time),
        _ratio(concurrency, service_time),
    )
    return np.fmin.reduce(np.stack(bounds), axis=0)  # fmin passes over NaN


def _ratio(capacity: ArrayLike, demand: ArrayLike) -> NDArray[np.float64]:
    amount, each = np.asarray(capacity, dtype=np.float64), np.asarray(demand, dtype=np.float64)
    amount, each = np.broadcast_arrays(amount, each)
    known = np.isfinite(amount) & np.isfinite(each) & (each > 0)
    return np.divide(amount, each, out=np.full(amount.shape, np.nan), where=known)
