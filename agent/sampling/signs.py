"""Reads signs of a host about to be slow: CPU that is throttled or stolen, tasks that wait for CPU or memory.

Files by the kernel's documentation: `cpu.stat` of cgroups of version 2 (admin-guide/cgroup-v2) and 1
(scheduler/sched-bwc), pressure stall information (accounting/psi), `/proc/stat`.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fingerpost.clock import US
from fingerpost.records import SIGNS

PROC = Path("/proc")
_PRESSURES = {"cpu_pressure": "cpu", "mem_pressure": "memory"}
# Of the line `cpu` of /proc/stat: steal, in ticks of all CPUs.
_STEAL_FIELD = 8


@dataclass(frozen=True)
class Count:
    """Two counters, of which a sign is the share that one grew of the other.

    Args:
        sign: one of `fingerpost.records.SIGNS`.
        source: tells counters of the same sign apart; of several the greatest share counts.
        part, whole: in the same unit.
    """

    sign: str
    source: str
    part: float
    whole: float


@dataclass(frozen=True)
class SignFiles:
    """Where the kernel counts for one host.

    Args:
        throttling: folders of cgroups with a `cpu.stat` each, those above it included.
        pressure: a cgroup's folder; None: the machine's counters alone.
        proc: where the kernel tells of the machine.
    """

    throttling: tuple[Path, ...] = ()
    pressure: Path | None = None
    proc: Path = PROC

    def counts(self, now_s: float) -> Iterator[Count]:
        """What is counted by now; what cannot be read is left out.

        Args:
            now_s: seconds of a clock that never jumps.
        """
        for folder in self.throttling:
            stat = _fields(folder / "cpu.stat")
            if "nr_periods" in stat and "nr_throttled" in stat:
                yield Count("throttled_share", str(folder), stat["nr_throttled"], stat["nr_periods"])
        for sign, resource in _PRESSURES.items():
            total_us = self._stalled_us(resource)
            if total_us is not None:
                yield Count(sign, resource, total_us / US, now_s)
        with contextlib.suppress(OSError, ValueError, IndexError):
            with (self.proc / "stat").open("rb") as file:
                ticks = int(file.readline().split()[_STEAL_FIELD])
            # Of a machine whose CPUs are wholly its own the counter stands still.
            yield Count("steal_share", "machine", ticks / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1), now_s)

    def _stalled_us(self, resource: str) -> int | None:
        """Microseconds in which some task waited for a resource: of the cgroup, or else of the machine."""
        own = () if self.pressure is None else (self.pressure / f"{resource}.pressure",)
        for path in (*own, self.proc / "pressure" / resource):
            with contextlib.suppress(OSError, ValueError):
                line = path.read_text().partition("\n")[0]
                kind, _, total = line.rpartition(" total=")
                if kind.startswith("some "):
                    return int(total)
        return None


class SignMeter:
    """Turns counters into shares of the time between two looks.

    Args:
        files: where the kernel counts; None: counters are given to `shares` alone.
    """

    def __init__(self, files: SignFiles | None = None) -> None:
        self._files = files
        self._last: dict[tuple[str, str], Count] = {}
        self.look()

    def look(self) -> dict[str, float | None]:
        """Every sign's share since the last look; see `shares`."""
        return self.shares(self._files.counts(time.monotonic()) if self._files else ())

    def shares(self, counts: Iterable[Count]) -> dict[str, float | None]:
        """Every sign's share since the last call, 0 to 1.

        None where it was not counted both times, or a counter went back; 0 where nothing was counted in between.
        """
        now = {(each.sign, each.source): each for each in counts}
        found: dict[str, float | None] = dict.fromkeys(SIGNS)
        for key, count in now.items():
            before = self._last.get(key)
            if before is None or count.part < before.part or count.whole < before.whole:
                continue
            whole = count.whole - before.whole
            share = min((count.part - before.part) / whole, 1.0) if whole > 0 else 0.0
            found[count.sign] = max(found[count.sign] or 0.0, share)
        self._last = now
        return found


def _fields(path: Path) -> dict[str, int]:
    """Numbers of a file with a name and a number in each line; empty where there is none."""
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
        return {pair[0]: int(pair[1]) for pair in pairs}
    except (OSError, ValueError, IndexError):
        return {}
