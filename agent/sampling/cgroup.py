"""Host samples of a cgroup, so that a container sees its own quota and not the machine's.

Files by the kernel's documentation (admin-guide/cgroup-v2): cpu.stat, cpu.max, cpuset.cpus.effective, memory.current,
memory.stat, memory.max; and, where only version 1 is mounted (admin-guide/cgroup-v1), those of its hierarchies.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from fingerpost.agent.sampling.base import CpuMeter, SamplingError, Subject
from fingerpost.agent.sampling.hierarchies import hierarchies
from fingerpost.agent.sampling.signs import PROC, SignFiles, SignMeter
from fingerpost.clock import US

_Number = TypeVar("_Number", int, float)
_NS = 1_000_000_000
# Version 1 writes a number near 2^63 for no limit.
_UNLIMITED_V1 = 2**60


@dataclass(frozen=True)
class Limits:
    """What a cgroup may use; None: as much as the machine has."""

    cores: float | None = None
    mem_bytes: int | None = None


@dataclass(frozen=True)
class Cgroup:
    """A cgroup as a folder.

    Args:
        folder: its files.
        root: the uppermost folder that is seen of the hierarchy, `folder` itself or above it.
    """

    folder: Path
    root: Path

    def limits(self) -> Limits:
        """The tightest of its own limits and those of all cgroups above it; unreadable ones do not limit."""
        cores: list[float] = []
        memory: list[int] = []
        for folder in self.upwards():
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = (folder / "cpu.max").read_text().split()
                cores += [int(quota) / int(period)] if quota != "max" else []
            with contextlib.suppress(OSError, ValueError):
                limit = (folder / "memory.max").read_text().strip()
                memory += [int(limit)] if limit != "max" else []
        # The kernel has already intersected the set of CPUs with those above.
        with contextlib.suppress(OSError, ValueError):
            cores.append(_count_cpus((self.folder / "cpuset.cpus.effective").read_text()))
        return Limits(_least(cores), _least(memory))

    def upwards(self) -> Iterator[Path]:
        """Its folder, and those above it up to the root."""
        for folder in (self.folder, *self.folder.parents):
            yield folder
            if folder == self.root:
                return

    def busy_s(self) -> float:
        """CPU-seconds used since it was made."""
        return _field(self.folder / "cpu.stat", "usage_usec") / US

    def mem_bytes(self) -> int:
        """Its working set: memory in use without the file cache that the kernel can take back at once."""
        used = _number(self.folder / "memory.current")
        with contextlib.suppress(SamplingError):
            used -= _field(self.folder / "memory.stat", "inactive_file")
        return max(0, used)


@dataclass(frozen=True)
class CgroupV1:
    """A cgroup of version 1: a folder in each of several hierarchies.

    Args:
        cpu: its files, of the hierarchy that counts and limits the CPU.
        memory: those of the hierarchy of memory.
    """

    cpu: Cgroup
    memory: Cgroup

    @property
    def folder(self) -> Path:
        """Where its CPU is counted."""
        return self.cpu.folder

    def upwards(self) -> Iterator[Path]:
        """As of `Cgroup.upwards`, of the hierarchy of the CPU."""
        return self.cpu.upwards()

    def limits(self) -> Limits:
        """As of `Cgroup.limits`."""
        cores: list[float] = []
        memory: list[int] = []
        for folder in self.cpu.upwards():
            with contextlib.suppress(SamplingError, ZeroDivisionError):
                quota = _number(folder / "cpu.cfs_quota_us")
                cores += [quota / _number(folder / "cpu.cfs_period_us")] if quota > 0 else []
        for folder in self.memory.upwards():
            with contextlib.suppress(SamplingError):
                limit = _number(folder / "memory.limit_in_bytes")
                memory += [limit] if limit < _UNLIMITED_V1 else []
        return Limits(_least(cores), _least(memory))

    def busy_s(self) -> float:
        """CPU-seconds used since it was made."""
        return _number(self.cpu.folder / "cpuacct.usage") / _NS

    def mem_bytes(self) -> int:
        """Its working set, as of `Cgroup.mem_bytes`."""
        used = _number(self.memory.folder / "memory.usage_in_bytes")
        with contextlib.suppress(SamplingError):
            used -= _field(self.memory.folder / "memory.stat", "total_inactive_file")
        return max(0, used)


def find_cgroup(pid: int | None = None, path: Path | None = None, proc: Path = PROC) -> Cgroup | CgroupV1:
    """The cgroup of a process, or a given one; of version 1 where version 2 does not hold it.

    Args:
        pid: a process; None: this one.
        path: a cgroup, as its folder or as its name in the hierarchy (`/system.slice/shop.service`).
        proc: where the kernel tells of processes and mounts.

    Raises:
        SamplingError: no hierarchy is mounted, or the process or cgroup is not in it.
    """
    found = hierarchies(proc, pid, path is None)
    try:
        return Cgroup(*found.folder("", "cpu.stat", path))
    except SamplingError as error:
        try:
            cpu = Cgroup(*found.folder("cpuacct", "cpuacct.usage", path))
            return CgroupV1(cpu, Cgroup(*found.folder("memory", "memory.usage_in_bytes", path)))
        except SamplingError:
            raise error from None


def signs_of_process(pid: int, proc: Path = PROC) -> SignFiles:
    """Where the kernel counts for the cgroups that hold a process; for the machine where they do not tell."""
    pressure: Path | None = None
    throttling: tuple[Path, ...] = ()
    with contextlib.suppress(SamplingError):
        cgroup = Cgroup(*hierarchies(proc, pid).folder("", "cpu.stat"))
        pressure, throttling = cgroup.folder, tuple(cgroup.upwards())
    # Where version 1 limits the CPU, version 2 is without its controller.
    with contextlib.suppress(SamplingError):
        throttling += tuple(Cgroup(*hierarchies(proc, pid).folder("cpu", "cpu.stat")).upwards())
    return SignFiles(throttling, pressure, proc)


class CgroupSampler:
    """Measures a cgroup; its limits are read anew each time, since they may be changed while it runs.

    Args:
        subject: what of cores and memory limit it leaves open is the tightest limit of the cgroup and of those above
            it, or the machine's.

    Raises:
        SamplingError: the cgroup does not tell of its CPU and memory.
    """

    def __init__(self, subject: Subject, cgroup: Cgroup | CgroupV1, proc: Path = PROC) -> None:
        self._subject = subject
        self._cgroup = cgroup
        self._machine = machine_limits()
        self._meter = CpuMeter(restarts=True)
        self._signs = SignMeter(SignFiles(tuple(cgroup.upwards()), cgroup.folder, proc))
        self._measure()

    def sample(self) -> dict[str, Any]:
        """One host sample; raises SamplingError: the cgroup is gone."""
        return {**self._subject.row(*self._measure(), used_cpu_s=self._meter.used_s), **self._signs.look()}

    def busy_s(self) -> float:
        """CPU-seconds used so far; raises SamplingError: the cgroup is gone."""
        return self._cgroup.busy_s()

    def _measure(self) -> tuple[float, float, int, int]:
        limits = self._cgroup.limits()
        cores = self._subject.cores or min(limits.cores or self._machine[0], self._machine[0])
        mem_limit = self._subject.mem_limit_bytes or min(limits.mem_bytes or self._machine[1], self._machine[1])
        mem_bytes = self._cgroup.mem_bytes()
        cpu_util = self._meter.utilisation(time.monotonic(), self._cgroup.busy_s(), cores)
        return cpu_util or 0.0, cores, mem_bytes, mem_limit


def machine_limits() -> tuple[float, int]:
    """Cores and bytes of memory of the machine."""
    return float(psutil.cpu_count() or 1), psutil.virtual_memory().total


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError) as error:
        raise SamplingError(f"cannot read {path}: {error}") from error


def _field(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError) as error:
        raise SamplingError(f"cannot read {path}: {error}") from error
    raise SamplingError(f"{path} does not tell {name}")


def _least(limits: list[_Number]) -> _Number | None:
    return min((each for each in limits if each > 0), default=None)


def _count_cpus(ranges: str) -> int:
    """How many CPUs a list such as `0-3,8` names."""
    count = 0
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count
