"""Envoy's JSON access log, as `fingerpost.routing.envoy.config` has it written: one line to one request record."""

import math
import re
from functools import lru_cache
from typing import Any

from fingerpost.accesslog.fields import client_of, json_object, route_of
from fingerpost.client_attributes import auth_method, coarse_region, user_agent_class
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.names import is_name
from fingerpost.records import has_surrogates
from fingerpost.request_status import told_status

_HOST = re.compile(rb'"host"\s*:\s*"([^"]{1,64})"')
# The second part of a decision, in a line as Envoy writes it.
_FALLBACK = re.compile(rb'"decision"\s*:\s*"[a-z_]*;(no_table|expired|no_category|no_row|panic);')
# A picker's decision is one text, its parts set apart by a mark that JSON need not escape: empty where there is nothing
# to say. The last part may hold the mark.
DECISION = (
    *("policy", "fallback", "explored", "arm", "model_version", "table_version"),
    *("propensity", "predicted_cost", "category"),
)
DECISION_MARK = ";"
_DECISION_TEXTS, _DECISION_NUMBERS = ("policy", "arm", "model_version"), ("propensity", "predicted_cost")
# Null in lines as they are written now; what a condition says of it in those of before.
_NOT_SENT = (None, "false")
_NO_FLAGS = (None, "-", "")
_MAX_CLIENTS = 4096
_US_PER_MS = 1000
# A start as it is until the year 2286: ten digits, a point, six digits.
_USUAL, _POINT = 17, 10
_MAX_NUMBER = 2**63


def claimed_host(line: bytes) -> str | None:
    """The host that a whole line names, found without parsing it; None for a line nobody can claim."""
    found = _HOST.search(line) if line.rstrip().endswith(b"}") else None
    return _name(found.group(1)) if found else None


@lru_cache(maxsize=4096)
def _name(raw: bytes) -> str | None:
    host = raw.decode("ascii", "replace")
    return host if is_name(host) else None


def fallback_of(line: bytes) -> str:
    """Why the picker did not predict for a request: `no_table`, `expired`, `no_category`, `no_row`; empty: it did."""
    found = _FALLBACK.search(line)
    return found.group(1).decode("ascii") if found else ""


def parse_line(line: bytes, service: str, claimed: str | None = None) -> dict[str, Any]:
    """One log line as a request record; its values are not yet checked: see `fingerpost.records.refusal`.

    Args:
        claimed: of `claimed_host`, if it has been asked.

    `client` is the client's address as text, not checked, None if the log does not tell it (see `log_client` of
    `fingerpost.routing.envoy.config.access_log_format`): to look the region up, never to be stored.

    Raises:
        RefusedError: of `json_object`, `host:mismatch` (the line
            is not about the host it was claimed for), or of what goes into no record as it is: `<field>:type`,
            `<field>:not_unicode`, `<field>:too_large`.
    """
    entry = json_object(line)
    claimed, host = claimed or claimed_host(line), entry.get("host")
    if claimed != host and (claimed or is_name(host)):
        raise RefusedError("host:mismatch")
    get = entry.get
    attributes = (get("auth_scheme"), get("api_key"), get("cookie"), get("user_agent"), get("region"))
    try:
        auth, agent_class, region = _client_class(*attributes)
    except TypeError:  # what cannot be looked up is no text
        auth, agent_class, region = _client_class.__wrapped__(*attributes)
    duration_us = _number(entry, "duration_us")
    if duration_us is None and (lasted_ms := _number(entry, "lasted_ms")) is not None:
        duration_us = lasted_ms * _US_PER_MS
    service_us = _number(entry, "service_time_us")
    # What goes into the record as it is, is checked with the record.
    return {
        "time": _end_us(entry, duration_us),
        "service": service,
        "host": host,
        "method": get("method"),
        "route": route_of(_text("path", get("path")) or "/"),
        "status": _status(entry),
        "bytes_in": get("bytes_in"),
        "bytes_out": get("bytes_out"),
        "auth": auth,
        "user_agent_class": agent_class,
        "region": region,
        "duration_s": None if duration_us is None else duration_us / US,
        "service_time_s": None if service_us is None else service_us / US,
        "inflight": get("inflight"),
        "cpu_s": get("cpu_s"),
        **decision_of(entry),
        "client": client_of(_text("client", get("client"))),
    }


