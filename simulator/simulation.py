"""One fleet under one policy, run span by span: what it emits are records and samples, what it takes is a table."""

from dataclasses import dataclass, field

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator.arrivals import ArrivalStream
from fingerpost.simulator.choice import REPORTED, SCALED
from fingerpost.simulator.fleet import TICK_S, Bools, Fleet
from fingerpost.simulator.kernel import Input, Output, advance
from fingerpost.simulator.policies import POLICIES
from fingerpost.simulator.scenario import Scenario, hosts_of
from fingerpost.simulator.state import (
    AREA,
    AREA_AT,
    BUSY,
    CORES,
    DONE,
    ERROR,
    EXPLORED,
    INFLIGHT,
    LEVEL,
    SLOTS,
    SLOWED,
    UP,
    State,
    in_fleet,
    new_state,
    with_room,
)

_INFLIGHT = {"own": 0, "scaled": SCALED, "reported": REPORTED}


_UNSAID = np.zeros(0)
# Requests, enough for no host to be explored for want of knowledge.
_MUCH = 1.0


@dataclass(frozen=True, eq=False)
class Table:
    """Predictions of a fleet, as the engine's table has them.

    Attributes:
        throughput_rps, latency_s, success_rate: shape (H, C); NaN where nothing can be said.
        weights: of the hosts, less than 1 where they are being ramped up, shape (H,).
        slots: shape (H,); NaN where hosts do not tell.
        evidence: requests that the predictions are of, shape (H, C); many where it is not said.
        slowdown: part of its time that each other request in service adds to a cell's, shape (H, C); predictions are
            then of a host without others. 0 where it is not said, as the engine's tables have it.
        reach: requests that can be in service beside another one, shape (H,).
    """

    throughput_rps: Floats
    latency_s: Floats
    success_rate: Floats = field(default_factory=lambda: _UNSAID)
    weights: Floats = field(default_factory=lambda: _UNSAID)
    slots: Floats = field(default_factory=lambda: _UNSAID)
    evidence: Floats = field(default_factory=lambda: _UNSAID)
    slowdown: Floats = field(default_factory=lambda: _UNSAID)
    reach: Floats = field(default_factory=lambda: _UNSAID)

    def __post_init__(self) -> None:
        hosts, cells = self.throughput_rps.shape[0], self.throughput_rps.shape
        unsaid = {"success_rate": (cells, 1.0), "evidence": (cells, _MUCH), "slowdown": (cells, 0.0)}
        unsaid |= {"weights": (hosts, 1.0), "slots": (hosts, np.nan), "reach": (hosts, 0.0)}
        for name, (shape, value) in unsaid.items():
            if getattr(self, name) is _UNSAID:
                object.__setattr__(self, name, np.full(shape, value))


@dataclass(frozen=True)
class Records:
    """Answered requests in order of `time`, the columns of request records, each of shape (n,).

    `sent_s` and `time_s` are the client's, seconds from the start; `duration_s` is between them. `service_time_s` is
    without waiting, 0 where it never began; `inflight` is the host's when the request came. A failed one has `error`.
    """

    sent_s: Floats
    time_s: Floats
    service_time_s: Floats
    host: Ints
    category: Ints
    picker: Ints
    inflight: Ints
    error: Bools
    explored: Bools

    @property
    def duration_s(self) -> Floats:
        """Seconds as the client saw them."""
        return self.time_s - self.sent_s


@dataclass(frozen=True)
class HostSamples:
    """The hosts at the end of a span, shape (H,).

    Attributes:
        cpu_util: busy share of cores within the span.
        slowed: how many times slower than by itself a host is at the end, whatever the cause.
        level: of its reservoir, as a share of its limit; NaN without one.
        throttled: whether its reservoir makes it slow at the end.
        beside: requests in service, shape (H, C).
    """

    cpu_util: Floats
    inflight: Ints
    slots: Ints
    cores: Floats
    up: Bools
    slowed: Floats
    level: Floats
    throttled: Bools
    beside: Ints


@dataclass(frozen=True)
class Chunk:
    """What a span emitted."""

    begin_s: float
    end_s: float
    records: Records
    samples: HostSamples


class Simulation:
    """A run in progress.

    Args:
        policy: one of `POLICIES`.
        arrivals: drawn span by span as time goes on.
    """

    def __init__(
        self, scenario: Scenario, fleet: Fleet, policy: str, arrivals: ArrivalStream, pickers: int, seed: int
    ) -> None:
        self._scenario, self._fleet, self._arrivals = scenario, fleet, arrivals
        self._policy = POLICIES[policy]
        self._state: State = new_state(fleet, pickers, self._policy, seed, fleet.sharing, scenario.reservoir)
        self._cost = np.zeros((1, 3, scenario.categories, scenario.hosts))
        self._cost[:, [0, 2]] = 1.0
        self._exploration = np.array([scenario.picker.exploration], dtype=np.float64)
        rules = [
            (
                host,
                -1 if each.category is None else each.category,
                each.at_s,
                each.at_s + each.for_s,
                each.share,
                each.after_s,
            )
            for each in scenario.failures
            for host in hosts_of(each)
        ]
        self._failures = np.array(rules, dtype=np.float64).reshape(len(rules), 6)
        self.now_s = 0.0

    @property
    def in_fleet(self) -> int:
        """Requests sent and not answered yet."""
        return in_fleet(self._state)

    def install(self, costs: Floats, exploration: Floats | None = None) -> None:
        """Pickers use these costs from now on.

        Args:
            costs: the rows of `fingerpost.simulator.choice.fingerpost`, shape (tables, 3 or 5, categories, hosts); one
                table a picker, or one for all.
            exploration: share of the requests that is explored, by each of these tables; None: as before.
        """
        if exploration is not None:
            self._exploration = np.ascontiguousarray(exploration)
        self._cost = np.ascontiguousarray(costs)

    def step(self, end_s: float) -> Chunk:
        """Runs to `end_s` with the arrivals up to there."""
        coming = self._arrivals.draw(self.now_s, end_s)
        return self._run(
            end_s, np.column_stack([coming.time, coming.work]), np.column_stack([coming.category, coming.picker])
        )

    def drain(self) -> Chunk:
        """Runs until every request is answered; nothing arrives any more."""
        return self._run(np.inf, np.zeros((0, 2)), np.zeros((0, 2), dtype=np.int64))

    def _run(self, end_s: float, arrivals_f: Floats, arrivals_i: Ints) -> Chunk:
        again = self._scenario.retry_failures * (len(arrivals_f) + in_fleet(self._state))
        state = self._state = with_room(self._state, len(arrivals_f) + again)
        before, begin_s = self._busy_s(), self.now_s
        room = len(arrivals_f) + in_fleet(state)
        out = Output(np.empty((room, 3)), np.empty((room, 5), dtype=np.int64))
        advance(state, self._given(end_s, arrivals_f, arrivals_i), out)
        done = int(state.counters[DONE])
        floats, ints = out.floats[:done], out.ints[:done]
        self.now_s = end_s if np.isfinite(end_s) else float(floats[:, 1].max(initial=begin_s))
        limits = self._fleet.limits
        busy = (self._busy_s() - before) / (max(self.now_s - begin_s, 1e-9) * self._fleet.servers)
        return Chunk(
            begin_s=begin_s,
            end_s=self.now_s,
            records=Records(
                sent_s=floats[:, 0],
                time_s=floats[:, 1],
                service_time_s=floats[:, 2],
                host=ints[:, 0],
                category=ints[:, 1],
                picker=ints[:, 2],
                inflight=ints[:, 3],
                error=(ints[:, 4] & ERROR) > 0,
                explored=(ints[:, 4] & EXPLORED) > 0,
            ),
            samples=HostSamples(
                cpu_util=np.clip(busy, 0.0, 1.0),
                inflight=state.hosts_i[:, INFLIGHT].copy(),
                slots=state.hosts_i[:, SLOTS].copy(),
                cores=self._fleet.cores,
                up=state.hosts_i[:, UP] > 0,
                slowed=state.hosts_f[:, SLOWED] * self._fleet.slowed[self._tick()],
                throttled=state.hosts_f[:, SLOWED] > 1,
                level=np.where(np.isfinite(limits), state.hosts_f[:, LEVEL] / limits, np.nan),
                beside=state.beside.copy(),
            ),
        )

    def _tick(self) -> int:
        return min(int(self.now_s / TICK_S), len(self._fleet.slowed) - 1)

    def _busy_s(self) -> Floats:
        hosts_f, hosts_i = self._state.hosts_f, self._state.hosts_i
        busy = np.minimum(hosts_i[:, BUSY], hosts_f[:, CORES])
        return np.asarray(hosts_f[:, AREA] + busy * (self.now_s - hosts_f[:, AREA_AT]))

    def _given(self, end_s: float, arrivals_f: Floats, arrivals_i: Ints) -> Input:
        scenario, fleet = self._scenario, self._fleet
        return Input(
            arrivals_f=arrivals_f,
            arrivals_i=arrivals_i,
            service_s=fleet.service_s,
            crowding=fleet.crowding,
            harm=fleet.harm if fleet.harm.any() else fleet.harm[:, :0],
            failures=self._failures,
            event_time=fleet.event_time,
            events=np.column_stack([fleet.event_host, fleet.event_kind]),
            cost=self._cost,
            until=float(end_s),
            tick_s=TICK_S,
            rtt=float(scenario.network_rtt_s),
            exploration=self._exploration,
            timeout=float(scenario.timeout_s or np.inf),
            retries=int(scenario.retries),
            retry_failures=int(scenario.retry_failures),
            works_on=bool(scenario.works_on),
            sharing=bool(fleet.sharing),
            inflight=_INFLIGHT[scenario.inflight],
            policy=self._policy,
        )
