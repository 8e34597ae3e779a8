"""Measures how busy the process is: requests in flight, and utilisation over the last second; cheap to ask."""

import os
import resource
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from fingerpost.request_status import failed

_SPAN_S = 1.0
_REFRESH_S = 0.1
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Load:
    """Utilisation of a process over the last second or so.

    Attributes:
        cpu: share of its cores, 0 and up.
        memory: share of the memory it may use, or None if unknown.
        application: mean requests in flight over slots (above 1: some wait), or None without slots.
        rps, eps: responses, and failed ones, a second.
    """

    cpu: float
    memory: float | None
    application: float | None
    rps: float
    eps: float


class HostLoad:
    """Counts requests in flight and responses, and turns them into a `Load`; any thread may call it.

    Args:
        cores: that the process may use; None: those it is allowed, within its cgroup's quota.
        mem_limit_bytes: memory it may use; None: its cgroup's limit, or the machine's memory.
        slots: requests it serves at once, or None.
    """

    def __init__(
        self, cores: float | None = None, mem_limit_bytes: int | None = None, slots: int | None = None
    ) -> None:
        self.inflight = 0
        self._cores = cores or allowed_cores()
        self._mem_limit = mem_limit_bytes or allowed_memory()
        self._slots = slots
        self._lock = threading.Lock()
        self._responses = self._errors = 0
        # Seconds spent by all requests together: grows by `inflight` a second.
        self._presence_s, self._changed_at = 0.0, time.perf_counter()
        self._marks: deque[tuple[float, float, float, int, int]] = deque([self._mark(self._changed_at)])
        self._load: Load | None = None

    def arrive(self) -> int:
        """Counts a request in; returns how many were there before it."""
        with self._lock:
            before = self.inflight
            self._count_presence()
            self.inflight = before + 1
        return before

    def leave(self) -> None:
        with self._lock:
            self._count_presence()
            self.inflight -= 1

    def respond(self, status: int) -> Load | None:
        """Counts a response, and returns the load, refreshed at most ten times a second; None until 0.1 s are seen."""
        with self._lock:
            self._responses += 1
            self._errors += failed(status)
            now = time.perf_counter()
            if now - self._marks[-1][0] >= _REFRESH_S:
                self._refresh(now)
            return self._load

    def _refresh(self, now: float) -> None:
        self._count_presence()
        while len(self._marks) > 1 and now - self._marks[1][0] >= _SPAN_S:
            self._marks.popleft()
        then, mark = self._marks[0], self._mark(now)
        self._marks.append(mark)
        span = now - then[0]
        # After a fork the process clock begins anew; until the old marks are gone that is less than none.
        cpu = max(0.0, mark[1] - then[1]) / span / self._cores
        memory = resident_bytes() / self._mem_limit if self._mem_limit else None
        application = (mark[2] - then[2]) / span / self._slots if self._slots else None
        self._load = Load(cpu, memory, application, (mark[3] - then[3]) / span, (mark[4] - then[4]) / span)

    def _mark(self, now: float) -> tuple[float, float, float, int, int]:
        return now, time.process_time(), self._presence_s, self._responses, self._errors

    def _count_presence(self) -> None:
        now = time.perf_counter()
        self._presence_s += self.inflight * (now - self._changed_at)
        self._changed_at = now


def allowed_cores() -> float:
    """Cores this process may use: its affinity, or the quota of its container's cgroup (v2) if that is less."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def allowed_memory() -> int | None:
    """Bytes of memory this process may use: its container's limit (cgroup v2), or the machine's; None if unknown."""
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def resident_bytes() -> int:
    """Bytes of memory the process holds; where the system does not tell, the most it ever held."""
    try:
        with Path("/proc/self/statm").open("rb") as handle:
            return int(handle.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
