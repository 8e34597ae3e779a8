"""Envoy's own door: all of it on a socket for its owner alone; what only reads, on a port of the loopback.

Any web page that is open in a browser on the machine could send a form to the whole of it on a port, `/quitquitquit`
for one; no page can reach a socket file.
"""

from pathlib import Path
from typing import Any

from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.clusters import TYPE, address

# What health checks and metrics need; nothing of it changes anything or tells of the configuration.
READABLE = ("/ready", "/stats", "/stats/prometheus", "/clusters")
_CLUSTER = "envoy_admin"
# Of the addresses of Unix sockets in Linux, with the zero at the end.
_MAX_PATH_BYTES = 107
# A page that made its name point at the loopback is not answered.
_LOCAL_NAMES = ["localhost", "127.0.0.1", "[::1]"]


def administration(socket: Path) -> dict[str, Any]:
    """The administration: on a Unix socket that only its owner may write to.

    Raises:
        FingerpostError: the path is too long for a Unix socket.
    """
    if len(str(socket).encode()) > _MAX_PATH_BYTES:
        raise FingerpostError(
            f"the path of Envoy's admin socket has more than {_MAX_PATH_BYTES} bytes: {socket}; "
            "choose a shorter FINGERPOST_HOME"
        )
    return {"address": _pipe(socket)}


def stats_listener(port: int) -> dict[str, Any]:
    """GET of `READABLE`, on a port of the loopback."""
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    routes = [
        {"match": {"path": path, "headers": get}, "route": {"cluster": _CLUSTER, "timeout": "10s"}} for path in READABLE
    ]
    domains = [pattern for name in _LOCAL_NAMES for pattern in (name, f"{name}:*")]
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "stats",
        "route_config": {"virtual_hosts": [{"name": "stats", "domains": domains, "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"},
            }
        ],
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "30s",
    }
    return {
        "name": "stats",
        "address": address("127.0.0.1", port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
        # Metrics are wanted most when there are too many connections.
        "ignore_global_conn_limit": True,
    }


def admin_cluster(socket: Path) -> dict[str, Any]:
    """The administration as the cluster that the listener asks."""
    return {
        "name": _CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": _CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _pipe(socket)}}]}],
        },
    }


def _pipe(socket: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(socket), "mode": 0o600}}
