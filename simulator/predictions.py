"""Provides a run's predictions: the truth, the truth with errors, telemetry, or nonsense."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.simulator.fleet import TICK_S, Fleet
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk, Table
from fingerpost.telemetry.windows import APART_S

if TYPE_CHECKING:
    from fingerpost.training.bundle import ModelBundle

# How many requests a prior counts for: variance of a single one (1) over the variance it leaves to be known, as in
# empirical Bayes; log differences of 0.45 between cells, of 0.2 in time.
_CELL_REQUESTS = 5.0
_DRIFT_REQUESTS = 25.0
_LONGER = 10.0
# What is sent to a host now is what was sent within so many seconds.
_LATELY_S = 1.0


class Predictor(Protocol):
    """What makes tables. Anything that learns from records and host samples fits in here."""

    def observe(self, chunk: Chunk) -> None:
        """Takes in what a span emitted."""

    def table(self, now_s: float) -> Table:
        """Predictions as of now."""


class Oracle:
    """The truth as of now, times an error of its own for every cell, lognormal with `sigma`.

    Args:
        hosts_tell: the table says how many slots hosts have.
    """

    def __init__(self, fleet: Fleet, sigma: float, seed: int, hosts_tell: bool = True) -> None:
        self._fleet = fleet
        self._slots = told_slots(fleet, hosts_tell)
        _, categories, hosts = fleet.service_s.shape
        self._error = np.random.default_rng([seed, 4]).lognormal(0, sigma, (hosts, categories))

    def observe(self, chunk: Chunk) -> None:
        """Needs no telemetry."""

    def table(self, now_s: float) -> Table:
        """The service times of this tick."""
        tick = min(int(now_s / TICK_S), len(self._fleet.service_s) - 1)
        service = self._fleet.service_s[tick].T * self._error
        return Table(self._fleet.servers[:, None] / service, service, slots=self._slots)


class Clairvoyant:
    """The true mean service time of every cell over the next `horizon_s`: what no predictor can know better.

    Of what traffic itself causes it knows how things are now and where they are heading: the categories in service, and
    when a reservoir reaches its limit if it goes on filling as it did within the last span. Of hosts that slow down
    with the number of requests on them it knows the law, so that pickers see the speed at the load they add to.
    """

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        self._fleet, self._horizon_s = fleet, scenario.predictions.horizon_s
        self._slots = told_slots(fleet, scenario.telemetry.hosts_tell)
        self._reservoir = scenario.reservoir
        hosts = scenario.hosts
        self._level, self._filled, self._slow = np.full(hosts, np.nan), np.zeros(hosts), np.zeros(hosts, dtype=np.bool_)
        self._beside = np.zeros((hosts, scenario.categories))

    def observe(self, chunk: Chunk) -> None:
        """Notes how hosts are, and how fast their reservoirs fill: averages over some seconds."""
        samples, span_s = chunk.samples, chunk.end_s - chunk.begin_s
        keep = float(np.exp(-span_s / _LATELY_S))
        filled = (samples.level - self._level) * self._fleet.limits / max(span_s, 1e-9)
        self._filled = keep * self._filled + (1 - keep) * np.nan_to_num(filled)
        self._level = samples.level
        tick = min(int(chunk.end_s / TICK_S), len(self._fleet.slowed) - 1)
        self._slow = samples.slowed > 1.001 * self._fleet.slowed[tick]
        self._beside = keep * self._beside + (1 - keep) * samples.beside

    def table(self, now_s: float) -> Table:
        """The mean from now to the horizon."""
        first = min(int(now_s / TICK_S), len(self._fleet.service_s) - 1)
        last = max(int(np.ceil((now_s + self._horizon_s) / TICK_S)), first + 1)
        beside = self._beside @ self._fleet.harm.T
        service = self._fleet.service_s[first:last].mean(axis=0).T * (1 + beside) * self._slowed()[:, None]
        rate, reach = self._fleet.servers[:, None] / service, self._fleet.slots.astype(np.float64) - 1
        return Table(rate, service, slots=self._slots, slowdown=self._fleet.crowding.T, reach=reach)

    def _slowed(self) -> Floats:
        """How many times slower its reservoir makes each host over the horizon, shape (H,)."""
        if self._reservoir is None:
            return np.ones(len(self._slow))
        limits, horizon_s = self._fleet.limits, self._horizon_s
        left = np.where(self._slow, self._level - self._reservoir.resume, 1 - self._level) * limits
        toward = np.where(self._slow, -self._filled, self._filled)
        turns_s = np.divide(left, toward, out=np.full(len(left), np.inf), where=toward > 1e-9)
        before = np.clip(turns_s / horizon_s, 0.0, 1.0)
        slow_share = np.nan_to_num(np.where(self._slow, before, 1 - before))
        return np.asarray(1 + (self._reservoir.factor - 1) * slow_share)


class Average:
    """`Ewma` at the product's cadence: it learns of whole windows, once agents have reported them."""

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        self._ewma, self._telling = Ewma(scenario, fleet), scenario.telemetry
        self._coming: list[Chunk] = []
        self._late_s = scenario.telemetry.settle_s + min(APART_S, scenario.telemetry.report_s) / 2
        self._table: Table | None = None

    def observe(self, chunk: Chunk) -> None:
        """Keeps a span's requests until their window is told."""
        self._coming.append(chunk)

    def table(self, now_s: float) -> Table:
        """What is known of the windows that have been reported by now."""
        window_s = self._telling.window_s
        told_s = np.floor((now_s - self._late_s) / window_s + 1e-9) * window_s
        fresh = [chunk for chunk in self._coming if chunk.end_s <= told_s + 1e-9]
        if fresh or self._table is None:
            self._coming = self._coming[len(fresh) :]
            for chunk in fresh:
                self._ewma.observe(chunk)
            self._table = self._ewma.table(now_s)
        return self._table


