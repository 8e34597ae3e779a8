"""Access logs of one JSON object a line: of Caddy, Traefik, Envoy and Istio, and with nginx's or other usual names."""

from collections.abc import Callable, Mapping
from typing import Any

from fingerpost.accesslog.fields import json_object
from fingerpost.accesslog.format_names import NGINX_VARIABLES, header
from fingerpost.accesslog.values import Values
from fingerpost.errors import RefusedError

Entry = Mapping[str, Any]


def json_values(line: bytes, names: Callable[[Entry], Values]) -> Values:
    """The named values (`fingerpost.accesslog.values`) of a line.

    Args:
        names: one of the functions below; raises RefusedError where the object is of another kind.

    Raises:
        RefusedError: of `json_object`, `line:other_format`.
    """
    return names(json_object(line))


def caddy_values(entry: Entry) -> Values:
    """Of Caddy 2: the request in an object of its own, a time as the line was written, durations in seconds."""
    request = entry.get("request")
    if not isinstance(request, dict) or "uri" not in request or "status" not in entry:
        raise RefusedError("line:other_format")
    headers = request.get("headers")
    named = {
        name: value[0] if isinstance(value, list) and value else value
        for key, value in (headers if isinstance(headers, dict) else {}).items()
        if (name := header(key, "-"))
    }
    return {
        **named,
        "end": entry.get("ts"),
        "method": request.get("method"),
        "path": request.get("uri"),
        "status": entry.get("status"),
        "duration_s": entry.get("duration"),
        "sent": entry.get("size"),
        "length": entry.get("bytes_read", named.get("length")),
        "client": request.get("client_ip") or request.get("remote_ip") or request.get("remote_addr"),
        "user": entry.get("user_id"),
    }


def traefik_values(entry: Entry) -> Values:
    """Of Traefik: when the request began, durations in nanoseconds, headers as `request_NAME`."""
    if "RequestMethod" not in entry or "DownstreamStatus" not in entry:
        raise RefusedError("line:other_format")
    named = {
        name: value
        for key, value in entry.items()
        if key.startswith("request_") and (name := header(key.removeprefix("request_"), "-"))
    }
    return {
        "length": entry.get("RequestContentSize"),
        **named,
        "begin": entry.get("StartUTC") or entry.get("StartLocal"),
        "end": None if entry.get("StartUTC") or entry.get("StartLocal") else entry.get("time"),
        "method": entry.get("RequestMethod"),
        "path": entry.get("RequestPath"),
        "status": entry.get("DownstreamStatus"),
        "duration_ns": entry.get("Duration"),
        "service_ns": entry.get("OriginDuration"),
        "sent": entry.get("DownstreamContentSize"),
        "client": entry.get("ClientHost") or entry.get("ClientAddr"),
        "user": entry.get("ClientUsername"),
    }


def envoy_values(entry: Entry) -> Values:
    """Of Envoy and Istio by their usual names: when the request began, durations in milliseconds."""
    if "response_code" not in entry or "start_time" not in entry:
        raise RefusedError("line:other_format")
    get = entry.get
    return {
        "begin": get("start_time"),
        "method": get("method"),
        "path": get("path") or get("x_envoy_original_path"),
        "status": get("response_code"),
        "flags": get("response_flags"),
        "grpc_status": get("grpc_status", get("grpc_status_number")),
        "duration_ms": get("duration"),
        "service_ms": get("upstream_service_time"),
        "length": get("bytes_received"),
        "sent": get("bytes_sent"),
        "agent": get("user_agent"),
        "client": get("downstream_remote_address") or get("downstream_direct_remote_address"),
        "host": get("upstream_host_name"),
    }


# Names beside nginx's own, as people give them in formats of their own.
_USUAL = {
    **{"time": "end", "timestamp": "end", "@timestamp": "end", "ts": "end", "date": "end", "datetime": "end"},
    **{"start": "begin", "start_time": "begin", "began": "begin", "time_ms": "end_ms"},
    **{"method": "method", "verb": "method", "http_method": "method", "url": "path", "path": "path", "target": "path"},
    **{"status_code": "status", "code": "status", "response_code": "status", "http_status": "status"},
    **{"duration_s": "duration_s", "duration_ms": "duration_ms", "duration_us": "duration_us"},
    **{
        "duration_ns": "duration_ns",
        "latency_ms": "duration_ms",
        "latency_s": "duration_s",
        "elapsed_ms": "duration_ms",
    },
    **{"response_time_ms": "duration_ms", "request_time_ms": "duration_ms", "upstream_time": "service_s"},
    **{"bytes": "sent", "size": "sent", "bytes_out": "sent", "body_bytes": "sent", "bytes_in": "length"},
    **{"client": "client", "client_ip": "client", "ip": "client", "remote_ip": "client", "clientip": "client"},
    **{"user_agent": "agent", "useragent": "agent", "agent": "agent", "user": "user", "upstream_name": "host"},
}


def usual_values(entry: Entry) -> Values:
    """By the names of nginx's variables, or by other usual names; a time is taken to be when the request ended."""
    values: dict[str, Any] = {}
    for key, value in entry.items():
        low = key.lower()
        name = NGINX_VARIABLES.get(low) or _USUAL.get(low) or header(low.removeprefix("http_"), "_")
        if name and values.get(name) is None:
            values[name] = value
    if "status" not in values or not ({"request", "path"} & set(values)):
        raise RefusedError("line:other_format")
    return values
