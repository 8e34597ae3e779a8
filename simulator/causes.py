"""Parts of a scenario for which hosts slow down and recover: jobs, credits and memory, restarts, churn.

What belongs to a host (whether it is affected, its period, its phase) is drawn by the fleet's seed and persists. What
belongs to a day (the clock's offset, jitter, when hosts restart) is drawn by the day's.
"""

from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fingerpost.arrays import Floats, Ints

_Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Factor = Annotated[float, Field(ge=1, le=1000)]
_Ordered = tuple[_Positive, _Positive]
# Streams of the random generator, apart from those of fleets and traffic.
_HOSTS, _DAYS, _RESERVOIRS, _RESTARTS, _CHURN = range(20, 25)
# A day's clock is off by at most this much when a run begins.
_CLOCK_S = 86_400.0


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Jobs(_Part):
    """Jobs that slow a host down at regular times.

    Attributes:
        share: of the hosts that have one.
        period_s, for_s: ranges of each host's period and of how long its job takes.
        jitter_s: by how much a job begins early or late at most.
        factor: range of how many times slower the host then is.
    """

    share: _Share = 0.3
    period_s: _Ordered = (120.0, 300.0)
    for_s: _Ordered = (15.0, 40.0)
    jitter_s: _Seconds = 2.0
    factor: tuple[_Factor, _Factor] = (4.0, 4.0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("period_s", "for_s", "factor"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low:g} is above {high:g}")
        if self.for_s[1] + 2 * self.jitter_s >= self.period_s[0]:
            raise ValueError(f"jobs of {self.for_s[1]:g} s do not fit into a period of {self.period_s[0]:g} s")
        return self


class Reservoir(_Part):
    """Something that work or time fills: used burst credits, which time drains, or memory until the next collection.

    Levels are in seconds of a host that is wholly busy. At the limit the host becomes slow, until it is at `resume`.

    Attributes:
        share: of the hosts that have one.
        limit_s: range of each host's limit.
        resume: share of the limit at which a slow host recovers.
        by_work, by_time: what a second fills of a host that is wholly busy, and of any.
        drain: what a second drains at all times.
        slow_drain: what a second drains while the host is slow, instead of all that time fills or drains.
        factor: how many times slower it then is.
        shown: agents see the level, as the share of memory in use.
    """

    share: _Share = 0.4
    limit_s: _Ordered
    resume: _Share = 0.5
    by_work: _Seconds = 1.0
    by_time: _Seconds = 0.0
    drain: _Seconds = 0.0
    slow_drain: _Positive
    factor: Annotated[float, Field(gt=1, le=1000)]
    shown: bool = False


class Restarts(_Part):
    """Every host leaves for a short time, again and again, and comes back cold (see `Cold`).

    Attributes:
        every_s: range of the time between two restarts of a host.
        down_s: for so long it is away; requests on it end first.
    """

    every_s: _Ordered
    down_s: _Positive = 10.0


class Churn(_Part):
    """Every `every_s` a host that was never there joins, and the one that has been there longest leaves.

    Attributes:
        share: of the hosts that are there from the beginning.
    """

    every_s: _Positive
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Cold(_Part):
    """A host that comes is `factor` times as slow at first; of the excess 1/e is left after `recovers_s`."""

    factor: Annotated[float, Field(gt=1, le=1000)]
    recovers_s: _Positive


def job_factors(jobs: Jobs, hosts: int, ticks: int, tick_s: float, seed: int, day: int) -> Floats:
    """How many times slower jobs make each host, shape (ticks, hosts)."""
    own, drawn = np.random.default_rng([seed, _HOSTS]), np.random.default_rng([day, _DAYS])
    affected = own.permutation(hosts) < round(jobs.share * hosts)
    period_s, for_s, factor = (own.uniform(*each, hosts) for each in (jobs.period_s, jobs.for_s, jobs.factor))
    phase_s = own.random(hosts) * period_s
    clock_s = drawn.random() * _CLOCK_S
    factors = np.ones((ticks, hosts))
    for host in np.flatnonzero(affected).tolist():
        first = (phase_s[host] - clock_s) % period_s[host] - period_s[host]
        begins = np.arange(first, ticks * tick_s + period_s[host], period_s[host])
        begins += drawn.uniform(-jobs.jitter_s, jobs.jitter_s, len(begins))
        for begin_s in begins.tolist():
            span = np.clip(np.round(np.array([begin_s, begin_s + for_s[host]]) / tick_s), 0, ticks).astype(int)
            factors[span[0] : span[1], host] = factor[host]
    return factors


def reservoir_limits(reservoir: Reservoir, hosts: int, seed: int) -> Floats:
    """Each host's limit, seconds of a wholly busy host, shape (H,); infinite of hosts that have none."""
    own = np.random.default_rng([seed, _RESERVOIRS])
    affected = own.permutation(hosts) < round(reservoir.share * hosts)
    return np.where(affected, own.uniform(*reservoir.limit_s, hosts), np.inf)


def restart_times(restarts: Restarts, hosts: int, until_s: float, day: int) -> list[tuple[float, int]]:
    """When which host leaves to restart."""
    drawn = np.random.default_rng([day, _RESTARTS])
    times: list[tuple[float, int]] = []
    for host in range(hosts):
        at_s = drawn.random() * restarts.every_s[1]
        while at_s < until_s:
            times.append((at_s, host))
            at_s += restarts.down_s + drawn.uniform(*restarts.every_s)
    return times


def churned(churn: Churn, hosts: int, until_s: float, day: int) -> tuple[Ints, list[tuple[float, int, int]]]:
    """The hosts that are there from the beginning, and when which host joins and which leaves."""
    order = np.random.default_rng([day, _CHURN]).permutation(hosts)
    present = max(round(churn.share * hosts), 1)
    moves = min(hosts - present, int(until_s / churn.every_s))
    return order[:present], [
        ((move + 1) * churn.every_s, int(order[present + move]), int(order[move])) for move in range(moves)
    ]


def cold_factors(cold: Cold, ticks: int, tick_s: float, joined: list[tuple[float, int]], hosts: int) -> Floats:
    """How many times slower hosts are that have joined, shape (ticks, hosts); the last join counts."""
    factors, time_s = np.ones((ticks, hosts)), np.arange(ticks) * tick_s
    for at_s, host in sorted(joined):
        after = time_s >= at_s
        factors[after, host] = 1 + (cold.factor - 1) * np.exp(-(time_s[after] - at_s) / cold.recovers_s)
    return factors
