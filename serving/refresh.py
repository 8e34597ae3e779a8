"""Keeps the tables of the services that are asked for fresh; one thread, behind the requests."""

import logging
import math
import threading
import time
from dataclasses import dataclass, field

from fingerpost.clock import US, clock_us
from fingerpost.experiment import CONTROL, TREATMENT
from fingerpost.serving.arm_guard import ArmGuard
from fingerpost.serving.contest import CONTEST, LiveContest
from fingerpost.serving.fleet_state import FleetState, build_fleet
from fingerpost.serving.host_states import HostStates
from fingerpost.serving.live_errors import LiveErrorLog
from fingerpost.serving.members import Members
from fingerpost.serving.metrics import EngineMetrics
from fingerpost.serving.models import Models
from fingerpost.serving.outside import Events
from fingerpost.serving.page.windows import AllWindows
from fingerpost.serving.report_log import ReportLog
from fingerpost.serving.scoring import ModelScorer, Scored, Serving, score_fleet
from fingerpost.serving.shadow import ShadowLog
from fingerpost.serving.store import Mark, ReportStore, StoreError
from fingerpost.serving.table import Categories, RoutingTable, build_table, of_arm
from fingerpost.serving.views import NO_ARM, ArmsPlan, ServiceView, plan_arms
from fingerpost.settings import Settings
from fingerpost.tracing import span

logger = logging.getLogger(__name__)
_TICK_S = 0.1
_IDLE_S = 600.0
_PURGE_EVERY_S, _MEMBERS_EVERY_S = 15.0, 60.0
_LONG_WAIT_S = 5.0
_MOST_ROWS = 2000
# Reports of a service that nobody asks for are in no state; and those that nobody can land are given up in the end.
_KEPT_US, _KEPT_IN_ANY_CASE_US = 900_000_000, 3600_000_000


@dataclass
class _Work:
    """What the thread knows of a service.

    Args:
        refreshed_s, took_s: when it was last refreshed, by `time.monotonic`, and how long that took.
        arrived_us: when the first report came that no table shows yet; 0: there is none.
        latest_us: the latest time that any report of the table has, microseconds since 1970.
        heard_s: when the latest of them came, by `time.monotonic`.
        members_s: when the hosts that were announced, drained or removed were last read whole, by `time.monotonic`:
            those that left for good are no change.
        plan: of the experiment, as it was served last.
        challenger: the fleet as the challenger scored it, while an experiment runs.
        contest: of champion and baseline.
    """

    view: ServiceView
    states: HostStates
    members_s: float = -math.inf
    seen: Mark = field(default_factory=lambda: Mark("", 0))
    dirty: bool = True
    refreshed_s: float = -math.inf
    took_s: float = 0.0
    arrived_us: int = 0
    latest_us: int = 0
    heard_s: float = 0.0
    plan: ArmsPlan = field(default_factory=ArmsPlan)
    challengers: dict[str, Scored] = field(default_factory=dict)
    contest: LiveContest | None = None


