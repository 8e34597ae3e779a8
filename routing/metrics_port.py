"""Metrics in Prometheus' text format on a port of their own: those of the guard, and what serves any of them."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer

from fingerpost.origins import is_known, own_names
from fingerpost.routing.engine_hosts import Unmatched


class Collects(Protocol):
    """Gives metrics when it is asked."""

    def collect(self) -> Iterable[Metric]:
        """The metrics as of now; called from other threads."""


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """A line a scrape tells nothing."""


def serve_metrics(host: str, port: int, *collectors: Collects) -> None:
    """Serves `/metrics` from a thread of its own, to whoever calls it by an address or a local name.

    Raises:
        OSError: the port cannot be used.
    """
    registry = CollectorRegistry()
    for each in collectors:
        registry.register(each)
    server = make_server(host, port, _local(make_wsgi_app(registry), host), ThreadingWSGIServer, _Silent)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class GuardMetrics:
    """What the guard of each service has found.

    Args:
        states: by service, gives `fingerpost.routing.trust.TrustKeeper.state` as it was last; empty before that.
    """

    def __init__(self, states: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        trust = GaugeMetricFamily(
            "fingerpost_guard_trust",
            "Exponent of a model version's predicted throughput, 0..1.",
            labels=["service", "version"],
        )
        requests = CounterMetricFamily(
            "fingerpost_guard_requests", "Requests that the guard has judged by.", labels=["service"]
        )
        cost = GaugeMetricFamily(
            "fingerpost_guard_host_cost",
            "Mean cost of a host over what was predicted, of those that are corrected most.",
            labels=["service", "host"],
        )
        success = GaugeMetricFamily(
            "fingerpost_guard_host_success",
            "Share of its requests that succeed, over the others'.",
            labels=["service", "host"],
        )
        for service, state_of in self._states.items():
            if not (state := state_of()):
                continue
            for version, value in sorted(state["trusts"].items()):
                trust.add_metric([service, version], value)
            requests.add_metric([service], state["requests"])
            for host, found in state["hosts"].items():
                cost.add_metric([service, host], found["cost"])
                success.add_metric([service, host], found["success"])
        yield from (trust, requests, cost, success)


class NameMetrics:
    """Hosts whose names only one side has.

    Args:
        found: by service, gives what was found at the last look.
    """

    def __init__(self, found: Mapping[str, Callable[[], Unmatched]]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        family = GaugeMetricFamily(
            "fingerpost_router_unmatched_hosts",
            "Endpoints without an agent of their name, and agents without an endpoint.",
            labels=["service", "what"],
        )
        for service, found_of in self._found.items():
            found = found_of()
            family.add_metric([service, "endpoint"], len(found.endpoints))
            family.add_metric([service, "agent"], len(found.agents))
        yield family


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
