"""The control plane of a run: tables by the product's router code, corrected by its guard, at the product's times."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.routing.guard import Guard, Outcomes
from fingerpost.routing.picker_table import Predictions as Said
from fingerpost.routing.picker_table import table_of
from fingerpost.settings import Settings
from fingerpost.simulator.predictions import Predictor
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk, Records, Table

# A request slows down those that come after it, as it is slowed down by those before it. So much of that counts, where
# predictions have a slowdown: docs/anticipation.md has the measurements.
_OTHERS = 0.5
# Of the one model there is.
_VERSION = ""
_NEVER_US = 2**62


class Control:
    """Makes the pickers' tables: the engine refreshes, routers look at their logs, pickers look at their files.

    Args:
        pickers: their number; each has a router and a log of its own, if the scenario says so.
    """

    def __init__(self, scenario: Scenario, predictor: Predictor, pickers: int) -> None:
        self._scenario, self._predictor = scenario, predictor
        own = scenario.picker.routers == "each"
        self._routers = [
            _Router(scenario, picker if own else None, picker / pickers) for picker in range(pickers if own else 1)
        ]
        self._coming: deque[tuple[float, Table]] = deque()
        self._next_refresh_s = 0.0
        self._table: Table | None = None
        self._written = False
        self.exponents: list[float] = []

    def costs(self, now_s: float) -> Floats | None:
        """What pickers find when they look now, shape (routers, 5, categories, hosts); None: nothing new.

        A table that is written now is found at the next look.
        """
        found = np.stack([router.cost for router in self._routers]) if self._written else None
        self._written = False
        fresh = self._refresh(now_s)
        assert self._table is not None  # noqa: S101
        for router in self._routers:
            self._written |= router.look(now_s, self._table, fresh)
        if found is None and now_s == 0:
            found, self._written = np.stack([router.cost for router in self._routers]), False
        self.exponents.append(float(np.mean([router.trust for router in self._routers])))
        return found

    @property
    def exploration(self) -> Floats:
        """Share of the requests that is explored by each router's table, shape (routers,)."""
        return np.array([router.exploration for router in self._routers])

    def observe(self, chunk: Chunk) -> None:
        """Notes what the access logs will say, and lets the predictor learn."""
        self._predictor.observe(chunk)
        for router in self._routers:
            router.log(chunk)

    def _refresh(self, now_s: float) -> bool:
        """Whether another table is in force at the engine."""
        if now_s >= self._next_refresh_s - 1e-9:
            self._next_refresh_s += self._scenario.telemetry.refresh_s
            self._coming.append((now_s + self._scenario.predictions.delay_s, self._predictor.table(now_s)))
        before = self._table
        while self._coming and (self._table is None or self._coming[0][0] <= now_s + 1e-9):
            self._table = self._coming.popleft()[1]
        return self._table is not before


@dataclass
class _Lines:
    """What a log says from a time on."""

    at_s: float
    outcomes: Outcomes


class _Router:
    """One router with its log and its guard.

    Args:
        picker: whose log it reads; None: that of all.
        phase: share of its period at which it looks.
    """

    def __init__(self, scenario: Scenario, picker: int | None, phase: float) -> None:
        has = scenario.picker
        self._picker, self._period_s, self._flush_s = picker, has.router_s, has.log_flush_s
        self._settings = Settings.model_construct(
            latency_weight=has.latency_weight,
            exploration=has.exploration,
            exploration_within=has.exploration_within,
            prediction_trust=has.prediction_trust,
        )
        self._hosts_tell = scenario.telemetry.hosts_tell
        self._hosts = tuple(f"{number}" for number in range(scenario.hosts))
        self._categories = tuple(f"{number}" for number in range(scenario.categories))
        self._guard = Guard(self._hosts, self._categories, has.prediction_trust) if has.guard else None
        self._lines: deque[_Lines] = deque()
        self._slowdown, self._reach = np.zeros((scenario.hosts, scenario.categories)), np.zeros(scenario.hosts)
        self._next_s = phase * has.router_s
        self.trust, self.cost = has.prediction_trust, np.zeros((5, scenario.categories, scenario.hosts))
        self.exploration = has.exploration

    def log(self, chunk: Chunk) -> None:
        """Takes the requests of a span that this router's proxies have sent."""
        if self._guard is not None:
            outcomes = self._unhindered(_logged(chunk.records, self._picker, self._hosts_tell))
            self._lines.append(_Lines(chunk.end_s + self._flush_s, outcomes))

    def look(self, now_s: float, table: Table, fresh: bool) -> bool:
        """Judges by the log if it is time for that; writes costs anew, and returns True, where there is a reason."""
        judged = self._guard is not None and now_s >= self._next_s - 1e-9
        if judged:
            self._next_s += self._period_s
            self._judge(now_s, table)
        if not (judged or fresh):
            return False
        correction = None
        if self._guard is not None:
            correction = self._guard.correct(_VERSION, table.throughput_rps, table.slots, now_s)
            self.trust = correction.trust
        self._slowdown, self._reach = table.slowdown, table.reach
        made = table_of(self._said(table), self._settings, 0, correction)
        count = len(self._categories)
        assert made.explore is not None  # noqa: S101
        cells = (made.slope, made.offset, made.explore)
        self.cost[:3] = [each[0, :count, :-1] for each in cells]
        self.cost[3], self.cost[4] = (1 + _OTHERS) * table.slowdown.T, table.reach
        self.exploration = made.settings.exploration
        return True

    def _unhindered(self, seen: Outcomes) -> Outcomes:
        """Latencies as they were without others in service: what predictions with a slowdown are judged by."""
        beside = np.minimum(np.nan_to_num(seen.inflight), self._reach[seen.host])
        return replace(seen, latency_s=seen.latency_s / (1 + self._slowdown[seen.host, seen.category] * beside))

    def _judge(self, now_s: float, table: Table) -> None:
        assert self._guard is not None  # noqa: S101
        ended = []
        while self._lines and self._lines[0].at_s <= now_s + 1e-9:
            ended.append(self._lines.popleft().outcomes)
        ended = ended or [_logged(_NOTHING, None, self._hosts_tell)]
        seen = Outcomes(*(np.concatenate(each) for each in zip(*(vars(each).values() for each in ended), strict=True)))
        self._guard.observe(seen, (_VERSION,), table.throughput_rps, table.slots, now_s)

    def _said(self, table: Table) -> Said:
        return Said(
            *("", _VERSION, _NEVER_US, self._hosts, self._categories, ()),
            # Hosts that tell their slots tell their requests in flight.
            *(table.weights, table.slots, np.where(np.isfinite(table.slots), 0.0, np.nan)),
            *(table.throughput_rps.T, table.latency_s.T, table.success_rate.T, table.evidence.T),
        )


def _logged(records: Records, picker: int | None, hosts_tell: bool) -> Outcomes:
    """What proxies log of requests: how long the host took, waiting there included.

    Args:
        picker: the proxy; None: all of them.
        hosts_tell: hosts tell how many requests are in flight there.
    """
    sent = records.host >= 0
    if picker is not None:
        sent &= records.picker == picker
    return Outcomes(
        records.host[sent],
        records.category[sent],
        records.duration_s[sent],
        np.where(hosts_tell, records.inflight[sent], np.nan),
        records.error[sent],
        np.zeros(sent.sum(), dtype=np.int64),
    )


_NOTHING = Records(*np.zeros((3, 0)), *np.zeros((4, 0), dtype=np.int64), *np.zeros((2, 0), dtype=np.bool_))
