"""The fleet of a scenario, drawn by seed: how long every host takes for every category at every time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, Ints
from fingerpost.errors import FingerpostError
from fingerpost.simulator.causes import churned, cold_factors, job_factors, reservoir_limits, restart_times
from fingerpost.simulator.scenario import ClassFleet, Drift, HostEvent, Scenario, hosts_of

Bools = NDArray[np.bool_]

TICK_S = 1.0
_MAX_CELLS = 50_000_000
# Requests of a host that leaves have so long to end.
_DRAINED_S = 5.0

FAIL, JOIN, LOSS_NOTICED, JOIN_NOTICED, DRAIN = range(5)


@dataclass(frozen=True)
class Fleet:
    """What a run happens on.

    Attributes:
        slots: requests a host serves at once, shape (H,).
        cores: of each host, shape (H,).
        service_s: mean service time, shape (ticks, C, H), a tick is `TICK_S`; the last tick holds on.
        slowed: of these times the factor that jobs, restarts, joins and antagonists make, shape (ticks, H).
        crowding: by how much each other request in service lengthens one that starts, shape (C, H).
        harm: by how much each request in service of a category lengthens one that starts, shape (C, C).
        limits: of the hosts' reservoirs, seconds of a wholly busy host, shape (H,); infinite without one.
        present: whether a host is up, shape (ticks, H).
        mix: share of each category, shape (ticks, C).
        event_time, event_host, event_kind: losses, joins and when pickers notice them, in order of time.
        starts_up: whether a host is there from the beginning, shape (H,).
        sharing: requests on a host share its cores.
    """

    slots: NDArray[np.int64]
    cores: Floats
    service_s: Floats
    slowed: Floats
    crowding: Floats
    harm: Floats
    limits: Floats
    present: NDArray[np.bool_]
    mix: Floats
    event_time: Floats
    event_host: NDArray[np.int64]
    event_kind: NDArray[np.int64]
    starts_up: NDArray[np.bool_]
    sharing: bool

    @property
    def servers(self) -> Floats:
        """Requests that a host serves at full speed at once, shape (H,)."""
        return np.minimum(self.slots, self.cores) if self.sharing else self.slots.astype(np.float64)


def build_fleet(scenario: Scenario, seed: int, drift_seed: int | None = None) -> Fleet:
    """Draws the fleet; the same scenario and seed give the same fleet, whatever policy runs on it.

    Args:
        drift_seed: the same hosts, whose speeds drift differently: as of another day.

    Raises:
        FingerpostError: the run has too many ticks x categories x hosts to hold.
    """
    ticks = int(np.ceil((scenario.warmup_s + scenario.duration_s) / TICK_S)) + 1
    hosts, categories = scenario.hosts, scenario.categories
    if ticks * hosts * categories > _MAX_CELLS:
        raise FingerpostError(
            f"{ticks} seconds x {categories} categories x {hosts} hosts is more than this simulator holds "
            f"({_MAX_CELLS:,}): shorten duration_s"
        )
    rng = np.random.default_rng([seed, 1])
    nominal = _nominal(scenario, rng)
    drift_rng = rng if drift_seed is None else np.random.default_rng([drift_seed, 6])
    service = np.repeat(nominal[None, :, :], ticks, axis=0)
    for drift in scenario.drift if isinstance(scenario.drift, list) else [scenario.drift]:
        if drift.kind != "none":
            service /= _of_cells(scenario, drift, ticks, drift_rng)
    day = seed if drift_seed is None else drift_seed
    events, starts_up = _events_of(scenario, day)
    time, host, kind = _steps(scenario, events)
    slowed = _slowed(scenario, events, ticks, seed, day)
    service *= slowed[:, None, :]
    slots = np.broadcast_to(np.asarray(scenario.slots, dtype=np.int64), hosts).copy()
    return Fleet(
        slots=slots,
        cores=np.full(hosts, scenario.cores) if scenario.cores else slots.astype(np.float64),
        service_s=service,
        slowed=slowed,
        crowding=np.broadcast_to(np.asarray(scenario.crowding, dtype=np.float64), (categories, hosts)).copy(),
        harm=np.asarray(scenario.harm or np.zeros((categories, categories)), dtype=np.float64),
        limits=reservoir_limits(scenario.reservoir, hosts, seed) if scenario.reservoir else np.full(hosts, np.inf),
        present=_present(starts_up, ticks, time, host, kind),
        mix=_mixes(scenario, ticks),
        event_time=time,
        event_host=host,
        event_kind=kind,
        starts_up=starts_up,
        sharing=scenario.sharing == "processor",
    )


def unit_service_times(scenario: Scenario, category: Ints, rng: np.random.Generator) -> Floats:
    """Draws service times of mean 1, one for each request's category, shape (n,)."""
    kind, cv, count = scenario.service_time.kind, scenario.service_time.cv, len(category)
    if kind == "empirical":
        quantiles = np.asarray(scenario.service_time.quantiles)
        return quantiles[category if len(quantiles) > 1 else 0, rng.integers(0, quantiles.shape[1], count)]
    if kind == "deterministic":
        return np.ones(count)
    if kind == "lognormal":
        sigma = np.sqrt(np.log1p(cv**2))
        return rng.lognormal(-(sigma**2) / 2, sigma, count)
    if kind == "hyperexponential" and cv > 1:
        # Two phases with balanced means.
        likely = 0.5 * (1 + np.sqrt((cv**2 - 1) / (cv**2 + 1)))
        first = rng.random(count) < likely
        return rng.exponential(np.where(first, 0.5 / likely, 0.5 / (1 - likely)))
    return rng.exponential(1.0, count)


