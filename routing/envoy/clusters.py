"""The hosts' cluster in Envoy's configuration: load balancing, health checks, outlier detection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fingerpost.names import check_name
from fingerpost.routing.envoy.upstream import Upstream

TYPE = "type.googleapis.com/envoy.extensions."
STRING = "type.googleapis.com/google.protobuf.StringValue"
POLICIES = ("fingerpost", "endpoint_picker", "least_request", "least_request_full", "round_robin", "random", "orca")
_LB = TYPE + "load_balancing_policies."
ZONE_FACTOR, _MAX_ZONE_FACTOR = 1.25, 1000


@dataclass(frozen=True)
class Picker:
    """What the native picker needs to know of a cluster.

    Attributes:
        table: file that the router keeps fresh; it need not be there yet.
        service: its name where an Envoy has several services; it is part of the decision's header and of the counters.
        zone: of this proxy; empty: all hosts are as near.
        zone_factor: the cost of a host in another zone counts so many times, 1 to 1000.
    """

    table: Path
    service: str = ""
    zone: str = ""
    zone_factor: float = ZONE_FACTOR

    def __post_init__(self) -> None:
        """Raises ValueError where a value does not fit."""
        if not 1 <= self.zone_factor <= _MAX_ZONE_FACTOR:
            raise ValueError(f"the zone's factor is {self.zone_factor}: use a number from 1 to {_MAX_ZONE_FACTOR}")
        for what, name in (("service", self.service), ("zone", self.zone)):
            if name:
                check_name(name, what)
        if "\n" in str(self.table):
            raise ValueError(f"the table's path {str(self.table)!r} has a line break: choose another one")

    def settings(self) -> str:
        """The policy's configuration, as `routing/native/cluster.c` reads it."""
        told = {"table": str(self.table), "service": self.service, "zone": self.zone}
        if self.zone:
            told["zone_factor"] = f"{self.zone_factor:g}"
        return "\n".join(f"{key}={value}" for key, value in told.items() if value)


def dynamic_module(service: str = "") -> dict[str, Any]:
    """The native picker, found through ENVOY_DYNAMIC_MODULES_SEARCH_PATH; its counters are `fingerpost.[SERVICE.]*`."""
    from fingerpost.routing.envoy.module import NAME

    namespace = f"fingerpost.{service}" if service else "fingerpost"
    return {"name": NAME, "do_not_close": True, "metrics_namespace": namespace}


def hosts_cluster(
    upstreams: list[Upstream],
    policy: str,
    health_path: str | None,
    panic_percent: float = 50.0,
    endpoints: Path | None = None,
    name: str = "hosts",
    picker: Picker | None = None,
) -> dict[str, Any]:
    """The cluster of a service's hosts.

    Args:
        picker: for the policy `fingerpost`.
        endpoints: file that the router keeps, in place of the hosts given here.
        health_path: path that a healthy host answers with 200; None: no active health checks.
        panic_percent: with a smaller part of the hosts healthy, Envoy's own policies use all of them.
    """
    checks = {"health_checks": [_health_check(health_path)]} if health_path else {}
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_balancing_policy": {"policies": [{"typed_extension_config": _balancing(policy, picker)}]},
        **(_from_file(endpoints) if endpoints else {"type": "STATIC", "load_assignment": assignment(upstreams, name)}),
        **checks,
        "common_lb_config": {"healthy_panic_threshold": {"value": panic_percent}},
        "outlier_detection": {**_OUTLIERS, "base_ejection_time": f"{_left_out_s(policy)}s"},
        # No breaker below what an open loop of clients can have under way: a full fleet shows as latency, not as 503.
        # Retries alike: when a host dies, as many are due at once as clients wait for it. They do not multiply, for
        # the route allows two a request, and of requests that no host has seen.
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 65536,
                    "max_pending_requests": 65536,
                    "max_requests": 65536,
                    "max_retries": 65536,
                }
            ]
        },
    }


