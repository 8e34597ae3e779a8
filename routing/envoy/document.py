"""Reads an Envoy configuration of another hand, in which anything may be anything, and finds its parts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fingerpost.errors import FingerpostError

_MAX_BYTES = 16 * 2**20
_MANAGER = "HttpConnectionManager"


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
