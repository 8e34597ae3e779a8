"""Makes a request record of the named values that a line holds, whatever format they came in."""

import re
from collections.abc import Mapping
from typing import Any

from fingerpost.accesslog.fields import client_of, request_line, route_of, target_path
from fingerpost.accesslog.times import clock_us_of
from fingerpost.client_attributes import AUTH_METHODS, auth_method, coarse_region, user_agent_class
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.names import is_name
from fingerpost.request_status import CLIENT_GONE, GRPC_NAMES, NO_ANSWER, told_status

# Units of the names that hold a length of time: how many make a second.
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_DURATION = tuple((f"duration_{unit}", parts) for unit, parts in _UNITS.items())
_SERVICE = tuple((f"service_{unit}", parts) for unit, parts in _UNITS.items())
_NOTHING = (None, "", "-", '"-"', "null")
_NUMBER = re.compile(r"\+?(-?\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,2})?)(ns|us|µs|ms|s|m|h)?", re.ASCII)
_LENGTH = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_WORDS = {**_UNITS, "µs": 1e6, "m": 1 / 60, "h": 1 / 3600}
_UPSTREAMS = re.compile(r"\s*,\s*| : ")
# Requests by these methods have no body but in rare cases: what is counted with headers says nothing of it.
BODILESS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "DELETE"))
_MAX_AGENT = 4096

Values = Mapping[str, Any]


def record_of(values: Values, service: str, host: str) -> dict[str, Any]:
    """A request record; its numbers are not yet checked against their bounds.

    Args:
        values: by these names, each as text or number, absent or `-` where the line does not tell it:
            time: `end`, `begin` (text of any usual form, or seconds since 1970), `end_ms`, `begin_ms` (milliseconds);
            length: `duration_s` and `service_s`, or the same with `_ms`, `_us`, `_ns`;
            request: `request` (the whole line), or `method` and `path`;
            answer: `status`, `grpc_status` (number or name), `flags` (Envoy's response flags), `aborted` (the client
            left), `sent` (bytes of the body), `sent_all` (with headers);
            size: `length` (declared, or the body's bytes), `length_all` (with request line and headers);
            client: `client` (address, perhaps with a port), `user`, `agent`, `country`, `auth` (a method), and
            `authorization`, `api_key`, `cookie`, `verified`, of which only that and what they are counts;
            `host`: the server that answered, where the log is a proxy's; `inflight`: on it.
        host: whose record it is; empty: of the host that the line names.

    Raises:
        RefusedError: `request:malformed`, `status:missing`, `time:missing`, or `<column>:malformed`.
    """
    method, path = _request(values)
    duration_s = _length(values, _DURATION, "duration_s")
    service_s, status = _length(values, _SERVICE, "service_time_s"), _status(values)
    named = _last(_text(values, "host"))
    return {
        "time": _time_us(values, duration_s),
        "service": service,
        "host": host or named,
        "method": method,
        "route": route_of(path),
        "status": status,
        "bytes_in": _size_in(values, method),
        "bytes_out": _whole(values, "sent", "bytes_out") or _whole(values, "sent_all", "bytes_out") or 0,
        "auth": _auth(values),
        "user_agent_class": user_agent_class((_text(values, "agent") or "")[:_MAX_AGENT]),
        "region": coarse_region(_text(values, "country")),
        "duration_s": duration_s,
        "service_time_s": service_s,
        "inflight": _whole(values, "inflight", "inflight"),
        "client": client_of(without_port(_text(values, "client"))),
    }


def host_named(values: Values) -> str | None:
    """The host that a line names, if that is a name."""
    named = _last(_text(values, "host"))
    return named if is_name(named) else None


def without_port(address: str | None) -> str | None:
    """An address without its port and brackets: `203.0.113.9:51370`, `[2001:db8::1]:443`, `2001:db8::1`."""
    if address is None:
        return None
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _text(values: Values, name: str) -> str | None:
    value = values.get(name)
    if value in _NOTHING:
        return None
    if not isinstance(value, str):
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return value


def _last(text: str | None) -> str | None:
    """The last of several upstreams, that is the one that answered."""
    return _UPSTREAMS.split(text)[-1] if text else None


def _request(values: Values) -> tuple[str, str]:
    line = _text(values, "request")
    if line is not None:
        return request_line(line)
    method, path = _text(values, "method"), _text(values, "path")
    if method is None or not method.isascii() or not 0 < len(method) <= 16 or any(map(str.isspace, method)):
        raise RefusedError("request:malformed")
    return method, target_path(path or "/", method)


