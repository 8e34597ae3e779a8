"""`python -m benchmarks exploration`: what exploration costs, and how precise off-policy estimates are by it."""

from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.routing.cost import choice_probabilities, exploration_shares, exploration_weight

_HOSTS, _CATEGORIES, _SLOTS, _CLASSES = 40, 12, 8, 5
_MEAN_S, _SIGMA, _HALFLIFE_S = 0.05, 0.45, 60.0
# Two models of the same telemetry: each errs by so much, apart from the other.
_ERROR = 0.1


@dataclass(frozen=True)
class Explored:
    """What a way of exploring costs and gives.

    Attributes:
        cost_ms: what is added to a request's expected cost by exploration, mean over all requests.
        worst_ms: the 99th percentile of what an explored request costs more than the best host.
        effective: of how many requests of its own the target policy's weighted ones are worth (Kish, expected), of
            those alone that go where it would send more.
        distance, never: share of the requests that the target policy would send elsewhere; of them those where it would
            send them to a host that this one never tries, of which nothing can be said.
    """

    way: str
    exploration: float
    within: float
    requests: int
    cost_ms: float
    worst_ms: float
    effective: float
    distance: float
    never: float


def measure_exploration(requests: int, load: float, seed: int) -> list[dict[str, Any]]:
    """Uniform exploration beside exploration within a bound of the cost and by age of evidence."""
    ways = [("uniform", 0.01, 1.0)]
    ways += [("by evidence", share, within) for within, share in ((1.25, 0.01), (1.5, 0.01), (1.5, 0.005), (2.0, 0.01))]
    return [asdict(_run(way, share, within, requests, load, seed)) for way, share, within in ways]


def _run(way: str, share: float, within: float, requests: int, load: float, seed: int) -> Explored:
    rng = np.random.default_rng(seed)
    service = _service_s(rng)
    logging, target = (service * rng.lognormal(0.0, _ERROR, service.shape) / _SLOTS for _ in range(2))
    times = np.cumsum(rng.exponential(1.0 / (load * _SLOTS * _HOSTS / service.min(axis=1).mean()), requests))
    categories, sizes = rng.integers(0, _CATEGORIES, requests), rng.exponential(1.0, requests)
    inflight, free = np.zeros(_HOSTS), np.zeros((_HOSTS, _SLOTS))
    # Every cell has had a request: what it costs to try each once is apart from this.
    evidence, seen_s = np.ones(service.shape), np.zeros(service.shape)
    ends: list[tuple[float, int]] = []
    added, elsewhere, squares, never = np.zeros((4, requests))
    dearer = []
    for number, (now, category) in enumerate(zip(times, categories, strict=True)):
        while ends and ends[0][0] <= now:
            inflight[heappop(ends)[1]] -= 1
        aged = evidence[category] * 0.5 ** ((now - seen_s[category]) / _HALFLIFE_S)
        idle = logging[category]
        weight = np.ones(_HOSTS) if way == "uniform" else exploration_weight(idle, aged, within)
        cost, other = (inflight + 1) * idle, (inflight + 1) * target[category]
        chances = choice_probabilities(cost, share, weight)
        host = int(rng.choice(_HOSTS, p=chances))
        # Its weights above 1 on the hosts that are taken more often by it, in the mean over what may be drawn.
        more = np.maximum(choice_probabilities(other, share, weight) - chances, 0.0)
        never[number], more = more[chances <= 0].sum(), np.where(chances > 0, more, 0.0)
        elsewhere[number] = more.sum()
        squares[number] = np.divide(more**2, chances, out=np.zeros(_HOSTS), where=chances > 0).sum()
        true = (inflight + 1) * service[category] / _SLOTS
        excess = true - true[cost.argmin()]
        shares = exploration_shares(cost, weight)
        added[number] = share * (shares * excess).sum()
        if number % 10 == 0:
            dearer.append(rng.choice(excess, p=shares))
        evidence[category, host], seen_s[category, host] = aged[host] + 1, now
        slot = int(free[host].argmin())
        free[host, slot] = max(free[host, slot], now) + sizes[number] * service[category, host]
        inflight[host] += 1
        heappush(ends, (float(free[host, slot]), host))
    kept = slice(requests // 5, None)
    return Explored(
        way,
        share,
        within,
        requests,
        float(added[kept].mean() * 1e3),
        float(np.quantile(dearer[len(dearer) // 5 :], 0.99) * 1e3),
        float(elsewhere[kept].sum() ** 2 / squares[kept].sum()),
        float(elsewhere[kept].mean() + never[kept].mean()),
        float(never[kept].mean()),
    )


def _service_s(rng: np.random.Generator) -> Floats:
    """Mean service times of hosts in classes that differ by category, shape (categories, hosts)."""
    classes = rng.lognormal(0.0, _SIGMA, (_CATEGORIES, _CLASSES))
    return _MEAN_S * classes[:, np.arange(_HOSTS) % _CLASSES]
