"""`python -m benchmarks foresight`: hosts that slow down by a rule, behind real Envoy, with real agents and the engine.

Hosts sleep instead of working. Least request and the baseline route first; the model, trained on all that was seen
meanwhile, routes last. Policies meet traffic of the same rate, not the same spells: schedules go on by the clock.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.anticipate import near_spells
from benchmarks.envoy import BASELINE, MODEL, PEER
from benchmarks.learning_fleet import LearningFleet, learning_fleet
from examples.demo.classes import Job
from examples.demo.measured import requests_between
from fingerpost.cli.stack.ports import free_ports
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.settings import LOOPBACK
from tests.support.open_loop import Outcome, drive
from tests.support.running import fleet_process, running_envoy
from tests.support.sleeping_hosts import Credits
from tests.support.sleeping_scenario import Scenario, make_scenario, plan

CAUSES = ("jobs", "credits")
_HOSTS, _CATEGORIES, _SLOTS, _MEAN_S, _SIGMA = 10, 6, 4, 0.12, 0.3
_JOB_HOSTS, _JOB_S, _JOB_TIMES = 4, 15.0, 6.0
_JOB_PERIODS_S = (60.0, 90.0)
# Throttled after some minutes of usual work, for some 20 s.
_CREDIT_HOSTS, _LIMITS_S = 4, (12.0, 24.0)
_AHEAD_S, _PIECE_S, _PATIENCE_S, _TABLE_S = 10.0, 10.0, 10.0, 60.0


@dataclass(frozen=True)
class Spell:
    """A host that is slow from one time to another, seconds since 1970."""

    host: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        warm_up_s: for how long requests are routed at random, before least request and the baseline route.
        seconds: for how long each policy routes.
        load: share of what the fleet carries at most while no host is slow.
    """

    cause: str = "jobs"
    warm_up_s: float = 150.0
    seconds: float = 120.0
    load: float = 0.6
    seed: int = 1

    def __post_init__(self) -> None:
        if self.cause not in CAUSES:
            raise FingerpostError(f"--cause {self.cause!r} is none of {', '.join(CAUSES)}")


def made_causes(cause: str, seed: int) -> dict[str, Any]:
    """What slows the hosts down, each by its own rule: `jobs` or `credits` of a `SleepingFleet`."""
    rng = np.random.default_rng(seed)
    if cause == "jobs":
        periods_s = rng.uniform(*_JOB_PERIODS_S, _JOB_HOSTS)
        jobs = [Job(float(every), _JOB_S, _JOB_TIMES, float(rng.uniform(0, every))) for every in periods_s]
        return {"jobs": [*jobs, *[None] * (_HOSTS - _JOB_HOSTS)]}
    limits = [Credits(float(limit_s)) for limit_s in rng.uniform(*_LIMITS_S, _CREDIT_HOSTS)]
    return {"credits": [*limits, *[None] * (_HOSTS - _CREDIT_HOSTS)]}


def job_spells(jobs: list[Job | None], hosts: list[str], begin_s: float, end_s: float) -> list[Spell]:
    """The jobs that begin in a span of time, seconds since 1970, in order of time."""
    spells = []
    for host, job in zip(hosts, jobs, strict=True):
        if job:
            first = np.ceil((begin_s - job.after_s) / job.every_s) * job.every_s + job.after_s
            spells += [Spell(host, at, at + job.for_s) for at in np.arange(first, end_s, job.every_s).tolist()]
    return sorted(spells, key=lambda each: each.begin_s)


def told_spells(lines: str, hosts: list[str], begin_s: float, end_s: float) -> list[Spell]:
    """The spells that began in a span of time, out of what the hosts wrote; see `SleepingFleet`.

    One that has not ended lasts until `end_s`.
    """
    open_since: dict[str, float] = {}
    spells = []
    for line in lines.splitlines():
        number, at, slow = line.split()
        host = hosts[int(number)]
        if slow == "1":
            open_since[host] = float(at)
        elif host in open_since:
            spells.append(Spell(host, open_since.pop(host), float(at)))
    spells += [Spell(host, since, end_s) for host, since in open_since.items()]
    return sorted((each for each in spells if begin_s <= each.begin_s < end_s), key=lambda each: each.begin_s)