class Ewma:
    """The baseline without a model: fading means of measured service times in two spans of memory.

    The long one, drawn to category mean x host ratio where a cell has few requests, says how a host usually is; the
    short one, drawn to the long one, how it is now. A throughput is a host's slots over the service time, the
    bottleneck law where slots are the resource.

    What was measured fades to 1/e in `memory_s` in the short memory, in ten times that in the long one.
    """

    def __init__(self, scenario: Scenario, fleet: Fleet) -> None:
        self._servers, self._slots = fleet.servers, told_slots(fleet, scenario.telemetry.hosts_tell)
        memory_s, shape = scenario.predictions.memory_s, (scenario.hosts, scenario.categories)
        self._now, self._usual = _Means(shape, memory_s), _Means(shape, _LONGER * memory_s)
        self._wait = _Means(shape, memory_s)

    def observe(self, chunk: Chunk) -> None:
        """Adds a span's good requests."""
        counts, service, duration = cell_sums(chunk, self._now.count.shape)
        span_s = chunk.end_s - chunk.begin_s
        self._now.add(counts, service, span_s)
        self._usual.add(counts, service, span_s)
        self._wait.add(counts, duration, span_s)

    def table(self, now_s: float) -> Table:  # noqa: ARG002
        """What is known by now; all hosts equal as long as nothing was measured."""
        if self._usual.count.sum() <= 0:
            return Table(np.ones_like(self._now.count), np.ones_like(self._now.count), slots=self._slots)
        usual = self._usual.drawn_to(self._usual.category_by_host(), _CELL_REQUESTS)
        service = self._now.drawn_to(usual, _DRIFT_REQUESTS)
        duration = self._wait.drawn_to(self._wait.category_by_host(), _CELL_REQUESTS)
        return Table(self._servers[:, None] / service, duration, slots=self._slots)


class _Means:
    """Fading sums over the cells, shape (H, C), and means made from them."""

    def __init__(self, shape: tuple[int, ...], memory_s: float) -> None:
        self.count, self.total, self._memory_s = np.zeros(shape), np.zeros(shape), memory_s

    def add(self, count: Floats, total: Floats, span_s: float) -> None:
        keep = float(np.exp(-span_s / self._memory_s))
        self.count = keep * self.count + count
        self.total = keep * self.total + total

    def category_by_host(self) -> Floats:
        """Category mean times host ratio, seconds: what a cell would be if hosts differed in speed alone."""
        overall = self.total.sum() / self.count.sum()
        weight = overall * _CELL_REQUESTS
        category = (self.total.sum(axis=0) + weight) / (self.count.sum(axis=0) + _CELL_REQUESTS)
        ratio = (self.total.sum(axis=1) + weight) / ((self.count * category).sum(axis=1) + weight)
        return category * ratio[:, None]

    def drawn_to(self, prior: Floats, requests: float) -> Floats:
        """Means of the cells, with the prior counted as so many requests."""
        return (self.total + prior * requests) / (self.count + requests)


