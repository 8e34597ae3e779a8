"""Host samples of a cgroup (version 2), so that a container sees its own quota and not the machine's.

Files by the kernel's documentation (admin-guide/cgroup-v2): cpu.stat, cpu.max, cpuset.cpus.effective, memory.current,
memory.stat, memory.max.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import psutil

from fingerpost.agent.sampling.base import CpuMeter, SamplingError, Subject
from fingerpost.agent.sampling.signs import PROC, SignFiles, SignMeter
from fingerpost.clock import US

_Number = TypeVar("_Number", int, float)


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
        path = self.folder / "memory.current"
        try:
            used = int(path.read_text())
        except (OSError, ValueError) as error:
            raise SamplingError(f"cannot read {path}: {error}") from error
        with contextlib.suppress(SamplingError):
            used -= _field(self.folder / "memory.stat", "inactive_file")
        return max(0, used)


def find_cgroup(pid: int | None = None, path: Path | None = None, proc: Path = PROC) -> Cgroup:
    """The cgroup of a process, or a given one.

    Args:
        pid: a process; None: this one.
        path: a cgroup, as its folder or as its name in the hierarchy (`/system.slice/shop.service`).
        proc: where the kernel tells of processes and mounts.

    Raises:
        SamplingError: no version 2 hierarchy is mounted, or the process or cgroup is not in it.
    """
    root, mounted = _mount(proc, "cgroup2")
    if path is not None:
        folder = path if (path / "cpu.stat").is_file() else root / str(path).lstrip("/")
    else:
        folder = root / _relative(_name(proc / (str(pid) if pid else "self") / "cgroup", "0", ""), mounted)
        if pid is None and not folder.is_dir():
            folder = root  # a container that sees the machine's name of its cgroup but only its own folder
    folder = Path(os.path.normpath(folder))
    if not (folder / "cpu.stat").is_file():
        raise SamplingError(f"no cgroup (version 2) at {folder}")
    return Cgroup(folder, root if folder.is_relative_to(root) else folder)


def signs_of_process(pid: int, proc: Path = PROC) -> SignFiles:
    """Where the kernel counts for the cgroups that hold a process; for the machine where they do not tell."""
    pressure: Path | None = None
    throttling: tuple[Path, ...] = ()
    with contextlib.suppress(SamplingError):
        cgroup = find_cgroup(pid, None, proc)
        pressure, throttling = cgroup.folder, tuple(cgroup.upwards())
    # Where version 1 limits the CPU, version 2 is without its controller.
    with contextlib.suppress(SamplingError):
        root, mounted = _mount(proc, "cgroup", "cpu")
        folder = Path(os.path.normpath(root / _relative(_name(proc / str(pid) / "cgroup", None, "cpu"), mounted)))
        throttling += tuple(Cgroup(folder, root if folder.is_relative_to(root) else folder).upwards())
    return SignFiles(throttling, pressure, proc)


class CgroupSampler:
    """Measures a cgroup; its limits are read anew each time, since they may be changed while it runs.

    Args:
        subject: what of cores and memory limit it leaves open is the tightest limit of the cgroup and of those above
            it, or the machine's.

    Raises:
        SamplingError: the cgroup does not tell of its CPU and memory.
    """

    def __init__(self, subject: Subject, cgroup: Cgroup, proc: Path = PROC) -> None:
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


def _mount(proc: Path, kind: str, controller: str | None = None) -> tuple[Path, str]:
    """Where a hierarchy is mounted, and which cgroup's folder that mount shows.

    Args:
        kind: the type of its file system: `cgroup2`, or `cgroup` for version 1.
        controller: of version 1, which has a hierarchy for each.
    """
    try:
        lines = (proc / "self" / "mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise SamplingError(f"cannot read the mounts: {error}") from error
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        options = after.rpartition(" ")[2].split(",")
        if after.startswith(f"{kind} ") and len(fields) > 4 and (controller is None or controller in options):
            return Path(fields[4]), fields[3]
    raise SamplingError(f"no {kind} hierarchy {f'of {controller} ' if controller else ''}is mounted here")


def _name(path: Path, hierarchy: str | None, controller: str) -> str:
    """The name of a process's cgroup, by the number of its hierarchy (0: version 2), or by its controller."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise SamplingError(f"cannot read {path}: {error}") from error
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controller in controllers.split(",") and hierarchy in (None, number):
            return name.removesuffix(" (deleted)")
    raise SamplingError(f"{path} names no cgroup of {controller or 'version 2'}")


def _relative(name: str, mounted: str) -> str:
    if "/../" in f"{name}/":
        raise SamplingError(f"the cgroup {name} is outside of what can be seen from here")
    path = PurePosixPath(name)
    return str(path.relative_to(mounted)) if path.is_relative_to(mounted) else name.lstrip("/")


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
