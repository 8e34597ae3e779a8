"""Limits what a client may use of Envoy: connections, time, streams, memory; slow clients cost others nothing.

Nothing here cuts a request that its host still serves in time: a stream may be silent for longer than the route's
timeout, and bodies may take as long as they like while they come.
"""

from typing import Any

# Beyond what the route's timeout lets a request wait for its host.
_IDLE_MARGIN_S = 30.0
_CONNECTION_BUFFER_BYTES = 2**16
_RETRIED_BYTES = 2**20


def listener_limits() -> dict[str, Any]:
    """For the listener that clients connect to."""
    return {"per_connection_buffer_limit_bytes": _CONNECTION_BUFFER_BYTES}


def body_limits() -> dict[str, Any]:
    """For the virtual host: a body of that size is kept until its host has taken it, so that another one can get it.

    Without it the listener's limit holds, and a larger body fails with 507 where its host cannot be reached.
    """
    return {"request_body_buffer_limit": _RETRIED_BYTES}


def manager_limits(timeout_s: float) -> dict[str, Any]:
    """For the listener's HTTP connection manager.

    Args:
        timeout_s: of a request, by its route.
    """
    return {
        "request_headers_timeout": "10s",
        "stream_idle_timeout": f"{timeout_s + _IDLE_MARGIN_S}s",
        "common_http_protocol_options": {
            # Load balancers in front of us keep connections for up to 10 minutes; who closes first loses a request.
            "idle_timeout": "660s",
            "max_headers_count": 100,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 128,
            "initial_stream_window_size": 2**16,
            "initial_connection_window_size": 2**20,
        },
    }


def overload_manager(max_connections: int) -> dict[str, Any]:
    """For the whole of Envoy.

    Args:
        max_connections: of clients, at once, over all listeners; further ones are closed at once.
    """
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
                    ".DownstreamConnectionsConfig",
                    "max_active_downstream_connections": max_connections,
                },
            }
        ]
    }
