"""`python -m benchmarks zones`: what requests gain by leaving the zone of their proxy, and how many do."""

from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np

from fingerpost.routing.cost import cost_terms

_ZONES, _HOSTS, _CATEGORIES, _SLOTS = 3, 24, 12, 8
_MEAN_S, _SIGMA = 0.05, 0.45
FACTORS = (1.0, 1.1, 1.25, 1.5, 2.0, 1000.0)


@dataclass(frozen=True)
class Zoned:
    """What a factor gives.

    Attributes:
        crossing: share of the requests that go to another zone.
        mean_ms, p99_ms: latency, the way between zones not counted.
    """

    factor: float
    load: float
    crossing: float
    mean_ms: float
    p99_ms: float


def measure_zones(requests: int, load: float, seed: int, uneven: float = 1.0) -> list[dict[str, Any]]:
    """Each factor on the same requests, at hosts that differ by category, spread over three zones alike.

    Args:
        load: share of what the hosts carry where each category is served by all alike.
        uneven: requests of the first zone's proxy for each of another's.
    """
    return [asdict(_run(factor, requests, load, seed, uneven)) for factor in FACTORS]


def _run(factor: float, requests: int, load: float, seed: int, uneven: float) -> Zoned:
    rng = np.random.default_rng(seed)
    service = _MEAN_S * rng.lognormal(-(_SIGMA**2) / 2, _SIGMA, (_CATEGORIES, _HOSTS))
    slope, offset = cost_terms(_SLOTS / service, service, np.ones(service.shape), 1.0)
    times = np.cumsum(rng.exponential(service.mean() / (load * _SLOTS * _HOSTS), requests))
    shares = np.array([uneven, *np.ones(_ZONES - 1)])
    categories, sizes = rng.integers(0, _CATEGORIES, requests), rng.exponential(1.0, requests)
    zones, zone_of = rng.choice(_ZONES, requests, p=shares / shares.sum()), np.arange(_HOSTS) % _ZONES
    far = np.where(zone_of == np.arange(_ZONES)[:, None], 1.0, factor)
    inflight, free = np.zeros(_HOSTS), np.zeros((_HOSTS, _SLOTS))
    ends: list[tuple[float, int]] = []
    latency, crossed = np.zeros(requests), 0
    for number, (now, category, zone) in enumerate(zip(times, categories, zones, strict=True)):
        while ends and ends[0][0] <= now:
            inflight[heappop(ends)[1]] -= 1
        host = int(((slope[category] * (inflight + 1) + offset[category]) * far[zone]).argmin())
        slot = int(free[host].argmin())
        end = max(now, free[host, slot]) + service[category, host] * sizes[number]
        free[host, slot] = end
        inflight[host] += 1
        heappush(ends, (end, host))
        latency[number] = end - now
        crossed += zone_of[host] != zone
    kept = latency[requests // 10 :] * 1e3
    return Zoned(factor, load, int(crossed) / requests, float(kept.mean()), float(np.percentile(kept, 99)))
