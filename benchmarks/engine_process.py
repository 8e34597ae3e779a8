"""An engine with one worker in a process of its own, to be measured from outside."""

import re
import socket
import sys
from pathlib import Path
from typing import Any

import psutil

from fingerpost.engine_api import EngineClient, EngineError


class MeasuredEngine:
    """A context manager: an engine on a free port, a registry on SQLite beside it.

    Args:
        settings: names of settings in upper case to values.
    """

    def __init__(self, home: Path, **settings: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.mlflow = f"sqlite:///{home / 'mlflow.db'}"
        self.home = home
        self._settings = {
            "HOME": home,
            "ENGINE_PORT": self.port,
            "MLFLOW_URL": self.mlflow,
            "MODEL_POLL_S": 1,
            **settings,
        }

    def __enter__(self) -> "MeasuredEngine":
        from fingerpost.cli.stack.processes import ProcessGroup

        self.home.mkdir(parents=True, exist_ok=True)
        env = {f"FINGERPOST_{name}": str(value) for name, value in self._settings.items()}
        self._stack = ProcessGroup(self.home / "logs", {**env, "OMP_NUM_THREADS": "1"})
        self._child = self._stack.start("engine", [sys.executable, "-m", "fingerpost", "engine", "--workers", "1"])
        with EngineClient(self.url) as client:
            self.wait_for(client.health)
            # MLflow's tables are made, which is not what is measured.
            self.wait_for(lambda: client.models()["registry_problem"] is None)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.stop()

    def wait_for(self, ask: Any, timeout_s: float = 120.0) -> Any:
        """The first truthy answer."""
        answers: list[Any] = []

        def ready() -> bool:
            try:
                answer = ask()
            except EngineError:
                return False
            answers.append(answer)
            return bool(answer)

        self._stack.wait_until(ready, timeout_s, "the engine did not get there")
        return answers[-1]

    def worker(self) -> psutil.Process:
        """The process that serves."""
        started = psutil.Process(self._child.process.pid)
        family = [started, *started.children(recursive=True)]
        workers = [each for each in family if "worker.service" in " ".join(each.cmdline())]
        return workers[0] if workers else started

    def cpu_s(self) -> float:
        """CPU-seconds the worker has used, without the process that watches the registry."""
        times = self.worker().cpu_times()
        return float(times.user + times.system)

    def metric(self, name: str, labels: str = "") -> float:
        """One of the engine's metrics; 0 as long as it has none of that name."""
        import httpx

        text = httpx.get(f"{self.url}/metrics", timeout=20, trust_env=False).text
        found = re.search(rf"^fingerpost_engine_{name}{re.escape(labels)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def rss_mb(self) -> float:
        return round(float(self.worker().memory_info().rss) / 2**20, 1)


def quantile(values: list[float], share: float) -> float:
    """A quantile of some values, one of them; NaN of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")
