"""Reads an Envoy configuration of another hand, in which anything may be anything, and finds its parts."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fingerpost.errors import FingerpostError
from fingerpost.names import is_name

_MAX_BYTES = 16 * 2**20
_MANAGER, _MODULE_POLICY = "HttpConnectionManager", "DynamicModulesLoadBalancerConfig"
# Policies of Envoy's that choose by another one below them: the fields that hold it, and how deep they are looked into.
_CHILDREN, _MAX_DEPTH = ("endpoint_picking_policy", "subset_lb_policy", "fallback_policy"), 4


@dataclass(frozen=True)
class Finding:
    """What is wrong or missing.

    Attributes:
        level: `error`: requests are not routed by prediction, or nothing is learned from them; `warning`: they are,
            and something is worse than it need be.
        where: path in the configuration.
        problem, cure: sentences.
    """

    level: str
    where: str
    problem: str
    cure: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def read_config(path: Path) -> dict[str, Any]:
    """An Envoy bootstrap configuration, YAML or JSON.

    Raises:
        FingerpostError: it cannot be read, or is none.
    """
    import yaml

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FingerpostError(f"{path} is larger than {_MAX_BYTES} bytes")
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise FingerpostError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("static_resources"), dict):
        raise FingerpostError(f"{path} is no configuration of Envoy: it has no static_resources")
    return content


def managers(resources: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every HTTP connection manager, with its path in the configuration."""
    for listener, each in dicts(resources, "listeners"):
        chains = [*dicts(each, "filter_chains")]
        if isinstance(each.get("default_filter_chain"), dict):
            chains.append(("default_filter_chain", each["default_filter_chain"]))
        for chain, filters in chains:
            for place, entry in dicts(filters, "filters"):
                found = typed(entry)
                if str(found.get("@type", "")).endswith(_MANAGER):
                    yield f"static_resources.{listener}.{chain}.{place}", found


def targets(manager: dict[str, Any]) -> set[str]:
    """The clusters that a manager's own routes lead to."""
    return {
        name
        for _, host in dicts(manager.get("route_config"), "virtual_hosts")
        for _, route in dicts(host, "routes")
        if isinstance(route.get("route"), dict)
        for name in clusters_of(route["route"])
    }


def clusters_of(action: dict[str, Any]) -> set[str]:
    """The clusters that a route leads to."""
    named = [each.get("name") for _, each in dicts(action.get("weighted_clusters"), "clusters")]
    return {str(name) for name in (action.get("cluster"), *named) if name}


def policy_of(cluster: dict[str, Any]) -> dict[str, Any] | None:
    """The load-balancing policy of a dynamic module that a cluster has, itself or below one of Envoy's own."""
    return _module_policy(cluster.get("load_balancing_policy"), _MAX_DEPTH)


def _module_policy(policies: Any, depth: int) -> dict[str, Any] | None:
    for _, each in dicts(policies, "policies") if depth else ():
        found = typed(each.get("typed_extension_config"))
        if str(found.get("@type", "")).endswith(_MODULE_POLICY):
            return found
        for name in _CHILDREN:
            if below := _module_policy(found.get(name), depth - 1):
                return below
    return None


def picker_settings(policy: dict[str, Any] | None) -> dict[str, str]:
    """The native picker's settings in a policy; lines without `=` have an empty value."""
    value = at(policy, "lb_policy_config", "value")
    lines = value.split("\n") if isinstance(value, str) else []
    return {key: told for line in lines if line for key, _, told in [line.partition("=")]}


def settings_problem(policy: dict[str, Any]) -> str:
    """Why the native picker would refuse its settings; empty if it takes them."""
    settings = picker_settings(policy)
    for key, told in settings.items():
        if key not in ("table", "service", "zone", "zone_factor"):
            return f"{key!r} is no setting: use table, service, zone, zone_factor"
        if not told:
            return f"{key} has no value"
    if "table" in settings and not settings["table"].startswith("/"):
        return f"the table {settings['table']!r} is no absolute path"
    if "service" in settings and not is_name(settings["service"]):
        return f"{settings['service']!r} cannot be a service's name"
    try:
        factor = float(settings.get("zone_factor", 1))
    except ValueError:
        factor = 0.0
    return "" if 1 <= factor <= 1000 else f"zone_factor={settings['zone_factor']} is no number from 1 to 1000"


def typed(entry: Any) -> dict[str, Any]:
    """The configuration of an extension; empty where there is none."""
    found = at(entry, "typed_config")
    return found if isinstance(found, dict) else {}


def at(of: Any, *names: str) -> Any:
    """What lies below some names; None where there is no such thing."""
    for name in names:
        of = of.get(name) if isinstance(of, dict) else None
    return of


def dicts(of: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The maps in a list, each with its place in words; what is something else is left to Envoy's own check."""
    entries = at(of, name)
    for place, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield f"{name}[{place}]", entry
