"""Starts runs of flows as forks of one process that has imported everything, in place of new interpreters.

A new interpreter spends seconds of CPU on imports before a flow begins. A fork begins at once, and is as much a process
of its own: what one run breaks, leaks or waits for touches no other.
"""

import asyncio
import logging
import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from prefect.runner import Runner
from prefect.runner._process_manager import ProcessHandle

from fingerpost.flows.table import FLOWS

_LOG = logging.getLogger("fingerpost.schedule")
_ENGINE = "prefect.engine"
# What flows import only when they run, beside their own modules.
LIBRARIES = (
    *(_ENGINE, "prefect.flow_engine", "prefect.task_engine", "prefect.artifacts", "prefect.events.clients"),
    *("mlflow.tracking", "mlflow.artifacts", "lightgbm", "pandas", "pyarrow.parquet", "scipy.stats"),
)


class ForkingRunner(Runner):
    """Prefect's runner, whose runs are forks.

    Prefect has no public way to choose how a runner starts processes. With a version that has other parts than those
    used here, runs start in its own way: each in a new interpreter.

    Args:
        limit: runs at once; more wait until one ends.
        query_s: time between looks for runs that are due, seconds.
    """

    def __init__(self, name: str, limit: int, query_s: float) -> None:
        super().__init__(name=name, limit=limit, query_seconds=query_s)

    async def __aenter__(self) -> "ForkingRunner":
        await super().__aenter__()
        poller: Any = getattr(self, "_scheduled_run_poller", None)
        if "forkserver" in multiprocessing.get_all_start_methods() and hasattr(poller, "_resolve_starter"):
            names = self._deployment_registry.get_deployment_name
            poller._resolve_starter = lambda run: _Fork(self._control_channel, names(run.deployment_id))
        else:
            _LOG.warning("every run of a flow starts a new interpreter here, which costs seconds of CPU")
        return self


async def warm_up() -> None:
    """Starts the process that runs are forked from, and waits until it has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    modules = [entry.entrypoint.rpartition(".")[0] for entry in FLOWS.values()]
    context.set_forkserver_preload([*modules, *LIBRARIES])
    first = context.Process(target=_nothing)
    await asyncio.to_thread(first.start)
    await _ended(first)


class _Fork:
    """Starts one run, by the protocol of Prefect's `ProcessStarter`."""

    def __init__(self, control_channel: Any, deployment_name: str | None) -> None:
        self._control_channel, self._deployment_name = control_channel, deployment_name

    async def start(self, flow_run: Any, task_status: Any) -> None:
        """Returns when the run's process has ended; `task_status` gets its handle once it runs."""
        environment = {
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__DEPLOYMENT_NAME": self._deployment_name or "",
            # The runner calls these hooks: a process that was killed cannot.
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
        }
        port, token = self._control_channel.register(flow_run.id)
        environment |= {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
        process: Any = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(str(flow_run.id), environment), name=f"run {flow_run.name}"
        )
        try:
            # Here and not in a thread: two threads that ask for the exit code of one process take it from each other.
            process.start()
        except BaseException:
            self._control_channel.unregister(flow_run.id)
            raise
        task_status.started(ProcessHandle(process))
        await _ended(process)


async def _ended(process: Any) -> None:
    """Waits for the end of a process, whose exit code is known afterwards."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()


def _run(run_id: str, environment: dict[str, str]) -> None:
    """Runs a flow as `python -m prefect.engine` does; in the fork."""
    os.environ.update(environment)
    run_module(_ENGINE, [run_id])


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Runs a module as `python -m` does, in a fork of a process that has imported what it needs."""
    sys.argv = [name, *arguments]
    with warnings.catch_warnings():
        # It may have been imported already, which is the point.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def _nothing() -> None:
    """Ends at once."""
