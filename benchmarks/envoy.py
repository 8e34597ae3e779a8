"""`python -m benchmarks envoy`: real proxies before an emulated fleet, each policy on the same arrivals."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learn_table import decisions, learn_table, table_error
from benchmarks.learning_fleet import LearningFleet, learning_fleet
from benchmarks.rivals import RIVALS, running_rival
from fingerpost.cli.stack.ports import free_ports
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.routing.router import write_table
from fingerpost.settings import LOOPBACK, get_settings
from fingerpost.simulator.worth.worth import Options as WorthOptions
from fingerpost.simulator.worth.worth import what_it_is_worth
from tests.support.open_loop import Outcome, drive
from tests.support.running import fleet_process, make_sick, running_envoy
from tests.support.sleeping_hosts import Sickness
from tests.support.sleeping_scenario import Scenario, make_scenario, plan

BASELINE, MODEL, MEASURED, PEER = "fingerpost", "fingerpost-model", "fingerpost-measured", "least_request"
POLICIES = (PEER, "least_request_full", "round_robin", "orca", *RIVALS, BASELINE, MODEL, MEASURED)
DEFAULT = (PEER, "least_request_full", "orca", *RIVALS, BASELINE, MODEL)
_WARM_S, _TABLE_S = 3.0, 60.0
# Requests sent later than this were not sent as planned: something else had the machine, and the run is repeated.
_LATE_S, _REPEATS = 0.1, 2
_WARM_UP_LOAD, _WARM_LOAD = 0.3, 0.4
_MEASURED_VALID_S = 3600.0
_FAILS_AFTER_S = 0.001


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        seconds: for how long each policy meets each load; `warm_up_s`: for how long the fleet is learned before.
        proxies: each gets a part of the requests, at random, and counts its own.
        failing: of the first host's requests, the share that fails at once, from the end of the warm-up on.
        log_only: hosts tell nothing, and agents are not told how many places they have.
        predict: also say what `fingerpost worth` makes of least request's log.
    """

    hosts: int = 20
    seconds: float = 20.0
    loads: tuple[float, ...] = (0.3, 0.7)
    policies: tuple[str, ...] = DEFAULT
    slo_s: float = 0.5
    seed: int = 1
    warm_up_s: float = 90.0
    proxies: int = 1
    failing: float = 0.0
    log_only: bool = False
    predict: bool = False

    def __post_init__(self) -> None:
        if unknown := [each for each in self.policies if each not in POLICIES]:
            raise FingerpostError(f"policy {unknown[0]!r} is none of {', '.join(POLICIES)}")


@dataclass
class _Bench:
    """What the runs have in common.

    Args:
        log: all runs write into it, whatever their policy, as a fleet's telemetry goes on whatever routes.
        learning: what learns from that log, if it is asked for.
        slices: where in the log the requests of least request lie, by load, bytes.
    """

    options: Options
    scenario: Scenario
    upstreams: list[Upstream]
    folder: Path
    log: Path
    learning: LearningFleet | None
    say: Callable[[str], None]
    slices: dict[float, tuple[int, int]] = field(default_factory=dict)

    @property
    def measured_table(self) -> Path:
        return self.folder / "measured.table"

    def warm_up(self) -> int:
        """Traffic that is routed at random; returns how many requests were answered."""
        rate = _WARM_UP_LOAD * self.scenario.bound_rps
        with self._proxies("random", None) as ports:
            return self._send(ports, rate, self.options.warm_up_s, self.options.seed + 7).statuses["200"]

    def measure_table(self) -> dict[str, Any]:
        """Writes the table that is measured from the log so far."""
        settings = get_settings()
        made = learn_table(self.log, self.scenario.slots, settings, _MEASURED_VALID_S)
        made = replace(made, settings=replace(made.settings, exploration=settings.exploration))
        write_table(self.measured_table, made)
        return {"version": made.version, "error": table_error(made, self.scenario.service_s)}

    def run(self, policy: str, load: float) -> dict[str, Any]:
        """One policy at one load: the same requests at the same times for every policy."""
        table = self.measured_table if policy == MEASURED else None
        if policy in (BASELINE, MODEL) and self.learning:
            table = self.learning.table
        repeats = 0
        while True:
            begin, outcome, beside = self._meet(policy, load, table)
            if outcome.late_s <= _LATE_S or repeats == _REPEATS:
                break
            repeats += 1
            self.say(f"{policy} at {load:g}: requests were sent up to {outcome.late_s:.2f} s late")
        row = {**_figures(outcome, self.options.slo_s), "repeats": repeats}
        if policy == PEER:
            self.slices[load] = (begin, self.log.stat().st_size)
        if self.learning:
            self.learning.check()
            row["learning_cores"] = beside
        if table:
            row["decisions"] = decisions(self.log, begin)
        return row

    def predicted(self, load: float) -> dict[str, Any]:
        """What `fingerpost worth` says of the log of least request's run at a load."""
        begin, end = self.slices[load]
        log = self.folder / f"least-request-{load:g}.log"
        with self.log.open("rb") as lines:
            lines.seek(begin)
            log.write_bytes(lines.read(end - begin))
        options = WorthOptions(shares=(), highest=False, proxies=self.options.proxies, policies=(PEER, BASELINE))
        found = what_it_is_worth([log], options).as_dict()
        return {name: found[name] for name in ("difference", "present_load", "measured", "gain_p99", "gain_p50")}

    def _meet(self, policy: str, load: float, table: Path | None) -> tuple[int, Outcome, float]:
        """A short time to warm up (ORCA weights need reports) and then the requests, in proxies of their own.

        Returns:
            Where the run's lines begin in the log, what became of the requests, and how many cores were used meanwhile
            by what learns.
        """
        seed = self.options.seed
        with self._proxies(policy, table) as ports:
            self._send(ports, _WARM_LOAD * self.scenario.bound_rps, _WARM_S, seed + 3)
            begin = self.log.stat().st_size
            used, began = self._learning_cpu_s(), time.monotonic()
            outcome = self._send(ports, load * self.scenario.bound_rps, self.options.seconds, seed + round(load * 1000))
            cores = (self._learning_cpu_s() - used) / (time.monotonic() - began)
        return begin, outcome, round(cores, 2)

    def _send(self, ports: list[int], rate: float, seconds: float, seed: int) -> Outcome:
        """Sends planned requests through the proxies, each through one of them at random."""
        requests = plan(self.scenario, rate, seconds, seed)
        chosen = np.random.default_rng(seed).integers(0, len(ports), len(requests))

        async def send() -> list[Outcome]:
            parts = (
                [request for request, place in zip(requests, chosen, strict=True) if place == each]
                for each in range(len(ports))
            )
            return await asyncio.gather(*(drive(port, part, 10) for port, part in zip(ports, parts, strict=True)))

        together = Outcome()
        for each in asyncio.run(send()):
            together.latencies_s += each.latencies_s
            together.statuses += each.statuses
            together.late_s = max(together.late_s, each.late_s)
        return together

    @contextmanager
    def _proxies(self, policy: str, table: Path | None) -> Iterator[list[int]]:
        """Proxies with the policy; gives their ports."""
        with ExitStack() as stack:
            ports = []
            for _ in range(self.options.proxies):
                port, admin = free_ports(2)
                if policy in RIVALS:
                    rival = running_rival(policy, self.upstreams, port, self.scenario.slots, self.folder)
                    stack.enter_context(rival)
                else:
                    name = policy.partition("-")[0]
                    config = envoy_config(self.upstreams, self.log, LOOPBACK, port, admin, name, table=table)
                    stack.enter_context(running_envoy(config, self.folder, admin))
                ports.append(port)
            yield ports

    def _learning_cpu_s(self) -> float:
        return self.learning.cpu_s() if self.learning else 0.0


