"""The endpoint picker's metrics, in Prometheus' text format, on a port of their own."""

import time
from collections.abc import Iterator

from prometheus_client.core import Metric

from fingerpost.clock import US
from fingerpost.metric_family import BUILD_INFO, Family, build_info
from fingerpost.routing.endpoint_picker.server import EndpointPickerServer

_PICKS = Family(
    "fingerpost_endpoint_picks", "counter", "Decisions, by policy and by why they were not predicted.",
    ("policy", "fallback"),
)  # fmt: skip
_INFLIGHT = Family("fingerpost_endpoint_inflight", "gauge", "Requests under way at an endpoint.", ("host", "endpoint"))
_WAITING = Family(
    "fingerpost_endpoint_waiting", "gauge", "Requests that wait at an endpoint, as it told of late.",
    ("host", "endpoint"),
)  # fmt: skip
_QUEUES_FAILED = Family(
    "fingerpost_endpoint_queue_failures", "counter", "Looks at endpoints' queues that told nothing, by reason.",
    ("reason",),
)  # fmt: skip
_TABLE_AGE = Family(
    "fingerpost_endpoint_table_age_seconds", "gauge",
    "Since the file of its table was last written, which is done as often as the engine says that it is right.",
)  # fmt: skip
_TABLE_REMAINING = Family(
    "fingerpost_endpoint_table_remaining_seconds", "gauge",
    "How long its table may still be used; below 0 it picks by least requests under way.",
)  # fmt: skip
FAMILIES = (BUILD_INFO, _PICKS, _INFLIGHT, _WAITING, _QUEUES_FAILED, _TABLE_AGE, _TABLE_REMAINING)


class EndpointPickerMetrics:
    """Collects when it is asked."""

    def __init__(self, server: EndpointPickerServer) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        yield build_info("endpoint_picker")
        yield _PICKS.of((key, count) for key, count in sorted(self._server.picks.items()))
        found = self._server.chooser.endpoints
        rows = zip(found.names, found.addresses, found.inflight.tolist(), strict=True)
        yield _INFLIGHT.of(((name, address), count) for name, address, count in rows)
        watch = self._server.watch
        if watch.table:
            yield _TABLE_AGE.of([((), time.time() - watch.written_us / US)])
            yield _TABLE_REMAINING.of([((), watch.table.expires_us / US - time.time())])
        if self._server.queues is None:
            return
        now_s = time.monotonic()
        told = zip(found.names, found.addresses, found.queued.tolist(), found.queued_until.tolist(), strict=True)
        yield _WAITING.of(((name, address), count) for name, address, count, until_s in told if now_s < until_s)
        yield _QUEUES_FAILED.of(((reason,), count) for reason, count in sorted(self._server.queues.failed.items()))
