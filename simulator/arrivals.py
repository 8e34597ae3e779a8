"""When requests arrive: the same for every policy, by seed."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.errors import FingerpostError
from fingerpost.simulator.fleet import TICK_S, Fleet, unit_service_times
from fingerpost.simulator.scenario import Scenario

_MAX_ROWS = 5_000_000
# Of the warm-up; the rest of it is at the run's own load, for queues to settle.
_CALM_SHARE = 2 / 3


@dataclass(frozen=True)
class Arrivals:
    """Requests in order of time; all arrays of one length.

    Attributes:
        time: seconds from the start of the run.
        category, picker: who asks what.
        work: service time as a multiple of the host's mean for the category.
    """

    time: Floats
    category: NDArray[np.int64]
    picker: NDArray[np.int64]
    work: Floats


class ArrivalStream:
    """Draws arrivals span by span.

    Args:
        bound_rps, load: the rate is their product, over the run.
        envelope: relative rate over the run in equal parts, mean 1; `[1]` is Poisson.
    """

    def __init__(
        self, scenario: Scenario, fleet: Fleet, bound_rps: float, load: float, pickers: int, seed: int, envelope: Floats
    ) -> None:
        self._scenario, self._fleet, self._pickers = scenario, fleet, pickers
        self._rate = load * bound_rps
        # A fleet that nobody knows yet is not met with full load, by any policy.
        self._calm_rate = min(load, scenario.warmup_load) * bound_rps
        self._calm_s = scenario.warmup_s * _CALM_SHARE
        self._rng = np.random.default_rng([seed, 2])
        self._envelope = envelope
        self._part_s = (scenario.warmup_s + scenario.duration_s) / len(envelope)

    def draw(self, begin_s: float, end_s: float) -> Arrivals:
        """Arrivals in [begin, end)."""
        edges = np.unique(np.concatenate([[begin_s, end_s], self._edges(begin_s, end_s)]))
        part = np.minimum(((edges[:-1] + edges[1:]) / 2 / self._part_s).astype(np.int64), len(self._envelope) - 1)
        rate = np.where(edges[:-1] < self._calm_s, self._calm_rate, self._rate)
        counts = self._rng.poisson(rate * self._envelope[part] * np.diff(edges))
        time = np.sort(
            np.repeat(edges[:-1], counts) + self._rng.random(counts.sum()) * np.repeat(np.diff(edges), counts)
        )
        category = self._categories(time)
        return Arrivals(
            time=time,
            category=category,
            picker=self._rng.integers(0, self._pickers, len(time)),
            work=unit_service_times(self._scenario, category, self._rng),
        )

    def _edges(self, begin_s: float, end_s: float) -> Floats:
        every = np.append(np.arange(len(self._envelope)) * self._part_s, self._calm_s)
        return every[(every > begin_s) & (every < end_s)]

    def _categories(self, time: Floats) -> NDArray[np.int64]:
        tick = np.minimum((time / TICK_S).astype(np.int64), len(self._fleet.mix) - 1)
        sums = np.cumsum(self._fleet.mix, axis=1)
        sums[:, -1] = 1.0
        return (self._rng.random(len(time))[:, None] >= sums[tick]).sum(axis=1)


def rate_envelope(scenario: Scenario) -> Floats:
    """Relative arrival rate over the run, mean 1.

    Of a trace the shape is used: its time is stretched to the run's, its counts to the load's rate. What a trace of two
    requests a second says about thousands is how demand comes in bursts, not single gaps; those are Poisson.

    Raises:
        FingerpostError: the trace cannot be used; the message names file and line.
    """
    if scenario.arrivals.kind == "rates":
        rates = np.asarray(scenario.arrivals.rates)
        return rates / rates.mean()
    if scenario.arrivals.path is None or scenario.arrivals.kind == "poisson":
        return np.ones(1)
    times = _trace_times(scenario.arrivals.path)
    counts, _ = np.histogram(times, bins=scenario.arrivals.bins)
    return counts / counts.mean()


def trace_rows(path: Path) -> Iterator[tuple[int, float, list[str]]]:
    """The rows of a trace, CSV whose first line is a header and whose first column is a time.

    Yields:
        Number of the line, seconds since 1970, and the row.

    Raises:
        FingerpostError: a time cannot be read, or there are too many rows; the message names the file and the line.
    """
    with path.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            if number == 1 or not row:
                continue
            if number > _MAX_ROWS:
                raise FingerpostError(f"{path}: more than {_MAX_ROWS:,} rows; take a part of it")
            try:
                # Python reads six digits of a second's fraction; traces carry seven.
                moment_s = datetime.fromisoformat(row[0][:26]).timestamp()
            except ValueError:
                raise FingerpostError(f"{path}: line {number}: not a time: {row[0]!r:.60}") from None
            yield number, moment_s, row


def _trace_times(path: Path) -> Floats:
    times = [moment_s for _, moment_s, _ in trace_rows(path)]
    if len(times) < 2 or max(times) <= min(times):
        raise FingerpostError(f"{path}: a trace needs a header and at least two times that differ")
    return np.asarray(times)
