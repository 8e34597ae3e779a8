"""Counts and measures the engine; with several workers the numbers are added up over all of them."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)
# A name that workers have shared cannot be taken back: services that come and go for months must not pile up.
MAX_NAMES = 1000
# Those of OpenTelemetry's `http.server.request.duration`, and three below: most answers take less than 5 ms.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_SPACE = "fingerpost_engine"
_LAG_EVERY_S = 0.05
_LAG_SPAN_S = 10.0
_LONG_LAG_S = 1.0


class ServiceGauges:
    """Gauges of each service: hosts, ages of table and predictions, trouble with an experiment.

    Only the first `MAX_NAMES` services of a worker's life have gauges; further ones are named in the log. The gauges
    are 0 once nobody asks for the service.

    Args:
        space: prefix of the gauges' names.
        registry: that they are in.
    """

    def __init__(self, space: str, registry: "CollectorRegistry") -> None:
        from prometheus_client import Gauge

        def gauge(name: str, text: str) -> Any:
            return Gauge(name, text, ("service",), namespace=space, multiprocess_mode="livemax", registry=registry)

        self._gauges = {
            "hosts": gauge("hosts", "Live hosts, of services asked for lately"),
            "table_age_s": gauge("table_age_seconds", "Since the table was last known to be right"),
            "prediction_age_s": gauge("prediction_age_seconds", "Since the latest report in the table"),
            "model_share": gauge(
                "model_share", "Share of the categories that the model serves; the baseline serves the others"
            ),
            "experiment_problem": gauge(
                "experiment_problem", "1 while an experiment should run but an arm's table cannot be served"
            ),
        }
        self._names: set[str] = set()
        self._warned = False

    def tell(self, service: str, **values: float) -> None:
        """Sets some of the gauges."""
        if service not in self._names and len(self._names) >= MAX_NAMES:
            if not self._warned:
                logger.warning("%d services have gauges already: none for %r", MAX_NAMES, service)
                self._warned = True
            return
        self._names.add(service)
        for name, value in values.items():
            self._gauges[name].labels(service).set(value)

    def forget(self, service: str) -> None:
        """Sets all gauges of a service that has no tables to 0."""
        if service in self._names:
            self.tell(service, **dict.fromkeys(self._gauges, 0.0))


class EngineMetrics:
    """Counters and gauges named `fingerpost_engine_*`.

    Made in the worker: BentoML sets the folder that workers share their numbers in before it starts them.

    Args:
        registry: that they are in; None: the process's own.
    """

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram

        known = REGISTRY if registry is None else registry

        def counter(name: str, text: str, *labels: str) -> Any:
            return Counter(name, text, labels, namespace=_SPACE, registry=known)

        def gauge(name: str, text: str, *labels: str) -> Any:
            return Gauge(name, text, labels, namespace=_SPACE, multiprocess_mode="livemax", registry=known)

        self._reports = counter("reports", "Window reports received, by what became of them", "outcome")
        self._reasons = counter("refused", "Fingerprints and messages refused, by reason", "reason")
        self._store_failures = counter("store_failures", "Times the store could not be used")
        self._cells = counter("cells_scored", "Cells scored", "source")
        self._seconds = counter("scoring_seconds", "Seconds spent scoring", "source")
        self._requests = counter("requests", "Requests answered, by endpoint and status", "endpoint", "status")
        self.request_seconds = Histogram(
            "request_seconds",
            "How long a request took",
            ("endpoint",),
            namespace=_SPACE,
            buckets=_BUCKETS,
            registry=known,
        )
        self.arrival_seconds = Histogram(
            "arrival_to_table_seconds",
            "From a report's arrival to the table that shows it",
            (),
            namespace=_SPACE,
            buckets=_BUCKETS,
            registry=known,
        )
        self.swaps = counter("model_swaps", "Models taken into service", "alias")
        self.champion_changes = counter(
            "champion_changes", "Times the baseline took over from the champion, or gave back, in some category or all"
        )
        self.refused_models = counter("models_refused", "Models that were refused: look at /v1/models", "alias")
        self.model_problem = gauge("model_problem", "1 while the model an alias points at cannot be used", "alias")
        self.registry_problem = gauge("registry_problem", "1 while the model registry does not answer")
        self.store_problem = gauge("store_problem", "1 while the report store cannot be used")
        self._passed_over = counter(
            "history_passed_over",
            "What a worker left out of hosts' states: windows that came too late, cells whose category had no room",
            "what",
        )
        for what in ("windows_late", "cells_dropped"):
            self._passed_over.labels(what)
        self.page_seconds = counter("page_seconds", "CPU seconds spent putting the page's numbers together")
        self.connections_ended = counter(
            "connections_ended", "Connections ended for want of room, or since the client was too slow", "how"
        )
        for how in ("no_room", "slow", "stalled"):
            self.connections_ended.labels(how)
        self.loop_lag = gauge("event_loop_lag_seconds", "The latest the event loop was in the last 10 s or more")
        self.services = ServiceGauges(_SPACE, known)
        self.shadow_rows = counter("shadow_rows", "Predictions logged for comparison")
        self.shadow_failures = counter("shadow_failures", "Logs of predictions that could not be written")
        self.live_error_windows = counter("live_error_windows", "Windows whose live errors were logged")
        self.live_error_failures = counter("live_error_failures", "Logs of live errors that could not be written")

    def received(self, accepted: int, stale: int, reasons: Mapping[str, int]) -> None:
        for outcome, count in (("accepted", accepted), ("stale", stale), ("refused", sum(reasons.values()))):
            if count:
                self._reports.labels(outcome).inc(count)
        for reason, count in reasons.items():
            self._reasons.labels(reason).inc(count)

    def refused(self, reason: str, count: int) -> None:
        self._reasons.labels(reason).inc(count)

    def passed_over(self, counts: Mapping[str, int]) -> None:
        for what, count in counts.items():
            self._passed_over.labels(what).inc(count)

    def store_failed(self) -> None:
        self._store_failures.inc()

    def scored(self, source: str, cells: int, seconds: float) -> None:
        self._cells.labels(source).inc(cells)
        self._seconds.labels(source).inc(seconds)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        self._requests.labels(endpoint, str(status)).inc()
        self.request_seconds.labels(endpoint).observe(seconds)


class LoopLag:
    """Measures how late the event loop is: what holds it up holds up every request of this worker.

    Args:
        note: called with the worst lateness of the last 10 to 20 s, seconds.
    """

    def __init__(self, note: Callable[[float], None]) -> None:
        self._note = note
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, if it has not; to be called from within the loop."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        before, worst, since = 0.0, 0.0, loop.time()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            late = max(0.0, loop.time() - due)
            if late > _LONG_LAG_S:
                logger.warning("the event loop was held up for %.1f s", late)
            if loop.time() - since > _LAG_SPAN_S:
                before, worst, since = worst, 0.0, loop.time()
            worst = max(worst, late)
            self._note(max(before, worst))


@lru_cache(maxsize=1)
def engine_metrics() -> EngineMetrics:
    """The metrics of this process."""
    from fingerpost.serving.bento_compat import forget_dead_workers, keep_in_memory

    keep_in_memory()
    forget_dead_workers()
    return EngineMetrics()


def exposition(*others: Any) -> tuple[bytes, str]:
    """Renders all workers' metrics in Prometheus' text format, and its media type.

    Args:
        others: collectors of what this worker alone tells, the same as every other would.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    beside = CollectorRegistry(auto_describe=False)
    for each in others:
        beside.register(each)
    return generate_latest(_registry()) + generate_latest(beside), CONTENT_TYPE_LATEST


def refusals() -> dict[str, float]:
    """How much was refused by all workers, by reason, since the engine began."""
    families = (each for each in _registry().collect() if each.name == f"{_SPACE}_refused")
    samples = (sample for each in families for sample in each.samples if sample.name.endswith("_total"))
    return {sample.labels["reason"]: sample.value for sample in samples}


def _registry() -> Any:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry
