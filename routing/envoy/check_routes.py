"""Checks the routes and the localities of an Envoy configuration of another hand."""

from collections.abc import Iterator
from typing import Any

from fingerpost.accesslog.envoy_format import HOST_HEADERS
from fingerpost.routing.envoy.document import Finding, at, clusters_of, dicts, picker_settings, policy_of

# What hosts tell of their load; read by the picker's filter, and by what makes metadata of it for the log.
_TOLD = frozenset({"endpoint-load-metrics", *HOST_HEADERS.values()})
# Conditions under which a request is sent again that a host may have worked on.
_WORKED_ON = frozenset(
    {"5xx", "gateway-error", "reset", "retriable-status-codes", "retriable-headers", "retriable-4xx"}
)
_OVERPROVISIONED = 140


def check_routes(place: str, manager: dict[str, Any], name: str, cluster: dict[str, Any]) -> Iterator[Finding]:
    """What is wrong in the routes of a manager that lead to a cluster."""
    config = manager.get("route_config")
    yield from _check_removed(f"{place}.route_config", config)
    for virtual, host in dicts(config, "virtual_hosts"):
        routes = [
            (f"{place}.route_config.{virtual}.{spot}", route)
            for spot, route in dicts(host, "routes")
            if isinstance(route.get("route"), dict) and name in clusters_of(route["route"])
        ]
        if routes:
            yield from _check_removed(f"{place}.route_config.{virtual}", host)
        for where, route in routes:
            yield from _check_removed(where, route)
            for spot, part in dicts(at(route, "route", "weighted_clusters"), "clusters"):
                if part.get("name") == name:
                    yield from _check_removed(f"{where}.route.weighted_clusters.{spot}", part)
            yield from _check_action(f"{where}.route", route, host, cluster)


def _check_action(
    where: str, route: dict[str, Any], host: dict[str, Any], cluster: dict[str, Any]
) -> Iterator[Finding]:
    action = route["route"]
    retry = action.get("retry_policy") or host.get("retry_policy")
    if isinstance(retry, dict):
        yield from _check_retries(f"{where}.retry_policy", retry, cluster)
    if str(action.get("timeout", "")) in ("0s", "0.0s", "0"):
        yield Finding(
            "warning",
            f"{where}.timeout",
            "requests never end by themselves: what a host that hangs has got counts as in flight for ever",
            "set a timeout; for streams an idle_timeout",
        )
    if at(route, "match", "grpc") is not None and not _speaks_http2(cluster):
        yield Finding(
            "error",
            where,
            "the route is for gRPC, and its cluster speaks HTTP/1.1 with hosts",
            "set http2_protocol_options in the cluster's HttpProtocolOptions",
        )
    if action.get("request_mirror_policies"):
        yield Finding(
            "warning",
            f"{where}.request_mirror_policies",
            "copies of requests are sent to hosts too, and load them unseen by the log",
            "mirror to another cluster",
        )
    if action.get("hedge_policy"):
        yield Finding(
            "warning",
            f"{where}.hedge_policy",
            "of hedged requests the log has one host, that of the last try",
            "leave hedging to services where no experiment runs",
        )


def _check_retries(where: str, retry: dict[str, Any], cluster: dict[str, Any]) -> Iterator[Finding]:
    if not retry.get("retry_host_predicate"):
        yield Finding(
            "warning",
            where,
            "a retry may go to the host that has just failed the request",
            "add the predicate envoy.retry_host_predicates.previous_hosts",
        )
    again = sorted(_WORKED_ON & {each.strip() for each in str(retry.get("retry_on", "")).split(",")})
    budgets = [each for _, each in dicts(cluster.get("circuit_breakers"), "thresholds") if each.get("retry_budget")]
    if again and not budgets:
        yield Finding(
            "warning",
            where,
            f"{', '.join(again)}: requests that hosts have worked on are sent again, the more the worse hosts do",
            "bound them by a retry_budget in the cluster's circuit_breakers",
        )


def _check_removed(where: str, of: Any) -> Iterator[Finding]:
    removed = at(of, "response_headers_to_remove")
    told = sorted(_TOLD & {str(each).lower() for each in removed}) if isinstance(removed, list) else []
    if told:
        yield _hidden(f"{where}.response_headers_to_remove", told)


def check_mutations(place: str, filters: list[dict[str, Any]], first: int) -> Iterator[Finding]:
    """What filters behind the picker's take away before it sees it.

    Args:
        first: the place of the first of them among all filters.
    """
    for number, each in enumerate(filters, start=first):
        changes = [change for _, change in dicts(each.get("mutations"), "response_mutations")]
        if told := sorted(_TOLD & {str(change.get("remove", "")).lower() for change in changes}):
            yield _hidden(f"{place}.http_filters[{number}]", told)


def _hidden(where: str, told: list[str]) -> Finding:
    return Finding(
        "warning",
        where,
        f"{', '.join(told)}: removed before the picker and the log have read it, so requests of other proxies count "
        "for nothing",
        "remove it by a header_mutation filter in front of the picker's: filters see answers in the reverse order",
    )


def check_localities(place: str, cluster: dict[str, Any]) -> Iterator[Finding]:
    """What a cluster says of zones and priorities that a policy of a module cannot see."""
    assignment = cluster.get("load_assignment")
    lb = cluster.get("common_lb_config")
    has_zone = "zone" in picker_settings(policy_of(cluster))
    for name in ("locality_weighted_lb_config", "zone_aware_lb_config"):
        if at(lb, name) is not None:
            yield Finding(
                "warning",
                f"{place}.common_lb_config.{name}",
                "it has no effect: the picker compares all hosts of a priority, whatever their locality",
                "remove it" if has_zone else "name this proxy's zone: `fingerpost envoy snippet --zone NAME`",
            )
    factor = at(assignment, "policy", "overprovisioning_factor")
    if isinstance(factor, dict):
        factor = factor.get("value")
    if factor not in (None, _OVERPROVISIONED):
        yield Finding(
            "warning",
            f"{place}.load_assignment.policy.overprovisioning_factor",
            f"the picker counts with {_OVERPROVISIONED}, for a module cannot ask for another",
            f"leave it at {_OVERPROVISIONED}",
        )


def _speaks_http2(cluster: dict[str, Any]) -> bool:
    options = cluster.get("typed_extension_protocol_options")
    told = options.values() if isinstance(options, dict) else ()
    configs = [at(each, name) for each in told for name in ("explicit_http_config", "use_downstream_protocol_config")]
    return "http2_protocol_options" in cluster or any(
        isinstance(each, dict) and "http2_protocol_options" in each for each in configs
    )
