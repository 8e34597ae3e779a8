"""Runs predictions, guard and fleet together, tells what clients saw, and makes the past that models learn from."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerpost.simulator.arrivals import ArrivalStream, rate_envelope
from fingerpost.simulator.bound import fleet_capacity_rps
from fingerpost.simulator.control import Control
from fingerpost.simulator.fleet import TICK_S, Fleet, build_fleet
from fingerpost.simulator.policies import parse_policy
from fingerpost.simulator.predictions import Predictor, predictor_for
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk, Simulation
from fingerpost.simulator.telemetry import Telemetry
from fingerpost.telemetry.windows import Arrays

if TYPE_CHECKING:
    import pandas as pd

    from fingerpost.training.bundle import ModelBundle

# A fleet that holds so many seconds' worth of arrivals is lost; going on would only cost time and memory.
_HOPELESS_S = 20.0
# The past that models are trained on is the same hosts on another day, in so many windows and requests.
_DAY = 1_000_003
_WINDOWS = (40, 120)
_REQUESTS = 400_000
# What a fleet is run with whose models are yet to come: a baseline's predictions, and more exploration.
_EXPLORATION = 0.05
_PICKERS = 4


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
            policy: one of `POLICIES`; ours may name what predicts for it, see `parse_policy`.
            watch: called with every span's chunk.
            predictor: instead of the one the scenario asks for.
        """
        policy, kind = parse_policy(policy)
        scenario = self.scenario
        if kind is not None:
            predicted = scenario.predictions.model_copy(update={"kind": kind})
            scenario = scenario.model_copy(update={"predictions": predicted})
        simulation = self.simulation(policy, load, pickers)
        control = None
        if policy == "fingerpost":
            wanted = predictor or predictor_for(scenario, self.fleet, self.seed, self.model)
            control = Control(scenario, wanted, pickers)
        end_s, hopeless = scenario.warmup_s + scenario.duration_s, _HOPELESS_S * load * self.bound_rps
        chunks: list[Chunk] = []
        # The same for all policies, since arrivals are drawn step by step.
        step = scenario.picker.look_s
        overloaded, steps = False, 0
        while simulation.now_s < end_s and not overloaded:
            if control is not None and (costs := control.costs(simulation.now_s)) is not None:
                simulation.install(costs, control.exploration)
            steps += 1
            chunk = simulation.step(min(steps * step, end_s))
            if control is not None:
                control.observe(chunk)
            if watch is not None:
                watch(chunk)
            chunks.append(chunk)
            overloaded = simulation.in_fleet > max(hopeless, 10_000)
        measured_s = simulation.now_s - scenario.warmup_s
        chunks.append(simulation.drain())
        if watch is not None:
            watch(chunks[-1])
        return _figures(scenario, chunks, measured_s, control, overloaded)


def learn(scenario: Scenario, seed: int) -> "ModelBundle":
    """Simulates a past of the seed's fleet and trains a model on its telemetry.

    Raises:
        NoDataError: too few requests were served to learn from.
    """
    from fingerpost.simulator.served import fit

    return fit(past_rows(scenario, seed), scenario.telemetry.window_s)


def past_rows(scenario: Scenario, seed: int) -> "pd.DataFrame":
    """Training rows of a past of the seed's fleet: other traffic and other drift, no losses, no antagonists.

    At `warmup_load` of the bound; some 400,000 requests, but at least 40 windows and at most 120, unless `past_s` says
    how long. Jobs keep each host's schedule and reservoirs their limits; restarts and churn are of that day.
    """
    from fingerpost.simulator.served import Served, training_rows

    window_s, load = scenario.telemetry.window_s, scenario.warmup_load
    picker = scenario.picker.model_copy(update={"exploration": max(_EXPLORATION, scenario.picker.exploration)})
    mix = [each for each in scenario.mix if each.at_s == 0]
    calm = {"events": [], "antagonists": [], "mix": mix, "picker": picker, "warmup_s": 0.0}
    before = scenario.model_copy(update=calm)
    if scenario.past_s is None:
        moment = build_fleet(before.model_copy(update={"duration_s": window_s}), seed)
        span_s = _REQUESTS / (load * fleet_capacity_rps(moment, 0))
        least_s, most_s = (windows * window_s for windows in _WINDOWS)
        span_s = float(np.clip(span_s, least_s, most_s))
    else:
        span_s = scenario.past_s
    before = before.model_copy(update={"duration_s": span_s})
    bench = Bench(before, seed + _DAY, build_fleet(before, seed, seed + _DAY))
    telemetry, parts = Telemetry(before), list[tuple[Arrays, Arrays]]()

    def watch(chunk: Chunk) -> None:
        ended = telemetry.closed(chunk)
        if ended is not None:
            parts.append(ended)

    bench.run("fingerpost", load, _PICKERS, watch, Served(before, seed))
    return training_rows(before, parts)


def _figures(
    scenario: Scenario, chunks: list[Chunk], measured_s: float, control: Control | None, overloaded: bool
) -> Figures:
    sent = np.concatenate([chunk.records.sent_s for chunk in chunks])
    measured = sent >= scenario.warmup_s if measured_s > 0 else sent >= 0
    duration = np.concatenate([chunk.records.duration_s for chunk in chunks])[measured]
    error = np.concatenate([chunk.records.error for chunk in chunks])[measured]
    good = duration[~error]
    span = measured_s if measured_s > 0 else scenario.warmup_s + measured_s
    percentiles = np.quantile(good, [0.5, 0.9, 0.99, 0.999]) if len(good) else np.full(4, np.nan)
    exponents = control.exponents[int(scenario.warmup_s / scenario.picker.look_s) :] if control is not None else []
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
