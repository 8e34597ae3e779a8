"""Small simulated fleets, and what queueing theory says of them."""

from math import factorial

from fingerpost.simulator.scenario import Scenario


def scenario(**changes):
    return Scenario.model_validate(
        {
            "name": "test",
            "fleet": {"kind": "classes", "hosts": 6, "classes": 3, "categories": 4, "affinity_sigma": 0.45},
            "slots": 4,
            "warmup_s": 12,
            "duration_s": 12,
            # What learned predictions are worth is in test_served.py.
            "predictions": {"kind": "ewma"},
            **changes,
        }
    )


def one_host(slots, mean_s, **changes):
    alone = {"fleet": {"kind": "matrix", "service_time_s": [[mean_s]]}, "slots": slots, "network_rtt_s": 0}
    return scenario(**{**alone, "warmup_s": 10, "duration_s": 600, "warmup_load": 1.0, **changes})


def all_chunks(bench, policy, load, pickers):
    chunks = []
    figures = bench.run(policy, load, pickers, watch=chunks.append)
    return figures, chunks


def erlang_c_wait_s(rate, mean_s, slots):
    """Mean wait of M/M/c: C(c, a) / (c mu - lambda)."""
    offered = rate * mean_s
    waits = offered**slots / factorial(slots) * slots / (slots - offered)
    chance = waits / (sum(offered**k / factorial(k) for k in range(slots)) + waits)
    return chance / (slots / mean_s - rate)