# Hosts that fail are left out for a while, for a host that fails fast has few requests in flight and looks fast. The
# figures were chosen by measurement (docs/routing.md): errors of requests that fail wherever they go, up to a third of
# the traffic, leave out no host, and at most half of the fleet is: what all hosts have is no host's fault.
ERRORS_IN_A_ROW, GATEWAY_ERRORS_IN_A_ROW, LEFT_OUT_S = 10, 5, 20
# By predicted cost a category gathers at the host that is best for it. When it fails everywhere that host is left out
# for it, and is no worse than others; so only for as long as the guard needs to tell these cases apart.
_JUDGED_LEFT_OUT_S = 5
GATEWAY_ERRORS = frozenset({502, 503, 504})
_OUTLIERS: dict[str, Any] = {
    "split_external_local_origin_errors": True,
    # Refused, reset, no answer in time: what Envoy itself found.
    "consecutive_local_origin_failure": 5,
    # 502, 503, 504: seldom a request's own fault. 500 often is.
    "consecutive_gateway_failure": GATEWAY_ERRORS_IN_A_ROW,
    "enforcing_consecutive_gateway_failure": 100,
    "consecutive_5xx": ERRORS_IN_A_ROW,
    "enforcing_consecutive_5xx": 100,
    # Half of the answers of ten seconds are errors: ten in a row would take such a host a thousand requests.
    "failure_percentage_threshold": 50,
    "enforcing_failure_percentage": 100,
    "failure_percentage_request_volume": 20,
    # One alone, for where predictions send most of the traffic there may be no second with as many requests.
    "failure_percentage_minimum_hosts": 1,
    # By its rule the one host that had an error is an outlier among ten without any.
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    "interval": "10s",
    "max_ejection_percent": 50,
    # Who answers every request with an error may answer its health check well.
    "successful_active_health_check_uneject_host": False,
}


def _left_out_s(policy: str) -> int:
    return _JUDGED_LEFT_OUT_S if policy == "fingerpost" else LEFT_OUT_S


def _balancing(policy: str, picker: Picker | None = None) -> dict[str, Any]:
    """A policy by its name; all but ours are Envoy's own. Least request draws two hosts, with `_full` it scans all."""
    if policy == "endpoint_picker":
        from fingerpost.routing.envoy.gateway import override_host

        return override_host(_balancing("least_request"))
    if policy == "fingerpost":
        config = {
            "@type": _LB + "dynamic_modules.v3.DynamicModulesLoadBalancerConfig",
            "dynamic_module_config": dynamic_module(picker.service if picker else ""),
            "lb_policy_name": "least_predicted_cost",
            **({"lb_policy_config": {"@type": STRING, "value": picker.settings()}} if picker else {}),
        }
        return {"name": "envoy.load_balancing_policies.dynamic_modules", "typed_config": config}
    if policy == "orca":
        config = {
            "@type": _LB + "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
            "blackout_period": "2s",
            "weight_update_period": "1s",
        }
        return {"name": "envoy.load_balancing_policies.client_side_weighted_round_robin", "typed_config": config}
    full = {"selection_method": "FULL_SCAN"} if policy == "least_request_full" else {}
    name = policy.removesuffix("_full")
    message = {"least_request": "LeastRequest", "round_robin": "RoundRobin", "random": "Random"}[name]
    return {
        "name": f"envoy.load_balancing_policies.{name}",
        "typed_config": {"@type": f"{_LB}{name}.v3.{message}", **full},
    }


def _health_check(path: str) -> dict[str, Any]:
    return {
        "timeout": "1s",
        "interval": "2s",
        "interval_jitter": "0.2s",
        "unhealthy_interval": "1s",
        "no_traffic_interval": "2s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "http_health_check": {"path": path},
    }


def assignment(upstreams: list[Upstream], cluster: str) -> dict[str, Any]:
    """A cluster's endpoints, a group for each zone."""
    zones = sorted({upstream.zone for upstream in upstreams})
    groups = [
        {
            **({"locality": {"zone": zone}} if zone else {}),
            "lb_endpoints": [_endpoint(upstream) for upstream in upstreams if upstream.zone == zone],
        }
        for zone in zones
    ]
    return {"cluster_name": cluster, "endpoints": groups}


def discovery_response(upstreams: list[Upstream], cluster: str, version: str) -> dict[str, Any]:
    """A cluster's endpoints as Envoy reads them from a file that it watches."""
    kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    return {"version_info": version, "resources": [{"@type": kind, **assignment(upstreams, cluster)}]}


def _from_file(path: Path) -> dict[str, Any]:
    source = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    return {
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"path_config_source": source, "resource_api_version": "V3"}},
        # A host that left gets nothing new, whatever its health check says; what it has under way it ends.
        "ignore_health_on_host_removal": True,
    }


def _endpoint(upstream: Upstream) -> dict[str, Any]:
    return {
        **({"health_status": "DRAINING"} if upstream.draining else {}),
        "endpoint": {"hostname": upstream.name, "address": address(upstream.address, upstream.port)},
        # By this name the picker finds the host in its table.
        "metadata": {"filter_metadata": {"fingerpost": {"host": upstream.name}}},
    }


def address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
