"""What happens in the fleet, step by step, and what is measured of it."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from examples.demo.load import WAVE_S
from examples.demo.measured import figures, without_beginnings
from examples.demo.progress import Progress
from examples.fleet.machines import JOINER, SERVICES, Fleet, Host
from examples.fleet.measured import TableWatch, delivered, figures_of_fleet, problems_of, requests_of
from examples.fleet.network import Network
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.cli.stack.state import read_states
from fingerpost.home import keep_from_others, make_home
from fingerpost.request_status import failed
from fingerpost.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

_START_S, _FLOW_S, _DELIVERY_S, _RECOVERY_S = 180.0, 600.0, 90.0, 60.0
_ARM_S, _WASHOUT_S = "2", 0.5
# A joined host is looked at when it has been there for so long, over the last seconds of that.
_JOINED_S, _LOOKED_S = 30.0, 10.0
# Longer than Envoy waits for a host that says nothing.
_AFTER_DEATH_S = 14.0
_FRESH_S = 3.0


def run(settings: Settings, short: bool, json_output: bool) -> int:
    """Runs the fleet in the namespaces that this process is in; prints its figures and returns the exit code."""
    keep_from_others()
    folder = settings.home / "fleet"
    make_home(settings.home)
    make_home(folder)
    machine_home = folder / "machine"
    machine_home.mkdir(exist_ok=True)
    console = Console(stderr=True)
    stack = ProcessGroup(folder / "logs", {})
    with stack:
        stack.catch_signals()
        fleet = Fleet(settings, Network(machine_home), stack, machine_home)
        found = Story(fleet, stack, Progress(console), short).tell()
    if json_output:
        print(json.dumps(found, indent=1), flush=True)
    else:
        figures_of_fleet(found, Console())
    for problem in found["problems"]:
        console.print(f"failed: {problem}", highlight=False)
    return 1 if found["problems"] else 0


class Story:
    """Takes a fleet through its life; `tell` returns what was measured.

    Args:
        short: shorter spans, and no training: the baseline predicts.
    """

    def __init__(self, fleet: Fleet, stack: ProcessGroup, progress: Progress, short: bool) -> None:
        self._fleet, self._stack, self._progress, self._short = fleet, stack, progress, short
        self._tables = TableWatch(fleet)
        self._looked_s = 0.0
        self._found: dict[str, Any] = {}

    def tell(self) -> dict[str, Any]:
        """Tells the whole story.

        Raises:
            FingerpostError: something did not start, died or did not come in time.
        """
        began = time.monotonic()
        with self._progress.phase("starting 12 machines: control plane, 8 hosts, 2 proxies, clients"):
            self._start()
            clients = self._fleet.start_clients()
        self._step("learned", "learning over the network, beside least request by turns", self._learn)
        self._step("joined", "a host joins", self._join)
        self._step("drained", "a host drains", self._drain)
        self._step("died", "a host dies", self._die)
        self._step("cut_off", "the control plane is cut off", self._cut_off)
        self._step("replaced", "the engine is replaced", self._replace_engine)
        with self._progress.phase("waiting for what the agents still have"):
            self._end(clients)
        self._found["seconds"] = round(time.monotonic() - began, 1)
        self._found["problems"] = problems_of(self._found)
        return self._found

    def _start(self) -> None:
        fleet = self._fleet
        fleet.start_control()
        for service in SERVICES:
            counts: Counter[str] = Counter()
            for host_class in service.hosts:
                counts[host_class] += 1
                fleet.add_host(f"{service.name}-{host_class}-{counts[host_class]}", host_class, service.name)
        for _ in range(2):
            fleet.add_proxy()
        arms = {"arm_shares": '{"fingerpost": 0.5, "least_request": 0.5}', "arm_by": "time", "arm_seconds": _ARM_S}
        fleet.start_proxies(**arms)
        self._until(fleet.engine_answers, _START_S, "the engine does not answer")
        for host in fleet.hosts.values():
            self._until(partial(fleet.host_answers, host), _START_S, f"{host.name} does not answer")
        for proxy in fleet.proxies:
            for service in SERVICES:
                came = partial(fleet.proxy_answers, proxy, service)
                self._until(came, _START_S, f"{service.name} does not answer at {proxy.name}")

    def _learn(self) -> dict[str, Any]:
        everyone = {host.name for host in self._fleet.hosts.values()}
        began = time.monotonic()
        self._until(lambda: everyone <= self._tables.known(), _START_S, "no table has every host")
        answer: dict[str, Any] = {"all_hosts_in_tables_s": round(time.monotonic() - began, 1)}
        if not self._short:
            self._pass(60)
            answer["trained"] = {service.name: self._train(service.name) for service in SERVICES}
            self._pass(10)
        span_s = 8 if self._short else 4 * WAVE_S
        self._pass(span_s)
        found = without_beginnings(requests_of(self._fleet, time.time() - span_s, time.time()), "arm", _WASHOUT_S)
        for service in SERVICES:
            of_service = found[found["service"] == service.name]
            answer[service.name] = {
                arm: figures(of_service[of_service["arm"] == arm]) for arm in ("fingerpost", "least_request")
            }
        if not self._short:
            self._fleet.start_routers()
        return answer

    def _train(self, service: str) -> dict[str, Any]:
        child = self._fleet.run_flow("pipeline", service)
        self._stack.finish(child, _FLOW_S, self._look)
        trained: Any = self._fleet.flow_result("pipeline", service)["train"]
        return {name: trained[name] for name in ("model_version", "champion", "reason")}

    def _join(self) -> dict[str, Any]:
        fleet, service = self._fleet, SERVICES[0]
        host = fleet.add_host(f"{service.name}-{JOINER}-9", JOINER, service.name)
        self._until(lambda: fleet.host_answers(host), _START_S, f"{host.name} does not answer")
        began = time.monotonic()
        self._until(lambda: self._tables.all_know(service.name, host.name), _START_S, f"{host.name} is in no table")
        in_table_s = time.monotonic() - began
        if self._short:
            self._pass(5)
            return {"in_table_s": round(in_table_s, 1)}
        self._pass(_JOINED_S - min(_JOINED_S, in_table_s))
        found = requests_of(fleet, time.time() - _LOOKED_S, time.time())
        found = found[found["service"] == service.name]
        even = len(found) / (len(service.hosts) + 1)
        share = len(found[found["host"] == host.name]) / max(1.0, even)
        return {"in_table_s": round(in_table_s, 1), "of_even_share_after_30_s": round(share, 2)}

    def _drain(self) -> dict[str, Any]:
        self._fleet.stop_host(self._host("shop-general-1"))
        self._pass(5)
        return {}

    def _die(self) -> dict[str, Any]:
        host = self._host("shop-storage-2")
        self._found["dead"] = host.name
        self._fleet.power_off(host)
        self._pass(_AFTER_DEATH_S)
        return {}

    def _cut_off(self) -> dict[str, Any]:
        seconds = 10 if self._short else 60
        network = self._fleet.network
        network.cut(self._fleet.control)
        self._pass(seconds)
        network.join(self._fleet.control)
        began = time.monotonic()
        self._until(lambda: self._tables.age_s() < _FRESH_S, _RECOVERY_S, "the tables are not renewed")
        return {"seconds": seconds, "tables_fresh_after_s": round(time.monotonic() - began, 1)}

    def _replace_engine(self) -> dict[str, Any]:
        states = {each.name: each for each in read_states(self._fleet.control_home())}
        began = time.monotonic()
        os.kill(states["engine"].pid, signal.SIGKILL)
        self._until(lambda: not self._fleet.engine_answers(), _RECOVERY_S, "the engine goes on")
        self._until(self._fleet.engine_answers, _START_S, "the engine does not come back")
        away_s = time.monotonic() - began
        self._until(lambda: self._tables.age_s() < _FRESH_S, _RECOVERY_S, "the tables are not renewed")
        self._pass(5)
        return {"away_s": round(away_s, 1)}

    def _end(self, clients: Child) -> None:
        self._stack.end(clients)
        self._found["clients"] = json.loads(clients.output().splitlines()[-1])
        dead = self._found["dead"]
        self._until(lambda: not delivered(self._fleet, dead)["lost"], _DELIVERY_S, "", quiet=True)
        self._found["telemetry"] = delivered(self._fleet, dead)

    def _host(self, name: str) -> Host:
        return self._fleet.hosts[name]

    def _step(self, name: str, title: str, act: Callable[[], dict[str, Any]]) -> None:
        """Takes one step and adds what became of the requests meanwhile."""
        with self._progress.phase(title):
            began = time.time()
            self._tables.forget()
            found = act()
            requests = requests_of(self._fleet, began, time.time())
            bad = requests[failed(requests["status"].to_numpy(float))]
            self._found[name] = {
                **found,
                "requests": len(requests),
                "failed": len(bad),
                "failed_by_host": {str(host): int(count) for host, count in bad["host"].value_counts().items()},
                "p99_s": figures(requests)["p99_s"],
                "policies": _counts(requests["policy"]),
                "table_age_max_s": round(self._tables.oldest_s, 1),
            }

    def _look(self) -> None:
        if time.monotonic() - self._looked_s >= 1.0:
            self._looked_s = time.monotonic()
            self._tables.look()

    def _until(self, ready: Callable[[], bool], timeout_s: float, what: str, quiet: bool = False) -> None:
        deadline = time.monotonic() + timeout_s

        def done() -> bool:
            self._look()
            return ready() or (quiet and time.monotonic() > deadline)

        self._stack.wait_until(done, timeout_s + (5 if quiet else 0), what)

    def _pass(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._until(lambda: time.monotonic() >= until, seconds + 60, "time does not pass")


def _counts(column: "pd.Series[Any]") -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts(dropna=False).items()}
