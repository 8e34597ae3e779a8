"""What to add to an Envoy configuration of another hand, as YAML with a word on where each piece goes."""

from pathlib import Path
from typing import Any

from fingerpost.accesslog.envoy_format import access_log_format
from fingerpost.routing.envoy.clusters import ZONE_FACTOR, Picker, hosts_cluster
from fingerpost.routing.envoy.config import file_log, host_headers_filter, module_filter, retry_policy
from fingerpost.routing.envoy.upstream import Upstream

_NAMED_BY = Upstream("web-1", "10.0.0.1", 8000)


def snippet(
    cluster: str,
    table: Path,
    access_log: Path,
    upstreams: list[Upstream],
    health_path: str | None = None,
    log_client: bool = False,
    service: str = "",
    zone: str = "",
    zone_factor: float = ZONE_FACTOR,
) -> str:
    """The pieces that route a cluster by prediction; `check_config` finds nothing in a configuration that has them.

    Args:
        cluster: its name in the configuration.
        table: the file that `fingerpost router` keeps.
        upstreams: its hosts; none: an example of one.
        health_path: see `hosts_cluster`.
        log_client: see `access_log_format`.
        service, zone, zone_factor: see `Picker`; with a service the log has its requests alone.

    Raises:
        ValueError: a service, zone or factor that does not fit.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as they are."""

    def write_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, write_text)
    picker = Picker(table, service, zone, zone_factor)
    whole = hosts_cluster(upstreams or [_NAMED_BY], "fingerpost", health_path, picker=picker)
    endpoints = whole.pop("load_assignment")["endpoints"]
    for name in ("name", "type", "connect_timeout"):
        del whole[name]
    log = file_log(access_log, access_log_format("fingerpost", 0, log_client, service), service)
    pieces: list[tuple[str, Any]] = [
        (
            "1. In the HttpConnectionManager that routes to the cluster, beside its other logs.\n"
            "Start Envoy with --file-flush-interval-msec 1000, else it writes only every ten seconds.",
            {"access_log": [log]},
        ),
        (
            "2. In the same manager, before envoy.filters.http.router; once, however many clusters have the policy.",
            {"http_filters": [module_filter(), host_headers_filter()]},
        ),
        (
            "3. In the route to the cluster, if it has no retry policy.",
            {"retry_policy": retry_policy()},
        ),
        (
            f"4. In the cluster {cluster}; lb_policy is unused then.",
            whole,
        ),
        (
            f"5. In the endpoints of {cluster}: hostname and metadata name the host as its agent does.",
            {"endpoints": endpoints},
        ),
    ]
    return "\n".join(
        "".join(f"# {line}\n" for line in told.splitlines())
        + yaml.dump(piece, Dumper=Dumper, sort_keys=False, width=120)
        for told, piece in pieces
    )
