"""Clients of the demo fleet: arrivals that burst, and a mix of routes, sizes, auth methods, agents and regions."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from examples.demo.work import KINDS

_MAX_PAYLOAD = 128 * 1024
_MAX_IN_FLIGHT = 200
# What is compared holds whole waves, and each wave favours every kind for as long.
WAVE_S = 20.0
_CALM_S, _BURST_S = 10.0, 1.5
_MEAN = (_CALM_S + 2.0 * _BURST_S) / (_CALM_S + _BURST_S)
_HIGHEST = 1.5 * 2.0 / _MEAN
_AUTH: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer demo"},
    {"authorization": "Basic ZGVtbzpkZW1v"},
    {"x-api-key": "demo"},
    {"cookie": "session=demo"},
]
_USER_AGENTS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "python-requests/2.32",
    "Mozilla/5.0 (compatible; ExampleBot/2.1; +http://example.org/bot)",
]
_REGIONS = ["DE", "US", "IN", "BR", ""]


@dataclass(frozen=True)
class Arrival:
    """One request to come, at `at_s` seconds after the beginning."""

    at_s: float
    kind: str
    payload_bytes: int
    headers: dict[str, str]


@dataclass
class LoadReport:
    """What became of the requests."""

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    durations_s: list[float] = field(default_factory=list)


def arrivals(rate_rps: float, seconds: float, seed: int) -> Iterator[Arrival]:
    """Arrivals of a Poisson process whose rate breathes (0.5 to 1.5 of the mean, every 20 s) and bursts.

    A burst, twice the rate, begins every 10 s and lasts 1.5 s, both on average. Sizes are log-normal (median 1 KiB),
    each kind is favoured in turn, once a wave.
    """
    rng = random.Random(seed)
    now, burst, switch_at = 0.0, False, rng.expovariate(1 / _CALM_S)
    kinds = list(KINDS)
    while True:
        # Thinning (Lewis and Shedler, 1979): candidates at the highest rate, kept in proportion to the present one.
        now += rng.expovariate(rate_rps * _HIGHEST)
        if now >= seconds:
            return
        while now >= switch_at:
            burst = not burst
            switch_at += rng.expovariate(1 / (_BURST_S if burst else _CALM_S))
        wave = 1 + 0.5 * math.sin(2 * math.pi * now / WAVE_S)
        if rng.random() * _HIGHEST > wave * (2.0 if burst else 1.0) / _MEAN:
            continue
        favoured = int(now / WAVE_S * len(kinds)) % len(kinds)
        kind = rng.choices(kinds, [2.0 if index == favoured else 1.0 for index in range(len(kinds))])[0]
        size = 0 if rng.random() < 0.3 else min(_MAX_PAYLOAD, int(rng.lognormvariate(6.93, 1.6)))
        region = rng.choices(_REGIONS, [4, 3, 2, 1, 1])[0]
        headers = {
            **rng.choices(_AUTH, [2, 4, 1, 2, 2])[0],
            "user-agent": rng.choices(_USER_AGENTS, [4, 3, 2, 1])[0],
            **({"cf-ipcountry": region} if region else {}),
        }
        yield Arrival(now, kind, size, headers)


async def drive(url: str, planned: Iterator[Arrival], host: str = "") -> LoadReport:
    """Sends every arrival at its time (an open loop: a slow answer delays nobody else) and waits for the last.

    At most 200 requests are under way at once; past that an arrival counts as `dropped`, which bounds our memory.

    Args:
        host: the header `host` of the requests; empty: as the URL says.
    """
    report, under_way = LoadReport(), set[asyncio.Task[None]]()
    limits = httpx.Limits(max_connections=_MAX_IN_FLIGHT, max_keepalive_connections=_MAX_IN_FLIGHT)
    payload = random.Random(0).randbytes(_MAX_PAYLOAD)
    started = time.monotonic()
    named = {"host": host} if host else {}
    async with httpx.AsyncClient(base_url=url, headers=named, limits=limits, timeout=30, trust_env=False) as client:
        for arrival in planned:
            await asyncio.sleep(max(0.0, arrival.at_s - (time.monotonic() - started)))
            report.sent += 1
            if len(under_way) >= _MAX_IN_FLIGHT:
                report.statuses["dropped"] += 1
                continue
            task = asyncio.create_task(_send(client, arrival, payload, report))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return report


async def _send(client: httpx.AsyncClient, arrival: Arrival, payload: bytes, report: LoadReport) -> None:
    began = time.monotonic()
    try:
        answer = await client.post(
            f"/work/{arrival.kind}", content=payload[: arrival.payload_bytes], headers=arrival.headers
        )
    except httpx.HTTPError as error:
        report.statuses[type(error).__name__] += 1
        return
    report.statuses[str(answer.status_code)] += 1
    report.durations_s.append(time.monotonic() - began)
