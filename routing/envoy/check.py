"""Says what an Envoy configuration of another hand lacks to be routed by prediction."""

from collections.abc import Iterator
from typing import Any

from fingerpost.accesslog.envoy_format import HOST_HEADERS, access_log_format
from fingerpost.errors import FingerpostError
from fingerpost.names import check_name
from fingerpost.routing.envoy.check_routes import check_localities, check_mutations, check_routes
from fingerpost.routing.envoy.document import (
    Finding,
    at,
    dicts,
    managers,
    picker_settings,
    policy_of,
    settings_problem,
    targets,
    typed,
)
from fingerpost.routing.envoy.module import NAME, TESTED_ABI, TESTED_ENVOY

_MODULE_FILTER = "DynamicModuleFilter"
# Fields without which a line makes no request record; all others make it a better one.
_NEEDED = frozenset({"start", "host", "method", "path", "status", "duration_us", "decision"})
# Envoy's breakers, where the configuration names none.
_USUAL_BREAKER = 1024


def check_config(config: dict[str, Any], cluster: str = "") -> list[Finding]:
    """What is wrong or missing in a configuration, errors first.

    Args:
        cluster: the one that is to be routed by prediction; empty: every one that has the policy.

    Raises:
        FingerpostError: there is no such cluster.
    """
    resources = config["static_resources"]
    clusters = {str(each.get("name")): (place, each) for place, each in dicts(resources, "clusters")}
    if cluster and cluster not in clusters:
        raise FingerpostError(f"there is no cluster {cluster!r} among {', '.join(clusters) or 'none'}")
    wanted = [cluster] if cluster else [name for name, (_, each) in clusters.items() if policy_of(each)]
    if not wanted:
        return [
            Finding(
                "error",
                "static_resources.clusters",
                "no cluster chooses its hosts by prediction",
                "add the policy of `fingerpost envoy snippet` to the cluster of your service",
            )
        ]
    found: list[Finding] = []
    for name in wanted:
        found += _check_cluster(*clusters[name])
    found_managers = list(managers(resources))
    services = {name: picker_settings(policy_of(clusters[name][1])).get("service", "") for name in wanted}
    for name in wanted:
        found += _check_managers(name, clusters[name][1], found_managers, services)
    return sorted(found, key=lambda each: each.level != "error")


def check_envoy(version: str | None) -> list[Finding]:
    """What is wrong with the Envoy that is to run the configuration.

    Args:
        version: as `envoy_version` found it; None: it is not known, and nothing is said.
    """
    if version is None or version.startswith(f"{TESTED_ENVOY}."):
        return []
    return [
        Finding(
            "error",
            "envoy --version",
            f"Envoy is {version}, and refuses the picker's module, which was built and tested for {TESTED_ENVOY} "
            f"(interface {TESTED_ABI})",
            f"run Envoy {TESTED_ENVOY}, or set FINGERPOST_UNTESTED_ENVOY=1 where Envoy is started, at your own risk",
        )
    ]


def _check_cluster(place: str, cluster: dict[str, Any]) -> Iterator[Finding]:
    place = f"static_resources.{place}"
    policy = policy_of(cluster)
    if policy is None:
        yield Finding(
            "error",
            f"{place}.load_balancing_policy",
            "the cluster's hosts are not chosen by prediction",
            "put the policy of `fingerpost envoy snippet` first in load_balancing_policy.policies",
        )
    elif wrong := settings_problem(policy):
        yield Finding(
            "error",
            f"{place}.load_balancing_policy",
            f"the policy's lb_policy_config is refused: {wrong}",
            "take it from `fingerpost envoy snippet`",
        )
    elif (module := at(policy, "dynamic_module_config", "name")) != NAME:
        yield Finding(
            "error", f"{place}.load_balancing_policy", f"the policy is of the module {module!r}", f"name it {NAME!r}"
        )
    yield from _check_endpoints(place, cluster)
    thresholds = [each for _, each in dicts(cluster.get("circuit_breakers"), "thresholds")]
    breakers = next((each for each in thresholds if each.get("priority", "DEFAULT") == "DEFAULT"), {})
    low = [
        name
        for name in ("max_connections", "max_pending_requests", "max_requests")
        if _number(breakers.get(name), _USUAL_BREAKER) <= _USUAL_BREAKER
    ]
    if low:
        yield Finding(
            "warning",
            f"{place}.circuit_breakers",
            f"{', '.join(low)} allow at most {_USUAL_BREAKER}: beyond it requests fail with 503",
            "set them above what can be under way at once",
        )
    if _number(breakers.get("max_retries"), 3) <= 3 and "retry_budget" not in breakers:
        yield Finding(
            "warning",
            f"{place}.circuit_breakers",
            "at most 3 retries are under way at once: when a host dies, most of its requests fail unretried",
            "set max_retries, or a retry_budget",
        )
    yield from check_localities(place, cluster)
    outliers = cluster.get("outlier_detection")
    if isinstance(outliers, dict) and outliers.get("enforcing_success_rate") != 0:
        yield Finding(
            "warning",
            f"{place}.outlier_detection",
            "ejection by success rate leaves out the host that has a single error where the others have none",
            "set enforcing_success_rate to 0, and failure_percentage_threshold as `fingerpost envoy snippet` does",
        )
    if "outlier_detection" not in cluster:
        yield Finding(
            "warning",
            place,
            "a host that fails its requests is left out by nobody until the table knows",
            "add outlier_detection, as `fingerpost envoy snippet` writes it",
        )
    if not cluster.get("health_checks"):
        yield Finding(
            "warning",
            place,
            "there are no active health checks: a dead host is found by the requests it fails",
            "add health_checks with a path that your hosts answer",
        )


