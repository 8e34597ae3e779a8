"""Envoy's configuration as data; its JSON is what Envoy reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TYPE = "type.googleapis.com/envoy.extensions."
# Measured at the host, sent as response headers, moved into the log, never shown to the client.
_HOST_HEADERS = {"inflight": "x-fingerpost-inflight", "cpu_s": "x-fingerpost-cpu-s"}
MAX_USER_AGENT = 256


@dataclass(frozen=True)
class Upstream:
    """A host behind Envoy; the name is what the access log calls it."""

    name: str
    address: str
    port: int


def access_log_format(policy: str, hosts: int, log_client: bool = False) -> dict[str, Any]:
    """The fields of an access-log line: what a request record needs and no secret.

    Of the Authorization header only the scheme's first six characters are kept, of the API key and the cookie that they
    were sent, and the query is left out. Times are microseconds, the start is seconds since 1970.

    Args:
        policy: the routing policy in force; with `random` every host is as likely, so the propensity is known.
        log_client: also log the client's address, which is personal data: only where agents shall look regions up by
            it. They drop it then; the log keeps it.
    """
    client = {"client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"} if log_client else {}
    propensity = {"propensity": 1 / hosts} if policy == "random" and hosts else {}
    return {
        "start": "%START_TIME(%s.%6f)%",
        "host": "%UPSTREAM_HOST_NAME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ):512%",
        "status": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "service_time_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
        "auth_scheme": "%REQ(AUTHORIZATION):6%",
        "api_key": "%CEL('x-api-key' in request.headers)%",
        "cookie": "%CEL('cookie' in request.headers)%",
        "user_agent": f"%REQ(USER-AGENT):{MAX_USER_AGENT}%",
        "region": "%REQ(CF-IPCOUNTRY):2%",
        "policy": policy,
        **client,
        **propensity,
        **{name: f"%DYNAMIC_METADATA(fingerpost:{name})%" for name in _HOST_HEADERS},
    }


def envoy_config(
    upstreams: list[Upstream],
    access_log: Path,
    bind_host: str,
    port: int,
    admin_port: int,
    policy: str = "random",
    log_client: bool = False,
) -> dict[str, Any]:
    """A complete configuration: one listener, one cluster with the given hosts.

    Args:
        policy: `random`, `round_robin` or `least_request`. Random is what measures every pair of host and category
            alike, and gives each record a known propensity.
        log_client: see `access_log_format`.

    Raises:
        ValueError: no hosts, or an unknown policy.
    """
    if not upstreams:
        raise ValueError("Envoy needs at least one host")
    if policy not in ("random", "round_robin", "least_request"):
        raise ValueError(f"unknown policy {policy!r}: use random, round_robin or least_request")
    return {
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "static_resources": {
            "listeners": [
                {
                    "name": "clients",
                    "address": _address(bind_host, port),
                    "filter_chains": [
                        {"filters": [_http_filter(access_log, access_log_format(policy, len(upstreams), log_client))]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "hosts",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "lb_policy": policy.upper(),
                    "load_assignment": {
                        "cluster_name": "hosts",
                        "endpoints": [{"lb_endpoints": [_endpoint(upstream) for upstream in upstreams]}],
                    },
                }
            ],
        },
    }


def _http_filter(access_log: Path, log_format: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "clients",
            "access_log": [
                {
                    "name": "envoy.access_loggers.file",
                    "typed_config": {
                        "@type": _TYPE + "access_loggers.file.v3.FileAccessLog",
                        "path": str(access_log),
                        "log_format": {"json_format": log_format},
                    },
                }
            ],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "hosts", "timeout": "30s"}}],
                    }
                ]
            },
            "http_filters": [
                {
                    "name": "envoy.filters.http.header_to_metadata",
                    "typed_config": {
                        "@type": _TYPE + "filters.http.header_to_metadata.v3.Config",
                        "response_rules": [
                            {
                                "header": header,
                                "on_header_present": {
                                    "metadata_namespace": "fingerpost",
                                    "key": name,
                                    "type": "NUMBER",
                                },
                                "remove": True,
                            }
                            for name, header in _HOST_HEADERS.items()
                        ],
                    },
                },
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": _TYPE + "filters.http.router.v3.Router"},
                },
            ],
        },
    }


def _endpoint(upstream: Upstream) -> dict[str, Any]:
    return {"endpoint": {"hostname": upstream.name, "address": _address(upstream.address, upstream.port)}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
