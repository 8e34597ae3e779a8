"""The servers under the platform, MLflow and Prefect, as `fingerpost up` starts them: for tests that kill them."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import psutil

from fingerpost.cli.stack.parts import answers, mlflow_command, prefect_command
from fingerpost.environment import prefect_server_environment, tool_environment
from fingerpost.settings import Settings
from tests.support.databases import keep_prefect, lend_databases

PATIENCE_S = 180


class RunningServer:
    """`mlflow` or `prefect`, at the settings' ports and in their home; what was killed can be started again."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self.url = {"mlflow": settings.mlflow, "prefect": settings.prefect}[name]
        self._command = {"mlflow": mlflow_command, "prefect": prefect_command}[name](settings)
        self._folder: Path = settings.home
        self._log = self._folder / f"{name}.log"
        own = prefect_server_environment(settings) if name == "prefect" else {}
        self._env = {**os.environ, **tool_environment(settings), **own}

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        lend_databases(self._folder)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + PATIENCE_S
        while not answers(f"{self.url}/health"):
            assert time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(0.1)
        if self._name == "prefect":
            keep_prefect(self._folder)

    def kill(self) -> None:
        """Ends it with all it has started, as when a machine fails; nothing if that was done before."""
        if self.process.poll() is None:
            kill_family(self.process)


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all it has started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(family[1:], timeout=10)
