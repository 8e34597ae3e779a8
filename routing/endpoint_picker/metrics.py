"""The endpoint picker's metrics, in Prometheus' text format, on a port of their own."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fingerpost.routing.endpoint_picker.server import EndpointPickerServer


class EndpointPickerMetrics:
    """Collects when it is asked."""

    def __init__(self, server: EndpointPickerServer) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        picks = CounterMetricFamily(
            "fingerpost_endpoint_picks",
            "Decisions, by policy and by why they were not predicted.",
            labels=["policy", "fallback"],
        )
        for key, count in sorted(self._server.picks.items()):
            picks.add_metric(key, count)
        inflight = GaugeMetricFamily(
            "fingerpost_endpoint_inflight", "Requests under way at an endpoint.", labels=["host", "endpoint"]
        )
        found = self._server.chooser.endpoints
        for name, address, count in zip(found.names, found.addresses, found.inflight.tolist(), strict=True):
            inflight.add_metric([name, address], count)
        yield from (picks, inflight)
