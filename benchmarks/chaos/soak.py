"""A platform over a long time, while hosts and routes come and go: what it takes must neither grow nor pile up."""

import contextlib
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.faults import small_disk
from benchmarks.chaos.judge import unexcused
from benchmarks.chaos.load import Clients
from benchmarks.chaos.platform import Platform, agent_of
from fingerpost.errors import FingerpostError

_EVERY_S, _CHURN_S, _WELL_S, _DISK_MB = 15.0, 60.0, 180.0, 2048
_ROUTE_REQUESTS = 300
_HOSTS = 4
# Small, so that logs are moved on, and what is old goes, within minutes.
_SMALL: dict[str, Any] = {
    "access_log_mb": 1.0,
    "part_log_mb": 1.0,
    "ingest_every_s": 15.0,
    "retention_cron": "*/10 * * * *",
    "disk_low_mb": 64.0,
}
# What memory may gain between the second quarter of the time and the last; below it is noise of an allocator.
_MAX_GAIN, _NOISE_MB = 0.10, 10.0
_MB = 2**20
_RUNS = "flows that run"


def measure_soak(minutes: float, seed: int, rate_rps: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Runs it and takes samples; in namespaces of its own.

    Raises:
        FingerpostError: the platform does not start.
    """
    rng, folder = random.Random(seed), Path(tempfile.mkdtemp(prefix="fingerpost-soak-"))
    samples: list[dict[str, float]] = []
    with ExitStack() as held:
        held.enter_context(small_disk(folder / "home", _DISK_MB))
        tell(f"starting the platform in {folder} ...")
        platform = held.enter_context(Platform(folder, _HOSTS, **_SMALL))
        clients = Clients(platform.url, rate_rps, seed, lambda number: f"route{number // _ROUTE_REQUESTS}")
        clients.start()
        platform.wait_for(lambda: not platform.problems(), _WELL_S, "all is well")
        began, killed = time.monotonic(), list[float]()
        ending = threading.Event()
        churn = threading.Thread(target=_churn, args=(platform, rng, killed, ending), name="churn", daemon=True)
        churn.start()
        while (now_s := time.monotonic() - began) < 60 * minutes:
            samples.append({"at_s": now_s, **_taken(platform)})
            if len(samples) % 8 == 1:
                parts = {name: round(value) for name, value in samples[-1].items() if name.startswith("MB ")}
                tell(f"{now_s / 60:5.1f} min, {clients.told.sent} requests, {parts}")
            time.sleep(_EVERY_S)
        ending.set()
        churn.join(_WELL_S)
        clients.stop()
        problems = platform.problems()
    shutil.rmtree(folder, ignore_errors=True)
    failed = unexcused(clients.told, killed)
    rows = [_row(name, samples) for name in sorted({name for each in samples for name in each} - {"at_s"})]
    grows = [row["what"] for row in rows if row["grows"]]
    return {
        "holds": not (failed or problems or grows),
        "minutes": round(samples[-1]["at_s"] / 60, 1),
        "requests": clients.told.sent,
        "failed": len(failed),
        "failed_in_flight": len(clients.told.failures) - len(failed),
        "hosts_killed": len(killed),
        "routes": clients.told.sent // _ROUTE_REQUESTS + 1,
        "problems": problems,
        "grows": grows,
        "over_time": rows,
    }


def _churn(platform: Platform, rng: random.Random, killed: list[float], ending: threading.Event) -> None:
    """In turn: a host with its agent dies and comes back; a host is taken out of Envoy's list and put in again."""
    turn = 0
    while not ending.wait(_CHURN_S / 2):
        name = rng.choice(platform.hosts)
        turn += 1
        if turn % 2:
            platform.set_hosts([each for each in platform.hosts if each != name])
            ending.wait(_CHURN_S / 4)
            platform.set_hosts(platform.hosts)
        else:
            with contextlib.suppress(FingerpostError, psutil.Error):
                killed.append(platform.kill(name))
                platform.kill(agent_of(name))
            ending.wait(_CHURN_S / 4)
            platform.revive()


def _taken(platform: Platform) -> dict[str, float]:
    """Memory by part and bytes on disk by what they are, in MB, and open files.

    Of memory that several processes share each counts its part: runs of flows are forks of one process.
    """
    found: dict[str, float] = defaultdict(float)
    for name, family in platform.families().items():
        for number, process in enumerate(family):
            # Of runs there are as many as are due, which the machine's load decides.
            kind = _RUNS if name == "schedule" and number else _kind(name)
            with contextlib.suppress(psutil.Error):
                found[f"MB {kind}"] += process.memory_full_info().pss / _MB
                found[f"files {kind}"] += process.num_fds()
    for path in platform.home.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file():
                top = path.relative_to(platform.home).parts
                kind = "lake/" + top[1] if top[0] == "lake" and len(top) > 2 else top[0].partition(".log")[0]
                found[f"disk {kind}"] += path.stat().st_size / _MB
    return dict(found)


def _kind(name: str) -> str:
    return "agents" if name.startswith("agent of") else "hosts" if name[1:].isdigit() else name


def _row(name: str, samples: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians of the second and the last quarter of the time, and the most."""
    values = [each.get(name, 0.0) for each in samples]
    quarter = max(1, len(values) // 4)
    early, late = statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])
    watched = name.startswith("MB ") and name not in ("MB hosts", f"MB {_RUNS}")
    grows = watched and late > early * (1 + _MAX_GAIN) and late > early + _NOISE_MB
    return {
        "what": name,
        "second_quarter": round(early, 1),
        "last_quarter": round(late, 1),
        "most": round(max(values), 1),
        "grows": grows,
    }