def _check_endpoints(place: str, cluster: dict[str, Any]) -> Iterator[Finding]:
    assignment = cluster.get("load_assignment")
    if not isinstance(assignment, dict):
        if cluster.get("type") != "EDS":
            yield Finding("error", place, "the cluster has no load_assignment", "list its endpoints, or use EDS")
        return
    names: dict[str, str] = {}
    for locality, group in dicts(assignment, "endpoints"):
        for spot, entry in dicts(group, "lb_endpoints"):
            where = f"{place}.load_assignment.{locality}.{spot}"
            name = at(entry, "metadata", "filter_metadata", NAME, "host")
            hostname = at(entry, "endpoint", "hostname")
            if not name:
                yield Finding(
                    "error",
                    where,
                    "the endpoint has no name, so the table has nothing on it",
                    f"add metadata.filter_metadata.{NAME}.host with the name that its agent reports",
                )
                continue
            try:
                check_name(str(name), "name")
            except ValueError as error:
                yield Finding("error", where, f"{name!r} cannot be a host's name: {error}", "choose another name")
            if hostname != name:
                yield Finding(
                    "error",
                    where,
                    f"the log calls the host {hostname!r} and the table {name!r}, so its requests count for neither",
                    "set endpoint.hostname to the same name",
                )
            if str(name) in names and cluster.get("type") not in ("STRICT_DNS", "LOGICAL_DNS"):
                yield Finding(
                    "error",
                    where,
                    f"{name!r} is the name of another endpoint too ({names[str(name)]})",
                    "name each one",
                )
            names.setdefault(str(name), where)


def _check_managers(
    name: str, cluster: dict[str, Any], every: list[tuple[str, dict[str, Any]]], services: dict[str, str]
) -> Iterator[Finding]:
    leading = [(place, each) for place, each in every if name in targets(each)]
    if not leading:
        dynamic = any("rds" in each for _, each in every)
        yield Finding(
            "warning" if dynamic else "error",
            "static_resources.listeners",
            f"no route leads to the cluster {name!r}" + (" here; routes of RDS cannot be seen" if dynamic else ""),
            "check its name in the routes",
        )
    for place, manager in leading:
        yield from _check_filters(place, manager, "table" in picker_settings(policy_of(cluster)))
        yield from _check_log(place, manager, services[name])
        yield from check_routes(place, manager, name, cluster)
        shared = sorted(other for other in services if other in targets(manager) and services[other] == services[name])
        if len(shared) > 1 and shared[0] == name:
            yield Finding(
                "error",
                f"{place}.access_log",
                f"the requests of the clusters {', '.join(shared)} cannot be told apart in the log",
                "give each one's policy a service=NAME line and its own log: `fingerpost envoy snippet --service NAME`",
            )


def _check_filters(place: str, manager: dict[str, Any], has_table: bool) -> Iterator[Finding]:
    filters = [typed(each) for _, each in dicts(manager, "http_filters")]
    kinds = [str(each.get("@type", "")).rpartition(".")[2] for each in filters]
    ours = [
        number
        for number, each in enumerate(filters)
        if kinds[number] == _MODULE_FILTER and at(each, "dynamic_module_config", "name") == NAME
    ]
    if not ours:
        yield Finding(
            "error",
            f"{place}.http_filters",
            "the picker's filter is missing: no request has a category, and all go by least request",
            "add the filter of `fingerpost envoy snippet` before envoy.filters.http.router",
        )
        return
    if len(ours) > 1:
        yield Finding("error", f"{place}.http_filters", "the picker's filter is there twice", "keep the first one")
    value = at(filters[ours[0]], "filter_config", "value")
    if not (isinstance(value, str) and value.startswith("/")) and not (has_table and not value):
        yield Finding(
            "error",
            f"{place}.http_filters[{ours[0]}].typed_config.filter_config",
            f"{value!r} is no absolute path of a table, and the cluster's policy names none",
            "name the file that `fingerpost router --table` keeps as table=PATH in the policy's lb_policy_config",
        )
    metadata_rules = [
        rule.get("header")
        for number, each in enumerate(filters)
        if kinds[number] == "Config"
        for _, rule in dicts(each, "response_rules")
    ]
    if HOST_HEADERS["inflight"] not in metadata_rules:
        yield Finding(
            "warning",
            f"{place}.http_filters",
            "what hosts say of their load in x-fingerpost-* headers goes to clients and not into the log",
            "add the header_to_metadata filter of `fingerpost envoy snippet`",
        )
    yield from check_mutations(place, filters[ours[0] + 1 :], ours[0] + 1)


def _check_log(place: str, manager: dict[str, Any], service: str) -> Iterator[Finding]:
    formats = [at(typed(each), "log_format", "json_format") for _, each in dicts(manager, "access_log")]
    maps: list[dict[str, Any]] = [each for each in formats if isinstance(each, dict)]
    wanted = access_log_format("fingerpost", 0, service=service)
    best = max(maps, key=lambda each: sum(each.get(name) == wanted[name] for name in wanted), default={})
    missing = [name for name in wanted if best.get(name) != wanted[name]]
    needed = [name for name in missing if name in _NEEDED]
    if needed:
        yield Finding(
            "error",
            f"{place}.access_log",
            f"no JSON log has these fields as they are read: {', '.join(needed)}",
            "add the access log of `fingerpost envoy snippet`; Envoy writes several logs where there are several",
        )
    elif missing:
        yield Finding(
            "warning",
            f"{place}.access_log",
            f"the log lacks fields, or has them in another form: {', '.join(missing)}",
            "take them from `fingerpost envoy snippet`",
        )


def _number(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default
