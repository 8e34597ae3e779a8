"""Many runs: every policy at every load, number of pickers and seed, and the highest load each policy holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from fingerpost.simulator.policies import parse_policy
from fingerpost.simulator.run import Bench, Figures
from fingerpost.simulator.scenario import Scenario

# A load is held if the mean p99 over the seeds is within the SLO and hardly anything fails.
_MAX_ERRORS = 0.01
_REFINED_TO = 0.01


@dataclass(frozen=True)
class Point:
    """One policy at one load: the figures of every seed."""

    policy: str
    load: float
    pickers: int
    runs: tuple[Figures, ...]

    def mean(self, name: str) -> float:
        """Mean of a figure over the seeds."""
        return float(np.mean([getattr(run, name) for run in self.runs]))

    def holds(self, slo_s: float) -> bool:
        """Whether the load is held."""
        fine = not any(run.overloaded for run in self.runs)
        return fine and self.mean("p99_s") <= slo_s and self.mean("errors") <= _MAX_ERRORS

    def as_dict(self, slo_s: float) -> dict[str, Any]:
        """For JSON: the mean of each figure, and its standard deviation over the seeds under `<name>_sd`."""
        row: dict[str, Any] = {"policy": self.policy, "pickers": self.pickers, "load": self.load}
        for each in fields(Figures):
            values = [float(getattr(run, each.name)) for run in self.runs]
            if each.name == "overloaded":
                row[each.name] = any(values)
                continue
            row[each.name] = round(float(np.mean(values)), 6)
            row[f"{each.name}_sd"] = round(float(np.std(values, ddof=1)), 6) if len(values) > 1 else 0.0
        return {**row, "holds": self.holds(slo_s)}


@dataclass
class Sweep:
    """Results so far.

    Attributes:
        highest: (policy, pickers) -> the highest load held, 0 if none of those tried.
    """

    scenario: Scenario
    bounds_rps: list[float]
    points: list[Point] = field(default_factory=list)
    highest: dict[tuple[str, int], float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        slo_s = self.scenario.slo_s
        return {
            "scenario": self.scenario.name,
            "slo_s": slo_s,
            "bounds_rps": [round(bound, 2) for bound in self.bounds_rps],
            "points": [point.as_dict(slo_s) for point in self.points],
            "highest_load": [
                {"policy": policy, "pickers": pickers, "load": round(load, 4)}
                for (policy, pickers), load in self.highest.items()
            ],
        }


def run_sweep(
    scenario: Scenario,
    policies: Sequence[str],
    loads: Sequence[float],
    pickers: Sequence[int],
    seeds: int,
    refine: bool,
    progress: Callable[[str], None],
) -> Sweep:
    """Runs the grid; every policy meets the same fleets and the same arrivals.

    Args:
        refine: look for the highest load between those of the grid too, to 0.01.
        progress: called with a line after every point.
    """
    benches = [Bench(scenario, seed) for seed in range(1, seeds + 1)]
    sweep = Sweep(scenario, [bench.bound_rps for bench in benches])
    served = {parse_policy(name)[1] or scenario.predictions.kind for name in policies if name.startswith("fingerpost")}
    if "learned" in served:
        for bench in benches:
            progress(f"learning from the past of the fleet of seed {bench.seed}")
            bench.model()
    for count in pickers:
        for policy in policies:
            held, failed = 0.0, None
            for load in sorted(loads):
                point = _point(benches, policy, load, count, progress)
                sweep.points.append(point)
                if not point.holds(scenario.slo_s):
                    failed = failed or load
                elif failed is None:
                    held = load
            while refine and failed is not None and failed - held > _REFINED_TO + 1e-9:
                middle = (held + failed) / 2
                if _point(benches, policy, middle, count, progress).holds(scenario.slo_s):
                    held = middle
                else:
                    failed = middle
            sweep.highest[policy, count] = held
    return sweep


def _point(benches: Sequence[Bench], policy: str, load: float, pickers: int, progress: Callable[[str], None]) -> Point:
    point = Point(policy, load, pickers, tuple(bench.run(policy, load, pickers) for bench in benches))
    lost = "  overloaded" if any(run.overloaded for run in point.runs) else ""
    progress(f"{policy:20} load {load:.3f}  pickers {pickers:3}  p99 {point.mean('p99_s') * 1000:9.1f} ms{lost}")
    return point
