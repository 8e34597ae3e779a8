"""The engine's metrics; with several workers they are added up over all of them."""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fingerpost.serving.metrics_folder import forget_dead_workers, keep_in_memory
from fingerpost.serving.service_gauges import ServiceGauges

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SPACE = "fingerpost_engine"


class EngineMetrics:
    """Counters and gauges named `fingerpost_engine_*`.

    Made in the worker: BentoML sets the folder that workers share their numbers in before it starts them.
    """

    def __init__(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        def counter(name: str, text: str, *labels: str) -> Any:
            return Counter(name, text, labels, namespace=_SPACE)

        def gauge(name: str, text: str, *labels: str) -> Any:
            return Gauge(name, text, labels, namespace=_SPACE, multiprocess_mode="livemax")

        self._fingerprints = counter("fingerprints", "Fingerprints received, by what became of them", "outcome")
        self._reasons = counter("refused", "Fingerprints and messages refused, by reason", "reason")
        self._store_failures = counter("store_failures", "Times the store could not be used")
        self._cells = counter("cells_scored", "Cells scored", "source")
        self._seconds = counter("scoring_seconds", "Seconds spent scoring", "source")
        self._requests = counter("requests", "Requests answered, by endpoint and status", "endpoint", "status")
        self.request_seconds = Histogram(
            "request_seconds", "Seconds a request took", ("endpoint",), namespace=_SPACE, buckets=_BUCKETS
        )
        self.arrival_seconds = Histogram(
            "arrival_to_table_seconds",
            "From a fingerprint's arrival to the table that shows it",
            (),
            namespace=_SPACE,
            buckets=_BUCKETS,
        )
        self.swaps = counter("model_swaps", "Models taken into service", "alias")
        self.refused_models = counter("models_refused", "Models that were refused: look at /v1/models", "alias")
        self.model_problem = gauge("model_problem", "1 while the model an alias points at cannot be used", "alias")
        self.registry_problem = gauge("registry_problem", "1 while the model registry does not answer")
        self.store_problem = gauge("store_problem", "1 while the fingerprint store cannot be used")
        self.connections_ended = counter(
            "connections_ended", "Connections ended for want of room, or since the client was too slow", "how"
        )
        for how in ("no_room", "slow", "stalled"):
            self.connections_ended.labels(how)
        self.loop_lag = gauge("event_loop_lag_seconds", "The latest the event loop was in the last 10 s or more")
        self.services = ServiceGauges(_SPACE)
        self.shadow_rows = counter("shadow_rows", "Predictions logged for comparison")
        self.shadow_failures = counter("shadow_failures", "Logs of predictions that could not be written")

    def received(self, accepted: int, stale: int, reasons: Mapping[str, int]) -> None:
        for outcome, count in (("accepted", accepted), ("stale", stale), ("refused", sum(reasons.values()))):
            if count:
                self._fingerprints.labels(outcome).inc(count)
        for reason, count in reasons.items():
            self._reasons.labels(reason).inc(count)

    def refused(self, reason: str, count: int) -> None:
        self._reasons.labels(reason).inc(count)

    def store_failed(self) -> None:
        self._store_failures.inc()

    def scored(self, source: str, cells: int, seconds: float) -> None:
        self._cells.labels(source).inc(cells)
        self._seconds.labels(source).inc(seconds)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        self._requests.labels(endpoint, str(status)).inc()
        self.request_seconds.labels(endpoint).observe(seconds)


@lru_cache(maxsize=1)
def engine_metrics() -> EngineMetrics:
    """The metrics of this process."""
    keep_in_memory()
    forget_dead_workers()
    return EngineMetrics()


def exposition() -> tuple[bytes, str]:
    """All workers' metrics in Prometheus' text format, and its media type."""
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST
