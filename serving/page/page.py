"""Puts the page's numbers together: once a second at most, however many look."""

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from sqlalchemy import select

from fingerpost import __version__
from fingerpost.clock import clock_us
from fingerpost.flow_status import FlowStatus, decisions, flow_statuses
from fingerpost.home import disk_of
from fingerpost.routing.trust import guard_file
from fingerpost.serving.metrics import refusals
from fingerpost.serving.page import panels
from fingerpost.serving.page.answers import answers
from fingerpost.serving.page.decisions import Decisions
from fingerpost.serving.page.fleet import cell_history, fleet_panel, host_rows
from fingerpost.serving.page.pickers import pickers_of
from fingerpost.serving.page.worth import Worth, worth_panel
from fingerpost.serving.pickers import Picker
from fingerpost.serving.store import StoreError
from fingerpost.serving.store_database import hosts as reporting

if TYPE_CHECKING:
    from fingerpost.serving.engine import Engine
    from fingerpost.serving.views import Published

_MADE_EVERY_S, _READ_EVERY_S = 1.0, 5.0
# The share of a core that it may take, however large the fleet.
_MOST_SHARE, _LOOKS = 0.015, 5
# What a router wrote longer ago is of a router that is gone.
_GUARD_S = 60.0
_STORE_S = 0.5


@dataclass
class _Known:
    """What is read from store, lake and disk now and then.

    Args:
        reporters: agents that report, by kind.
        pickers: that follow the table, the oldest table first.
        store_problem: why hosts and reporters are not known.
    """

    listed: list[dict[str, Any]] = field(default_factory=list)
    reporters: dict[str, int] = field(default_factory=dict)
    pickers: list[Picker] = field(default_factory=list)
    flows: dict[str, FlowStatus] = field(default_factory=dict)
    decisions: list[dict[str, str]] = field(default_factory=list)
    refused: dict[str, float] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    disks: dict[str, tuple[float, str]] = field(default_factory=dict)
    store_problem: str | None = None


