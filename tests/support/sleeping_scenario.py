"""The fleet that real Envoy is measured with: service times, what it can carry at most, and planned requests."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fingerpost.arrays import Floats


@dataclass(frozen=True)
class Scenario:
    """Hosts that differ by category.

    Args:
        service_s: mean service time, shape (categories, hosts).
        mix: share of each category, shape (categories,).
        bound_rps: the most that the fleet can carry of this mix, by a linear programme.
    """

    service_s: Floats
    mix: Floats
    slots: int
    bound_rps: float


def make_scenario(hosts: int, categories: int, slots: int, mean_s: float, sigma: float, seed: int) -> Scenario:
    """Service times: `mean_s` times lognormal affinities (median 1, sigma) of four host classes and the categories."""
    rng = np.random.default_rng(seed)
    classes = rng.lognormal(0.0, sigma, (categories, 4))
    service_s = mean_s * classes[:, np.arange(hosts) % 4] * rng.lognormal(0.0, 0.05, (categories, hosts))
    mix = rng.dirichlet(np.full(categories, 4.0))
    return Scenario(service_s, mix, slots, bound_rps(service_s, mix, slots))


def bound_rps(service_s: Floats, mix: Floats, slots: int) -> float:
    """The highest rate of this mix that the slots can serve, whoever serves what.

    Maximises r over rates x[c, h] >= 0 with sum_h x[c, h] = r * mix[c] and sum_c x[c, h] * service_s[c, h] <= slots.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, hstack, kron

    categories, hosts = service_s.shape
    served = hstack([kron(np.eye(categories), np.ones((1, hosts))), csr_array(-mix[:, None])])
    spent: Any = np.zeros((hosts, categories * hosts + 1))
    for host in range(hosts):
        spent[host, host : categories * hosts : hosts] = service_s[:, host]
    aim = np.zeros(categories * hosts + 1)
    aim[-1] = -1.0
    found = linprog(aim, A_ub=spent, b_ub=np.full(hosts, slots), A_eq=served.tocsr(), b_eq=np.zeros(categories))
    return float(-found.fun)


def plan(scenario: Scenario, rate: float, seconds: float, seed: int) -> list[tuple[float, bytes]]:
    """Poisson arrivals of the mix; each request's size is lognormal with mean 1 and sigma 0.3, and its own."""
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(rate * seconds))
    times = np.sort(rng.uniform(0, seconds, count))
    kinds = rng.choice(len(scenario.mix), count, p=scenario.mix)
    sizes = rng.lognormal(-0.5 * 0.3**2, 0.3, count)
    return [
        (float(at), f"GET /c{kind}?x={size:.4f} HTTP/1.1\r\nhost: bench\r\nuser-agent: python-bench\r\n\r\n".encode())
        for at, kind, size in zip(times, kinds, sizes, strict=True)
    ]
