"""Envoy's configuration as data; its JSON is what Envoy reads."""

from pathlib import Path
from typing import Any

from fingerpost.accesslog.envoy_format import DECISION_HEADER, HOST_HEADERS, access_log_format
from fingerpost.routing.envoy.admin import admin_cluster, administration, stats_listener
from fingerpost.routing.envoy.client_limits import body_limits, listener_limits, manager_limits, overload_manager
from fingerpost.routing.envoy.clusters import POLICIES, TYPE, address, dynamic_module, hosts_cluster
from fingerpost.routing.envoy.gateway import picker_cluster, picker_filter
from fingerpost.routing.envoy.transport import (
    ClientSide,
    HostSide,
    client_tls,
    host_protocol,
    manager_upgrades,
    session_filters,
)
from fingerpost.routing.envoy.upstream import Upstream

__all__ = ["POLICIES", "Upstream", "access_log_format", "envoy_config"]
_FILTERS = TYPE + "filters.http."
_PLAIN_CLIENTS, _PLAIN_HOSTS = ClientSide(), HostSide()


def envoy_config(
    upstreams: list[Upstream],
    access_log: Path,
    bind_host: str,
    port: int,
    admin_port: int,
    policy: str = "random",
    log_client: bool = False,
    table: Path | None = None,
    health_path: str | None = None,
    timeout_s: float = 30.0,
    picker: tuple[str, int] | None = None,
    panic_percent: float = 50.0,
    max_connections: int = 20_000,
    admin_socket: Path | None = None,
    endpoints: Path | None = None,
    clients: ClientSide = _PLAIN_CLIENTS,
    hosts: HostSide = _PLAIN_HOSTS,
) -> dict[str, Any]:
    """A complete configuration: a listener for clients, a cluster with the given hosts, and Envoy's own door.

    Args:
        admin_port: of `/ready`, `/stats`, `/stats/prometheus` and `/clusters`, on the loopback; GET alone.
        policy: `fingerpost` (the native picker), `endpoint_picker`, or Envoy's own `random`, `round_robin`,
            `least_request`, `least_request_full` or `orca`.
            Random is what measures every pair of host and category alike, and gives each record a known propensity.
        log_client: see `access_log_format`.
        table: file that the router keeps fresh, for `fingerpost`; it need not be there yet.
        health_path: see `hosts_cluster`.
        timeout_s: of a request.
        picker: address and port of the endpoint picker, for `endpoint_picker`.
        panic_percent: see `hosts_cluster`.
        max_connections: see `overload_manager`.
        admin_socket: of Envoy's whole administration, for its owner alone; None: `envoy-PORT.sock`, with the admin
            port, in the folder that Envoy is started in.
        endpoints: file that keeps the endpoints current, in place of `upstreams`; it need not be there yet. Not with
            `random`: its propensity is of a number of hosts that stays.
        clients, hosts: TLS, HTTP versions, upgrades and sessions.

    Raises:
        ValueError: no hosts, an unknown policy, `fingerpost` without a table or `endpoint_picker` without its address,
            TLS of which a part is missing.
        FingerpostError: the socket's path is too long.
    """
    if not upstreams and not endpoints:
        raise ValueError("Envoy needs at least one host, or a file of endpoints")
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}: use {', '.join(POLICIES)}")
    if policy == "random":
        endpoints = None
    if policy == "fingerpost" and table is None:
        raise ValueError("the policy fingerpost needs the path of a table")
    if policy == "endpoint_picker" and picker is None:
        raise ValueError("the policy endpoint_picker needs the address of an endpoint picker")
    log_format = access_log_format(policy, len(upstreams), log_client)
    socket = admin_socket or Path(f"envoy-{admin_port}.sock")
    return {
        # Envoy asks for names wherever its configuration comes in parts.
        **({"node": {"id": "fingerpost", "cluster": "fingerpost"}} if endpoints else {}),
        "admin": administration(socket),
        "overload_manager": overload_manager(max_connections),
        "static_resources": {
            "listeners": [
                {
                    "name": "clients",
                    "address": address(bind_host, port),
                    **listener_limits(),
                    "filter_chains": [
                        {
                            **client_tls(clients),
                            "filters": [_manager(access_log, log_format, table, policy, timeout_s, clients)],
                        }
                    ],
                },
                stats_listener(admin_port),
            ],
            "clusters": [
                {**hosts_cluster(upstreams, policy, health_path, panic_percent, endpoints), **host_protocol(hosts)},
                *([picker_cluster(*picker)] if policy == "endpoint_picker" and picker else []),
                admin_cluster(socket),
            ],
        },
    }


def _manager(
    access_log: Path,
    log_format: dict[str, Any],
    table: Path | None,
    policy: str,
    timeout_s: float,
    clients: ClientSide,
) -> dict[str, Any]:
    picker = [module_filter(table)] if policy == "fingerpost" and table else []
    if policy == "endpoint_picker":
        picker = [picker_filter()]
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "clients",
            **manager_limits(timeout_s),
            **manager_upgrades(clients),
            "access_log": [file_log(access_log, log_format)],
            "route_config": {"virtual_hosts": [_virtual_host(timeout_s)]},
            "http_filters": [
                *picker,
                *session_filters(clients),
                host_headers_filter(),
                {"name": "envoy.filters.http.router", "typed_config": {"@type": _FILTERS + "router.v3.Router"}},
            ],
        },
    }


def file_log(path: Path, log_format: dict[str, Any]) -> dict[str, Any]:
    """An access log of JSON lines."""
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": TYPE + "access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": log_format},
        },
    }


def _virtual_host(timeout_s: float) -> dict[str, Any]:
    route = {
        "cluster": "hosts",
        "timeout": f"{timeout_s}s",
        # Only what no host has seen is sent again, and not to the host that did not take it.
        "retry_policy": retry_policy(),
    }
    # What clients send in these names, or the endpoint picker does, is neither for the hosts nor for the log.
    removed = ["x-gateway-destination-endpoint", DECISION_HEADER]
    routes = [{"match": {"prefix": "/"}, "route": route, "request_headers_to_remove": removed}]
    return {"name": "all", "domains": ["*"], "routes": routes, **body_limits()}


def retry_policy() -> dict[str, Any]:
    """Two more tries of what no host has seen, at other hosts."""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 2,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": TYPE + "retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        # Envoy's own policies draw anew, as often as this, before they take a host that was tried.
        "host_selection_retry_max_attempts": 16,
    }


def module_filter(table: Path) -> dict[str, Any]:
    """The native picker's filter; it stands before the router's.

    Args:
        table: the file that `fingerpost router` keeps.
    """
    return {
        "name": "fingerpost",
        "typed_config": {
            "@type": _FILTERS + "dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": dynamic_module(),
            "filter_name": "categorise",
            "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": str(table)},
        },
    }


def host_headers_filter() -> dict[str, Any]:
    """Takes what hosts tell of their load out of their answers, for the log."""
    return {
        "name": "envoy.filters.http.header_to_metadata",
        "typed_config": {
            "@type": _FILTERS + "header_to_metadata.v3.Config",
            "response_rules": [
                {
                    "header": header,
                    "on_header_present": {"metadata_namespace": "fingerpost", "key": name, "type": "NUMBER"},
                    "remove": True,
                }
                for name, header in HOST_HEADERS.items()
            ],
        },
    }
