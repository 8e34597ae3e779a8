"""A real engine for tests: `fingerpost engine` on a free port, with a home of its own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from fingerpost.engine_api import EngineClient, EngineError
from fingerpost.tls import ClientTLS
from tests.support.databases import empty_registry
from tests.support.server_harness import kill_family


class RunningEngine:
    """An engine process; leaving the context ends it.

    Args:
        settings: names of settings in lower case to values.
    """

    def __init__(self, home: Path, port: int, workers: int = 1, **settings: object) -> None:
        self.home, self._workers = home, workers
        self.url = str(settings.get("engine_url") or f"http://127.0.0.1:{port}")
        papers = (settings.get(f"engine_{name}") for name in ("ca", "client_cert", "client_key"))
        self._tls = ClientTLS(*papers)
        self._token = str(settings.get("engine_token", ""))
        home.mkdir(parents=True, exist_ok=True)
        if "mlflow_url" not in settings and not (home / "mlflow.db").exists():
            shutil.copy(empty_registry(), home / "mlflow.db")
        chosen = {
            "home": home,
            "engine_port": port,
            "mlflow_url": f"sqlite:///{home / 'mlflow.db'}",
            "model_poll_s": 0.5,
            "table_refresh_s": 0.2,
            **settings,
        }
        self.env = {**os.environ, **{f"FINGERPOST_{name.upper()}": str(value) for name, value in chosen.items()}}
        self.log = home / "engine.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fingerpost", "engine", "--workers", str(self._workers)],
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.home,
            )

    def __enter__(self) -> "RunningEngine":
        self.wait_for(lambda: bool(self.client().health()), 120)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def client(self, **options) -> EngineClient:
        return EngineClient(self.url, **{"token": self._token, "tls": self._tls, **options})

    def worker_pids(self) -> list[int]:
        return self.pids_of("_bentoml_impl.worker.service")

    def pids_of(self, words: str) -> list[int]:
        """The engine's processes whose command line holds these words."""
        found = []
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may end while we look
                if words in " ".join(each.cmdline()):
                    found.append(each.pid)
        return found

    def wait_for(self, condition, timeout_s: float = 30):
        """The first truthy value of `condition()`; an engine that does not answer yet is waited for."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found = condition()
            except EngineError:
                found = None
            if found:
                return found
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def settled(self, fetch, still_s: float = 1.5):
        """What `fetch()` gives once that has not changed for some time: all that was sent is in the table."""
        before, since = fetch(), time.monotonic()
        deadline = since + 60
        while time.monotonic() - since < still_s:
            assert time.monotonic() < deadline, "it goes on changing"
            time.sleep(0.1)
            now = fetch()
            if now != before:
                before, since = now, time.monotonic()
        return before

    def metric(self, name: str, labels: str = "") -> float:
        """A metric of the engine, such as `store_problem`."""
        text = httpx.get(f"{self.url}/metrics", timeout=20, trust_env=False).text
        found = re.search(rf"^fingerpost_engine_{name}{re.escape(labels)} (\S+)$", text, re.MULTILINE)
        assert found, f"no {name}{labels} in the metrics"
        return float(found[1])

    def kill(self) -> None:
        """Ends all of its processes as a crash of the machine would."""
        kill_family(self.process)

    def end(self) -> None:
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(40)
            _, alive = psutil.wait_procs(family, 10)
            for process in alive:
                process.kill()
