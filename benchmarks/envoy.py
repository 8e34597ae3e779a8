"""`python -m benchmarks envoy`: real Envoy before an emulated fleet, its own policies and ours on the same arrivals."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learn_table import decisions, learn_table, table_error
from benchmarks.learning_fleet import LearningFleet, learning_fleet
from fingerpost.cli.stack.ports import free_ports
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.routing.router import write_table
from fingerpost.settings import LOOPBACK, get_settings
from tests.support.open_loop import Outcome, drive
from tests.support.running import fleet_process, running_envoy
from tests.support.sleeping_scenario import Scenario, make_scenario, plan

LEARNED, MEASURED = "fingerpost", "fingerpost-measured"
POLICIES = ("round_robin", "least_request", "least_request_full", "orca", MEASURED, LEARNED)
_WARM_S = 3.0
# Requests sent later than this were not sent as planned: something else had the machine, and the run is repeated.
_LATE_S, _REPEATS = 0.1, 2
_WARM_UP_LOAD = 0.3
_MEASURED_VALID_S = 3600.0


@dataclass
class _Bench:
    """What the runs have in common.

    Args:
        log: all runs write into it, whatever their policy, as a fleet's telemetry goes on whatever routes.
        learning: what learns from that log, if it is asked for.
    """

    scenario: Scenario
    upstreams: list[Upstream]
    folder: Path
    log: Path
    seed: int
    learning: LearningFleet | None
    say: Callable[[str], None]

    @property
    def measured_table(self) -> Path:
        return self.folder / "measured.table"

    def warm_up(self, seconds: float) -> int:
        """Traffic that is routed at random; returns how many requests were answered."""
        rate = _WARM_UP_LOAD * self.scenario.bound_rps
        return self._drive("random", None, rate, seconds, self.seed + 7)[0].statuses["200"]

    def measure_table(self) -> dict[str, Any]:
        """Writes the table that is measured from the log so far."""
        settings = get_settings()
        made = learn_table(self.log, self.scenario.slots, settings, _MEASURED_VALID_S)
        made = replace(made, settings=replace(made.settings, exploration=settings.exploration))
        write_table(self.measured_table, made)
        return {"version": made.version, "error": table_error(made, self.scenario.service_s)}

    def run(self, policy: str, load: float, seconds: float, slo_s: float) -> dict[str, Any]:
        """One policy at one load: the same requests at the same times for every policy."""
        table = self.measured_table if policy == MEASURED else None
        if policy == LEARNED and self.learning:
            table = self.learning.table
        rate, seed = load * self.scenario.bound_rps, self.seed + round(load * 1000)
        repeats = 0
        while True:
            begin = self.log.stat().st_size
            outcome, beside = self._drive(policy.partition("-")[0], table, rate, seconds, seed)
            if outcome.late_s <= _LATE_S or repeats == _REPEATS:
                break
            repeats += 1
            self.say(f"{policy} at {load:g}: requests were sent up to {outcome.late_s:.2f} s late")
        row = {**_figures(outcome, slo_s), "repeats": repeats}
        if self.learning:
            self.learning.check()
            row["learning_cores"] = beside
        if table:
            row["decisions"] = decisions(self.log, begin)
        return row

    def _drive(self, policy: str, table: Path | None, rate: float, seconds: float, seed: int) -> tuple[Outcome, float]:
        """A short time to warm up (ORCA weights need reports) and then the requests, in an Envoy of their own.

        Returns:
            What became of the requests, and how many cores were used meanwhile by what learns.
        """
        port, admin = free_ports(2)
        config = envoy_config(self.upstreams, self.log, LOOPBACK, port, admin, policy, table=table)
        warm = plan(self.scenario, 0.4 * self.scenario.bound_rps, _WARM_S, self.seed + 3)
        requests = plan(self.scenario, rate, seconds, seed)
        with running_envoy(config, self.folder, admin):
            asyncio.run(drive(port, warm, 5))
            used, began = self._learning_cpu_s(), time.monotonic()
            outcome = asyncio.run(drive(port, requests, 10))
            cores = (self._learning_cpu_s() - used) / (time.monotonic() - began)
        return outcome, round(cores, 2)

    def _learning_cpu_s(self) -> float:
        return self.learning.cpu_s() if self.learning else 0.0


def measure_envoy(
    hosts: int,
    seconds: float,
    loads: list[float],
    policies: list[str],
    slo_s: float,
    seed: int,
    warm_up_s: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Latency percentiles of every policy at every load, a share of what the fleet can carry at most.

    Every policy has its own Envoy and gets the same arrivals with the same sizes. A warm-up is routed at random. What
    it tells of the hosts goes two ways: into a table of plain means (`fingerpost-measured`), and through the agents,
    features, training, registry, engine and router (`fingerpost`), which all go on during the runs.
    """
    scenario = make_scenario(hosts, 12, 4, 0.12, 0.45, seed)
    results: dict[str, Any] = {policy: {} for policy in policies}
    learned: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as text,
        fleet_process(scenario) as (upstreams, pid),
        ExitStack() as stack,
    ):
        folder = Path(text)
        log = folder / "access.log"
        learning = None
        say(f"{hosts} hosts x {scenario.slots} slots carry at most {scenario.bound_rps:.0f} requests/s of this mix")
        if LEARNED in policies:
            say("starting an agent for every host, and the engine")
            learning = stack.enter_context(learning_fleet(folder / "home", upstreams, log, scenario.slots, pid))
        bench = _Bench(scenario, upstreams, folder, log, seed, learning, say)
        say(f"a warm-up of {warm_up_s:.0f} s, routed at random")
        answered = bench.warm_up(warm_up_s)
        measured = bench.measure_table()
        if learning:
            say(f"training on {answered} requests")
            learned = learning.learn(answered, say)
        for load in loads:
            for policy in policies:
                results[policy][f"{load:g}"] = row = bench.run(policy, load, seconds, slo_s)
                say(f"{policy:19} {load:4.2f} {row}")
        table = learning.read_table() if learning else None
        if table:
            learned["error"] = table_error(table, scenario.service_s)
    return {
        "hosts": hosts,
        "bound_rps": round(scenario.bound_rps, 1),
        "slo_ms": slo_s * 1000,
        "warm_up_requests": answered,
        "measured": measured,
        "learned": learned,
        "policies": results,
        "highest_load_at_slo": {policy: _highest(rows, slo_s) for policy, rows in results.items()},
    }


def _figures(outcome: Outcome, slo_s: float) -> dict[str, Any]:
    answered = np.array(outcome.latencies_s or [np.inf])
    failed = sum(count for status, count in outcome.statuses.items() if status != "200")
    total = sum(outcome.statuses.values())
    cuts = np.percentile(answered, [50, 90, 99, 99.9])
    return {
        "requests": total,
        "failed": failed,
        **{
            f"{name}_ms": round(float(cut) * 1000, 1)
            for name, cut in zip(("p50", "p90", "p99", "p999"), cuts, strict=True)
        },
        "within_slo": round(float((answered <= slo_s).sum()) / max(total, 1), 4),
        "sent_late_ms": round(outcome.late_s * 1000, 1),
    }


def _highest(rows: dict[str, Any], slo_s: float) -> float:
    """The highest load whose p99 keeps the objective, all lower ones keeping it too; 0 if none does."""
    best = 0.0
    for load in sorted(rows, key=float):
        if rows[load]["p99_ms"] > slo_s * 1000 or rows[load]["failed"] > 0.001 * rows[load]["requests"]:
            break
        best = float(load)
    return best
