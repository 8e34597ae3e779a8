"""`python -m benchmarks unlike`: what predictive routing gains over least request, by how unlike hosts are.

Simulated with the shipped settings and the baseline, one proxy; docs/when-not-to-use.md has the figures.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario

POLICIES = ("least_request", "least_request_full", "orca", "fingerpost")
_HOSTS, _CATEGORIES, _PLACES, _MEAN_S, _CV = 20, 12, 4, 0.05, 0.7


Made = tuple[str, Floats, tuple[float, ...]]


def fleets() -> Iterator[Made]:
    """Names of fleets, logs of service times over their mean, shape (categories, hosts), and the loads to try."""
    rng = np.random.default_rng(3)
    shape = (_CATEGORIES, _HOSTS)
    speed = np.tile(np.linspace(-0.5, 0.5, _HOSTS), (_CATEGORIES, 1))
    yield "alike", np.zeros(shape), (0.3, 0.7)
    yield "hardly unlike by category, 5%", rng.normal(0, 0.05, shape), (0.5, 0.7)
    yield "unlike in speed only, 0.6 to 1.65", speed, (0.3, 0.6)
    yield "unlike in speed, one category", speed[:1], (0.6,)
    yield "unlike by category, 45%", rng.normal(0, 0.45, shape), (0.3, 0.5)
    yield "two hosts unlike by category, 45%", rng.normal(0, 0.45, (_CATEGORIES, 2)), (0.3, 0.5)


def measure_unlike(made: Iterable[Made], seeds: Sequence[int], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """For each fleet and load: p99 of each policy, mean over the seeds, and least request's p99 over ours.

    Args:
        made: of `fleets`.
    """
    rows = []
    for name, log_factor, loads in made:
        benches = [Bench(_scenario(name, log_factor), seed) for seed in seeds]
        for load in loads:
            p99_ms = {
                policy: np.array([bench.run(policy, load, 1).p99_s for bench in benches]) * 1000 for policy in POLICIES
            }
            ratio = p99_ms["least_request"] / p99_ms["fingerpost"]
            row = {
                **{"fleet": name, "load": load},
                **{f"{policy}_p99_ms": round(float(each.mean()), 1) for policy, each in p99_ms.items()},
                **{"gain": round(float(ratio.mean()), 3), "low": round(float(ratio.min()), 3)},
                **{"high": round(float(ratio.max()), 3)},
            }
            rows.append(row)
            say(str(row))
    return rows


def _scenario(name: str, log_factor: Floats) -> Scenario:
    return Scenario.model_validate(
        {
            "name": name,
            "fleet": {"kind": "matrix", "service_time_s": (_MEAN_S * np.exp(log_factor)).tolist()},
            "slots": _PLACES,
            "service_time": {"kind": "lognormal", "cv": _CV},
            "warmup_s": 60.0,
            "duration_s": 60.0,
        }
    )
