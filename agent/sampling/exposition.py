"""Reads an exposition of node_exporter or cAdvisor: what it tells of a machine or a container."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fingerpost.agent.sampling.base import SamplingError
from fingerpost.agent.sampling.signs import Count

_UNLIMITED_BYTES = 2**60

_NODE_CPU, _NODE_TOTAL, _NODE_AVAILABLE = (
    "node_cpu_seconds_total",
    "node_memory_MemTotal_bytes",
    "node_memory_MemAvailable_bytes",
)
_CPU, _MEMORY, _MEM_LIMIT, _QUOTA, _PERIOD = (
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "container_spec_memory_limit_bytes",
    "container_spec_cpu_quota",
    "container_spec_cpu_period",
)
_MACHINE_CORES, _MACHINE_MEMORY = "machine_cpu_cores", "machine_memory_bytes"
_STARTED = "container_start_time_seconds"
_PERIODS, _THROTTLED = "container_cpu_cfs_periods_total", "container_cpu_cfs_throttled_periods_total"
# Seconds in which some task waited, by the kernel's pressure stall information.
_NODE_WAITED = {
    "cpu_pressure": "node_pressure_cpu_waiting_seconds_total",
    "mem_pressure": "node_pressure_memory_waiting_seconds_total",
}
_WAITED = {
    "cpu_pressure": "container_pressure_cpu_waiting_seconds_total",
    "mem_pressure": "container_pressure_memory_waiting_seconds_total",
}
NODE_NAMES = (_NODE_CPU, _NODE_TOTAL, _NODE_AVAILABLE, *_NODE_WAITED.values())
CONTAINER_NAMES = (
    *(_CPU, _MEMORY, _MEM_LIMIT, _QUOTA, _PERIOD, _STARTED, _MACHINE_CORES, _MACHINE_MEMORY, _PERIODS, _THROTTLED),
    *_WAITED.values(),
)
_IDLE_MODES = frozenset({"idle", "iowait"})
# By these labels a container that was restarted differs from the one before, which is shown for minutes.
_OF_ONE_LIFE = ("id", "name", "image", "container_id", "uid")
# A time that, read as milliseconds since 1970, is before this (seconds) was of seconds, as of OpenMetrics.
_LEAST_S = 1e8
_EXEMPLAR = " # {"


@dataclass(frozen=True)
class Reading:
    """What one exposition tells of a host.

    Args:
        series: CPU-seconds of each of its counters, by what tells them apart.
        measured_s: when it was measured by the endpoint's clock, seconds since 1970; None: just now.
        counts: of the signs that are told; what is counted in seconds of time has NaN as its whole.
        cores, mem_limit_bytes: None if not told.
    """

    series: Mapping[tuple[str, ...], float]
    mem_bytes: float
    cores: float | None
    mem_limit_bytes: float | None
    measured_s: float | None = None
    counts: tuple[Count, ...] = ()

    @property
    def busy_s(self) -> float:
        """CPU-seconds in all."""
        return sum(self.series.values())


class Counters:
    """The CPU-seconds that several counters grew by, in all.

    Each counts by itself: cores come and go, and a counter may step back a little (steal after a migration), or begin
    anew.
    """

    def __init__(self) -> None:
        self._last: Mapping[tuple[str, ...], float] = {}
        self.total_s = 0.0

    def add(self, series: Mapping[tuple[str, ...], float], most_s: float) -> float:
        """The total after these readings; of a counter that is new nothing is known of the time before.

        Args:
            most_s: CPU-seconds that can have been used since the readings before: what one that began anew shows more
                than that, it did not use since.
        """
        replaced = bool(self._last) and not self._last.keys() & series.keys()
        for key, value in series.items():
            if not math.isfinite(value):
                continue
            before = self._last.get(key, math.inf if replaced else value)
            begun_anew = 2 * value < before
            grew = value if begun_anew else value - before
            self.total_s += max(0.0, grew) if grew <= most_s or not begun_anew else 0.0
        self._last = dict(series)
        return self.total_s


@dataclass(frozen=True)
class _Sample:
    labels: Mapping[str, str]
    value: float
    measured_s: float | None = field(default=None)


def parse_exposition(lines: list[str], labels: Mapping[str, str]) -> Reading:
    """Reads the lines of one exposition.

    Args:
        labels: those of one container; empty: the machine.

    Raises:
        SamplingError: the lines are malformed, a metric is missing, or the labels fit several containers.
    """
    samples = _samples(lines)
    return _container(samples, labels) if labels else _machine(samples)


def _machine(samples: dict[str, list[_Sample]]) -> Reading:
    total = _the_one(samples, _NODE_TOTAL)
    cpu = samples.get(_NODE_CPU, [])
    cores = {each.labels.get("cpu") for each in cpu}
    if not cores:
        raise SamplingError(f"{_NODE_CPU} is missing")
    busy = [each for each in cpu if each.labels.get("mode") not in _IDLE_MODES]
    series: dict[tuple[str, ...], float] = {
        (each.labels.get("cpu", ""), each.labels.get("mode", "")): each.value for each in busy
    }
    stolen_s = [each.value for each in cpu if each.labels.get("mode") == "steal"]
    counts = _waited(samples, _NODE_WAITED)
    if stolen_s:
        counts.append(Count("steal_share", "", sum(stolen_s) / len(cores), math.nan))
    used = total - _the_one(samples, _NODE_AVAILABLE)
    return Reading(series, used, float(len(cores)), total, counts=tuple(counts))


def _container(samples: dict[str, list[_Sample]], labels: Mapping[str, str]) -> Reading:
    mine = {
        name: [each for each in found if labels.items() <= each.labels.items()]
        for name, found in samples.items()
        if name not in (_MACHINE_CORES, _MACHINE_MEMORY)
    }
    cpu = mine.get(_CPU, [])
    if not cpu:
        raise SamplingError(f"{_CPU} is missing for {dict(labels)}")
    life = _latest_life(cpu, mine.get(_STARTED, []), labels)
    mine = {name: [each for each in found if _is_of(each, life)] for name, found in mine.items()}
    cpu = mine[_CPU]
    # One series a core, or one of `total`, or both.
    cpu = [each for each in cpu if each.labels.get("cpu") == "total"] or cpu
    quota, period = _optional(mine, _QUOTA), _optional(mine, _PERIOD)
    cores = quota / period if quota and period and quota > 0 and period > 0 else _optional(samples, _MACHINE_CORES)
    limit = _optional(mine, _MEM_LIMIT)
    if not limit or not 0 < limit < _UNLIMITED_BYTES:
        limit = _optional(samples, _MACHINE_MEMORY)
    measured_s = max((each.measured_s for each in cpu if each.measured_s is not None), default=None)
    counts, periods, throttled = _waited(mine, _WAITED), _optional(mine, _PERIODS), _optional(mine, _THROTTLED)
    if periods is not None and throttled is not None:
        counts.append(Count("throttled_share", "", throttled, periods))
    series: dict[tuple[str, ...], float] = {
        (each.labels.get("id", ""), each.labels.get("cpu", "")): each.value for each in cpu
    }
    return Reading(series, _the_one(mine, _MEMORY), cores, limit, measured_s, tuple(counts))


def _latest_life(cpu: list[_Sample], started: list[_Sample], labels: Mapping[str, str]) -> Mapping[str, str]:
    """The labels of the newest of several lives of one container; empty, if there is but one.

    Raises:
        SamplingError: they are several containers, or nothing tells which life is the newest.
    """
    lives = {tuple(sorted(item for item in each.labels.items() if item[0] != "cpu")): each for each in cpu}
    if len(lives) == 1:
        return {}
    if len({tuple(item for item in life if item[0] not in _OF_ONE_LIFE) for life in lives}) > 1:
        raise SamplingError(f"{dict(labels)} fits several containers: add a label")
    told = {
        life: max((each.value for each in started if _is_of(each, dict(life))), default=sample.measured_s)
        for life, sample in lives.items()
    }
    known = {life: when for life, when in told.items() if when is not None}
    latest = [life for life, when in known.items() if when == max(known.values())]
    if len(known) < len(lives) or len(latest) > 1:
        raise SamplingError(f"{dict(labels)} fits several containers, and no time tells the newest: add a label")
    return {name: value for name, value in latest[0] if name in _OF_ONE_LIFE}


def _is_of(sample: _Sample, life: Mapping[str, str]) -> bool:
    """Whether a sample is of one life of a container, as far as its labels tell."""
    return all(sample.labels.get(name, value) == value for name, value in life.items())


def _waited(samples: Mapping[str, list[_Sample]], names: Mapping[str, str]) -> list[Count]:
    found = ((sign, _optional(samples, name)) for sign, name in names.items())
    return [Count(sign, "", seconds, math.nan) for sign, seconds in found if seconds is not None]


def _samples(lines: list[str]) -> dict[str, list[_Sample]]:
    from prometheus_client.parser import text_string_to_metric_families

    # A series that is there twice, as behind some proxies, counts once: the newer, else the last.
    unique: dict[tuple[str, tuple[tuple[str, str], ...]], _Sample] = {}
    try:
        for family in text_string_to_metric_families("\n".join(line.partition(_EXEMPLAR)[0] for line in lines)):
            for each in family.samples:
                measured_s = None if each.timestamp is None else _seconds(float(each.timestamp))
                key = (each.name, tuple(sorted(each.labels.items())))
                known = unique.get(key)
                if known is None or (measured_s or math.inf) >= (known.measured_s or 0.0):
                    unique[key] = _Sample(each.labels, each.value, measured_s)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SamplingError(f"not an exposition: {error}") from error
    found: dict[str, list[_Sample]] = {}
    for (name, _), sample in unique.items():
        found.setdefault(name, []).append(sample)
    return found


def _seconds(timestamp: float) -> float:
    """A time that the parser took for milliseconds, in seconds: it was of seconds if it is too long ago."""
    return timestamp if timestamp >= _LEAST_S else timestamp * 1000


def _optional(samples: Mapping[str, list[_Sample]], name: str) -> float | None:
    found = samples.get(name, [])
    if len(found) > 1:
        raise SamplingError(f"{name} is there {len(found)} times")
    return found[0].value if found and math.isfinite(found[0].value) else None


def _the_one(samples: Mapping[str, list[_Sample]], name: str) -> float:
    value = _optional(samples, name)
    if value is None:
        raise SamplingError(f"{name} is missing")
    return value
