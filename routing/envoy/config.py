"""Envoy's configuration as data; its JSON is what Envoy reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fingerpost.accesslog.envoy_format import HOST_HEADERS, access_log_format, decision_header
from fingerpost.routing.envoy.admin import admin_cluster, administration, stats_listener
from fingerpost.routing.envoy.client_limits import body_limits, listener_limits, manager_limits, overload_manager
from fingerpost.routing.envoy.clusters import (
    POLICIES,
    TYPE,
    ZONE_FACTOR,
    Picker,
    address,
    dynamic_module,
    hosts_cluster,
)
from fingerpost.routing.envoy.gateway import picker_cluster, picker_filter
from fingerpost.routing.envoy.services import SERVICE_TAG, Routed, check_services
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
    zone: str = "",
    zone_factor: float = ZONE_FACTOR,
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
        endpoints: file that keeps the endpoints current, in place of `upstreams`; Envoy does not start without
            it. Not with `random`: its propensity is of a number of hosts that stays.
        clients, hosts: TLS, HTTP versions, upgrades and sessions.
        zone, zone_factor: see `Picker`.

    Raises:
        ValueError: no hosts, an unknown policy, `fingerpost` without a table or `endpoint_picker` without its address,
            TLS of which a part is missing.
        FingerpostError: the socket's path is too long.
    """
    routed = Routed(
        "", access_log, upstreams, endpoints, table, health_path=health_path, timeout_s=timeout_s, transport=hosts
    )
    return services_config(
        [routed],
        bind_host,
        port,
        admin_port,
        policy,
        log_client,
        picker,
        panic_percent,
        max_connections,
        admin_socket,
        clients,
        zone,
        zone_factor,
    )


def services_config(
    services: Sequence[Routed],
    bind_host: str,
    port: int,
    admin_port: int,
    policy: str = "fingerpost",
    log_client: bool = False,
    picker: tuple[str, int] | None = None,
    panic_percent: float = 50.0,
    max_connections: int = 20_000,
    admin_socket: Path | None = None,
    clients: ClientSide = _PLAIN_CLIENTS,
    zone: str = "",
    zone_factor: float = ZONE_FACTOR,
) -> dict[str, Any]:
    """The configuration for several services, each with its own cluster, table, access log and counters.

    One listener, and one filter, serve them all. See `envoy_config` for the arguments.

    Raises:
        ValueError: as `envoy_config`; two services have one name, or take the same requests.
        FingerpostError: the socket's path is too long.
    """
    check_services(services)
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}: use {', '.join(POLICIES)}")
    if policy == "endpoint_picker" and picker is None:
        raise ValueError("the policy endpoint_picker needs the address of an endpoint picker")
    socket = admin_socket or Path(f"envoy-{admin_port}.sock")
    clusters = []
    for each in services:
        if not each.upstreams and not each.endpoints:
            raise ValueError("Envoy needs at least one host, or a file of endpoints")
        if policy == "fingerpost" and each.table is None:
            raise ValueError("the policy fingerpost needs the path of a table")
        native = Picker(each.table, each.name, zone, zone_factor) if each.table and policy == "fingerpost" else None
        endpoints = None if policy == "random" else each.endpoints
        made = hosts_cluster(each.upstreams, policy, each.health_path, panic_percent, endpoints, each.cluster, native)
        clusters.append({**made, **host_protocol(each.transport)})
    named = [each for each in services if each.name]
    return {
        # Envoy asks for names wherever its configuration comes in parts.
        **(
            {"node": {"id": "fingerpost", "cluster": "fingerpost"}}
            if policy != "random" and any(each.endpoints for each in services)
            else {}
        ),
        **({"stats_config": {"stats_tags": [SERVICE_TAG]}} if named else {}),
        "admin": administration(socket),
        "overload_manager": overload_manager(max_connections),
        "static_resources": {
            "listeners": [
                {
                    "name": "clients",
                    "address": address(bind_host, port),
                    **listener_limits(),
                    "filter_chains": [
                        {**client_tls(clients), "filters": [_manager(services, policy, log_client, clients)]}
                    ],
                },
                stats_listener(admin_port),
            ],
            "clusters": [
                *clusters,
                *([picker_cluster(*picker)] if policy == "endpoint_picker" and picker else []),
                admin_cluster(socket),
            ],
        },
    }


def _manager(services: Sequence[Routed], policy: str, log_client: bool, clients: ClientSide) -> dict[str, Any]:
    pickers = {"fingerpost": [module_filter()], "endpoint_picker": [picker_filter()]}
    logs = [
        file_log(each.access_log, access_log_format(policy, len(each.upstreams), log_client, each.name), each.name)
        for each in services
    ]
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "clients",
            **manager_limits(max(each.timeout_s for each in services)),
            **manager_upgrades(clients),
            "access_log": logs,
            "route_config": {"virtual_hosts": _virtual_hosts(services)},
            "http_filters": [
                *pickers.get(policy, []),
                *session_filters(clients),
                host_headers_filter(),
                {"name": "envoy.filters.http.router", "typed_config": {"@type": _FILTERS + "router.v3.Router"}},
            ],
        },
    }


def file_log(path: Path, log_format: dict[str, Any], service: str = "") -> dict[str, Any]:
    """An access log of JSON lines.

    Args:
        service: only its requests are in the log, as the native picker finds them; empty: all are.
    """
    present = {"header": {"name": decision_header(service), "present_match": True}}
    return {
        "name": "envoy.access_loggers.file",
        **({"filter": {"header_filter": present}} if service else {}),
        "typed_config": {
            "@type": TYPE + "access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": log_format},
        },
    }


def _virtual_hosts(services: Sequence[Routed]) -> list[dict[str, Any]]:
    """One for each domain; the longest prefix goes first."""
    # What clients send in these names, or the endpoint picker does, is neither for the hosts nor for the log.
    removed = ["x-gateway-destination-endpoint", *sorted({decision_header(each.name) for each in services})]
    made = []
    for domain in dict.fromkeys(domain for each in services for domain in each.domains):
        own = sorted((each for each in services if domain in each.domains), key=lambda each: -len(each.prefix))
        routes = [
            {
                "match": {"prefix": each.prefix},
                "route": {
                    "cluster": each.cluster,
                    "timeout": f"{each.timeout_s}s",
                    # Only what no host has seen is sent again, and not to the host that did not take it.
                    "retry_policy": retry_policy(),
                },
                "request_headers_to_remove": removed,
            }
            for each in own
        ]
        name = "all" if domain == "*" else domain
        made.append({"name": name, "domains": [domain], "routes": routes, **body_limits()})
    return made


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


def module_filter() -> dict[str, Any]:
    """The native picker's filter; it stands before the router's, and serves every cluster that has the policy."""
    return {
        "name": "fingerpost",
        "typed_config": {
            "@type": _FILTERS + "dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": dynamic_module(),
            "filter_name": "categorise",
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
