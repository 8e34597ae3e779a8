"""The engine of one worker: store, door, refresher and models, and how they are."""

import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fingerpost.clock import clock_us
from fingerpost.experiment import ALIASES
from fingerpost.serving.answers import UnknownError
from fingerpost.serving.connections import connections, limits_of_process
from fingerpost.serving.health import DiskWatch, RefusalRate, table_problems
from fingerpost.serving.ingest import Ingest
from fingerpost.serving.lake_sync import LakeSync
from fingerpost.serving.lake_table import LakeTable
from fingerpost.serving.landing import Landing
from fingerpost.serving.members import Members, Roster
from fingerpost.serving.metrics import engine_metrics
from fingerpost.serving.models import Models
from fingerpost.serving.outside import Events
from fingerpost.serving.page.page import Page
from fingerpost.serving.pickers import Pickers
from fingerpost.serving.refresh import Refresher
from fingerpost.serving.report_log import ReportLog
from fingerpost.serving.store import Limits, ReportStore
from fingerpost.serving.store_database import sqlite_path
from fingerpost.serving.table import Categories, RoutingTable
from fingerpost.serving.views import ServiceView
from fingerpost.serving.window_landing import WindowLanding
from fingerpost.settings import Settings

_FIRST_TABLE_S = 10.0


