"""`python -m benchmarks llm`: ours and inference gateways, in a simulated pool of unlike accelerators."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.errors import FingerpostError
from fingerpost.simulator.llm import (
    HEURISTICS,
    OURS,
    POLICIES,
    Seen,
    learn_pool,
    pool_capacity_rps,
    pool_hosts,
    run_pool,
    seen,
)
from fingerpost.simulator.llm_traffic import drawn_service, pool_traffic, read_service

WARMUP_S, MEASURED_S = 90.0, 210.0
# The capacity is of so much traffic: answers have a heavy tail.
_SAMPLE_S, _SAMPLE_RPS = 2000.0, 50.0
# `streamed` by a model that has learned from other traffic to the same hosts.
LEARNED = "learned"
_PAST_S, _PAST_LOAD, _DAY = 1200.0, 0.7, 1_000_003


@dataclass(frozen=True)
class Run:
    """One run; load is a share of what the pool can serve."""

    policy: str
    load: float
    pickers: int
    seed: int
    seen: Seen


def measure_llm(
    loads: Sequence[float],
    pickers: Sequence[int],
    seeds: Sequence[int],
    policies: Sequence[str],
    arrivals: Path | None,
    progress: Callable[[Run], None],
) -> list[Run]:
    """Runs every policy on the same requests.

    Args:
        arrivals: a trace of one service; None: services like it are drawn.

    Raises:
        FingerpostError: there is no such policy, or the trace cannot be used.
    """
    if unknown := set(policies) - {*POLICIES, LEARNED}:
        raise FingerpostError(f"unknown policy {sorted(unknown)[0]!r}: use {', '.join(POLICIES)}, {LEARNED}")
    hosts, found = pool_hosts(), []
    for seed in seeds:
        service = read_service(arrivals) if arrivals else drawn_service(seed)
        sample = pool_traffic(service, _SAMPLE_RPS, _SAMPLE_S, 1, seed)
        capacity_rps = pool_capacity_rps(hosts, sample.prompt, sample.answer)
        model = None
        if LEARNED in policies:
            past = pool_traffic(service, _PAST_LOAD * capacity_rps, _PAST_S, 1, seed + _DAY)
            model = learn_pool(hosts, past, seed + _DAY)
        for load in loads:
            for count in pickers:
                traffic = pool_traffic(service, load * capacity_rps, WARMUP_S + MEASURED_S, count, seed)
                for policy in policies:
                    named, bundle = ("streamed", model) if policy == LEARNED else (policy, None)
                    of = seen(run_pool(named, hosts, traffic, count, seed, bundle), WARMUP_S)
                    found.append(Run(policy, load, count, seed, of))
                    progress(found[-1])
    return found


def summarise(found: Sequence[Run]) -> list[dict[str, Any]]:
    """Means over seeds, a row for each load and number of pickers.

    Returns:
        p99 to the first and to the last token, seconds, of each policy; the heuristic with the least p99 to the first
        token as `best`, and ours over it as ratios.
    """
    rows = []
    for load, pickers in sorted({(run.load, run.pickers) for run in found}):
        of = [run for run in found if (run.load, run.pickers) == (load, pickers)]
        row: dict[str, Any] = {"load": load, "pickers": pickers}
        first: dict[str, float] = {}
        for policy in dict.fromkeys(run.policy for run in of):
            runs = [run.seen for run in of if run.policy == policy]
            first[policy] = float(np.mean([each.first_p99_s for each in runs]))
            row[f"{policy}_first_p99_s"] = round(first[policy], 3)
            row[f"{policy}_end_p99_s"] = round(float(np.mean([each.end_p99_s for each in runs])), 3)
        rivals = {policy: value for policy, value in first.items() if policy in HEURISTICS}
        if rivals:
            row["best"] = min(rivals, key=lambda policy: rivals[policy])
            row |= {
                f"{policy}_ratio": round(first[policy] / rivals[row["best"]], 3)
                for policy in (*OURS, LEARNED)
                if policy in first
            }
        rows.append(row)
    return rows


def as_json(found: Sequence[Run]) -> dict[str, Any]:
    """The runs, and what they come to."""
    return {"rows": summarise(found), "runs": [asdict(run) for run in found]}