class _OfService:
    """One service as it is looked at."""

    def __init__(self, engine: "Engine", service: str) -> None:
        self._engine, self.service = engine, service
        self._lock = threading.Lock()
        self._made_s, self._took_s, self._body = -_MADE_EVERY_S, 0.0, b""
        self._numbers: Mapping[str, Any] = {}
        self._known, self._read_s = _Known(), -_READ_EVERY_S
        self._asked: Future[tuple[list[dict[str, Any]], dict[str, int], list[Picker]]] | None = None
        self._decided = Decisions(engine.settings.lake, service)
        self.worth = Worth()

    def numbers(self) -> Mapping[str, Any]:
        """The page's numbers, as a rule at most a second old; not to be changed."""
        with self._lock:
            if time.monotonic() - self._made_s >= max(_MADE_EVERY_S, self._took_s / _MOST_SHARE):
                began_s = time.thread_time()
                self._numbers, self._body = self._snapshot(), b""
                spent_s = time.thread_time() - began_s
                self._engine.metrics.page_seconds.inc(spent_s)
                # The capacity is not computed every time: what a look takes is told over several.
                self._took_s += (spent_s - self._took_s) / _LOOKS
                self._made_s = time.monotonic()
            return self._numbers

    def rendered(self) -> bytes:
        """The same as JSON, made once for all who look."""
        numbers = self.numbers()
        with self._lock:
            if numbers is not self._numbers:
                return orjson.dumps(numbers)
            if not self._body:
                began_s = time.thread_time()
                self._body = orjson.dumps(numbers)
                self._engine.metrics.page_seconds.inc(time.thread_time() - began_s)
            return self._body

    def cell(self, host: str, category: str) -> dict[str, Any] | None:
        """See `cell_history`."""
        published = self._published()
        points = self._engine.refresher.windows.of(self.service).points()
        return cell_history(points, published.table if published else None, host, category)

    def _published(self) -> "Published | None":
        view = self._engine.refresher.view(self.service)
        return view.published if view else None

    def _snapshot(self) -> dict[str, Any]:
        engine, published, now_us = self._engine, self._published(), clock_us()
        table = published.table if published else None
        if time.monotonic() - self._read_s >= _READ_EVERY_S:
            self._known, self._read_s = self._read(now_us), time.monotonic()
        self._decided.look()
        known, windows = self._known, engine.refresher.windows.of(self.service)
        totals, points = windows.totals(), windows.points()
        if table is not None:
            minute, hour = windows.requests(table.hosts, table.categories)
        else:
            minute = hour = np.zeros((0, 0))
        settings, view = engine.settings, engine.refresher.view(self.service)
        scored = view.scored if view else None
        cores = scored.fleet.host_column("cores") if scored else np.zeros(0)
        rates, failed = minute.sum(axis=1) / 60, _failed_share(table, minute)
        silent_s = settings.fingerprint_ttl_s
        rows = host_rows(known.listed, table, points, rates, failed, known.guard, silent_s, now_us / 1e6)
        health = engine.health()
        page: dict[str, Any] = {
            "service": self.service,
            "services": sorted({settings.service, *engine.refresher.services(), *engine.refresher.known_services()}),
            "now": now_us / 1e6,
            "engine": {"version": __version__, "status": health["status"], "ready": health["ready"]},
            "stale": engine.stale(),
            "since": points[0].end_us / 1e6 if points else None,
            "fleet": fleet_panel(rows, table, hour.sum(axis=0)),
            "traffic": panels.traffic_panel(totals, table, minute, hour, self._decided, known.guard),
            "predictions": panels.predictions_panel(
                totals, table, published.age_s if published else None, known.guard, known.flows.get("drift"), settings
            ),
            "model": panels.model_panel(engine.models, self.service, known.decisions, known.flows, now_us, settings),
            "worth": worth_panel(self.worth.capacity(table, windows), totals, cores),
            "pipeline": panels.pipeline_panel(
                known.flows, known.reporters, known.refused, known.disks, health["problems"], settings
            ),
            "pickers": pickers_of(known.pickers, now_us, settings.table_ttl_s),
        }
        page["answers"] = answers(page, rows, known.store_problem)
        return page

    def _read(self, now_us: int) -> _Known:
        engine, settings, found = self._engine, self._engine.settings, _Known()
        try:
            # A store that does not answer must hold up neither page nor metrics: what it says late is shown later.
            self._asked = self._asked or engine.store_reads.submit(self._of_store, now_us)
            found.listed, found.reporters, found.pickers = self._asked.result(_STORE_S)
            self._asked = None
        except (StoreError, TimeoutError, RuntimeError) as error:
            self._asked = None if self._asked and self._asked.done() else self._asked
            found.listed, found.reporters = self._known.listed, self._known.reporters
            found.pickers = self._known.pickers
            found.store_problem = str(error) or "no answer"
        found.flows = flow_statuses(settings.lake, self.service)
        found.decisions = decisions(settings.lake, self.service)
        found.refused, found.guard = refusals(), self._guard(now_us)
        for name, folder in (("home", settings.home), ("lake", settings.lake)):
            try:
                disk = disk_of(next(each for each in (folder, *folder.parents) if each.exists()))
                found.disks[name] = (disk.free_bytes / 2**20, disk.problem(settings.disk_low_mb))
            except OSError as error:
                found.disks[name] = (float("nan"), str(error.strerror))
        return found

    def _of_store(self, now_us: int) -> tuple[list[dict[str, Any]], dict[str, int], list[Picker]]:
        pickers = self._engine.pickers.listing(self.service, now_us)
        return self._engine.members.listing(self.service), self._reporters(now_us), pickers

    def _reporters(self, now_us: int) -> dict[str, int]:
        """How many agents reported lately, beside hosts and beside proxies."""
        since_us = now_us - round(self._engine.settings.fingerprint_ttl_s * 1e6)
        columns = (reporting.c.host, reporting.c.reporter)
        lately = (reporting.c.service == self.service) & (reporting.c.received_us >= since_us)
        rows = self._engine.store.reading(lambda connection: list(connection.execute(select(*columns).where(lately))))
        proxies = {reporter for host, reporter in rows if reporter != host}
        return {"host agents": sum(reporter == host for host, reporter in rows), "proxy agents": len(proxies)}

    def _guard(self, now_us: int) -> dict[str, Any]:
        """What the guard of a router on this machine has found; empty where there is none."""
        try:
            path = guard_file(self._engine.settings.home / "routing" / f"{self.service}.table")
            found = json.loads(path.read_bytes())
            lately = now_us / 1e6 - float(found["time"]) < _GUARD_S
            return dict(found) if lately and isinstance(found["hosts"], dict) else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}


class Page:
    """The page of an engine.

    Args:
        engine: whose tables, windows and models are shown.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._services: dict[str, _OfService] = {}

    def of(self, service: str) -> _OfService:
        """The page of a service; of one that nobody knows it is empty."""
        with self._lock:
            known = self._engine.refresher.known(service) or service == self._engine.settings.service
            if not known:
                return self._services.get(service) or _OfService(self._engine, service)
            return self._services.setdefault(service, _OfService(self._engine, service))


def _failed_share(table: Any, minute: Any) -> Any:
    """Of each host, the share of its requests of the last minute that failed, by the rolling shares of its cells."""
    if table is None:
        return np.zeros(0)
    failed = np.nan_to_num(1 - table.success_rate.T.astype(np.float64))
    total = minute.sum(axis=1)
    return np.divide((failed * minute).sum(axis=1), total, out=np.zeros(len(total)), where=total > 0)
