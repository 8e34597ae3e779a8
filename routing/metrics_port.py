"""Metrics in Prometheus' text format on a port of their own: those of the guard, and what serves any of them."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.exposition import ThreadingWSGIServer

from fingerpost.clock import US
from fingerpost.metric_family import BUILD_INFO, Family, build_info
from fingerpost.origins import is_known, own_names
from fingerpost.routing.engine_hosts import Unmatched
from fingerpost.routing.table_file import PickerTable

_TRUST = Family(
    "fingerpost_guard_trust", "gauge", "Exponent of a model version's predicted throughput, 0..1.",
    ("service", "version"),
)  # fmt: skip
_REQUESTS = Family("fingerpost_guard_requests", "counter", "Requests that the guard has judged by.", ("service",))
_FALLBACKS = Family(
    "fingerpost_router_fallbacks", "counter", "Requests that the picker did not predict, by reason.",
    ("service", "reason"),
)  # fmt: skip
_COST = Family(
    "fingerpost_guard_host_cost", "gauge",
    "Mean cost of a host over what was predicted, of those that are corrected most.", ("service", "host"),
)  # fmt: skip
_SUCCESS = Family(
    "fingerpost_guard_host_success", "gauge", "Share of its requests that succeed, over the others'.",
    ("service", "host"),
)  # fmt: skip
_UNMATCHED = Family(
    "fingerpost_router_unmatched_hosts", "gauge",
    "Endpoints without an agent of their name, and agents without an endpoint.", ("service", "what"),
)  # fmt: skip
_REMAINING = Family(
    "fingerpost_router_table_remaining_seconds", "gauge",
    "How long the table may still be used; below 0 the picker routes by least request.", ("service",),
)  # fmt: skip
_AGE = Family(
    "fingerpost_router_table_age_seconds", "gauge",
    "Since the engine gave the table that the picker has, or said that it is still right.", ("service",),
)  # fmt: skip
FAMILIES = (BUILD_INFO, _TRUST, _REQUESTS, _FALLBACKS, _COST, _SUCCESS, _UNMATCHED, _REMAINING, _AGE)


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
        families = (_TRUST, _REQUESTS, _FALLBACKS, _COST, _SUCCESS)
        trust, requests, fallbacks, cost, success = (each.of(()) for each in families)
        for service, state_of in self._states.items():
            if not (state := state_of()):
                continue
            for version, value in sorted(state["trusts"].items()):
                trust.add_metric([service, version], value)
            requests.add_metric([service], state["requests"])
            for reason, count in sorted(state["fallbacks"].items()):
                fallbacks.add_metric([service, reason], count)
            for host, found in state["hosts"].items():
                cost.add_metric([service, host], found["cost"])
                success.add_metric([service, host], found["success"])
        yield from (trust, requests, fallbacks, cost, success)


class NameMetrics:
    """Hosts whose names only one side has.

    Args:
        found: by service, gives what was found at the last look.
    """

    def __init__(self, found: Mapping[str, Callable[[], Unmatched]]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        names = {service: found_of() for service, found_of in self._found.items()}
        yield _UNMATCHED.of(
            sample
            for service, found in names.items()
            for sample in (((service, "endpoint"), len(found.endpoints)), ((service, "agent"), len(found.agents)))
        )


class Follows(Protocol):
    """Keeps a service's table.

    Attributes:
        table: in force; None before the first.
        table_age_s: since the engine had the last word on it; None before the first.
    """

    @property
    def table(self) -> PickerTable | None: ...

    @property
    def table_age_s(self) -> float | None: ...


class TableMetrics:
    """The version of the router, how old the table of each service is, and how long it may still be used.

    Args:
        routers: by service.
    """

    def __init__(self, routers: Mapping[str, Follows]) -> None:
        self._routers = routers

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        yield build_info("router")
        present = {service: router.table for service, router in self._routers.items()}
        yield _REMAINING.of(
            ((service,), table.expires_us / US - time.time()) for service, table in present.items() if table
        )
        ages = {service: router.table_age_s for service, router in self._routers.items()}
        yield _AGE.of(((service,), age_s) for service, age_s in ages.items() if age_s is not None)


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
