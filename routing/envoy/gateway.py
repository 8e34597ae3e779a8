"""Envoy's configuration for the endpoint picker: the filter that asks it, its cluster, and the policy that obeys it.

The same as gateways write that speak the endpoint picker protocol of the Gateway API's inference extension.
"""

from typing import Any

from fingerpost.routing.envoy.clusters import TYPE, address

PICKER_CLUSTER = "endpoint_picker"
_HEADER = "x-gateway-destination-endpoint"
_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
# What the picker has not answered by then goes by least request.
_PATIENCE = "0.2s"


def override_host(fallback: dict[str, Any]) -> dict[str, Any]:
    """The policy: the endpoints that the picker named, one at each try; `fallback` where it named none.

    They come from the filter's metadata alone. A header would do as well, but clients could send it while the picker
    is away.
    """
    return {
        "name": "envoy.load_balancing_policies.override_host",
        "typed_config": {
            "@type": TYPE + "load_balancing_policies.override_host.v3.OverrideHost",
            "override_host_sources": [{"metadata": _key(_HEADER)}],
            "selected_host_key": _key(f"{_HEADER}-served"),
            "fallback_policy": {"policies": [{"typed_extension_config": fallback}]},
        },
    }


def picker_filter() -> dict[str, Any]:
    """Asks the picker at a request's headers and tells it of the response's; goes on without it where it fails."""
    return {
        "name": PICKER_CLUSTER,
        "typed_config": {
            "@type": TYPE + "filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": PICKER_CLUSTER}},
            "failure_mode_allow": True,
            "message_timeout": _PATIENCE,
            # Trailers keep the stream open until the response has ended, so that the picker counts it until then.
            "processing_mode": {
                "request_header_mode": "SEND",
                "response_header_mode": "SEND",
                "request_body_mode": "NONE",
                "response_body_mode": "NONE",
                "request_trailer_mode": "SKIP",
                "response_trailer_mode": "SEND",
            },
            "metadata_options": {
                "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
                "receiving_namespaces": {"untyped": ["envoy.lb", "fingerpost"]},
            },
        },
    }


def picker_cluster(host: str, port: int) -> dict[str, Any]:
    """The endpoint picker itself. While its health check fails requests do not wait for it."""
    return {
        "name": PICKER_CLUSTER,
        "type": "STATIC" if host.replace(".", "").isdigit() or ":" in host else "STRICT_DNS",
        "connect_timeout": "0.25s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": PICKER_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host, port)}}]}],
        },
        "health_checks": [
            {
                "timeout": "0.5s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": _SERVICE},
            }
        ],
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {
            "thresholds": [{"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536}]
        },
    }


def _key(name: str) -> dict[str, Any]:
    return {"key": "envoy.lb", "path": [{"key": name}]}