def measure_envoy(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Latency percentiles of every policy at every load, a share of what the fleet can carry at most.

    Every policy has its own proxies and gets the same arrivals with the same sizes. A warm-up is routed at random. What
    it tells of the hosts goes into the product's loop with the shipped settings: agents, engine, router; first the
    baseline routes, and last, trained on all that went before, the model. All of that goes on during every run.
    """
    scenario = make_scenario(options.hosts, 12, 4, 0.12, 0.45, options.seed)
    results: dict[str, Any] = {policy: {} for policy in options.policies}
    learned: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as text,
        fleet_process(scenario, not options.log_only) as (upstreams, pid),
        ExitStack() as stack,
    ):
        folder = Path(text)
        log = folder / "access.log"
        learning = None
        say(f"{options.hosts} hosts x {scenario.slots} slots carry at most {scenario.bound_rps:.0f} requests/s")
        if {BASELINE, MODEL} & {*options.policies}:
            say("starting an agent for every host, and the engine")
            slots = None if options.log_only else scenario.slots
            learning = stack.enter_context(learning_fleet(folder / "home", upstreams, log, slots, pid))
        bench = _Bench(options, scenario, upstreams, folder, log, learning, say)
        say(f"a warm-up of {options.warm_up_s:.0f} s, routed at random")
        answered = bench.warm_up()
        measured = bench.measure_table() if MEASURED in options.policies else {}
        if learning:
            learning.start_router()
            learning.wait_for_table(_TABLE_S)
        if options.failing:
            make_sick(upstreams[0], Sickness(options.failing, _FAILS_AFTER_S))

        def measure(policy: str) -> None:
            for load in options.loads:
                results[policy][f"{load:g}"] = row = bench.run(policy, load)
                say(f"{policy:19} {load:4.2f} {row}")

        for policy in options.policies:
            if policy != MODEL:
                measure(policy)
        if learning and MODEL in options.policies:
            say("training on all that was measured")
            learned = learning.learn(answered, say)
            measure(MODEL)
        table = learning.read_table() if learning else None
        if table:
            learned["error"] = table_error(table, scenario.service_s)
        predicted = {f"{load:g}": bench.predicted(load) for load in bench.slices} if options.predict else {}
    return {
        "options": asdict(options),
        "bound_rps": round(scenario.bound_rps, 1),
        "warm_up_requests": answered,
        "measured": measured,
        "learned": learned,
        "policies": results,
        "p99_gain": _gains(results),
        "predicted": predicted,
        "highest_load_at_slo": {policy: _highest(rows, options.slo_s) for policy, rows in results.items()},
    }


def _gains(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Least request's p99 over that of every other policy, by load."""
    peer = results.get(PEER, {})
    return {
        policy: {load: round(peer[load]["p99_ms"] / row["p99_ms"], 2) for load, row in rows.items() if load in peer}
        for policy, rows in results.items()
        if policy != PEER and peer
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
