"""The sample's fleet and the run of it in the simulator."""

from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.experiment import Experiment
from fingerpost.simulator.arrivals import ArrivalStream
from fingerpost.simulator.bound import fleet_capacity_rps
from fingerpost.simulator.control import Control
from fingerpost.simulator.fleet import build_fleet
from fingerpost.simulator.predictions import Ewma
from fingerpost.simulator.scenario import Antagonist, Drift, HostEvent, MatrixFleet, Mix, Picker, Scenario, ServiceTime
from fingerpost.simulator.simulation import Chunk, Simulation

SERVICE = "shop"
# Wednesday, 14 January 2026, 09:00 UTC.
BEGIN_US = 1_768_381_200 * US
HOSTS = ("compute-1", "compute-2", "storage-1", "general-1")
_CLASS = (0, 0, 1, 2)
_OWN = (1.0, 1.15, 1.0, 1.0)
SLOTS = (2, 2, 2, 1)
RTT_S = 0.001
# The simulation goes on in steps of this length, and so do tables.
STEP_S = 1.0
# Of what the fleet can carry at most.
_LOAD = 0.62
_SLOT_S, _WASHOUT_S = 30.0, 5.0
# Memory of the two forecasts that route in turn, seconds.
_MEMORY_S = {"champion": 30.0, "challenger": 120.0}


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Args:
        path: `{id}` becomes a number.
        query: after the path, for logs that have it.
        size: least and most bytes of the body; drawn evenly on a log scale.
        answer: typical bytes of the answer's body.
        auth: `bearer`, `api-key`, `cookie` or `none`.
        agent: class of the user agent, for most of these requests.
        weight: share of the traffic, in any unit.
        seconds: mean service time on hosts of class compute, storage and general.
        cpu_share: part of that time in which it computes.
    """

    method: str
    path: str
    query: str
    size: tuple[int, int]
    answer: int
    auth: str
    agent: str
    weight: float
    seconds: tuple[float, float, float]
    cpu_share: float


KINDS = (
    Kind("GET", "/products/{id}", "", (0, 0), 14_000, "none", "browser", 26, (0.26, 0.15, 0.20), 0.5),
    Kind("GET", "/products/{id}", "", (0, 0), 6_000, "none", "mobile", 20, (0.20, 0.11, 0.16), 0.5),
    Kind("GET", "/search", "?q=lamp", (0, 0), 22_000, "none", "browser", 16, (0.62, 0.30, 0.55), 0.4),
    Kind("POST", "/cart/{id}/items", "", (180, 900), 400, "cookie", "browser", 14, (0.22, 0.38, 0.15), 0.6),
    Kind("POST", "/orders", "", (1_100, 9_000), 900, "bearer", "mobile", 10, (0.40, 0.62, 0.28), 0.6),
    Kind("POST", "/images", "", (300_000, 3_000_000), 250, "bearer", "browser", 7, (0.60, 1.70, 1.15), 0.95),
    Kind("GET", "/reports/{id}", "", (0, 0), 90_000, "bearer", "service", 4, (1.90, 0.80, 1.60), 0.6),
    Kind("POST", "/embed", "", (2_000, 15_000), 3_200, "api-key", "library", 4, (0.45, 1.50, 0.95), 0.97),
)


def sample_experiment(scenario: Scenario) -> Experiment:
    """The switchback by which the two forecasts take turns, as long as the run."""
    pairs = int(np.ceil(scenario.duration_s / (2 * _SLOT_S)))
    return Experiment("sample", SERVICE, "1", "2", BEGIN_US, _SLOT_S, _WASHOUT_S, pairs)


def sample_scenario(minutes: float) -> Scenario:
    """Four hosts in three classes: one that is sick from the middle on, two that are stopped for a while."""
    length_s = minutes * 60.0
    service_s = [[kind.seconds[each] * own for each, own in zip(_CLASS, _OWN, strict=True)] for kind in KINDS]
    stops = ((2, 0.30), (0, 0.80))
    return Scenario(
        name="sample",
        fleet=MatrixFleet(kind="matrix", service_time_s=service_s),
        slots=list(SLOTS),
        service_time=ServiceTime(kind="lognormal", cv=0.7),
        mix=[
            Mix(weights=[kind.weight for kind in KINDS]),
            # More images come later on.
            Mix(at_s=0.6 * length_s, weights=[kind.weight * (1 + (kind.path == "/images")) for kind in KINDS]),
        ],
        drift=Drift(kind="wander", low=0.7, high=1.0, period_s=240.0),
        antagonists=[Antagonist(host=1, at_s=length_s / 2, for_s=length_s, factor=2.0)],
        events=[
            HostEvent(host=host, at_s=at_s, kind=kind)
            for host, share in stops
            for at_s, kind in ((share * length_s, "fail"), (share * length_s + 20.0, "join"))
        ],
        network_rtt_s=RTT_S,
        picker=Picker(exploration=0.05, inflight="own", guard=False),
        warmup_s=0.0,
        duration_s=length_s,
    )


def run_sample(scenario: Scenario, seed: int, experiment: Experiment) -> tuple[list[Chunk], list[tuple[str, Floats]]]:
    """Every second's chunk, and the arm and costs that routed in it; a last chunk is of what was then under way.

    Costs are slope, offset and weight for exploration, shape (3, categories, hosts).
    """
    fleet = build_fleet(scenario, seed)
    bound = fleet_capacity_rps(fleet, 0)
    arrivals = ArrivalStream(scenario, fleet, bound, _LOAD, 1, seed, _envelope(scenario, seed))
    simulation = Simulation(scenario, fleet, "fingerpost", arrivals, 1, seed)
    controls = {}
    for arm, memory_s in _MEMORY_S.items():
        predicted = scenario.predictions.model_copy(update={"memory_s": memory_s})
        of_arm = scenario.model_copy(update={"predictions": predicted})
        controls[arm] = Control(of_arm, Ewma(of_arm, fleet), 1)
    made: dict[str, Floats] = {}
    chunks, tables = [], []
    for number in range(round(scenario.duration_s / STEP_S)):
        for name, control in controls.items():
            if (found := control.costs(simulation.now_s)) is not None:
                made[name] = found
        arm = experiment.arm_at(BEGIN_US + round(number * STEP_S * US))
        simulation.install(made[arm])
        tables.append((arm, made[arm][0]))
        chunks.append(simulation.step((number + 1) * STEP_S))
        for control in controls.values():
            control.observe(chunks[-1])
    return [*chunks, simulation.drain()], tables


def _envelope(scenario: Scenario, seed: int) -> Floats:
    """Relative rate in parts of ten seconds: two waves, and bursts that no wave tells."""
    parts = round(scenario.duration_s / 10)
    at_s = np.arange(parts) * 10.0
    waves = 1 + 0.3 * np.sin(2 * np.pi * at_s / 480) + 0.15 * np.sin(2 * np.pi * at_s / 110)
    bursts = np.random.default_rng([seed, 20]).random(parts) < 0.04
    relative: Floats = waves * np.where(bursts, 1.7, 1.0)
    return relative / relative.mean()