def _nominal(scenario: Scenario, rng: np.random.Generator) -> Floats:
    fleet = scenario.fleet
    if not isinstance(fleet, ClassFleet):
        return np.asarray(fleet.service_time_s, dtype=np.float64)
    means = fleet.mean_service_s * rng.lognormal(-(fleet.category_sigma**2) / 2, fleet.category_sigma, fleet.categories)
    affinity = rng.lognormal(0, fleet.affinity_sigma, (fleet.categories, fleet.classes))
    own = rng.lognormal(0, fleet.host_sigma, fleet.hosts)
    return means[:, None] * affinity[:, np.arange(fleet.hosts) % fleet.classes] * own


def host_classes(scenario: Scenario) -> NDArray[np.int64]:
    """The class of each host, shape (H,); of hosts that are given one by one each is its own."""
    hosts = np.arange(scenario.hosts)
    return hosts % scenario.fleet.classes if isinstance(scenario.fleet, ClassFleet) else hosts


def _of_cells(scenario: Scenario, drift: Drift, ticks: int, rng: np.random.Generator) -> Floats:
    """The speeds of all cells, shape (ticks, C, H), of which those that change as one are drawn once."""
    hosts, categories = scenario.hosts, scenario.categories
    if drift.of == "cell":
        return _drift(drift, ticks, categories, hosts, rng)
    subject = host_classes(scenario) if drift.of == "class" else np.arange(hosts)
    return _drift(drift, ticks, 1, int(subject.max()) + 1, rng)[:, :, subject]


def _drift(drift: Drift, ticks: int, categories: int, hosts: int, rng: np.random.Generator) -> Floats:
    span = drift.high - drift.low
    if drift.kind == "spells":
        begin = rng.random((categories, hosts)) * drift.period_s
        phase = np.mod(np.arange(ticks)[:, None, None] * TICK_S - begin, drift.period_s)
        return np.where(phase < drift.share * drift.period_s, drift.low, drift.high)
    if drift.kind == "step":
        steps = int(np.ceil(ticks * TICK_S / drift.period_s)) + 1
        values = drift.low + span * rng.random((steps, categories, hosts))
        # Not all cells step at once.
        offset = rng.random((categories, hosts)) * drift.period_s
        at = ((np.arange(ticks)[:, None, None] * TICK_S + offset) / drift.period_s).astype(np.int64)
        return np.take_along_axis(values, at, axis=0)
    # A random walk between walls, uniform in the long run; steps such that it forgets where it was in a period
    # (reflected Brownian motion on a unit interval forgets at the rate pi^2 / 2 x its variance a second).
    position = rng.random((categories, hosts))
    moves = rng.normal(0, np.sqrt(2 * TICK_S / (np.pi**2 * drift.period_s)), (ticks, categories, hosts))
    path = np.mod(position + np.cumsum(moves, axis=0), 2.0)
    return drift.low + span * np.where(path > 1, 2 - path, path)


