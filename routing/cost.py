"""The cost of sending a request to a host."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A request that fails costs more than its time: it is tried again, or lost. With the cube a host that fails one request
# in four costs 2.4 times as much, one that fails half of them eight times.
_FAILURE_POWER = 3.0
# Below this all hosts are as bad: how few of a broken route's requests succeed, and where, is chance.
_MIN_SUCCESS = 0.1


def routing_cost(
    inflight: ArrayLike,
    throughput_rps: ArrayLike,
    latency_s: ArrayLike = 0.0,
    success_rate: ArrayLike = 1.0,
    latency_weight: float = 0.0,
) -> NDArray[np.float64]:
    """Expected seconds a request costs on each host; the least is the host to send it to.

    `((1 - w) * (inflight + 1) / throughput + w * latency) / success_rate ** 3`: the time to drain what is there and
    this request, blended with the predicted latency, and dearer where requests fail. With w = 0 it is the MaxWeight /
    MinDrift family's rule (Tassiulas and Ephremides, 1992) with service rates that depend on the class of the request.

    Args:
        inflight: requests on the host now, shape (..., hosts), at least 0.
        throughput_rps: rate the host could serve this category at, same shape; not above 0 or not finite: never chosen.
        latency_s: predicted latency, same shape.
        success_rate: predicted share of requests that succeed, 0..1; of less than 0.1 it counts as 0.1, of 0 as never.
        latency_weight: w, 0..1.

    Returns:
        Costs in seconds, same shape; infinite where the host cannot serve.
    """
    return cost_at(*cost_terms(throughput_rps, latency_s, success_rate, latency_weight), inflight)


def cost_terms(
    throughput_rps: ArrayLike, latency_s: ArrayLike = 0.0, success_rate: ArrayLike = 1.0, latency_weight: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cost as a line over the load: `cost = slope * (inflight + 1) + offset`; what pickers keep of a prediction.

    Args:
        throughput_rps, latency_s, success_rate, latency_weight: as in `routing_cost`.

    Returns:
        Slope and offset in seconds, of the arguments' common shape; the slope is infinite where the host cannot serve.
    """
    rate = np.asarray(throughput_rps, dtype=np.float64)
    success = np.asarray(success_rate, dtype=np.float64)
    usable = np.isfinite(rate) & (rate > 0) & (success > 0)
    share = np.where(usable, np.maximum(success, _MIN_SUCCESS), 1.0) ** _FAILURE_POWER
    slope = (1 - latency_weight) / np.where(usable, rate, 1.0) / share
    offset = latency_weight * np.asarray(latency_s, dtype=np.float64) / share
    return np.where(usable & np.isfinite(offset), slope, np.inf), np.broadcast_to(offset, slope.shape)


def cost_at(slope: ArrayLike, offset: ArrayLike, inflight: ArrayLike) -> NDArray[np.float64]:
    """The line of `cost_terms` at a load: costs in seconds, infinite where the host cannot serve."""
    steep = np.asarray(slope, dtype=np.float64)
    usable = np.isfinite(steep)
    cost = np.where(usable, steep, 0.0) * (np.asarray(inflight, dtype=np.float64) + 1) + np.asarray(offset)
    return np.where(usable & np.isfinite(cost), cost, np.inf)


def choice_probabilities(cost: ArrayLike, exploration: float = 0.0) -> NDArray[np.float64]:
    """The probability with which the routing rule sends a request to each host.

    With probability `exploration` any host is chosen, all alike; else a host of least cost, ties alike. The native
    picker and the simulator choose by the same rule in code of their own, which tests hold equal to this one.

    Args:
        cost: shape (..., hosts); infinite where the host cannot serve.
        exploration: 0..1.

    Returns:
        Same shape; sums to 1 over the hosts, NaN where none can serve.
    """
    costs = np.asarray(cost, dtype=np.float64)
    least = costs.min(axis=-1, keepdims=True)
    best = costs <= least
    chosen = exploration / costs.shape[-1] + (1 - exploration) * best / best.sum(axis=-1, keepdims=True)
    return np.where(np.isfinite(least), chosen, np.nan)