def figures(requests: pd.DataFrame, spells: list[Spell]) -> dict[str, Any]:
    """What clients saw, overall and in the first 15 s of spells, and where requests went before these.

    Args:
        requests: of `examples.demo.measured.requests_between`.

    Returns:
        Latencies in ms, NaN where there were no requests. `ahead_share` is the share that the hosts that then slowed
        down got in the 10 s before, `usual_share` the one that the same hosts got at other times outside spells, in
        each case the mean over spells.
    """
    sent_s = (requests["at_s"] - requests["duration_s"]).to_numpy(np.float64)
    took_s, at = requests["duration_s"].to_numpy(np.float64), requests["host"].to_numpy()
    near = near_spells(sent_s, np.array([each.begin_s for each in spells]))
    usual: list[float] = []
    ahead: list[float] = []
    for spell in spells:
        before = (sent_s >= spell.begin_s - _AHEAD_S) & (sent_s < spell.begin_s)
        own = [each for each in spells if each.host == spell.host]
        fine = np.ones(len(sent_s), dtype=np.bool_)
        for each in own:
            fine &= ~((sent_s >= each.begin_s - _AHEAD_S) & (sent_s < each.end_s))
        for found, span in ((ahead, before), (usual, fine)):
            if span.any():
                found.append(float((at[span] == spell.host).mean()))

    def mean(shares: list[float]) -> float:
        return round(float(np.mean(shares)), 4) if shares else float("nan")

    def cut(values: np.ndarray, share: float) -> float:
        return round(1000 * float(np.quantile(values, share)), 1) if len(values) else float("nan")

    return {
        "requests": len(requests),
        "failed": int((requests["status"] != 200).sum()),
        "p50_ms": cut(took_s, 0.5),
        "p99_ms": cut(took_s, 0.99),
        "spells": len(spells),
        "spell_requests": int(near.sum()),
        "spell_p99_ms": cut(took_s[near], 0.99),
        "ahead_share": mean(ahead),
        "usual_share": mean(usual),
    }


@dataclass
class _Bench:
    """A fleet with its loop, and what it is measured with."""

    options: Options
    scenario: Scenario
    upstreams: list[Upstream]
    folder: Path
    log: Path
    learning: LearningFleet
    causes: dict[str, Any]
    spells: Path
    parts: int = 0

    def route(self, policy: str, seconds: float, until: Callable[[], bool] | None = None) -> dict[str, Any]:
        """Routes for so long, or in pieces until something is so; returns `figures`, and how late requests were."""
        began_s, late_s, answered = time.time(), 0.0, 0
        port, admin = free_ports(2)
        table = self.learning.table if policy in (BASELINE, MODEL) else None
        config = envoy_config(
            self.upstreams, self.log, LOOPBACK, port, admin, policy.removesuffix("-model"), table=table
        )
        with running_envoy(config, self.folder, admin):
            while True:
                outcome = self._send(port, seconds)
                late_s, answered = max(late_s, outcome.late_s), answered + outcome.statuses["200"]
                if until is None or until():
                    break
        self.learning.check()
        ended_s, hosts = time.time(), [each.name for each in self.upstreams]
        if "jobs" in self.causes:
            spells = job_spells(self.causes["jobs"], hosts, began_s, ended_s)
        else:
            lines = self.spells.read_text() if self.spells.exists() else ""
            spells = told_spells(lines, hosts, began_s, ended_s)
        found = figures(requests_between(self.log, "bench", began_s, ended_s + 1), spells)
        return {**found, "answered": answered, "sent_late_ms": round(1000 * late_s, 1)}

    def _send(self, port: int, seconds: float) -> Outcome:
        self.parts += 1
        requests = plan(
            self.scenario, self.options.load * self.scenario.bound_rps, seconds, self.options.seed + self.parts
        )
        return asyncio.run(drive(port, requests, _PATIENCE_S))


def measure_foresight(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """What least request, the baseline and the model make of hosts that slow down by a rule."""
    scenario = make_scenario(_HOSTS, _CATEGORIES, _SLOTS, _MEAN_S, _SIGMA, options.seed)
    causes = made_causes(options.cause, options.seed)
    with tempfile.TemporaryDirectory(prefix="fingerpost-foresight-") as text, ExitStack() as stack:
        folder = Path(text)
        log, spells = folder / "access.log", folder / "spells"
        upstreams, _ = stack.enter_context(fleet_process(scenario, spells=str(spells), **causes))
        say(f"{_HOSTS} hosts carry at most {scenario.bound_rps:.0f} requests/s; starting their agents, and the engine")
        learning = stack.enter_context(learning_fleet(folder / "home", upstreams, log, scenario.slots, None))
        bench = _Bench(options, scenario, upstreams, folder, log, learning, causes, spells)
        say(f"a warm-up of {options.warm_up_s:.0f} s, routed at random")
        answered = bench.route("random", options.warm_up_s)["answered"]
        learning.start_router()
        learning.wait_for_table(_TABLE_S)
        results = {}
        for policy in (PEER, BASELINE):
            results[policy] = bench.route(policy, options.seconds)
            answered += results[policy]["answered"]
            say(f"{policy}: {results[policy]}")
        say("training on all that was measured, while the baseline routes")
        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(learning.learn, answered, say)
            bench.route(BASELINE, _PIECE_S, training.done)
            learned = training.result()
        results[MODEL] = bench.route(MODEL, options.seconds)
        say(f"{MODEL}: {results[MODEL]}")
    return {"cause": options.cause, "load": options.load, "learned": learned, "policies": results}
