"""Host samples by psutil: of a service's processes and their children, or of the whole machine."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from fingerpost.agent.sampling.base import CpuMeter, NotYetError, SamplingError, Subject
from fingerpost.agent.sampling.cgroup import signs_of_process
from fingerpost.agent.sampling.cpu_clock import process_cpu_s
from fingerpost.agent.sampling.find import Finder, lives
from fingerpost.agent.sampling.signs import PROC, SignFiles, SignMeter

# Looking for processes reads all of the machine's: not at every sample.
_LOOK_EVERY_S = 10.0
# While the service is away it is looked for more often.
_LOOK_AGAIN_S = 2.0


class ProcessSampler:
    """Measures processes and their children, also theirs (the workers of a prefork server); or the machine.

    They are looked for again every ten seconds, and as soon as one is gone, so that a deploy is followed. The CPU time
    of a child that ended is kept in its parent's counter, so nothing is lost with it. Memory is the sum of the resident
    sets: pages that several processes share are counted in each.

    Args:
        subject: what of cores and memory limit it leaves open is the machine's.
        find: gives the pids; None: the whole machine.
        within: gives the subject with the limits that hold for a process.
        proc: where the kernel tells of processes and mounts.
    """

    def __init__(
        self,
        subject: Subject,
        find: Finder | None = None,
        within: Callable[[Subject, int], Subject] | None = None,
        proc: Path = PROC,
    ) -> None:
        self._given, self._find, self._within = subject, find, within
        self._subject = subject
        self._mains: list[psutil.Process] = []
        self._children: list[psutil.Process] = []
        self._looked_s = -math.inf
        self._why = ""
        self._meter = CpuMeter(restarts=False)
        self._proc, self._signs = proc, SignMeter(SignFiles(proc=proc))
        with contextlib.suppress(SamplingError):  # each sample says so
            self._measure()

    def sample(self) -> dict[str, Any]:
        """One host sample.

        Raises:
            NotYetError: other processes were found than before; what they use is known from the next sample on.
            SamplingError: the processes are gone or may not be looked at.
        """
        cpu_util, mem_bytes = self._measure()
        if cpu_util is None:
            pids = ", ".join(str(each.pid) for each in self._mains)
            raise NotYetError(f"measured from now on: process {pids}")
        cores, mem_limit = self._limits()
        return {**self._subject.row(cpu_util, cores, mem_bytes, mem_limit, self._meter.used_s), **self._signs.look()}

    def busy_s(self) -> float | None:
        """CPU-seconds of the processes and their known children; None for the machine: its counter has ticks of 10 ms.

        Raises:
            SamplingError: a process is gone or may not be looked at.
        """
        if self._find is None:
            return None
        if not self._mains:
            raise SamplingError(self._why)
        try:
            busy_s = sum(process_cpu_s(each.pid) for each in self._mains)
        except psutil.Error as error:
            raise SamplingError(f"cannot sample the host: {error}") from error
        for child in self._children:
            with contextlib.suppress(psutil.Error):
                busy_s += process_cpu_s(child.pid)
        return busy_s

    def _measure(self) -> tuple[float | None, int]:
        """The share of the cores that was used since the last call, None at the first; and bytes of memory."""
        try:
            if self._find is None:
                times = psutil.cpu_times()
                busy_s = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
                mem_bytes = psutil.virtual_memory().used
            else:
                self._look(self._find, time.monotonic())
                busy_s, mem_bytes = _usage(self._mains, self._children)
        except psutil.Error as error:
            self._mains = []
            raise SamplingError(f"cannot sample the host: {error}") from error
        return self._meter.utilisation(time.monotonic(), busy_s, self._limits()[0]), mem_bytes

    def _look(self, find: Finder, now_s: float) -> None:
        """Looks for the processes if it is time to.

        Raises:
            SamplingError: they are not there.
        """
        alive = bool(self._mains) and all(map(lives, self._mains))
        if alive and now_s - self._looked_s < _LOOK_EVERY_S:
            return
        if self._why and now_s - self._looked_s < _LOOK_AGAIN_S:
            raise SamplingError(self._why)
        self._looked_s = now_s
        try:
            found = [psutil.Process(pid) for pid in find()]
        except (SamplingError, psutil.Error) as error:
            self._mains, self._children, self._why = [], [], str(error)
            raise SamplingError(self._why) from error
        if found != self._mains:
            self._mains, self._meter = found, CpuMeter(restarts=False)
            self._signs = SignMeter(signs_of_process(found[0].pid, self._proc))
            self._subject = self._within(self._given, found[0].pid) if self._within else self._given
        self._children = [child for each in found for child in each.children(recursive=True)]
        self._why = ""

    def _limits(self) -> tuple[float, int]:
        cores = self._subject.cores or float(psutil.cpu_count() or 1)
        return cores, self._subject.mem_limit_bytes or psutil.virtual_memory().total


def _usage(mains: Iterable[psutil.Process], children: Iterable[psutil.Process]) -> tuple[float, int]:
    """CPU-seconds and bytes of processes and those of their children that are still there."""
    busy_s, mem_bytes = 0.0, 0
    for main in mains:
        main_s, main_bytes = _of(main)
        busy_s, mem_bytes = busy_s + main_s, mem_bytes + main_bytes
    for child in children:
        with contextlib.suppress(psutil.Error):
            if child.is_running():
                child_s, child_bytes = _of(child)
                busy_s, mem_bytes = busy_s + child_s, mem_bytes + child_bytes
    return busy_s, mem_bytes


def _of(process: psutil.Process) -> tuple[float, int]:
    with process.oneshot():
        times = process.cpu_times()
        ended_children = times.children_user + times.children_system
        return process_cpu_s(process.pid) + ended_children, process.memory_info().rss
