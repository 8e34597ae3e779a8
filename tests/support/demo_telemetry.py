"""Telemetry like the demo fleet's, without the fleet: hosts in classes, each class fast at some kinds of work."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from examples.demo.classes import HOST_CLASSES, demo_hosts
from examples.demo.work import KINDS, amount_of_work
from fingerpost.agent.batches import write_batch
from fingerpost.clock import US
from fingerpost.features.ingest import ingest
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD

_BASE_CPU_S = dict(zip(KINDS, (0.008, 0.010, 0.006, 0.007, 0.005, 0.009), strict=True))
_AUTH = ("none", "bearer", "cookie")


def write_demo_lake(lake: Path, hosts: int, seconds: int, rate_rps: float, **options: Any) -> None:
    """As `write_demo_inbox`, ingested."""
    write_demo_inbox(lake, hosts, seconds, rate_rps, **options)
    ingest(lake, "shop", 5, 86_400)


def write_demo_inbox(
    lake: Path,
    hosts: int,
    seconds: int,
    rate_rps: float,
    seed: int = 0,
    slowed: tuple[str, str] | None = None,
    end_s: float | None = None,
    service: str = "shop",
) -> None:
    """Batches of requests spread evenly over the hosts; CPU follows kind, size and host class.

    Args:
        slowed: a host class and a kind of work that takes three times as long in the second half.
        end_s: they end in the minute before this, seconds since 1970; None: now.
    """
    rng = np.random.default_rng(seed)
    begin = (round(end_s or time.time()) // 60 - seconds // 60 - 1) * 60 * US
    count = round(seconds * rate_rps / hosts)
    for host in demo_hosts(hosts, 9100):
        kind_of = rng.choice(list(KINDS), count)
        size = np.where(rng.random(count) < 0.3, 0, np.minimum(131072, rng.lognormal(6.93, 1.6, count))).astype(int)
        at = np.sort(rng.integers(0, seconds * US, count))
        wave = 1 + 0.5 * np.sin(2 * np.pi * at / US / 40)
        rows = []
        for number in range(count):
            kind = str(kind_of[number])
            work = amount_of_work(int(size[number]), HOST_CLASSES[host.host_class].multiplier(kind))
            cpu_s = _BASE_CPU_S[kind] * work * rng.lognormal(0, 0.2)
            if slowed == (host.host_class, kind) and at[number] > seconds * US // 2:
                cpu_s *= 3
            duration_s = cpu_s * (1 + 0.5 * wave[number] * rng.exponential())
            rows.append(
                {
                    **{"time": begin + int(at[number]), "service": service, "host": host.name, "method": "POST"},
                    **{"route": f"/work/{kind}", "status": 200, "bytes_in": int(size[number]), "bytes_out": 10},
                    **{"auth": str(rng.choice(_AUTH)), "user_agent_class": "browser", "region": "none"},
                    **{"duration_s": duration_s, "service_time_s": duration_s * 0.95, "cpu_s": cpu_s},
                    "inflight": int(wave[number] * 2),
                }
            )
        samples = []
        for second in range(seconds):
            load = 0.3 + 0.15 * np.sin(2 * np.pi * second / 40) + rng.normal(0, 0.02)
            samples.append(
                {
                    **{"time": begin + second * US, "service": service, "host": host.name, "cores": 1.0},
                    **{"cpu_util": float(load), "mem_bytes": 100, "mem_limit_bytes": 1000, "inflight": 1, "slots": 4},
                }
            )
        write_batch(lake, "samples", HOST_SAMPLE, samples, host.name)
        write_batch(lake, "requests", REQUEST_RECORD, rows, host.name)
