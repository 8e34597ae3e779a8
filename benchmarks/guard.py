"""The guard in simulated fleets: absurd predictions against least request, and what good ones are worth with it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fingerpost.simulator.scenario import load_scenario
from tests.support.guard_fleets import Judged, judge

SCENARIOS = Path(__file__).parents[1] / "simulator" / "scenarios"


def measure_guard(
    names: Sequence[str],
    loads: Sequence[float],
    absurd: Sequence[int],
    seeds: Sequence[int],
    hosts_tell: bool,
    progress: Callable[[Judged], None],
    pickers: int = 10,
) -> list[Judged]:
    """Runs every scenario at every load with every kind of predictions.

    Args:
        names: of files in simulator/scenarios, without their ending.
        absurd: numbers of hosts that are predicted ten times too fast; 0: predictions are true. Shuffled come last.
        hosts_tell: hosts tell their slots and requests in flight.
        progress: called with every result.
    """
    described = [load_scenario(SCENARIOS / f"{name}.json") for name in names]
    found = []
    for name, scenario in zip(names, described, strict=True):
        for seed in seeds:
            for load in loads:
                for each in judge(name, scenario, load, absurd, seed, hosts_tell, pickers):
                    progress(each)
                    found.append(each)
    return found
