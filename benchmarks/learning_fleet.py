"""The loop beside a fleet that is measured: an agent for every host, the engine with a model of it, and the router."""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.fleet_model import MARK
from fingerpost.cli.stack.parts import answers, fingerpost, settings_environment
from fingerpost.cli.stack.ports import free_ports
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.environment import tool_environment
from fingerpost.errors import RefusedError
from fingerpost.lake import INBOX, parquet_files
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.table_file import PickerTable, decode
from fingerpost.settings import LOOPBACK, Settings, get_settings

SERVICE = "bench"
# All that routes is as it is shipped; a search for parameters has no place beside a measurement.
_DEFAULTS = {"tuning_trials": "4", "tuning_timeout_s": "15", "log_level": "WARNING"}
_START_S, _REPORT_S, _TRAIN_S = 120.0, 30.0, 300.0


def learning_settings(folder: Path) -> Settings:
    """The user's settings with a home, lake, registry and store of their own, all in the folder, and little tuning."""
    settings = get_settings()
    (port,) = free_ports(1)
    chosen = {name: value for name, value in _DEFAULTS.items() if name not in settings.model_fields_set}
    alone = {
        **{
            "service": SERVICE,
            "home": folder,
            "lake": folder / "lake",
            "lake_url": "",
            "bind_host": LOOPBACK,
            "engine_port": port,
            "engine_workers": 1,
        },
        **{"engine_url": f"http://{LOOPBACK}:{port}", "engine_token": "", "model_version": ""},
        **{"mlflow_url": f"sqlite:///{folder / 'mlflow.db'}", "store_url": "", "tuning_storage": "", "arm_shares": {}},
    }
    return Settings(**{**settings.model_dump(), **chosen, **alone})


class LearningFleet:
    """Agents that follow an access log, an engine that they report to, a router that keeps `table`.

    Args:
        log: Envoy's access log; need not be there yet.
        slots: requests that each host serves at once, which the agents are told; None: they know the log alone.
        pid: of the process that emulates the hosts; None: agents ask each host for its CPU, at `/metrics`.
    """

    def __init__(
        self,
        settings: Settings,
        stack: ProcessGroup,
        upstreams: list[Upstream],
        log: Path,
        slots: int | None,
        pid: int | None,
    ) -> None:
        self._settings, self._stack, self._hosts, self._log = settings, stack, len(upstreams), log
        self.table = settings.home / "learned.table"
        self._beside: list[Child] = [self._start("engine", fingerpost("engine"))]
        self._routes = False
        # A slot is a core, as the hosts tell of the CPU time of their requests.
        told = () if slots is None else ("--slots", str(slots), "--cores", str(slots))
        for each in upstreams:
            metrics = ("--sampler", "prometheus", "--prometheus-url", f"http://{each.address}:{each.port}/metrics")
            sampled = metrics if pid is None else ("--pid", str(pid))
            command = fingerpost("agent", "--host", each.name, "--access-log", str(log), *sampled, *told)
            self._beside.append(self._start(f"agent-{each.name}", command))

    def wait_until_ready(self) -> None:
        """Until the engine answers and every agent has reported."""
        url = f"{self._settings.engine_url}/livez"
        self._stack.wait_until(lambda: answers(url), _START_S, f"the engine does not answer at {url}")
        samples = self._settings.lake / INBOX / "samples"
        self._stack.wait_until(
            lambda: len({path.name.rsplit("-", 1)[0] for path in parquet_files(samples)}) == self._hosts,
            _START_S,
            "not every agent reported",
        )

    def learn(self, answered: int, say: Callable[[str], None]) -> dict[str, Any]:
        """Trains and registers a model once the agents have reported so many requests; returns when the table is of it,
        or of the baseline, where the model chose worse hosts in replay.

        Returns:
            Of `benchmarks.fleet_model.learn_model`, and `seconds`, from the last request to the table.
        """
        began = time.monotonic()
        stack, result = self._stack, self._settings.home / "learned.json"
        stack.wait_until(lambda: self._reported() >= answered, _REPORT_S, f"{self._reported()} of {answered} reported")
        training = stack.start("training", [sys.executable, "-m", "benchmarks.fleet_model", str(result)])
        told = 0

        def tick() -> None:
            nonlocal told
            lines = [line for line in training.log.read_text().splitlines() if line.startswith(MARK)]
            for line in lines[told:]:
                say(f"  {line.removeprefix(MARK)}")
            told = len(lines)

        stack.finish(training, _TRAIN_S, tick)
        learned: dict[str, Any] = json.loads(result.read_text())
        self.start_router()
        version = learned["model_version"] if learned["champion"] else ""
        of = f"version {version}" if version else "the baseline"
        stack.wait_until(lambda: self._is_of(version), _START_S, f"the table does not become that of {of}")
        return {**learned, "seconds": round(time.monotonic() - began, 1)}

    def start_router(self) -> None:
        """Keeps `table` from now on, and judges predictions by the log, as `fingerpost up` does; once is enough."""
        if self._routes:
            return
        self._routes = True
        command = fingerpost("router", "--table", str(self.table), "--access-log", str(self._log))
        self._beside.append(self._start("router", command))

    def wait_for_table(self, timeout_s: float) -> None:
        """Until there is a table of all hosts, whether a model or the baseline made it."""

        def whole() -> bool:
            table = self.read_table()
            return table is not None and len(table.hosts) == self._hosts

        self._stack.wait_until(whole, timeout_s, f"no table of {self._hosts} hosts after {timeout_s:.0f} s")

    def read_table(self) -> PickerTable | None:
        """The picker's table as it is now; None if there is none yet."""
        try:
            return decode(self.table.read_bytes())
        except (OSError, RefusedError):
            return None

    def cpu_s(self) -> float:
        """CPU-seconds that agents, engine and router have used by now."""
        total = 0.0
        for child in self._beside:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(child.process.pid)
                for each in (process, *process.children(recursive=True)):
                    times = each.cpu_times()
                    total += times.user + times.system
        return total

    def check(self) -> None:
        """Raises ProcessDiedError if one of them has ended."""
        self._stack.check()

    def _start(self, name: str, command: list[str]) -> Child:
        # On a real fleet none of this shares two cores with all hosts and all clients.
        polite = ["nice", "-n", "10"] if shutil.which("nice") else []
        return self._stack.start(name, [*polite, *command])

    def _reported(self) -> int:
        import pyarrow.parquet as pq

        files = parquet_files(self._settings.lake / INBOX / "requests")
        return sum(pq.ParquetFile(path).metadata.num_rows for path in files)

    def _is_of(self, version: str) -> bool:
        table = self.read_table()
        return table is not None and table.arms[0].model_version == version and len(table.hosts) == self._hosts


@contextmanager
def learning_fleet(
    folder: Path, upstreams: list[Upstream], log: Path, slots: int | None, pid: int | None
) -> Iterator[LearningFleet]:
    """Starts a `LearningFleet` with everything it keeps in the folder, and ends all its processes."""
    settings = learning_settings(folder)
    with ProcessGroup(folder / "logs", {**settings_environment(settings), **tool_environment(settings)}) as stack:
        fleet = LearningFleet(settings, stack, upstreams, log, slots, pid)
        fleet.wait_until_ready()
        yield fleet
