"""Runs commands as forks of one process that has imported what they need: `python -m examples.demo.warm FOLDER`.

A new interpreter spends ten seconds of a core on imports before a flow begins, and the story runs twenty commands. Asks
and answers are files in the folder, each written whole.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from examples.demo.processes import example_module
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.errors import ProcessDiedError
from fingerpost.lake import write_text_atomically
from fingerpost.masking import masked

_POLL_S = 0.05
_READY = "ready"
# What the commands of the story import only where they use it, beside the libraries of the flows.
_LIBRARIES = ("mlflow.pyfunc", "matplotlib.figure", "optuna", "evidently")
_TOLD_LINES = 5


class Warm:
    """Asks that process for runs of modules.

    Args:
        folder: of asks and answers.
        logs: each run writes to `<name>.log` there.
    """

    def __init__(self, stack: ProcessGroup, folder: Path, logs: Path) -> None:
        self._stack, self._folder, self._logs = stack, folder, logs
        self._asked = 0
        self._child: Child | None = None

    def start(self) -> None:
        """Starts the process; what is asked of it before it is ready waits."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.iterdir():
            left.unlink()
        self._child = self._stack.start("warm", example_module("examples.demo.warm", str(self._folder)))

    def stop(self) -> None:
        """Ends the process, which holds some 400 MB; there is nothing more to run."""
        if self._child is not None:
            self._stack.end(self._child)
            self._child = None

    def ready(self) -> bool:
        """Whether it has imported everything."""
        return (self._folder / _READY).exists()

    def begin(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> "Run":
        """Has a command of Python's `-m` run, with further variables, and does not wait for its end."""
        self._asked += 1
        ask = self._folder / f"{self._asked:04d}.ask"
        run = Run(name, ask.with_suffix(".done"), self._logs / f"{name}.log")
        module, *arguments = command[command.index("-m") + 1 :]
        told = {"module": module, "arguments": arguments, "env": dict(env or {}), "log": str(run.log)}
        write_text_atomically(ask, json.dumps(told))
        return run

    def finish(self, run: "Run", timeout_s: float, tick: Callable[[], None] = lambda: None) -> str:
        """Waits for the end of a run, calling `tick` meanwhile, and returns what it has written.

        Raises:
            ProcessDiedError, NotReadyError, KeyboardInterrupt: as `ProcessGroup.wait_until`.
        """

        def ended() -> bool:
            tick()
            return run.ended()

        self._stack.wait_until(ended, timeout_s, f"{run.name} was not done")
        return run.output()

    def run(self, name: str, command: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None) -> str:
        """As `begin` and `finish`."""
        return self.finish(self.begin(name, command, env), timeout_s)


class Run:
    """One run that was asked for.

    Args:
        done: the file that gets its exit code.
        log: the file that its output goes to, after that of earlier runs of the name.
    """

    def __init__(self, name: str, done: Path, log: Path) -> None:
        self.name, self._done, self.log = name, done, log
        self._began = log.stat().st_size if log.exists() else 0

    def ended(self) -> bool:
        """Whether it has ended well.

        Raises:
            ProcessDiedError: it failed; the message has the end of its log.
        """
        if not self._done.exists():
            return False
        if (code := int(self._done.read_text())) != 0:
            last = "".join(f"\n    {masked(line)[:300]}" for line in self.output().splitlines()[-_TOLD_LINES:])
            raise ProcessDiedError(f"{self.name} ended with exit code {code}; its log is {self.log}, ending:{last}")
        return True

    def output(self) -> str:
        """What it has written so far."""
        try:
            return self.log.read_bytes()[self._began :].decode(errors="replace")
        except FileNotFoundError:
            return ""


def serve(folder: Path) -> None:
    """Imports, then forks a process for every ask; returns in that process alone, once it has run the module."""
    _import()
    (folder / _READY).touch()
    running: dict[int, Path] = {}
    while True:
        for ask in sorted(folder.glob("*.ask")):
            told = json.loads(ask.read_text())
            ask.unlink()
            pid = os.fork()
            if pid == 0:
                _run(told["module"], told["arguments"], told["env"], told["log"])
                return
            running[pid] = ask.with_suffix(".done")
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if done := running.pop(pid, None):
                write_text_atomically(done, str(os.waitstatus_to_exitcode(status)))
        time.sleep(_POLL_S)


def _import() -> None:
    from fingerpost.environment import apply_flow_environment
    from fingerpost.settings import get_settings

    # Prefect reads its variables when it is imported; the settings are each run's own.
    apply_flow_environment(get_settings())
    get_settings.cache_clear()
    from fingerpost.flows.forking import LIBRARIES
    from fingerpost.flows.table import FLOWS

    for name in (*(entry.entrypoint.rpartition(".")[0] for entry in FLOWS.values()), *LIBRARIES, *_LIBRARIES):
        importlib.import_module(name)


def _run(module: str, arguments: list[str], env: dict[str, str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(env)
    from fingerpost.flows.forking import run_module

    run_module(module, arguments)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
