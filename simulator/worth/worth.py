"""Answers what predictive routing is worth for a fleet: how unlike and how full it is, what policies make of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.simulator.run import Bench, Figures
from fingerpost.simulator.sweep import Point
from fingerpost.simulator.worth.model import Measured, Stretch, busiest, measure, scenario_of
from fingerpost.simulator.worth.traffic import read_traffic

OURS, PEER = "fingerpost", "least_request"
POLICIES = (PEER, "orca", OURS)
_SHARES = (0.3, 0.5, 0.7, 0.9)
_TO = 0.02
# Without a wish: an objective that today's p99 keeps with room, so that noise decides nothing.
_SLO_OF_P99 = 2.0
_MOST = 1.2
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a user may say.

    Attributes:
        slots: requests that every host serves at once; None: as told, else as measured.
        cores: of every host; None: as told.
        slo_s: the p99 that a load must keep; None: twice the traffic's own.
        proxies: that route, each with counts of its own.
        fleets: how many fleets that could be this one are simulated: their spread is the uncertainty.
        policies: names of policies of the simulator.
        shares: loads beside the present one, as shares of the bound.
        highest: also look for the highest load of each policy.
    """

    slots: int | None = None
    cores: float | None = None
    slo_s: float | None = None
    proxies: int = 1
    fleets: int = 2
    policies: tuple[str, ...] = POLICIES
    shares: tuple[float, ...] = _SHARES
    highest: bool = True


@dataclass(frozen=True)
class Highest:
    """The highest load that a policy holds at the objective, as a share of the bound; one for each fleet."""

    policy: str
    loads: tuple[float, ...]

    @property
    def load(self) -> float:
        """The mean over the fleets."""
        return float(np.mean(self.loads))


@dataclass(frozen=True)
class Worth:
    """The answer.

    Attributes:
        bounds_rps: what the fleet could carry at most of this mix, one for each fleet that could be it.
        present: the load of the busiest stretch, as a share of the bound.
        points: of every policy at every load, the present one first.
        highest: None if it was not asked for.
    """

    measured: Measured
    stretch: Stretch
    options: Options
    slo_s: float
    bounds_rps: tuple[float, ...]
    present: float
    points: tuple[Point, ...]
    highest: tuple[Highest, ...]

    def at(self, policy: str, load: float) -> Point:
        """The point of one policy at one load."""
        return next(each for each in self.points if each.policy == policy and each.load == load)

    def gain(self, name: str = "p99_s") -> tuple[float, float, float] | None:
        """Least request's latency over ours at the present load: mean over the fleets, the least and the most of them.

        None: one of the two does not hold this load, so that its latency grows for as long as it lasts.
        """
        peer, ours = (self.at(policy, self.present) for policy in (PEER, OURS))
        if overloaded(peer) or overloaded(ours):
            return None
        ratios = [getattr(a, name) / getattr(b, name) for a, b in zip(peer.runs, ours.runs, strict=True)]
        return float(np.mean(ratios)), min(ratios), max(ratios)

    @property
    def saved(self) -> float | None:
        """The share of hosts that could go at an equal objective; None: least request holds no load that was tried."""
        loads = {each.policy: each.load for each in self.highest}
        if not loads.get(PEER) or not loads.get(OURS):
            return None
        return 1 - loads[PEER] / loads[OURS]

    @property
    def cores(self) -> float | None:
        """Cores of the fleet; None: not known."""
        if self.options.cores is not None:
            return self.options.cores * len(self.measured.traffic.hosts)
        told = self.measured.traffic.cores
        return float(told.sum()) if np.isfinite(told).all() else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        traffic, found = self.measured.traffic, self.measured.difference
        own = np.quantile(self.stretch.own_s, [0.5, 0.99])
        saved = self.saved
        gains = {name: self.gain(f"{name}_s") for name in ("p99", "p50")}
        figures = {
            "requests": len(traffic.host),
            "hosts": len(traffic.hosts),
            "categories": len(traffic.categories),
            "failed_share": round(float(traffic.failed.mean()), 5),
            "waited_share": round(self.measured.waited, 4),
            "difference": {
                "verdict": found.verdict,
                "host": found.host.as_dict(),
                "host_by_category": found.interaction.as_dict(),
                "single_requests_sd": round(found.residual, 4),
            },
            "places": {"per_host": self.measured.places.count.tolist(), "source": self.measured.places.source},
            "bound_rps": [round(each, 2) for each in self.bounds_rps],
            "rate_rps": {"mean": round(self.stretch.mean_rps, 2), "busiest": round(self.stretch.rate_rps, 2)},
            "present_load": round(self.present, 4),
            "present_load_range": [round(self.stretch.rate_rps / each, 4) for each in sorted(self.bounds_rps)[::-1]],
            "measured": {"p50_s": round(float(own[0]), 6), "p99_s": round(float(own[1]), 6)},
            "slo_s": round(self.slo_s, 6),
            "proxies": self.options.proxies,
            "points": [each.as_dict(self.slo_s) for each in self.points],
            **{
                f"gain_{name}": each
                and dict(zip(("mean", "low", "high"), (round(ratio, 3) for ratio in each), strict=True))
                for name, each in gains.items()
            },
            "highest_load": [
                {"policy": each.policy, "load": round(each.load, 4), "loads": [round(load, 4) for load in each.loads]}
                for each in self.highest
            ],
            "hosts_saved_share": None if saved is None else round(saved, 4),
            "cores_saved": None if saved is None or self.cores is None else round(saved * self.cores, 2),
            "notes": traffic.notes,
            "refused": dict(traffic.refused),
        }
        finite: dict[str, Any] = _finite(figures)
        return finite


