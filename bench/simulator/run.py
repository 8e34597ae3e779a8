"""A whole run: predictions, guard and fleet together, and what its clients saw."""

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.simulator.arrivals import ArrivalStream, rate_envelope
from bench.simulator.bound import fleet_capacity_rps
from bench.simulator.fleet import TICK_S, Fleet, build_fleet
from bench.simulator.predictions import Predictor, cell_sums, predictor_for
from bench.simulator.scenario import Scenario
from bench.simulator.simulation import Chunk, Simulation, Table
from routing.guard import Evidence, compare, remember, trust, trusted_throughput

if TYPE_CHECKING:
    from training.bundle import ModelBundle

_STEP_S = 1.0
_GUARD_MEMORY_S = 15.0
# A fleet that holds so many seconds' worth of arrivals is lost; going on would only cost time and memory.
_HOPELESS_S = 20.0


@dataclass(frozen=True)
class Figures:
    """What a run's clients saw, of the requests sent after the warm-up.

    Attributes:
        rate_rps: requests sent a second; `goodput_rps`: of them answered well within the SLO.
        errors: share that failed; `mean_s` to `p999_s` are of the others.
        trust: mean exponent the guard gave the predictions (1 without guard, 0 for peers).
        requests: sent in all, warm-up included.
        overloaded: the run was given up because requests piled up; its percentiles are then of what was answered.
    """

    requests: int
    rate_rps: float
    goodput_rps: float
    errors: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    p999_s: float
    trust: float
    overloaded: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Bench:
    """A scenario's fleet and bound for one seed, on which any policy can be run.

    Args:
        fleet: instead of the one that the seed draws.
    """

    def __init__(self, scenario: Scenario, seed: int, fleet: Fleet | None = None) -> None:
        self.scenario, self.seed = scenario, seed
        self.fleet: Fleet = fleet or build_fleet(scenario, seed)
        self._model: ModelBundle | None = None
        self.bound_rps = fleet_capacity_rps(self.fleet, int(scenario.warmup_s / TICK_S))
        self._envelope = rate_envelope(scenario)

    def simulation(self, policy: str, load: float, pickers: int) -> Simulation:
        """A run that has not begun, at `load` times the bound."""
        arrivals = ArrivalStream(self.scenario, self.fleet, self.bound_rps, load, pickers, self.seed, self._envelope)
        return Simulation(self.scenario, self.fleet, policy, arrivals, pickers, self.seed)

    def model(self) -> "ModelBundle":
        """What training makes of the fleet's past; learned once, when it is first asked for."""
        if self._model is None:
            from bench.simulator.past import learn

            self._model = learn(self.scenario, self.seed)
        return self._model

    def run(
        self,
        policy: str,
        load: float,
        pickers: int,
        watch: Callable[[Chunk], None] | None = None,
        predictor: Predictor | None = None,
    ) -> Figures:
        """Runs warm-up and measured time, then lets every request end.

        Args:
            watch: called with every span's chunk.
            predictor: instead of the one the scenario asks for.
        """
        scenario = self.scenario
        simulation = self.simulation(policy, load, pickers)
        router = None
        if policy == "fingerpost":
            router = Router(scenario, predictor or predictor_for(scenario, self.fleet, self.seed, self.model))
        end_s, hopeless = scenario.warmup_s + scenario.duration_s, _HOPELESS_S * load * self.bound_rps
        chunks: list[Chunk] = []
        step = min(_STEP_S, scenario.predictions.refresh_s)
        overloaded = False
        while simulation.now_s < end_s and not overloaded:
            if router is not None:
                simulation.install(router.table(simulation.now_s))
            chunk = simulation.step(min(simulation.now_s + step, end_s))
            if router is not None:
                router.observe(chunk)
            if watch is not None:
                watch(chunk)
            chunks.append(chunk)
            overloaded = simulation.in_fleet > max(hopeless, 10_000)
        measured_s = simulation.now_s - scenario.warmup_s
        chunks.append(simulation.drain())
        if watch is not None:
            watch(chunks[-1])
        return _figures(scenario, chunks, measured_s, router, overloaded)


class Router:
    """Refreshes the table as the scenario says, and lets the guard decide how far to trust it."""

    def __init__(self, scenario: Scenario, predictor: Predictor) -> None:
        self._settings, self._predictor, self._guarded = scenario.predictions, predictor, scenario.picker.guard
        self._coming: deque[tuple[float, Table]] = deque()
        self._next_refresh_s = 0.0
        self._table: Table | None = None
        self._evidence: Evidence | None = None
        self.exponents: list[float] = []

    def table(self, now_s: float) -> Table:
        """The table in force, as far as it is trusted."""
        if now_s >= self._next_refresh_s - 1e-9:
            self._next_refresh_s = now_s + self._settings.refresh_s
            self._coming.append((now_s + self._settings.delay_s, self._predictor.table(now_s)))
        while self._coming and (self._table is None or self._coming[0][0] <= now_s + 1e-9):
            self._table = self._coming.popleft()[1]
        assert self._table is not None  # noqa: S101
        exponent = trust(self._evidence) if self._guarded else 1.0
        self.exponents.append(exponent)
        return Table(trusted_throughput(self._table.throughput_rps, exponent), self._table.latency_s)

    def observe(self, chunk: Chunk) -> None:
        """Weighs the table against what was measured under it, then lets the predictor learn."""
        self._predictor.observe(chunk)
        if self._table is None or not self._guarded:
            return
        counts, service, _ = cell_sums(chunk, self._table.throughput_rps.shape)
        predicted = chunk.samples.slots[:, None] / self._table.throughput_rps
        keep = float(np.exp(-(chunk.end_s - chunk.begin_s) / _GUARD_MEMORY_S))
        self._evidence = remember(self._evidence, compare(predicted, service, counts), keep)


def _figures(
    scenario: Scenario, chunks: list[Chunk], measured_s: float, router: Router | None, overloaded: bool
) -> Figures:
    sent = np.concatenate([chunk.records.sent_s for chunk in chunks])
    measured = sent >= scenario.warmup_s if measured_s > 0 else sent >= 0
    duration = np.concatenate([chunk.records.duration_s for chunk in chunks])[measured]
    error = np.concatenate([chunk.records.error for chunk in chunks])[measured]
    good = duration[~error]
    span = measured_s if measured_s > 0 else scenario.warmup_s + measured_s
    percentiles = np.quantile(good, [0.5, 0.9, 0.99, 0.999]) if len(good) else np.full(4, np.nan)
    exponents = router.exponents[int(scenario.warmup_s / _STEP_S) :] if router is not None else []
    return Figures(
        requests=len(sent),
        rate_rps=len(duration) / span,
        goodput_rps=float((good <= scenario.slo_s).sum()) / span,
        errors=float(error.mean()) if len(error) else 0.0,
        mean_s=float(good.mean()) if len(good) else float("nan"),
        p50_s=float(percentiles[0]),
        p90_s=float(percentiles[1]),
        p99_s=float(percentiles[2]),
        p999_s=float(percentiles[3]),
        trust=float(np.mean(exponents)) if exponents else 0.0,
        overloaded=overloaded,
    )
