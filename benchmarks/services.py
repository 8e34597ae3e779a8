"""What the flows of many services cost the platform that runs them all."""

import json
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from fingerpost.cli.stack.parts import fingerpost
from fingerpost.cli.stack.ports import free_ports
from fingerpost.cli.stack.processes import ProcessGroup
from fingerpost.cli.stack.state import read_states
from fingerpost.home import prefect_credential
from fingerpost.settings import Settings
from tests.support.demo_telemetry import write_demo_inbox

_PARTS = ("mlflow", "prefect", "schedule")
_START_S = 600.0
_HOSTS, _RATE_RPS, _BATCH_S = 3, 5.0, 60
_STATES = ("Completed", "Cancelled", "Failed", "Crashed", "Late")


def measure_services(services: int, seconds: float) -> dict[str, Any]:
    """Runs the platform with default schedules for so many services, each with new requests every minute.

    Returns:
        `cores` of each part and of all, `runs` by state within the time, `started_s` (until all are scheduled).
    """
    names = [f"service-{number:02}" for number in range(1, services + 1)]
    with TemporaryDirectory(prefix="fingerpost-services-") as folder:
        mlflow, prefect = free_ports(2)
        settings = Settings(
            home=Path(folder), service=names[0], services=names, mlflow_port=mlflow, prefect_port=prefect
        )
        variables = {
            "FINGERPOST_HOME": folder,
            "FINGERPOST_SERVICE": names[0],
            "FINGERPOST_SERVICES": json.dumps(names),
            "FINGERPOST_MLFLOW_PORT": str(mlflow),
            "FINGERPOST_PREFECT_PORT": str(prefect),
        }
        with ProcessGroup(settings.home / "bench-logs", variables) as stack:
            _feed(settings, names)
            began = time.monotonic()
            stack.start("up", fingerpost("up", *(word for part in _PARTS for word in ("--only", part))))
            log = settings.home / "logs" / "schedule.log"
            stack.wait_until(
                lambda: log.exists() and log.read_text().count("are scheduled") >= services,
                _START_S,
                "the flows are not scheduled",
            )
            started_s = time.monotonic() - began
            # Every flow has run once: what is done once in a process is done.
            _pass(stack, settings, names, 60)
            before, counted, began = _cpu_s(settings), _runs(settings), time.monotonic()
            _pass(stack, settings, names, seconds)
            span_s = time.monotonic() - began
            after, runs = _cpu_s(settings), _runs(settings)
    cores = {part: round((after[part] - before[part]) / span_s, 3) for part in _PARTS}
    return {
        "services": services,
        "seconds": round(span_s, 1),
        "started_s": round(started_s, 1),
        "cores": {**cores, "all": round(sum(cores.values()), 3)},
        "runs": {state: runs[state] - (counted[state] if state != "Late" else 0) for state in _STATES},
    }


def _pass(stack: ProcessGroup, settings: Settings, names: list[str], seconds: float) -> None:
    """Lets time pass; each service gets the requests of a minute every minute."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _feed(settings, names)
        ends = time.monotonic() + min(left, _BATCH_S)
        stack.wait_until(partial(_past, ends), _BATCH_S + 60, "time does not pass")


def _past(monotonic_s: float) -> bool:
    return time.monotonic() >= monotonic_s


def _feed(settings: Settings, names: list[str]) -> None:
    for name in names:
        write_demo_inbox(settings.lake, _HOSTS, _BATCH_S, _RATE_RPS, service=name)


def _cpu_s(settings: Settings) -> dict[str, float]:
    """CPU-seconds of each part with all that it has started, also of what has ended."""
    return {
        state.name: sum(sum(each.cpu_times()[:4]) for each in _family(state.pid))
        for state in read_states(settings.home)
        if state.name in _PARTS
    }


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _runs(settings: Settings) -> dict[str, int]:
    """How many runs of flows are in each state."""
    user, _, password = (prefect_credential(settings) or ":").partition(":")
    found = {}
    with httpx.Client(base_url=settings.prefect, auth=(user, password), trust_env=False, timeout=60) as client:
        for state in _STATES:
            wanted = {"flow_runs": {"state": {"name": {"any_": [state]}}}}
            found[state] = int(client.post("/flow_runs/count", json=wanted).raise_for_status().json())
    return found