def overloaded(point: Point) -> bool:
    """Whether requests piled up in a run; it was given up then, and its latencies say nothing more."""
    return any(run.overloaded for run in point.runs)


def _finite(value: Any) -> Any:
    """The same with null in place of what JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def what_it_is_worth(
    paths: Sequence[Path],
    options: Options = Options(),
    log_format: str | None = None,
    mapping: Path | None = None,
    service: str | None = None,
    max_requests: int = 1_000_000,
    progress: Progress = lambda _text: None,
) -> Worth:
    """Reads the traffic, measures the fleet and simulates it.

    Raises:
        NoDataError: see `read_traffic`.
    """
    traffic = read_traffic(paths, log_format, mapping, service, max_requests, progress)
    progress(f"{len(traffic.host):,} requests, {len(traffic.hosts)} hosts, {len(traffic.categories)} categories")
    measured = measure(traffic, options.slots)
    return simulated(measured, busiest(traffic), options, progress)


def simulated(measured: Measured, stretch: Stretch, options: Options, progress: Progress) -> Worth:
    """Simulates fleets that could be the measured one under every policy."""
    slo_s = options.slo_s or _SLO_OF_P99 * float(np.quantile(stretch.own_s, 0.99))
    benches = _benches(measured, stretch, options, slo_s)
    bounds = tuple(each.bound_rps for each in benches)
    present = round(stretch.rate_rps / float(np.mean(bounds)), 4)
    loads = [present, *(each for each in options.shares if abs(each - present) > _TO and present < _MOST)]
    points: list[Point] = []
    for load in loads:
        for policy in options.policies:
            point = Point(policy, load, options.proxies, _runs(benches, policy, load, options.proxies))
            points.append(point)
            progress(f"load {load:.2f}  {policy:14} p99 {point.mean('p99_s') * 1000:.1f} ms")
    highest = []
    for policy in options.policies if options.highest else ():
        tried = {each.load: each for each in points if each.policy == policy}
        highest.append(
            Highest(policy, tuple(_highest(bench, tried, place, slo_s) for place, bench in enumerate(benches)))
        )
        progress(f"highest load held by {policy}: {highest[-1].load:.2f} of the bound")
    return Worth(measured, stretch, options, slo_s, bounds, present, tuple(points), tuple(highest))


def _benches(measured: Measured, stretch: Stretch, options: Options, slo_s: float) -> list[Bench]:
    found = measured.difference
    rng = np.random.default_rng(7)
    drawn: list[Floats] = [found.drawn(rng) for _ in range(options.fleets)]
    return [Bench(scenario_of(measured, stretch, log_s, slo_s), seed) for seed, log_s in enumerate(drawn, start=1)]


def _runs(benches: Sequence[Bench], policy: str, load: float, proxies: int) -> tuple[Figures, ...]:
    return tuple(bench.run(policy, load, proxies) for bench in benches)


def _highest(bench: Bench, tried: dict[float, Point], place: int, slo_s: float) -> float:
    """The highest load that holds on one fleet, to 0.02, below the first that was tried and does not."""

    def holds(figures: Figures, point: Point, load: float) -> bool:
        return Point(point.policy, load, point.pickers, (figures,)).holds(slo_s)

    held, failed = 0.0, None
    for load in sorted(tried):
        if holds(tried[load].runs[place], tried[load], load):
            held = load
        else:
            failed = load
            break
    some = next(iter(tried.values()))
    while failed is not None and failed - held > _TO:
        middle = (held + failed) / 2
        if holds(bench.run(some.policy, middle, some.pickers), some, middle):
            held = middle
        else:
            failed = middle
    return held
