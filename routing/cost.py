"""The cost of sending a request to a host."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A request that fails costs more than its time: it is tried again, or lost. With the cube a host that fails one request
# in four costs 2.4 times as much, one that fails half of them eight times.
FAILURE_POWER = 3.0
# Below this all hosts are as bad: how few of a broken route's requests succeed, and where, is chance.
_MIN_SUCCESS = 0.1
# Of less than a hundredth of a request nothing is known: of one, after seven times its half-life.
_KNOWN = 0.01
# Above every cost, and finite.
_MOST_S = 1e300


def routing_cost(
    inflight: ArrayLike,
    throughput_rps: ArrayLike,
    service_s: ArrayLike = 0.0,
    success_rate: ArrayLike = 1.0,
    latency_weight: float = 1.0,
) -> NDArray[np.float64]:
    """Expected seconds a request costs on each host; the least is the host to send it to.

    `((inflight + 1) / throughput + w * service_s) / success_rate ** 3`: the time to drain what is there and this
    request, and the time that the request itself takes, dearer where requests fail. The first term is the MaxWeight /
    MinDrift family's rule (Tassiulas and Ephremides, 1992) with service rates that depend on the class of the request:
    it decides where there is a queue. Alone it charges a request for its neighbours where there is none, and leaves a
    fast host while that has free places. With slots the throughput is slots / service time, and the cost in service
    times (inflight + 1) / slots + w: at w = 1 a bound of how long a request takes, max(1, (inflight + 1) / slots).
    docs/routing.md has the measurements.

    Args:
        inflight: requests on the host now, shape (..., hosts), at least 0.
        throughput_rps: rate the host could serve this category at, same shape; not above 0 or not finite: never chosen.
        service_s: latency of a request that need not wait, see `service_time`; same shape.
        success_rate: predicted share of requests that succeed, 0..1; of less than 0.1 it counts as 0.1, of 0 as never.
        latency_weight: w, at least 0.

    Returns:
        Costs in seconds, same shape; infinite where the host cannot serve.
    """
    return cost_at(*cost_terms(throughput_rps, service_s, success_rate, latency_weight), inflight)


def cost_terms(
    throughput_rps: ArrayLike, service_s: ArrayLike = 0.0, success_rate: ArrayLike = 1.0, latency_weight: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cost as a line over the load: `cost = slope * (inflight + 1) + offset`; what pickers keep of a prediction.

    Args:
        throughput_rps, service_s, success_rate, latency_weight: as in `routing_cost`.

    Returns:
        Slope and offset in seconds, of the arguments' common shape; the slope is infinite where the host cannot serve.
    """
    rate = np.asarray(throughput_rps, dtype=np.float64)
    success = np.asarray(success_rate, dtype=np.float64)
    usable = np.isfinite(rate) & (rate > 0) & (success > 0)
    share = np.where(usable, np.maximum(success, _MIN_SUCCESS), 1.0) ** FAILURE_POWER
    slope = 1 / np.where(usable, rate, 1.0) / share
    offset = latency_weight * np.asarray(service_s, dtype=np.float64) / share
    return np.where(usable & np.isfinite(offset), slope, np.inf), np.broadcast_to(offset, slope.shape)


def service_time(throughput_rps: ArrayLike, latency_s: ArrayLike, slots: ArrayLike) -> NDArray[np.float64]:
    """Predicted latency apart from queueing, seconds: of a request that finds a free place.

    Predicted latency is of requests as they come, with the queues of their time in it. By the bottleneck law a host of
    so many slots takes slots / throughput for one, or less where another resource is scarcer: the lesser of both is
    taken.

    Args:
        throughput_rps, latency_s: predictions, any shape; NaN where not known.
        slots: requests that the host works on at once, of a shape that fits; NaN where it does not tell.

    Returns:
        Of the common shape; NaN where the slots or the throughput are not known.
    """
    rate = np.asarray(throughput_rps, dtype=np.float64)
    latency, places = np.asarray(latency_s, dtype=np.float64), np.asarray(slots, dtype=np.float64)
    usable = np.isfinite(rate) & (rate > 0)
    bound = np.where(usable, places / np.where(usable, rate, 1.0), np.nan)
    return np.where(np.isnan(bound), np.nan, np.fmin(latency, bound))


def cost_at(slope: ArrayLike, offset: ArrayLike, inflight: ArrayLike) -> NDArray[np.float64]:
    """The line of `cost_terms` at a load: costs in seconds, infinite where the host cannot serve."""
    steep = np.asarray(slope, dtype=np.float64)
    usable = np.isfinite(steep)
    cost = np.where(usable, steep, 0.0) * (np.asarray(inflight, dtype=np.float64) + 1) + np.asarray(offset)
    return np.where(usable & np.isfinite(cost), cost, np.inf)


def exploration_weight(idle_cost: ArrayLike, evidence: ArrayLike, within: float) -> NDArray[np.float64]:
    """How much a request of a category is worth on each host for the sake of knowledge; 0 where it would cost too much.

    Hosts that cost little more than the best are explored, the more the fewer requests they have had of late. Hosts of
    which nothing is known are tried whatever they are said to cost; hosts that cannot serve never are. The costs are
    without anything in flight: so the weights are the same for all requests until the next table.

    Args:
        idle_cost: seconds, shape (..., hosts); infinite where the host cannot serve.
        evidence: requests, older ones weighing less, same shape; NaN where there were none.
        within: highest cost, as a multiple of the least.

    Returns:
        Same shape, 0..1.
    """
    costs, known = np.asarray(idle_cost, dtype=np.float64), np.nan_to_num(np.asarray(evidence, dtype=np.float64))
    near = costs <= within * costs.min(axis=-1, keepdims=True, initial=_MOST_S)
    return np.asarray(np.where(np.isfinite(costs) & (near | (known < _KNOWN)), (1.0 + known) ** -0.5, 0.0))


def exploration_shares(cost: ArrayLike, weight: ArrayLike = 1.0) -> NDArray[np.float64]:
    """Where an explored request is sent: to hosts that can serve, in proportion to their weights.

    Args:
        cost: shape (..., hosts); infinite where the host cannot serve.
        weight: see `exploration_weight`, of a shape that fits.

    Returns:
        Probabilities of the costs' shape; all 0 where there is nothing to explore.
    """
    open_to = np.where(np.isfinite(np.asarray(cost, dtype=np.float64)), weight, 0.0)
    total = open_to.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(open_to, total, out=np.zeros(open_to.shape), where=total > 0))


def choice_probabilities(cost: ArrayLike, exploration: float = 0.0, weight: ArrayLike = 1.0) -> NDArray[np.float64]:
    """The probability with which the routing rule sends a request to each host.

    With probability `exploration` it is explored, see `exploration_shares`; else, and where there is nothing to
    explore, it goes to a host of least cost, ties alike. The native picker and the simulator choose by the same rule in
    code of their own, which tests hold equal to this one.

    Args:
        cost: shape (..., hosts); infinite where the host cannot serve.
        exploration: 0..1.
        weight: see `exploration_weight`.

    Returns:
        Same shape; sums to 1 over the hosts, NaN where none can serve.
    """
    costs = np.asarray(cost, dtype=np.float64)
    least = costs.min(axis=-1, keepdims=True)
    best = costs <= least
    explored = exploration * exploration_shares(costs, weight)
    chosen = explored + (1 - explored.sum(axis=-1, keepdims=True)) * best / best.sum(axis=-1, keepdims=True)
    return np.where(np.isfinite(least), chosen, np.nan)
