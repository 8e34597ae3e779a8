"""An Envoy configuration of another hand, and the pieces that `fingerpost envoy snippet` prints put where they say."""

import copy
from pathlib import Path
from typing import Any

import yaml

from fingerpost.routing.envoy.snippet import snippet
from fingerpost.routing.envoy.upstream import Upstream

# Two clusters, TLS on both sides, HTTP/2 upstream, retries: nothing of ours.
FOREIGN = Path(__file__).parents[1] / "routing" / "foreign_envoy.yaml"


def manager(config: dict[str, Any], listener: int = 0) -> Any:
    """The HTTP connection manager of a listener."""
    return config["static_resources"]["listeners"][listener]["filter_chains"][0]["filters"][0]["typed_config"]


def completed(
    config: dict[str, Any], cluster: str, table: Path, log: Path, hosts: list[Upstream], service: str = ""
) -> dict[str, Any]:
    """The configuration with the pieces for a cluster; the filters once, however often it is called."""
    made = copy.deepcopy(config)
    pieces = snippet(cluster, table, log, hosts, "/healthz", service=service)
    logs, filters, retry, balancing, endpoints = [yaml.safe_load(part) for part in pieces.split("\n\n")]
    of = manager(made)
    of["access_log"] = [*of.get("access_log", []), *logs["access_log"]]
    if all(each["name"] != "fingerpost" for each in of["http_filters"]):
        of["http_filters"] = [*filters["http_filters"], *of["http_filters"]]
    for host in of["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            if route.get("route", {}).get("cluster") == cluster:
                route["route"] |= retry
    target = next(each for each in made["static_resources"]["clusters"] if each["name"] == cluster)
    target |= balancing
    target["load_assignment"]["endpoints"] = endpoints["endpoints"]
    return made
