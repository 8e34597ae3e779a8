"""One HTTP server span as a request record, by OpenTelemetry's semantic conventions, new names and old."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fingerpost.accesslog.fields import client_of, route_of
from fingerpost.client_attributes import auth_method, coarse_region, user_agent_class
from fingerpost.errors import RefusedError
from fingerpost.request_status import told_status
from fingerpost.route_templates import framework_route

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_NS, _NS_PER_US = 1_000_000_000, 1000
_STATUS_CODE_ERROR = 2
_MAX_ROUTE = 512
_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_STATUS = re.compile(r"[1-5]\d\d", re.ASCII)

# The stable name first, then those it replaced.
_METHOD = ("http.request.method", "http.method")
_STATUS_NAMES = ("http.response.status_code", "http.status_code")
_GRPC_STATUS = ("rpc.grpc.status_code", "rpc.response.status_code")
_BYTES_IN = ("http.request.body.size", "http.request_content_length", "http.request_content_length_uncompressed")
_BYTES_OUT = ("http.response.body.size", "http.response_content_length", "http.response_content_length_uncompressed")
_USER_AGENT = ("user_agent.original", "http.user_agent")
_PATH = ("url.path", "http.target")
_URL = ("url.full", "http.url")
_CLIENT = ("client.address", "http.client_ip", "network.peer.address", "net.sock.peer.addr", "net.peer.ip")
_SERVER = ("server.address", "net.host.name", "http.server_name")
_API_KEYS = ("x-api-key", "api-key", "apikey")


def record_of(
    span: "Span", attributes: Mapping[str, Any], resource: Mapping[str, Any], service: str | None, host: str | None
) -> dict[str, Any] | None:
    """A server span as a request record, its values not yet checked against their bounds; None if it is not of HTTP.

    What a span says of time is what its server took: it is both `duration_s` and `service_time_s`. Without a status, as
    of a request that ended in an exception, an error counts as 500. Of captured headers (`http.request.header.*`) only
    the auth method and the country are kept.

    Raises:
        RefusedError: `time:missing`, `route:missing`, `status:missing`, or `<column>:type`.
    """
    method = _text(attributes, _METHOD, "method")
    if method is None:
        return None
    if not span.end_time_unix_nano or not span.start_time_unix_nano:
        raise RefusedError("time:missing")
    duration_s = (span.end_time_unix_nano - span.start_time_unix_nano) / _NS
    return {
        "time": span.end_time_unix_nano // _NS_PER_US,
        "service": service or _text(resource, ("service.name",), "service"),
        "host": host or _host(attributes, resource),
        "method": method,
        "route": _route(attributes),
        "status": _status(span, attributes),
        "bytes_in": _integer(attributes, _BYTES_IN, "bytes_in") or 0,
        "bytes_out": _integer(attributes, _BYTES_OUT, "bytes_out") or 0,
        "auth": _auth(attributes),
        "user_agent_class": user_agent_class(
            _text(attributes, _USER_AGENT, "user_agent_class") or _header(attributes, "user-agent") or ""
        ),
        "region": coarse_region(_header(attributes, "cf-ipcountry")),
        "duration_s": duration_s,
        "service_time_s": duration_s,
        "client": client_of(_text(attributes, _CLIENT, "client")),
    }


def _host(attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> str | None:
    return _text(resource, ("host.name", "service.instance.id"), "host") or _text(attributes, _SERVER, "host")


def _route(attributes: Mapping[str, Any]) -> str:
    """The template the framework gave, with its placeholders as `*`; without one, that of the path."""
    given = _text(attributes, ("http.route",), "route")
    if given:
        return framework_route(given[:_MAX_ROUTE])
    path = _text(attributes, _PATH, "route")
    if path is None:
        url = _text(attributes, _URL, "route")
        try:
            path = urlsplit(url).path if url else None
        except ValueError as error:
            raise RefusedError("route:malformed") from error
    if path is None:
        raise RefusedError("route:missing")
    return route_of(path)


def _status(span: "Span", attributes: Mapping[str, Any]) -> int:
    status = _integer(attributes, _STATUS_NAMES, "status")
    if status is not None:
        return told_status(status, grpc_status=_integer(attributes, _GRPC_STATUS, "grpc_status"))
    error_type = attributes.get("error.type")
    if isinstance(error_type, str) and _STATUS.fullmatch(error_type):
        return int(error_type)
    if error_type or span.status.code == _STATUS_CODE_ERROR:
        return 500
    raise RefusedError("status:missing")


def _auth(attributes: Mapping[str, Any]) -> str:
    """The auth method; of the Authorization header only the first six characters are looked at."""
    authorization = _header(attributes, "authorization")
    api_key = any(_header(attributes, name) for name in _API_KEYS)
    return auth_method(authorization[:6] if authorization else None, api_key, bool(_header(attributes, "cookie")))


def _header(attributes: Mapping[str, Any], name: str) -> str | None:
    """A captured request header: a list of values, or one; before the stable names, dashes were underscores."""
    prefix = "http.request.header."
    value = attributes.get(prefix + name) or attributes.get(prefix + name.replace("-", "_"))
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) else None


def _first(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) not in (None, "")), None)


def _text(attributes: Mapping[str, Any], names: tuple[str, ...], column: str) -> str | None:
    value = _first(attributes, names)
    if value is not None and not isinstance(value, str):
        raise RefusedError(f"{column}:type")
    return value


def _integer(attributes: Mapping[str, Any], names: tuple[str, ...], column: str) -> int | None:
    """A whole number; some instrumentations send it as text or as a float."""
    value = _first(attributes, names)
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise RefusedError(f"{column}:type")
    return value
