"""`python -m benchmarks plain-logs`: the documented path from nginx's logs alone, before the first model and with it.

Hosts that differ by category stand behind an nginx each, whose log is as docs/agent.md says. An agent a host reads it,
`fingerpost up` with the shipped settings does the rest.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from examples.demo.measured import figures, requests_between, without_beginnings
from fingerpost.cli.stack.parts import answers, fingerpost
from fingerpost.cli.stack.ports import free_ports
from fingerpost.cli.stack.processes import ProcessGroup
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.table_file import decode
from fingerpost.settings import LOOPBACK
from tests.support.open_loop import drive
from tests.support.running import fleet_process
from tests.support.sleeping_scenario import Scenario, bound_rps, plan

_RECIPE = Path(__file__).parent.parent / "docs" / "agent.md"
_SERVICE, _SLOT_S, _WASHOUT_S, _START_S, _TRAIN_S = "shop", 10, 2.0, 180.0, 600.0
_TRAININGS = 3
_FAST_S, _SLOWER, _PLACES = 0.06, 4.0, 4
_PORTS = ("ENVOY_PORT", "ENVOY_ADMIN_PORT", "ENGINE_PORT", "MLFLOW_PORT", "PREFECT_PORT")


def measure_plain_logs(
    hosts: int, load: float, warm_up_s: float, seconds: float, seed: int, tell_slots: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """What clients see by the arms `fingerpost` and `least_request`, which take turns of 10 s on the same traffic.

    Args:
        load: of the traffic, as a share of what the fleet can carry at most.
        warm_up_s: of traffic before anything is measured.
        seconds: how long each phase is measured: `baseline`, `model`, `later`.
        tell_slots: agents are told how many requests a host serves at once, as the documentation advises.

    Returns:
        By phase and arm: of `examples.demo.measured.figures`; `p99_ratio`, prediction over least request; the model;
        and what became of the versions that were trained, at most three, until one served.

    Raises:
        FingerpostError: there is no nginx, or a part does not start.
    """
    scenario = unlike_hosts(hosts)
    rate = load * scenario.bound_rps
    say(f"{hosts} hosts carry at most {scenario.bound_rps:.0f} requests/s of this mix; {rate:.0f} are sent")
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as text, ExitStack() as stack:
        folder = Path(text)
        upstreams, _ = stack.enter_context(fleet_process(scenario))
        doors = stack.enter_context(_doors(upstreams, folder))
        fleet = stack.enter_context(_Platform(folder, doors, tell_slots).running())
        total = warm_up_s + (3 + _TRAININGS) * seconds + _START_S + _TRAININGS * _TRAIN_S
        stack.enter_context(_traffic(fleet.port, scenario, rate, total, seed))
        found: dict[str, Any] = {"hosts": hosts, "slots_told": tell_slots, "rate_rps": round(rate, 1), "phases": {}}
        fleet.wait(warm_up_s)

        def phase(name: str) -> None:
            found["phases"][name] = fleet.measure(seconds)
            say(f"{name:9} {json.dumps(found['phases'][name])}")

        phase("baseline")
        found["trainings"] = []
        while len(found["trainings"]) < _TRAININGS:
            say("training on what was measured")
            trained = fleet.train()
            found["trainings"].append(trained)
            say(trained["reason"])
            if trained["champion"]:
                break
            # As the schedule does: with more telemetry the next version may choose no worse than the baseline.
            fleet.wait(seconds)
        for name in ("model", "later"):
            phase(name)
    return found


def unlike_hosts(hosts: int) -> Scenario:
    """A fleet of three classes and six equally frequent categories, four requests at once a host.

    The first class takes 60 ms for the first three categories and four times as long for the others, the second the
    other way round, the third twice as long for all.
    """
    slow = [[1.0, _SLOWER, 2.0], [_SLOWER, 1.0, 2.0]]
    service_s = _FAST_S * np.array([[slow[category // 3][host % 3] for host in range(hosts)] for category in range(6)])
    mix = np.full(6, 1 / 6)
    return Scenario(service_s, mix, _PLACES, bound_rps(service_s, mix, _PLACES))


class _Platform:
    """`fingerpost up` before the doors, and an agent for each of their logs.

    Args:
        doors: of `_doors`.
    """

    def __init__(self, folder: Path, doors: list[Upstream], tell_slots: bool) -> None:
        self._folder, self._doors = folder, doors
        self._told = ("--slots", str(_PLACES)) if tell_slots else ()
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.port, self._engine = ports["ENVOY_PORT"], ports["ENGINE_PORT"]
        self._home = folder / "home"
        settings = {
            **{name: str(port) for name, port in ports.items()},
            **{"HOME": str(self._home), "SERVICE": _SERVICE, "ARM_BY": "time", "ARM_SECONDS": str(_SLOT_S)},
            "ARM_SHARES": '{"fingerpost": 0.5, "least_request": 0.5}',
        }
        ours = {name: value for name, value in os.environ.items() if not name.startswith("FINGERPOST_")}
        self._environment = {**ours, **{f"FINGERPOST_{name}": value for name, value in settings.items()}}

    @contextmanager
    def running(self) -> Iterator["_Platform"]:
        """The platform, once a table is there."""
        hosts = self._folder / "hosts.txt"
        hosts.write_text("".join(f"{each.name}={each.address}:{each.port}\n" for each in self._doors))
        with ProcessGroup(self._folder / "logs", self._environment) as self._stack:
            self._stack.start("up", fingerpost("up", "--hosts", str(hosts)))
            url = f"http://{LOOPBACK}:{self._engine}"
            self._stack.wait_until(lambda: answers(f"{url}/livez"), _START_S, "the engine does not answer")
            for each in self._doors:
                log, pid_file = (str(self._folder / f"{each.name}.{kind}") for kind in ("log", "pid"))
                command = ("agent", "--service", _SERVICE, "--host", each.name, "--engine-url", url, *self._told)
                source = ("--access-log", log, "--log-format", "combined", "--pid-file", pid_file)
                self._stack.start(f"agent-{each.name}", fingerpost(*command, *source))
            yield self

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._stack.wait_until(lambda: time.monotonic() >= until, seconds + 60, "time does not pass")

    def measure(self, seconds: float) -> dict[str, Any]:
        """What the clients of the next so many seconds see."""
        begin = time.time()
        self.wait(seconds + _WASHOUT_S)
        requests = requests_between(self._home / "access.log", _SERVICE, begin, begin + seconds)
        requests = without_beginnings(requests, "arm", _WASHOUT_S)
        arms = {arm: figures(requests[requests["arm"] == arm]) for arm in ("fingerpost", "least_request")}
        ratio = arms["fingerpost"]["p99_s"] / arms["least_request"]["p99_s"]
        return {**arms, "p99_ratio": round(ratio, 3), "model_version": self._table_version()}

    def train(self) -> dict[str, Any]:
        """Runs the pipeline once, as a user does who does not wait for the night."""
        output = self._folder / "pipeline.json"
        child = self._stack.start("pipeline", fingerpost("run", "pipeline", "--output", str(output)))
        self._stack.finish(child, _TRAIN_S)
        trained = json.loads(output.read_text())["train"]
        if trained["champion"]:
            version = trained["model_version"]
            self._stack.wait_until(
                lambda: self._table_version() == version, _START_S, f"the table does not become that of {version}"
            )
        return {name: trained[name] for name in ("model_version", "champion", "reason", "skill")}

    def _table_version(self) -> str:
        with contextlib.suppress(OSError):
            arms = decode((self._home / "routing" / f"{_SERVICE}.table").read_bytes()).arms
            return arms[0].model_version
        return ""


@contextmanager
def _doors(upstreams: list[Upstream], folder: Path) -> Iterator[list[Upstream]]:
    """An nginx before each host, with the log format of the documentation: `NAME.log`, `NAME.pid` in the folder."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    found = re.search(r"^```nginx\n(.*?)^```", _RECIPE.read_text(), re.MULTILINE | re.DOTALL)
    if nginx is None or found is None:
        raise FingerpostError(f"this needs nginx, and its recipe in {_RECIPE}")
    user = "user root; " if os.geteuid() == 0 else ""
    doors = [
        Upstream(each.name, LOOPBACK, port) for each, port in zip(upstreams, free_ports(len(upstreams)), strict=True)
    ]
    running = []
    try:
        for door, upstream in zip(doors, upstreams, strict=True):
            recipe = found[1].replace("/var/log/nginx/access.log", str(folder / f"{door.name}.log"))
            kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            places = " ".join(f"{kind}_temp_path {folder}/{door.name}-{kind};" for kind in kinds)
            config = folder / f"{door.name}.conf"
            config.write_text(
                f"{user}daemon off; pid {folder}/{door.name}.pid; events {{ worker_connections 4096; }}\n"
                f"error_log {folder}/{door.name}.err;\nhttp {{ {places} {recipe}\n"
                f"upstream host {{ server {LOOPBACK}:{upstream.port}; keepalive 64; }}\n"
                f"server {{ listen {door.address}:{door.port}; keepalive_requests 1000000; location / {{ "
                'proxy_pass http://host; proxy_http_version 1.1; proxy_set_header Connection ""; } } }\n'
            )
            running.append(subprocess.Popen([nginx, "-c", str(config), "-e", f"{folder}/{door.name}.err"]))
        deadline = time.monotonic() + _START_S
        while not all(answers(f"http://{each.address}:{each.port}/healthz") for each in doors):
            if time.monotonic() > deadline:
                raise FingerpostError("an nginx does not start")
            time.sleep(0.1)
        yield doors
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(10)


@contextmanager
def _traffic(port: int, scenario: Scenario, rate: float, seconds: float, seed: int) -> Iterator[None]:
    """Requests at planned times, from a thread, until the context ends."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(drive(port, plan(scenario, rate, seconds, seed), 5))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run, name="traffic")
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