def _number(text: Any, column: str) -> float | None:
    """A number; with a unit behind it (`12ms`, `1m3.5s`), in seconds."""
    if text in _NOTHING:
        return None
    if isinstance(text, int | float) and not isinstance(text, bool):
        if abs(text) > 2**63:
            raise RefusedError(f"{column}:too_large")
        return float(text)
    if not isinstance(text, str):
        raise RefusedError(f"{column}:type")
    found = _NUMBER.fullmatch(text)
    if found:
        return float(found[1]) / _WORDS[found[2] or "s"]
    parts = _LENGTH.findall(text)
    if not parts or "".join(map("".join, parts)) != text:
        raise RefusedError(f"{column}:malformed")
    return sum(float(number) / _WORDS[unit] for number, unit in parts)


def _length(values: Values, names: tuple[tuple[str, float], ...], column: str) -> float | None:
    """Seconds; of several upstreams that of the last which tells any."""
    for name, parts in names:
        value = values.get(name)
        if value in _NOTHING:
            continue
        told = [value] if not isinstance(value, str) else [each for each in _UPSTREAMS.split(value) if each != "-"]
        if not told:
            continue
        number = _number(told[-1], column)
        has_unit = isinstance(told[-1], str) and told[-1][-1:].isalpha()
        # HAProxy writes -1 for what never came.
        return None if number is None or number == -1 else number / (1.0 if has_unit else parts)
    return None


def _status(values: Values) -> int:
    number = _number(_last(_text(values, "status")), "status")
    if number is None and values.get("flags") in _NOTHING and not values.get("aborted"):
        raise RefusedError("status:missing")
    status = max(0, int(number or 0))
    code = _text(values, "grpc_status")
    grpc = None
    if code is not None:
        grpc = GRPC_NAMES.get(code.replace("_", "").lower()) if not code.isdecimal() else int(code[:4])
    flags = _text(values, "flags") or ""
    if values.get("aborted") and status < NO_ANSWER:
        return CLIENT_GONE
    # Without a status, and without a word of who it was, the client has left.
    return CLIENT_GONE if not status and not flags else told_status(status, flags, grpc)


def _whole(values: Values, name: str, column: str) -> int | None:
    number = _number(values.get(name), column)
    return None if number is None else int(number)


def _size_in(values: Values, method: str) -> int:
    declared = _whole(values, "length", "bytes_in")
    if declared is not None:
        return declared
    whole = _whole(values, "length_all", "bytes_in") or 0
    return whole if method not in BODILESS or whole < 0 else 0


def _auth(values: Values) -> str:
    told = _text(values, "auth")
    if told is not None:
        if told not in AUTH_METHODS:
            raise RefusedError("auth:malformed")
        return told
    authorization = _text(values, "authorization")
    if authorization is None and values.get("user") not in (*_NOTHING, '""'):
        authorization = "basic"
    verified = _text(values, "verified") in ("SUCCESS", "1")
    return auth_method(
        authorization and authorization[:6],
        _text(values, "api_key") is not None,
        _text(values, "cookie") is not None,
        verified,
    )


def _time_us(values: Values, duration_s: float | None) -> int:
    """When the request ended: as it is told, or when it began and how long it took."""
    for name, scale, begins in (
        ("end", 1.0, False),
        ("end_ms", 1e-3, False),
        ("begin", 1.0, True),
        ("begin_ms", 1e-3, True),
    ):
        value = values.get(name)
        if value in _NOTHING:
            continue
        at_us = _moment_us(value, scale)
        fraction = _number(values.get(f"{name}_fraction"), "time")
        return at_us + round((fraction or 0.0) * US) + (round((duration_s or 0.0) * US) if begins else 0)
    raise RefusedError("time:missing")


def _moment_us(value: Any, scale: float) -> int:
    """Microseconds since 1970 of a number or a text; a text without a time zone is of this machine's."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return clock_us_of(value)
    if isinstance(value, str):
        # As a whole number: a float does not hold microseconds exactly together with years.
        whole, _, part = value.partition(".")
        if scale == 1.0 and whole.isdecimal() and len(whole) <= 12 and (not part or part.isdecimal()):
            return int(whole) * US + int(part[:6].ljust(6, "0"))
    number = _number(value, "time")
    if number is None or not abs(number * scale) < 1e11:
        raise RefusedError("time:malformed")
    return round(number * scale * US)
