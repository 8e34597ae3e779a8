"""Envoy's JSON access log, as `routing.envoy` has it written: one line to one request record."""

import json
import re
from typing import Any

from fingerpost.category import route_template
from fingerpost.clients import auth_method, coarse_region, user_agent_class
from fingerpost.errors import RefusedError

_HOST = re.compile(rb'"host":"([^"]{1,64})"')
_US = 1_000_000


def claimed_host(line: bytes) -> str | None:
    """The host that a whole line names, found without parsing it; None for a line nobody can claim."""
    found = _HOST.search(line) if line.endswith(b"}") else None
    return found.group(1).decode("ascii", "replace") if found else None


def parse_line(line: bytes, service: str) -> dict[str, Any]:
    """One log line as a request record; its values are not yet checked against their bounds.

    Raises:
        RefusedError: `line:malformed` (not JSON, cut off, not UTF-8), `line:not_an_object`, or `<field>:type`.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RefusedError("line:malformed") from error
    if not isinstance(entry, dict):
        raise RefusedError("line:not_an_object")
    duration_us = _number(entry, "duration_us")
    service_us = _number(entry, "service_time_us")
    return {
        "time": _end_us(entry, duration_us),
        "service": service,
        "host": entry.get("host"),
        "method": _text(entry, "method"),
        "route": route_template(_text(entry, "path") or "/"),
        "status": entry.get("status"),
        "bytes_in": entry.get("bytes_in"),
        "bytes_out": entry.get("bytes_out"),
        "auth": auth_method(_text(entry, "auth_scheme"), entry.get("api_key") == "true", entry.get("cookie") == "true"),
        "user_agent_class": user_agent_class(_text(entry, "user_agent") or ""),
        "region": coarse_region(_text(entry, "region")),
        "duration_s": None if duration_us is None else duration_us / _US,
        "service_time_s": None if service_us is None else service_us / _US,
        "inflight": _number(entry, "inflight"),
        "cpu_s": _number(entry, "cpu_s"),
        "policy": _text(entry, "policy"),
        "arm": _text(entry, "arm"),
        "model_version": _text(entry, "model_version"),
        "propensity": _number(entry, "propensity"),
        "predicted_cost": _number(entry, "predicted_cost"),
    }


def _text(entry: dict[str, Any], name: str) -> str | None:
    value = entry.get(name)
    if value is not None and not isinstance(value, str):
        raise RefusedError(f"{name}:type")
    return value


def _number(entry: dict[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise RefusedError(f"{name}:type")
    return value


def _end_us(entry: dict[str, Any], duration_us: float | None) -> int:
    """Start (seconds with microseconds, as text) plus duration; the sum is done in integers, to keep microseconds."""
    start = _text(entry, "start")
    if start is None:
        raise RefusedError("start:missing")
    seconds, _, micros = start.partition(".")
    try:
        start_us = int(seconds) * _US + int(micros[:6].ljust(6, "0"))
        return start_us + round(duration_us or 0)
    except (ValueError, OverflowError) as error:
        raise RefusedError("start:type") from error