class Absurd:
    """Another predictor's tables made useless from `from_s` on.

    `shuffled`: every category's row of hosts in a wrong order; `all_equal`; `ten_times_off`: every cell ten times too
    high or too low, by a coin of its own; `absurd_hosts`: the first `absurd` hosts ten times too fast.
    """

    def __init__(
        self, inner: Predictor, kind: str, from_s: float, hosts: int, categories: int, seed: int, absurd: int = 1
    ) -> None:
        self._inner, self._kind, self._from_s = inner, kind, from_s
        rng = np.random.default_rng([seed, 5])
        self._order = rng.permuted(np.tile(np.arange(hosts)[:, None], (1, categories)), axis=0)
        self._factor = np.where(rng.random((hosts, categories)) < 0.5, 10.0, 0.1)
        if kind == "absurd_hosts":
            self._factor = np.where(np.arange(hosts) < absurd, 10.0, 1.0)[:, None]

    def observe(self, chunk: Chunk) -> None:
        """Passes on what a span emitted."""
        self._inner.observe(chunk)

    def table(self, now_s: float) -> Table:
        """The inner table, spoiled."""
        table = self._inner.table(now_s)
        if now_s < self._from_s:
            return table
        if self._kind == "shuffled":
            return replace(
                table,
                throughput_rps=np.take_along_axis(table.throughput_rps, self._order, axis=0),
                latency_s=np.take_along_axis(table.latency_s, self._order, axis=0),
            )
        if self._kind == "all_equal":
            return replace(
                table, throughput_rps=np.ones_like(table.throughput_rps), latency_s=np.ones_like(table.latency_s)
            )
        rate, latency = table.throughput_rps * self._factor, table.latency_s / self._factor
        return replace(table, throughput_rps=rate, latency_s=latency)


def predictor_for(scenario: Scenario, fleet: Fleet, seed: int, model: Callable[[], "ModelBundle"]) -> Predictor:
    """The predictor the scenario asks for; `model` is called if it is to be a learned one."""
    wanted = scenario.predictions
    if wanted.kind in ("oracle", "noisy"):
        return Oracle(fleet, wanted.sigma if wanted.kind == "noisy" else 0.0, seed, scenario.telemetry.hosts_tell)
    if wanted.kind in ("learned", "baseline"):
        from fingerpost.simulator.served import Served

        return Served(scenario, seed, model() if wanted.kind == "learned" else None)
    if wanted.kind == "clairvoyant":
        return Clairvoyant(scenario, fleet)
    if wanted.kind == "average":
        return Average(scenario, fleet)
    ewma = Ewma(scenario, fleet)
    if wanted.kind == "ewma":
        return ewma
    inner = Oracle(fleet, 0.0, seed, scenario.telemetry.hosts_tell) if wanted.kind == "absurd_hosts" else ewma
    shape = (scenario.hosts, scenario.categories)
    return Absurd(inner, wanted.kind, wanted.absurd_from_s, *shape, seed, wanted.absurd_hosts)


def told_slots(fleet: Fleet, hosts_tell: bool) -> Floats:
    """Slots as a table has them, shape (H,); NaN where hosts do not tell."""
    return fleet.slots.astype(np.float64) if hosts_tell else np.full(len(fleet.slots), np.nan)


def cell_sums(chunk: Chunk, shape: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Counts, sums of service time and sums of duration of a span's good requests, shape (H, C) each."""
    records, cells = chunk.records, int(np.prod(shape))
    good = ~records.error
    cell = records.host[good] * shape[1] + records.category[good]
    return (
        np.bincount(cell, minlength=cells).reshape(shape).astype(np.float64),
        np.bincount(cell, records.service_time_s[good], cells).reshape(shape).astype(np.float64),
        np.bincount(cell, records.duration_s[good], cells).reshape(shape).astype(np.float64),
    )
