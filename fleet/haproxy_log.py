"""HAProxy's HTTP log format (`option httplog`), with or without the syslog header."""

import re
from datetime import datetime
from typing import Any

from fingerpost.category import route_template
from fingerpost.errors import RefusedError
from fleet.combined_log import MONTHS

_US, _MS = 1_000_000, 1000
_LINE = re.compile(
    r"(?:.* )?\S+:\d+ \[(?P<time>[^\]]{20,30})\] \S+ \S+/(?P<server>\S+) "
    r"(?P<timers>-?\d+/-?\d+/-?\d+/-?\d+/\+?-?\d+) (?P<status>-?\d{1,3}) \+?(?P<bytes>\d+) \S+ \S+ \S{4} "
    r"\d+/\d+/\d+/\d+/\+?\d+ \d+/\d+ (?:\{[^}]*\} ){0,2}"
    r'"(?P<method>[A-Z]{3,16}) (?P<path>\S+)(?: HTTP/[\d.]+)?"\s*'
)
_TIME = re.compile(r"(\d{2})/([A-Z][a-z]{2})/(\d{4}):(\d{2}):(\d{2}):(\d{2})\.(\d{3})")
_SERVER = re.compile(rb"\] \S+ \S+/(\S+) -?\d+/")


def claimed_host(line: bytes) -> str | None:
    """The server a line names, found without parsing it; None for a line nobody can claim."""
    found = _SERVER.search(line)
    return found.group(1).decode("utf-8", "replace") if found else None


def parse_line(line: bytes, service: str) -> dict[str, Any]:
    """One line as a request record of the server it names; its values are not yet checked against their bounds.

    HAProxy writes the time of the request's beginning in the time zone of its machine, which is taken to be ours. The
    duration is the total time; the service time is what the server took to its response headers.

    Raises:
        RefusedError: `line:malformed` or `time:malformed`.
    """
    found = _LINE.fullmatch(line.decode("utf-8", "replace"))
    if not found:
        raise RefusedError("line:malformed")
    timers = [int(part) for part in found["timers"].replace("+", "").split("/")]
    response_ms, total_ms = timers[3], timers[4]
    return {
        "time": _time_us(found["time"]) + total_ms * _MS,
        "service": service,
        "host": found["server"],
        "method": found["method"],
        "route": route_template(found["path"]),
        "status": int(found["status"]),
        "bytes_in": 0,
        "bytes_out": int(found["bytes"]),
        "auth": "none",
        "user_agent_class": "other",
        "region": "none",
        "duration_s": total_ms / _MS,
        # -1: the server never answered.
        "service_time_s": response_ms / _MS if response_ms >= 0 else None,
    }


def _time_us(text: str) -> int:
    found = _TIME.fullmatch(text)
    if not found or found[2] not in MONTHS:
        raise RefusedError("time:malformed")
    hour, minute, second = int(found[4]), int(found[5]), int(found[6])
    try:
        moment = datetime(int(found[3]), MONTHS[found[2]], int(found[1]), hour, minute, second).astimezone()
    except (ValueError, OverflowError) as error:
        raise RefusedError("time:malformed") from error
    return round(moment.timestamp()) * _US + int(found[7]) * _MS