@lru_cache(maxsize=_MAX_CLIENTS)
def _client_class(scheme: Any, api_key: Any, cookie: Any, agent: Any, region: Any) -> tuple[str, str, str]:
    """Auth method, user-agent class and country; what is no text is refused here, and so never remembered."""
    auth = auth_method(_text("auth_scheme", scheme), api_key not in _NOT_SENT, cookie not in _NOT_SENT)
    return auth, user_agent_class(_text("user_agent", agent) or ""), coarse_region(_text("region", region))


def decision_of(entry: dict[str, Any]) -> dict[str, Any]:
    """The decision that sent a request: `policy`, `arm`, `model_version`, `propensity` and `predicted_cost`, or None.

    Where the line has these fields themselves they are as they are, to be checked with the record.

    Raises:
        RefusedError: `decision:type`, `decision:malformed`.
    """
    get = entry.get
    decision = _text("decision", get("decision"))
    if decision is None:
        return {
            "policy": get("policy"),
            "arm": get("arm"),
            "model_version": get("model_version"),
            "propensity": get("propensity"),
            "predicted_cost": get("predicted_cost"),
        }
    try:
        said = {name: part or None for name, part in decision_parts(decision).items()}
        numbers = {name: float(part) if (part := said[name]) else None for name in _DECISION_NUMBERS}
    except ValueError as error:
        raise RefusedError("decision:malformed") from error
    return {**{name: said[name] for name in _DECISION_TEXTS}, **numbers}


def decision_parts(decision: str) -> dict[str, str]:
    """The parts of a decision, by their names in DECISION.

    Raises:
        ValueError: they are not as many.
    """
    return dict(zip(DECISION, decision.split(DECISION_MARK, len(DECISION) - 1), strict=True))


def _status(entry: dict[str, Any]) -> Any:
    """The status, with what the response flags and gRPC's status say of it; what is no number is left to be refused."""
    status, flags, grpc_status = entry.get("status"), entry.get("response_flags"), entry.get("grpc_status")
    if type(status) is not int or (status and not grpc_status and flags in _NO_FLAGS):
        return status
    if grpc_status is not None and type(grpc_status) is not int:
        raise RefusedError("grpc_status:type")
    return told_status(status, _text("response_flags", flags) or "", grpc_status)


def _text(name: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.isascii()):
        return value
    if not isinstance(value, str):
        raise RefusedError(f"{name}:type")
    if has_surrogates(value):
        raise RefusedError(f"{name}:not_unicode")
    return value


def _number(entry: dict[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if value is None or type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise RefusedError(f"{name}:type")
    # An integer of any length is good JSON, but no float.
    if abs(value) > _MAX_NUMBER:
        raise RefusedError(f"{name}:too_large")
    return value


def _end_us(entry: dict[str, Any], duration_us: float | None) -> int:
    """Start (seconds with microseconds, as text) plus duration; the sum is done in integers, to keep microseconds."""
    start = _text("start", entry.get("start"))
    if start is None:
        raise RefusedError("start:missing")
    # A duration that is no number is refused by its own name.
    took_us = round(duration_us) if duration_us and math.isfinite(duration_us) else 0
    digits = start[:_POINT] + start[_POINT + 1 :]
    if len(start) == _USUAL and start[_POINT] == "." and start.isascii() and digits.isdecimal():
        return int(digits) + took_us
    seconds, point, part = start.partition(".")
    good = 0 < len(seconds) <= 12 and seconds.isdecimal() and (not point or (0 < len(part) <= 9 and part.isdecimal()))
    if not good or not start.isascii():
        raise RefusedError("start:type")
    start_us = int(seconds) * US + (int(part[:6].ljust(6, "0")) if part else 0)
    return start_us + took_us
