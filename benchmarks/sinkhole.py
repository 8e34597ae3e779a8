"""`python -m benchmarks sinkhole`: a host that answers errors, faster than its neighbours answer, before real Envoy.

Each policy has an Envoy and a fleet of its own and meets the same requests at the same times. All hosts are well while
Fingerpost learns; then one fails a share of its requests, and every error that a client sees is counted.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.learning_fleet import LearningFleet, learning_fleet
from fingerpost.cli.stack.ports import free_ports
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.settings import LOOPBACK
from tests.support.open_loop import Outcome, drive
from tests.support.running import fleet_process, make_sick, running_envoy
from tests.support.sleeping_hosts import Sickness
from tests.support.sleeping_scenario import Scenario, make_scenario, plan

FINGERPOST, EJECTING, PLAIN = "fingerpost", "least_request", "least_request_plain"
POLICIES = (FINGERPOST, EJECTING, PLAIN)
_CATEGORIES, _SLOTS, _MEAN_S, _SIGMA = 6, 8, 0.05, 0.45
_PATIENCE_S, _TABLE_S = 10.0, 60.0
_SICK_HOST = 0


@dataclass(frozen=True)
class Trial:
    """What one host does, or all hosts to one category, and how many requests a second there are."""

    rate: float
    sickness: Sickness
    everywhere: bool = False

    @property
    def name(self) -> str:
        sick = self.sickness
        where = f"category {sick.category} of all hosts" if self.everywhere else "one host"
        return f"{self.rate:g}/s, {where} fails {sick.share:.0%} after {sick.after_s * 1000:g} ms"


@dataclass(frozen=True)
class _Lane:
    """A policy with its Envoy and its fleet."""

    policy: str
    port: int
    admin: int
    upstreams: list[Upstream]
    log: Path

    def fall_ill(self, trial: Trial) -> None:
        for host in self.upstreams if trial.everywhere else [self.upstreams[_SICK_HOST]]:
            make_sick(host, trial.sickness)

    def ejections(self) -> int:
        """How often a host was left out by now."""
        name = "cluster.hosts.outlier_detection.ejections_enforced_total"
        text = httpx.get(f"http://{LOOPBACK}:{self.admin}/stats?filter={name}", trust_env=False).text
        return int(text.rpartition(": ")[2] or 0)


def trials(rates: list[float], shares: list[float], after_s: list[float], everywhere: bool = False) -> list[Trial]:
    """Every share at every rate, fast and slow.

    Args:
        everywhere: not one host fails, but all do at one category's requests.
    """
    return [Trial(rate, Sickness(share, after), everywhere) for rate in rates for after in after_s for share in shares]


def measure_sinkhole(
    hosts: int,
    wanted: list[Trial],
    policies: list[str],
    seconds: float,
    warm_up_s: float,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The share of errors that clients see, for every trial and policy.

    Fingerpost's table is the engine's, without a model: an agent for each host reads Envoy's log, with the settings
    as they are shipped. `least_request` has the generated configuration; `least_request_plain` the same without
    outlier ejection, as Envoy has it when nothing is configured.
    """
    scenario = make_scenario(hosts, _CATEGORIES, _SLOTS, _MEAN_S, _SIGMA, seed)
    results: dict[str, Any] = {}
    for asked in wanted:
        trial = asked
        if asked.everywhere:
            # The category that comes nearest to a fifth of the traffic.
            category = int(abs(scenario.mix - 0.2).argmin())
            trial = replace(asked, sickness=replace(asked.sickness, category=category))
            say(f"category {category} is {scenario.mix[category]:.0%} of the traffic")
        results[trial.name] = asyncio.run(_meet(trial, scenario, policies, seconds, warm_up_s, seed))
        say(f"{trial.name}: {json.dumps(results[trial.name])}")
    return {"hosts": hosts, "seconds": seconds, "warm_up_s": warm_up_s, "trials": results}


async def _meet(
    trial: Trial, scenario: Scenario, policies: list[str], seconds: float, warm_up_s: float, seed: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as text, ExitStack() as stack:
        folder = Path(text)
        lanes = [stack.enter_context(_lane(policy, scenario, folder)) for policy in policies]
        learning = next((fleet for _, fleet in lanes if fleet), None)
        warm = plan(scenario, trial.rate, warm_up_s, seed)
        halves = [plan(scenario, trial.rate, seconds / 2, seed + part) for part in (1, 2)]
        await _drive_all(lanes, warm)
        if learning:
            await asyncio.to_thread(learning.start_router)
            await asyncio.to_thread(learning.wait_for_table, _TABLE_S)
        for lane, _ in lanes:
            lane.fall_ill(trial)
        first, second = [await _drive_all(lanes, half) for half in halves]
        if learning:
            learning.check()
        return {lane.policy: _figures(lane, first[place], second[place]) for place, (lane, _) in enumerate(lanes)}


async def _drive_all(
    lanes: list[tuple[_Lane, LearningFleet | None]], requests: list[tuple[float, bytes]]
) -> list[Outcome]:
    return await asyncio.gather(*(drive(lane.port, requests, _PATIENCE_S) for lane, _ in lanes))


def _figures(lane: _Lane, first: Outcome, second: Outcome) -> dict[str, Any]:
    """Shares of the requests that failed: in all, and in the second half alone; and how often hosts were left out."""
    shares = [1 - one.statuses["200"] / max(sum(one.statuses.values()), 1) for one in (first, second)]
    requests = sum(sum(one.statuses.values()) for one in (first, second))
    failed = requests - first.statuses["200"] - second.statuses["200"]
    return {
        "requests": requests,
        "failed": failed,
        "failed_share": round(failed / max(requests, 1), 4),
        "second_half": round(shares[1], 4),
        "ejections": lane.ejections(),
        "sent_late_ms": round(max(first.late_s, second.late_s) * 1000, 1),
    }


@contextmanager
def _lane(policy: str, scenario: Scenario, folder: Path) -> Iterator[tuple[_Lane, LearningFleet | None]]:
    port, admin = free_ports(2)
    log = folder / f"{policy}.log"
    with ExitStack() as stack:
        upstreams, pid = stack.enter_context(fleet_process(scenario))
        learning = None
        if policy == FINGERPOST:
            home = folder / "home"
            learning = stack.enter_context(learning_fleet(home, upstreams, log, scenario.slots, pid))
        table = learning.table if learning else None
        config = envoy_config(upstreams, log, LOOPBACK, port, admin, policy.removesuffix("_plain"), table=table)
        if policy == PLAIN:
            config["static_resources"]["clusters"][0].pop("outlier_detection")
        stack.enter_context(running_envoy(config, folder, admin))
        yield _Lane(policy, port, admin, upstreams, log), learning
