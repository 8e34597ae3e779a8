"""The endpoint picker's metrics, in Prometheus' text format, on a port of their own."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer

from fingerpost.origins import is_known, own_names
from fingerpost.routing.endpoint_picker.server import EndpointPickerServer


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """A line a scrape tells nothing."""


class EndpointPickerMetrics:
    """Collects when it is asked."""

    def __init__(self, server: EndpointPickerServer) -> None:
        self._server = server

    def listen(self, host: str, port: int) -> None:
        """Serves `/metrics` from a thread of its own, to whoever calls it by an address or a local name.

        Raises:
            OSError: the port cannot be used.
        """
        registry = CollectorRegistry()
        registry.register(self)
        server = make_server(host, port, _local(make_wsgi_app(registry), host), ThreadingWSGIServer, _Silent)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

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


def _local(app: Callable[..., Any], host: str) -> Callable[..., Iterable[bytes]]:
    """The application, closed to pages whose name was made to point here."""
    names = own_names(host, ())

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not is_known(environ.get("HTTP_HOST", "").lower(), names):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"this port is not called that\n"]
        found: Iterable[bytes] = app(environ, start_response)
        return found

    return answer
