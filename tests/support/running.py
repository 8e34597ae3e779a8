"""Envoy and the emulated fleet as processes of their own, for measurements and tests."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from fingerpost.cli.stack.ports import free_ports
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.module import build_module
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.settings import LOOPBACK
from tests.support.sleeping_hosts import Sickness, SleepingFleet
from tests.support.sleeping_scenario import Scenario


@contextmanager
def running_envoy(config: dict[str, Any], folder: Path, admin: int, workers: int = 1) -> Iterator[int]:
    """Envoy with a configuration, ready; gives its process id.

    Raises:
        FingerpostError: it does not start.
    """
    path = (folder / f"envoy-{admin}.json").absolute()
    path.write_text(json.dumps(config))
    command = [str(Path(sys.executable).parent / "envoy"), "-c", str(path), "--concurrency", str(workers)]
    command += ["--base-id", str(admin), "-l", "error", "--file-flush-interval-msec", "250"]
    environment = {**os.environ, "ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(build_module().parent)}
    log = (folder / f"envoy-{admin}.txt").open("wb")
    envoy = subprocess.Popen(command, env=environment, stderr=log, cwd=folder)
    try:
        for _ in range(200):
            try:
                if httpx.get(f"http://{LOOPBACK}:{admin}/ready", trust_env=False).status_code == httpx.codes.OK:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        else:
            raise FingerpostError(f"Envoy does not start: {(folder / f'envoy-{admin}.txt').read_text()[-500:]}")
        yield envoy.pid
    finally:
        envoy.terminate()
        envoy.wait(10)
        log.close()


@contextmanager
def fleet_process(scenario: Scenario, tells: bool = True, **causes: Any) -> Iterator[tuple[list[Upstream], int]]:
    """The sleeping fleet in a process of its own: its hosts, and the process's id.

    Args:
        tells, causes: of `SleepingFleet`.
    """
    ports = free_ports(scenario.service_s.shape[1])
    fleet = SleepingFleet(ports, scenario.slots, scenario.service_s.tolist(), tells, **causes)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.sleeping_hosts"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin and process.stdout
        process.stdin.write(fleet.to_json() + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != "ready":
            raise FingerpostError("the sleeping fleet does not start")
        yield [Upstream(f"h{number:02}", LOOPBACK, port) for number, port in enumerate(ports)], process.pid
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def running_fleet(scenario: Scenario, tells: bool = True) -> Iterator[list[Upstream]]:
    """The hosts of a sleeping fleet in a process of its own."""
    with fleet_process(scenario, tells) as (upstreams, _):
        yield upstreams


def make_sick(host: Upstream, sickness: Sickness) -> None:
    """Makes a sleeping host fail from now on."""
    url = f"http://{host.address}:{host.port}/sick?{sickness.as_query()}"
    httpx.get(url, trust_env=False).raise_for_status()
