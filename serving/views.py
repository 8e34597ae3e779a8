"""Holds what requests see of a service: its tables in force, also by arm of an experiment, and a wait for the next."""

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from fingerpost.clock import clock_us
from fingerpost.experiment import CONTROL, TREATMENT, Experiment
from fingerpost.serving.models import Models
from fingerpost.serving.scoring import ModelScorer, Scored
from fingerpost.serving.table import RoutingTable, render_json

# The table that is of no arm.
NO_ARM = ""
# A slot's beginning is not waited for longer than this at once: clocks are set.
_MAX_WAIT_S = 5.0
# So long before an experiment's first slot both tables are made.
_AHEAD_US = 30_000_000


@dataclass
class Published:
    """A table in service.

    Args:
        confirmed_s: when it was last known to be right, by `time.monotonic`: clocks are set.
        rendered: its JSON, if that was made already.
    """

    table: RoutingTable
    confirmed_s: float
    rendered: bytes | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def age_s(self) -> float:
        """Seconds since it was last known to be right."""
        return time.monotonic() - self.confirmed_s

    def expires_at(self, ttl_s: float) -> float:
        """Seconds since 1970, by the clock as it is now."""
        return time.time() - self.age_s + ttl_s

    def render(self, ttl_s: float) -> bytes:
        """Renders the table as JSON, once; `expires_at` in it is that of the first time."""
        with self._lock:
            if self.rendered is None:
                self.rendered = render_json(self.table, self.expires_at(ttl_s))
            return self.rendered


class ServiceView:
    """One service that is asked for.

    Written by the refreshing thread, read by requests. While an experiment runs there is a table for each arm, and
    the clock alone says which is in force.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.scored: Scored | None = None
        self.empty = False
        self.asked_s = time.monotonic()
        self._tables: dict[str, Published] = {}
        self._experiment: Experiment | None = None
        self._closed: tuple[str, ...] = ()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    @property
    def published(self) -> Published | None:
        """The table in force now."""
        return self.at(clock_us())

    def at(self, now_us: int) -> Published | None:
        """The table in force at a moment, microseconds since 1970."""
        experiment, tables, closed = self._experiment, self._tables, self._closed
        if experiment is not None and CONTROL in closed:
            return tables.get(TREATMENT) or tables.get(NO_ARM)
        if experiment is not None and closed and (not experiment.others or experiment.arm_at(now_us) in closed):
            return tables.get(NO_ARM)
        if experiment is not None and experiment.slot_in_force(now_us) is not None:
            of_arm = tables.get(experiment.arm_at(now_us))
            if of_arm is not None:
                return of_arm
        return tables.get(NO_ARM)

    def of_arm(self, arm: str) -> Published | None:
        """The table of an arm, whether it is in force or not; the champion's is there without an experiment too."""
        return self._tables.get(arm) or (self._tables.get(NO_ARM) if arm == "champion" else None)

    def chosen(self, arm: str | None) -> Published | None:
        """The table of an arm, or that in force now."""
        return self.of_arm(arm) if arm else self.published

    def publish(
        self,
        tables: Mapping[str, RoutingTable],
        experiment: Experiment | None,
        confirmed_s: float,
        closed: tuple[str, ...] = (),
    ) -> None:
        """Puts tables into service; those that are there already are known to be right again.

        Args:
            tables: by arm, one of NO_ARM among them; nothing: there are no live hosts.
            experiment: that the arms are of.
            confirmed_s: see `Published`.
            closed: the arms whose tables are not served, whatever the slot.
        """
        fresh = {}
        for arm, table in tables.items():
            present = self._tables.get(arm)
            if present is None or present.table.version != table.version:
                present = Published(table, confirmed_s)
            fresh[arm] = present
        changed = {arm: each.table.version for arm, each in fresh.items()} != {
            arm: each.table.version for arm, each in self._tables.items()
        }
        changed |= closed != self._closed
        self._tables, self._experiment, self._closed, self.empty = fresh, experiment, closed, not tables
        self.confirm(confirmed_s)
        if changed:
            self._wake()

    def confirm(self, confirmed_s: float) -> None:
        """The tables there were still right then."""
        for each in self._tables.values():
            each.confirmed_s = confirmed_s

    async def changed(self, version: str | None, timeout_s: float, arm: str | None = None) -> None:
        """Waits until the table is another than `version`, by news or since another slot began, or the time is up."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            waiter = (asyncio.get_running_loop(), asyncio.Event())
            with self._lock:
                self._waiters.add(waiter)
            try:
                present = self.chosen(arm)
                if self.empty or (present is not None and present.table.version != version):
                    return
                await asyncio.wait_for(waiter[1].wait(), min(left, self._until_next_slot_s()))
            except TimeoutError:
                continue
            finally:
                with self._lock:
                    self._waiters.discard(waiter)

    def _until_next_slot_s(self) -> float:
        experiment, now_us = self._experiment, clock_us()
        if experiment is None or now_us >= experiment.end_us:
            return _MAX_WAIT_S
        next_us = experiment.next_change_us(now_us)
        return min(_MAX_WAIT_S, max(0.0, (next_us - now_us) / 1e6) + 0.001)

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, set()
        for loop, event in waiters:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that loop has ended
                continue


@dataclass(frozen=True)
class ArmsPlan:
    """Tells which tables of a service's experiment are served now.

    Args:
        experiment: whose arms' tables are kept; None: there is none, or it cannot be run.
        challengers: by arm the models of its challengers.
        problem: why an experiment that should run does not.
        closed: the arms that are closed for gross harm.
    """

    experiment: Experiment | None = None
    challengers: Mapping[str, ModelScorer] = field(default_factory=dict)
    problem: str | None = None
    closed: tuple[str, ...] = ()


def plan_arms(models: Models, service: str, now_us: int, closed: tuple[str, ...] = ()) -> ArmsPlan:
    """Plans for a moment, microseconds since 1970; an experiment whose models are not loaded is not served at all.

    Then every table is the champion's, and names no arm: what is routed by it belongs to neither.

    Args:
        closed: of `ArmsPlan`.
    """
    experiment = models.experiment(service)
    if experiment is None:
        return ArmsPlan()
    if isinstance(experiment, str):
        return ArmsPlan(problem=experiment)
    if not experiment.begin_us - _AHEAD_US <= now_us < experiment.end_us:
        return ArmsPlan()
    loaded: dict[str, ModelScorer] = {}
    for arm in experiment.arms:
        model, wanted = models.slot(service, arm).model, experiment.version_of(arm)
        if model is None or model.version != wanted:
            there = f"version {model.version}" if model else "no version"
            return ArmsPlan(
                problem=f"experiment {experiment.id} needs version {wanted} as {arm}, {there} is loaded: "
                "the champion's table is served"
            )
        loaded[arm] = model
    loaded.pop(CONTROL)
    return ArmsPlan(experiment, loaded, closed=closed)
