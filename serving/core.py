"""The engine of one worker: store, door, refresher and models, and how they are."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fingerpost.aliases import ALIASES
from fingerpost.settings import Settings
from serving.categories import Categories
from serving.fingerprints import LatestFingerprints
from serving.ingest import Ingest
from serving.metrics import engine_metrics
from serving.models import Models
from serving.refresh import Refresher
from serving.store import FingerprintStore, Limits
from serving.views import ServiceView

_FIRST_TABLE_S = 10.0


class Engine:
    """Everything one worker holds; `start` and `stop` frame its life."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = engine_metrics()
        limits = Limits(settings.max_hosts, settings.max_services, round(settings.fingerprint_ttl_s * 1e6))
        self.store = FingerprintStore(settings.fingerprint_store, limits)
        self.categories = Categories(settings.lake)
        self.ingest = Ingest(self.store, settings, self.metrics)
        self.refresher = Refresher(self.store, settings, self.metrics, self.categories)
        self.windows = LatestFingerprints(settings.lake, settings.service)
        # Its own: requests that wait for a store which does not answer must not take the threads of others.
        self.store_reads = ThreadPoolExecutor(2, "store-reads")

    @property
    def models(self) -> Models:
        return self.refresher.models

    def start(self) -> None:
        self.ingest.start()
        self.refresher.start()

    def stop(self) -> None:
        self.ingest.stop()
        self.refresher.stop()
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

    def stale(self) -> str | None:
        """Why the tables may be old, or None."""
        return f"store: {self.store.problem}" if self.store.problem else None

    def note_state(self) -> None:
        """Brings up to date what metrics say of store and tables; a thread that waits for the store cannot."""
        self.metrics.store_problem.set(1 if self.store.problem else 0)
        self.refresher.note_ages()

    def ready(self) -> bool:
        """Whether there is a store, or still a table from when there was, and what is to predict: the champion, or the
        baseline where the registry has none. The settings can do without the registry's word."""
        service = self.settings.service
        champion = self.models.slot(service, "champion")
        none_yet = self.models.known(service) and champion.tried is None
        serves = self.store.problem is None or any(view.published for view in self.refresher.views())
        return serves and (champion.model is not None or none_yet or self.settings.ready_without_model)

    def health(self) -> dict[str, Any]:
        """Status, problems, and the age of every table."""
        problems = {}
        if self.store.problem:
            problems["store"] = self.store.problem
        if self.models.registry_problem:
            problems["registry"] = self.models.registry_problem
        for service in {self.settings.service, *self.refresher.services()}:
            for alias in ALIASES:
                slot = self.models.slot(service, alias)
                if slot.problem:
                    problems[f"{alias} of {service}"] = slot.problem
            if problem := self.refresher.problem_of_experiment(service):
                problems[f"experiment of {service}"] = problem
        tables = [(view, view.published) for view in self.refresher.views()]
        services = {
            view.service: {
                "hosts": len(published.table.hosts),
                "table_age_s": round(max(0.0, time.time() - published.confirmed_s), 3),
                "source": published.table.source,
                "model_version": published.table.model_version,
                "arm": published.table.arm,
                "experiment": published.table.experiment,
                "histories": view.scored.said.histories.known if view.scored and view.scored.said else None,
            }
            for view, published in tables
            if published is not None
        }
        status = "degraded" if problems else "ok"
        return {"status": status, "ready": self.ready(), "problems": problems, "services": services}