def _slowed(scenario: Scenario, events: list[HostEvent], ticks: int, seed: int, day: int) -> Floats:
    """How many times slower than by themselves hosts are, shape (ticks, H)."""
    slowed = np.ones((ticks, scenario.hosts))
    for antagonist in scenario.antagonists:
        begin = int(antagonist.at_s / TICK_S)
        end = max(int((antagonist.at_s + antagonist.for_s) / TICK_S), begin + 1)
        slowed[begin:end, hosts_of(antagonist)] *= antagonist.factor
    for place, jobs in enumerate(scenario.jobs):
        slowed *= job_factors(jobs, scenario.hosts, ticks, TICK_S, seed + place, day + place)
    if scenario.cold is not None:
        joined = [(event.at_s, event.host) for event in events if event.kind == "join"]
        slowed *= cold_factors(scenario.cold, ticks, TICK_S, joined, scenario.hosts)
    return slowed


def _events_of(scenario: Scenario, day: int) -> tuple[list[HostEvent], Bools]:
    """What befalls hosts, and which are there from the beginning."""
    events, until_s = list(scenario.events), scenario.warmup_s + scenario.duration_s
    if scenario.restarts is not None:
        down_s = scenario.restarts.down_s
        for at_s, host in restart_times(scenario.restarts, scenario.hosts, until_s, day):
            events += [
                HostEvent(host=host, at_s=at_s, kind="leave"),
                HostEvent(host=host, at_s=at_s + down_s, kind="join"),
            ]
    starts_up = np.ones(scenario.hosts, dtype=np.bool_)
    for event in sorted(events, key=lambda each: each.at_s, reverse=True):
        starts_up[event.host] = event.kind != "join"
    if scenario.churn is not None:
        present, moves = churned(scenario.churn, scenario.hosts, until_s, day)
        starts_up[:] = np.isin(np.arange(scenario.hosts), present)
        for at_s, joins, leaves in moves:
            events += [
                HostEvent(host=joins, at_s=at_s, kind="join"),
                HostEvent(host=leaves, at_s=at_s + scenario.detection_s, kind="leave"),
            ]
    return events, starts_up


def _steps(scenario: Scenario, events: list[HostEvent]) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    rows: list[tuple[float, int, int]] = []
    for event in events:
        if event.kind == "leave":
            # What is under way ends before the host is gone.
            rows.append((event.at_s, event.host, DRAIN))
            rows.append((event.at_s + _DRAINED_S, event.host, FAIL))
            continue
        lost = event.kind == "fail"
        rows.append((event.at_s, event.host, FAIL if lost else JOIN))
        rows.append((event.at_s + scenario.detection_s, event.host, LOSS_NOTICED if lost else JOIN_NOTICED))
    rows.sort()
    return (
        np.array([row[0] for row in rows], dtype=np.float64),
        np.array([row[1] for row in rows], dtype=np.int64),
        np.array([row[2] for row in rows], dtype=np.int64),
    )


def _present(
    starts_up: NDArray[np.bool_], ticks: int, time: Floats, host: NDArray[np.int64], kind: NDArray[np.int64]
) -> NDArray[np.bool_]:
    present = np.tile(starts_up, (ticks, 1))
    for at, which, what in zip(time, host, kind, strict=True):
        if what in (FAIL, JOIN):
            present[int(np.ceil(at / TICK_S)) :, which] = what == JOIN
    return present


def _mixes(scenario: Scenario, ticks: int) -> Floats:
    mix = np.full((ticks, scenario.categories), 1.0 / scenario.categories)
    for change in sorted(scenario.mix, key=lambda each: each.at_s):
        weights = np.asarray(change.weights, dtype=np.float64)
        mix[int(change.at_s / TICK_S) :] = weights / weights.sum()
    return mix