class Refresher:
    """Pulls what has changed from the store, scores it, and publishes tables.

    Hosts that fell silent leave the tables after `fingerprint_ttl_s`, the store after five times that.
    A host that is announced is in the tables before it has reported; one that drains, or was removed, leaves them.
    """

    def __init__(
        self,
        store: ReportStore,
        log: ReportLog,
        settings: Settings,
        metrics: EngineMetrics,
        categories: Categories,
        members: Members,
        events: Events,
    ) -> None:
        self._store, self._log, self._settings = store, log, settings
        self._metrics, self._categories = metrics, categories
        self._members, self._events = members, events
        self._shadow, self._live = ShadowLog(settings, metrics), LiveErrorLog(settings, metrics)
        self.windows = AllWindows(settings.window_s)
        self.models = Models(settings, metrics, self.services, self.scored)
        self.arms = ArmGuard(self.models, events, settings, self.services)
        self._work: dict[str, _Work] = {}
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self._mark: Mark | None = None
        # By `time.monotonic`, as all that is waited for here: a clock that is set must neither stop us nor hurry us.
        self._known_s = self._purged_s = self._trouble_s = -math.inf
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.models.start()
        self.arms.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(10)
        self.models.stop()
        self.arms.stop()

    def services(self) -> list[str]:
        """The services asked for lately."""
        return list(self._work)

    def known_services(self) -> list[str]:
        """The services that the store holds hosts of."""
        return list(self._known)

    def views(self) -> list[ServiceView]:
        """The views of the services asked for lately."""
        return [work.view for work in list(self._work.values())]

    def problem_of_experiment(self, service: str) -> str | None:
        """Why an experiment that should run does not, or None."""
        work = self._work.get(service)
        if work is None:
            return None
        if work.plan.experiment is not None and work.view.scored is not None and not work.view.scored.by_model:
            return f"experiment {work.plan.experiment.id} cannot run: no agent has told of its host's history"
        if work.plan.experiment is not None and work.plan.closed:
            closed = " and the ".join(work.plan.closed)
            return f"the {closed} of experiment {work.plan.experiment.id} routes nothing, for gross harm"
        return work.plan.problem

    def scored(self, service: str) -> Scored | None:
        work = self._work.get(service)
        return work.view.scored if work else None

    @property
    def hosts_known(self) -> int:
        """The number of hosts that the store holds, or a table still has."""
        return sum(self._known.values()) or sum(len(work.states.hosts) for work in list(self._work.values()))

    def known(self, service: str) -> bool:
        """Whether the store holds hosts of this service."""
        return service in self._known or service in self._work

    def view(self, service: str) -> ServiceView | None:
        """The view of a service, which from now on is kept fresh; None if no such service is known."""
        work = self._work.get(service)
        if work is None:
            if service not in self._known:
                return None
            with self._lock:
                states = HostStates(service, self._log, self._settings)
                work = self._work.setdefault(service, _Work(ServiceView(service), states))
            self._wake.set()
        work.view.asked_s = time.monotonic()
        return work.view

    def note_ages(self) -> None:
        """Tells the metrics how old the tables are now."""
        for work in list(self._work.values()):
            self._note_ages(work)

    def clock_problem(self) -> str | None:
        """Says so if a table rests on fingerprints of the future: they were not when they came, so a clock was set."""
        latest_us = max((work.latest_us for work in list(self._work.values())), default=0)
        ahead_s = latest_us / 1e6 - time.time()
        if ahead_s <= self._settings.clock_skew_s:
            return None
        return f"fingerprints are of {ahead_s:.0f} s from now: the clock of this machine, or of another engine, was set"

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            try:
                self._tick()
            except Exception:  # what one round cannot do the next one may
                logger.exception("a refresh failed")
                time.sleep(_TICK_S)

    def _tick(self) -> None:
        now_s = time.monotonic()
        stored = self._look_at_store(now_s)
        for service, work in list(self._work.items()):
            if time.monotonic() - work.view.asked_s > _IDLE_S:
                with self._lock:
                    del self._work[service]
                self._metrics.services.forget(service)
                self.windows.forget(service)
                self._live.forget(service)
                continue
            # A large fleet takes long to score: half of the time is left to others.
            if now_s - work.refreshed_s >= max(self._settings.table_refresh_s, 2 * work.took_s):
                began = time.monotonic()
                self._refresh(work, now_s, stored)
                work.took_s = time.monotonic() - began
            self._note_ages(work)

    def _look_at_store(self, now_s: float) -> bool:
        """Whether the store answers."""
        if self._store.problem:
            self._trouble_s = now_s
        try:
            mark = self._store.mark()
            if mark != self._mark or now_s - self._known_s > 5:
                self._known, self._known_s, self._mark = self._store.services(), now_s, mark
            if now_s - self._purged_s > min(_PURGE_EVERY_S, self._settings.fingerprint_ttl_s):
                now_us = clock_us()
                self._store.bring_back(now_us)
                self._store.purge(now_us - round(5e6 * self._settings.fingerprint_ttl_s))
                self._members.purge(now_us)
                self._store.trim(now_us - _KEPT_US, now_us - _KEPT_IN_ANY_CASE_US)
                self._purged_s = now_s
        except StoreError as error:
            self._trouble_s = now_s
            self._metrics.store_problem.set(1)
            logger.warning("the store cannot be used: %s", error)
            return False
        if time.monotonic() - now_s > _LONG_WAIT_S:
            self._trouble_s = time.monotonic()
        self._metrics.store_problem.set(1 if self._store.problem else 0)
        return True

    def _refresh(self, work: _Work, now_s: float, stored: bool) -> None:
        service, view = work.view.service, work.view
        work.refreshed_s = now_s
        if stored:
            with self.models.computing:
                stored = self._pull(work)
            work.states.save_some(now_s)
        self._age(work, now_s)
        if view.scored is None:
            # A worker that starts anew is not to serve what it made without the model that lies ready.
            self.models.refresh(service)
        champion = self.models.slot(service, "champion")
        scorer = champion.model
        at_us = clock_us() // US * US
        work.dirty |= view.scored is not None and view.scored.moves(at_us)
        plan = plan_arms(self.models, service, clock_us(), self.arms.closed(service))
        if work.dirty or plan != work.plan or (view.scored is not None and view.scored.scorer is not scorer):
            work.plan = plan
            with self.models.computing, span("refresh table", fingerpost_service=service) as present:
                self._publish(work, scorer, champion.warmed, now_s, at_us)
                if view.published is not None:
                    hosts, categories = view.published.table.hosts, view.published.table.categories
                    present.note(fingerpost_hosts=len(hosts), fingerpost_categories=len(categories))
        elif stored:
            view.confirm(now_s)

    def _pull(self, work: _Work) -> bool:
        if self._mark is None or work.seen == self._mark:
            return True
        after = work.seen.change if work.seen.epoch == self._mark.epoch else 0
        if not after:
            # Of another database, or the first look: who is not in it has not left.
            work.states.members.clear()
        service, whole = work.view.service, not after or time.monotonic() - work.members_s > _MEMBERS_EVERY_S
        try:
            work.states.follow(self._mark.epoch)
            rows = self._store.changed(service, after, _MOST_ROWS)
            members = self._members.changed(service, 0 if whole else after)
        except StoreError as error:
            self._metrics.store_problem.set(1)
            logger.warning("the store cannot be used: %s", error)
            return False
        if rows:
            work.states.take(rows)
            self._metrics.passed_over(work.states.passed_over())
            work.arrived_us = min(work.arrived_us or rows[0].received_us, rows[0].received_us)
            work.dirty = True
        work.dirty |= work.states.take_members(members, whole)
        if whole:
            work.members_s = time.monotonic()
        # Rows may be newer than the mark; they are only pulled again.
        latest = rows[-1].change if len(rows) == _MOST_ROWS else max([self._mark.change, *(row.change for row in rows)])
        work.seen = Mark(self._mark.epoch, latest)
        return True

    def _age(self, work: _Work, now_s: float) -> None:
        """Drops silent hosts; skipped while the store is down and for one TTL after."""
        if now_s - self._trouble_s < self._settings.fingerprint_ttl_s:
            return
        oldest_s = now_s - self._settings.fingerprint_ttl_s
        for host in [host for host, state in work.states.hosts.items() if state.heard_s < oldest_s]:
            work.states.forget(host)
            work.dirty = True

    def _publish(
        self, work: _Work, scorer: ModelScorer | None, warmed: Scored | None, now_s: float, at_us: int
    ) -> None:
        settings, view = self._settings, work.view
        work.dirty = False
        times = (max(state.received_us, state.fingerprint.time_us) for state in work.states.hosts.values())
        work.latest_us = max(times, default=0)
        work.heard_s = max((state.heard_s for state in work.states.hosts.values()), default=now_s)
        states = work.states.present()
        if not states:
            view.scored, work.challengers = None, {}
            view.publish({}, None, now_s)
            return
        before = view.scored
        if before is not None and before.scorer is not scorer and warmed is not None and warmed.scorer is scorer:
            before = warmed
        known = before.fleet if before else None
        outside = self._events.outside(view.service)
        fleet = build_fleet(view.service, states, settings.max_categories, known, outside, at_us)
        scored = self._contested(work, fleet, scorer, before)
        table, experiment = self._table(scored), work.plan.experiment
        tables = {NO_ARM: table}
        work.challengers = {
            arm: self._score(fleet, model, work.challengers.get(arm)) for arm, model in work.plan.challengers.items()
        }
        if experiment is not None and work.challengers and scored.by_model:
            tables[CONTROL] = of_arm(table, CONTROL, experiment.id)
            for arm, of_challenger in work.challengers.items():
                tables[arm] = of_arm(self._table(of_challenger), arm, experiment.id)
        view.scored = scored
        view.publish(tables, experiment, now_s, work.plan.closed)
        if work.arrived_us:
            self._metrics.arrival_seconds.observe(max(0.0, time.time() - work.arrived_us / 1e6))
            work.arrived_us = 0
        shadow = self._shadow.consider(scored, self.models.slot(view.service, "challenger").model)
        seen = self.windows.of(view.service).observe(scored, work.challengers.get(TREATMENT) or shadow)
        self._live.take(view.service, seen)

    def _contested(self, work: _Work, fleet: FleetState, scorer: ModelScorer | None, before: Scored | None) -> Scored:
        """The fleet as the champion, the baseline, or both by category serve it."""
        if work.contest is None:
            path = self.models.files.folder(work.view.service) / CONTEST
            work.contest = LiveContest(path, self._settings.window_s)
        if not self._settings.baseline_takes_over:
            return self._score(fleet, scorer, before)
        scored, changed = work.contest.served(fleet, scorer, before, self._score)
        if changed:
            self._metrics.champion_changes.inc()
            about = {"service": fleet.service, "source": scored.source, "why": scored.reason}
            logger.info("another serves", extra=about)
        return scored

    def _score(
        self, fleet: FleetState, scorer: ModelScorer | None, before: Scored | None, serving: Serving | None = None
    ) -> Scored:
        began = time.perf_counter()
        scored = score_fleet(fleet, scorer, before, serving)
        self._metrics.scored(scored.source, scored.cells, time.perf_counter() - began)
        return scored

    def _table(self, scored: Scored) -> RoutingTable:
        return build_table(scored, self._routes(scored.fleet.service), self._settings.slow_start_s)

    def _routes(self, service: str) -> tuple[str, ...]:
        table = self._categories.table(service)
        return table.routes if table else ()

    def _note_ages(self, work: _Work) -> None:
        service, published = work.view.service, work.view.published
        problem = 1.0 if self.problem_of_experiment(service) else 0.0
        self._metrics.services.tell(service, hosts=len(work.states.hosts), experiment_problem=problem)
        if published is not None:
            self._metrics.services.tell(
                service,
                model_share=published.table.model_share,
                table_age_s=published.age_s,
                prediction_age_s=time.monotonic() - work.heard_s,
            )
