"""Host samples by psutil: of one process and its children, or of the whole machine."""

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import psutil

from fleet.sampling.base import CpuMeter, SamplingError, Subject
from fleet.sampling.cpu_clock import process_cpu_s

# Looking for new children reads every process of the machine: not at every sample.
_CHILDREN_EVERY_S = 10.0


class ProcessSampler:
    """Measures a process and its children, also theirs; or the machine.

    The CPU time of a child that ended is kept in its parent's counter, so nothing is lost with it. Memory is the sum of
    the resident sets: pages that several processes share are counted in each.

    Args:
        subject: what of cores and memory limit it leaves open is the machine's.
        pid: the service's process; None: the whole machine.

    Raises:
        SamplingError: there is no such process.
    """

    def __init__(self, subject: Subject, pid: int | None = None) -> None:
        self._subject = subject
        try:
            self._process = psutil.Process(pid) if pid else None
        except (psutil.Error, ValueError, OverflowError) as error:
            raise SamplingError(f"cannot look at process {pid}: {error}") from error
        self._children: list[psutil.Process] = []
        self._children_at = -_CHILDREN_EVERY_S
        self._cores = subject.cores or float(psutil.cpu_count() or 1)
        self._mem_limit = subject.mem_limit_bytes or psutil.virtual_memory().total
        self._meter = CpuMeter(restarts=False)
        self._measure()

    def sample(self) -> dict[str, Any]:
        """One host sample; raises SamplingError: the process is gone or may not be looked at."""
        cpu_util, mem_bytes = self._measure()
        return self._subject.row(cpu_util or 0.0, self._cores, mem_bytes, self._mem_limit, self._meter.used_s)

    def busy_s(self) -> float | None:
        """CPU-seconds of the process and its known children; None for the machine, whose counter has ticks of 10 ms.

        Raises:
            SamplingError: the process is gone or may not be looked at.
        """
        if self._process is None:
            return None
        try:
            busy_s = process_cpu_s(self._process.pid)
        except psutil.Error as error:
            raise SamplingError(f"cannot sample the host: {error}") from error
        for child in self._children:
            with contextlib.suppress(psutil.Error):
                busy_s += process_cpu_s(child.pid)
        return busy_s

    def _measure(self) -> tuple[float | None, int]:
        now = time.monotonic()
        try:
            if self._process is None:
                times = psutil.cpu_times()
                busy_s = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
                mem_bytes = psutil.virtual_memory().used
            else:
                if now - self._children_at >= _CHILDREN_EVERY_S:
                    self._children, self._children_at = self._process.children(recursive=True), now
                busy_s, mem_bytes = _usage(self._process, self._children)
        except psutil.Error as error:
            raise SamplingError(f"cannot sample the host: {error}") from error
        return self._meter.utilisation(now, busy_s, self._cores), mem_bytes


def _usage(process: psutil.Process, children: Iterable[psutil.Process]) -> tuple[float, int]:
    """CPU-seconds and bytes of a process and those of its children that are still there."""
    busy_s, mem_bytes = _of(process)
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
