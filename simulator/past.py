"""The fleet's past, which models are trained on: the same hosts on another day."""

from typing import TYPE_CHECKING

import numpy as np

from fingerpost.simulator.bound import fleet_capacity_rps
from fingerpost.simulator.fleet import build_fleet
from fingerpost.simulator.learned import fit, training_rows
from fingerpost.simulator.predictions import Ewma
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk
from fingerpost.simulator.telemetry import Telemetry
from fingerpost.telemetry.windows import Arrays

if TYPE_CHECKING:
    import pandas as pd

    from fingerpost.training.bundle import ModelBundle

_DAY = 1_000_003
_WINDOWS = (40, 120)
_REQUESTS = 400_000
# What a fleet is run with whose models are yet to come: a baseline's predictions, and more exploration.
_EXPLORATION = 0.05
_PICKERS = 4


def learn(scenario: Scenario, seed: int) -> "ModelBundle":
    """Simulates a past of the seed's fleet and trains a model on its telemetry.

    Raises:
        NoDataError: too few requests were served to learn from.
    """
    return fit(past_rows(scenario, seed), scenario.predictions.window_s)


def past_rows(scenario: Scenario, seed: int) -> "pd.DataFrame":
    """Training rows of a past of the seed's fleet: other traffic and other drift, no losses, no antagonists.

    At `warmup_load` of the bound; some 400,000 requests, but at least 40 windows and at most 120.
    """
    window_s, load = scenario.predictions.window_s, scenario.warmup_load
    picker = scenario.picker.model_copy(update={"exploration": max(_EXPLORATION, scenario.picker.exploration)})
    mix = [each for each in scenario.mix if each.at_s == 0]
    calm = {"events": [], "antagonists": [], "mix": mix, "picker": picker, "warmup_s": 0.0}
    before = scenario.model_copy(update=calm)
    moment = build_fleet(before.model_copy(update={"duration_s": window_s}), seed)
    span_s = _REQUESTS / (load * fleet_capacity_rps(moment, 0))
    least_s, most_s = (windows * window_s for windows in _WINDOWS)
    before = before.model_copy(update={"duration_s": float(np.clip(span_s, least_s, most_s))})
    bench = Bench(before, seed + _DAY, build_fleet(before, seed, seed + _DAY))
    telemetry, parts = Telemetry(window_s), list[tuple[Arrays, Arrays]]()

    def watch(chunk: Chunk) -> None:
        ended = telemetry.closed(chunk)
        if ended is not None:
            parts.append(ended)

    baseline = Ewma(bench.fleet.slots.astype(np.float64), scenario.categories, scenario.predictions.memory_s)
    bench.run("fingerpost", load, _PICKERS, watch, baseline)
    return training_rows(before, parts)
