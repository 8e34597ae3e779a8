"""The endpoint picker's metrics, in Prometheus' text format, on a port of their own."""

from collections.abc import Iterator

from prometheus_client.core import Metric

from fingerpost.metric_family import BUILD_INFO, Family, build_info
from fingerpost.routing.endpoint_picker.server import EndpointPickerServer

_PICKS = Family(
    "fingerpost_endpoint_picks", "counter", "Decisions, by policy and by why they were not predicted.",
    ("policy", "fallback"),
)  # fmt: skip
_INFLIGHT = Family("fingerpost_endpoint_inflight", "gauge", "Requests under way at an endpoint.", ("host", "endpoint"))
FAMILIES = (BUILD_INFO, _PICKS, _INFLIGHT)


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
