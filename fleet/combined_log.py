"""The combined log format of Apache and nginx, with or without a request time at its end."""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from fingerpost.category import route_template
from fingerpost.clients import user_agent_class
from fingerpost.errors import RefusedError

_US = 1_000_000
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(
    r"(?P<client>\S+) \S+ (?P<user>.*?) \[(?P<time>[^\]]{20,40})\] "
    + _QUOTED.replace("(", "(?P<request>", 1)
    + r" (?P<status>\d{3}) (?P<bytes>\d+|-)"
    + f"(?: {_QUOTED} {_QUOTED.replace('(', '(?P<agent>', 1)})?"
    + r"(?: (?P<duration>\d+(?:\.\d+)?))?\s*"
)
_REQUEST = re.compile(r"(?P<method>[A-Z]{3,16}) (?P<path>\S+)(?: HTTP/[\d.]+)?")
_TIME = re.compile(r"(\d{2})/([A-Z][a-z]{2})/(\d{4}):(\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})")
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MONTHS = {name: number for number, name in enumerate(_NAMES, start=1)}


def parse_line(line: bytes, service: str, host: str) -> dict[str, Any]:
    """One line as a request record of `host`; its values are not yet checked against their bounds.

    A last field is the request time: seconds if it has a point (nginx's `$request_time`), microseconds if not (Apache's
    `%D`); without it `duration_s` is None. The format does not tell the size of the request (0), nor the host's load.

    Raises:
        RefusedError: `line:malformed`, `request:malformed` (no method and path), or `time:malformed`.
    """
    found = _LINE.fullmatch(line.decode("utf-8", "replace"))
    if not found:
        raise RefusedError("line:malformed")
    request = _REQUEST.fullmatch(found["request"])
    if not request:
        raise RefusedError("request:malformed")
    sent = found["bytes"]
    return {
        "time": _time_us(found["time"]),
        "service": service,
        "host": host,
        "method": request["method"],
        "route": route_template(request["path"]),
        "status": int(found["status"]),
        "bytes_in": 0,
        "bytes_out": 0 if sent == "-" else int(sent),
        "auth": "none" if found["user"] in ("-", '""') else "basic",
        "user_agent_class": user_agent_class((found["agent"] or "")[:256].removeprefix("-")),
        "region": "none",
        "duration_s": _duration_s(found["duration"]),
    }


def _duration_s(text: str | None) -> float | None:
    if text is None:
        return None
    return float(text) if "." in text else int(text) / _US


@lru_cache(maxsize=1024)
def _time_us(text: str) -> int:
    found = _TIME.fullmatch(text)
    if not found or found[2] not in MONTHS:
        raise RefusedError("time:malformed")
    day, month, year, hour, minute, second = found[1], MONTHS[found[2]], found[3], found[4], found[5], found[6]
    offset = timedelta(hours=int(found[8]), minutes=int(found[9])) * (-1 if found[7] == "-" else 1)
    try:
        moment = datetime(
            int(year), month, int(day), int(hour), int(minute), int(second), tzinfo=timezone(offset)
        ).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise RefusedError("time:malformed") from error
    return round(moment.timestamp()) * _US