class Engine:
    """Everything one worker holds; `start` and `stop` frame its life."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = engine_metrics()
        ttl_us, skew_us = round(settings.fingerprint_ttl_s * 1e6), round(settings.clock_skew_s * 1e6)
        limits = Limits(settings.max_hosts, settings.max_services, ttl_us, skew_us)
        self.store = ReportStore(settings.fingerprint_store, limits)
        self.categories = Categories(settings.lake)
        self.refusals = RefusalRate()
        self.tokens = settings.accepted_tokens()
        # Set where the engine listens beyond the loopback: then reading takes a token too.
        self.reading_asks = False
        self.ingest = Ingest(self.store, settings, self.metrics, self.refusals)
        self.members = Members(self.store, limits, round(settings.host_ttl_s * 1e6), clock_us())
        self.roster = Roster(self.members)
        self.pickers = Pickers(self.store)
        log = ReportLog(self.store, uuid.uuid4().hex)
        self.landing = Landing(settings.lake, round(settings.engine_inbox_mb * 2**20))
        self.events = Events(self.store, self.landing, settings)
        self.refresher = Refresher(self.store, log, settings, self.metrics, self.categories, self.members, self.events)
        self._lake_table = LakeTable(settings)
        self.window_landing = WindowLanding(self.store, log, self.landing)
        # Its own: requests that wait for a store which does not answer must not take the threads of others.
        self.store_reads = ThreadPoolExecutor(2, "store-reads")
        self._lake_sync = LakeSync(settings)
        self._disks = DiskWatch(_folders(settings), settings.disk_low_mb)
        self.page = Page(self)
        self._waits = 0

    @property
    def models(self) -> Models:
        return self.refresher.models

    def start(self) -> None:
        self.ingest.start()
        self.refresher.start()
        self.window_landing.start()
        self._disks.start()
        self._lake_sync.start()
        self.pickers.start()

    def stop(self) -> None:
        self.ingest.stop()
        self.refresher.stop()
        self.window_landing.stop()
        self._disks.stop()
        self._lake_sync.stop()
        self.pickers.stop()
        self.store_reads.shutdown(wait=False, cancel_futures=True)
        self.store.close()

    async def view(self, service: str) -> ServiceView | None:
        """The view of a service with live hosts; None without. The first time it waits for the first table."""
        view = self.refresher.view(service)
        if view is None:
            return None
        if view.published is None and not view.empty:
            await view.changed(None, _FIRST_TABLE_S)
        return view if view.published is not None else None

    def lake_table(self, service: str) -> RoutingTable:
        """Predicts hosts that do not report, as of their last windows in the lake.

        Raises:
            UnknownError: the engine's lake is of another service.
            NoDataError: the lake has no fingerprints, or none that can be read.
        """
        if service != self.settings.service:
            raise UnknownError(f"service {service!r} has no live hosts here")
        categories = self.categories.table(service)
        scorer = self.models.slot(service, "champion").model
        routes = categories.routes if categories else ()
        return self._lake_table.table(scorer, routes, self.events.outside(service))

    def may_wait(self) -> bool:
        """Whether one more request may wait for the next table: half of the connections are for others."""
        return self._waits < limits_of_process().most // 2

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Counts a request that waits."""
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1

    def stale(self) -> str | None:
        """Why the tables may be old, or None."""
        if self.store.problem:
            return f"store: {self.store.problem}"
        problem = self.refresher.clock_problem()
        return f"clock: {problem}" if problem else None

    def note_state(self) -> None:
        """Brings up to date what metrics say of store and tables; a thread that waits for the store cannot."""
        self.metrics.store_problem.set(1 if self.store.problem else 0)
        self.refresher.note_ages()

    def ready(self) -> bool:
        """Whether it can serve, and has what is to predict: the champion, or the baseline where the registry has none
        or one that had to be refused. The settings can do without the registry's word."""
        service = self.settings.service
        champion = self.models.slot(service, "champion")
        by_baseline = self.models.known(service) and (champion.tried is None or champion.problem is not None)
        return self._serves() and (champion.model is not None or by_baseline or self.settings.ready_without_model)

    def health(self) -> dict[str, Any]:
        """Status, problems, and the age of every table."""
        problems = self._problems()
        tables = [(view, view.published) for view in self.refresher.views()]
        services = {
            view.service: {
                "hosts": len(published.table.hosts),
                "table_age_s": round(published.age_s, 3),
                "source": published.table.source,
                "model_version": published.table.model_version,
                "model_share": round(published.table.model_share, 3),
                "reason": published.table.reason,
                "arm": published.table.arm,
                "experiment": published.table.experiment,
                "histories": _histories_known(view),
            }
            for view, published in tables
            if published is not None
        }
        status = "failing" if not self._serves() else "degraded" if problems else "ok"
        return {"status": status, "ready": self.ready(), "problems": problems, "services": services}

    def _serves(self) -> bool:
        """Whether there is a store, or still a table from when there was that may be used."""
        published = (view.published for view in self.refresher.views())
        return self.store.problem is None or any(
            each.age_s <= self.settings.table_ttl_s for each in published if each is not None
        )

    def _problems(self) -> dict[str, str]:
        """Collects what is wrong; nothing in it may wait, since requests are answered meanwhile."""
        return {
            **self._own_problems(),
            **self._model_problems(),
            **self._table_problems(),
            **self.refusals.problems(),
            **self._disks.problems(),
        }

    def _own_problems(self) -> dict[str, str]:
        found = {
            "store": self.store.problem,
            "clock": self.refresher.clock_problem(),
            "landing": self.window_landing.problem,
            "lake": self._lake_sync.problem,
            "events": self.events.problem,
            "tokens": self.tokens.problem(),
        }
        most = limits_of_process().most
        if len(connections()) >= most:
            found["connections"] = f"all {most} are in use: for each new one the longest silent one is ended"
        return {name: problem for name, problem in found.items() if problem}

    def _model_problems(self) -> dict[str, str]:
        found = {"registry": self.models.registry_problem} if self.models.registry_problem else {}
        for service in {self.settings.service, *self.refresher.services()}:
            for alias in ALIASES:
                if problem := self.models.slot(service, alias).problem:
                    found[f"{alias} of {service}"] = problem
            if problem := self.refresher.problem_of_experiment(service):
                found[f"experiment of {service}"] = problem
        return found

    def _table_problems(self) -> dict[str, str]:
        if not self.refresher.hosts_known:
            return {"hosts": "none has reported: start agents with FINGERPOST_ENGINE_URL"}
        return table_problems(self.refresher.views(), self.settings.table_ttl_s, self.settings.fingerprint_ttl_s)


def _histories_known(view: ServiceView) -> int | None:
    output = view.scored.model_output if view.scored else None
    return output.histories.known if output else None


def _folders(settings: Settings) -> dict[str, Path]:
    """Where the engine, and what it reads, keeps files on this machine."""
    store = sqlite_path(settings.fingerprint_store)
    found = {"home": settings.home, "lake": settings.lake}
    return {**found, "store": store.parent} if store is not None else found
