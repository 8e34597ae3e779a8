"""The combined log format of Apache and nginx, alone or with request times and other fields at its end."""

import re
from typing import Any

from fingerpost.accesslog.fields import client_of, request_line, route_of
from fingerpost.accesslog.times import midnight_s
from fingerpost.accesslog.values import BODILESS
from fingerpost.client_attributes import AUTH_METHODS, MAX_USER_AGENT, coarse_region, user_agent_class
from fingerpost.clock import US
from fingerpost.errors import RefusedError

# Possessive: a quote that never ends is given up at once. Digits are bounded: longer numbers are no numbers.
_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_LINE = re.compile(
    # Before the client's address may stand the name of the virtual host, `%v:%p` of Apache's vhost_combined.
    r"(?:[\w.:*-]++ (?=(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]*:[0-9a-fA-F:.]+) \S+ \S))?"
    r'(?P<client>[^\s,]++(?:, ?[^\s,]++)*+) \S+ (?P<user>""|(?:[^"\\]|\\.)*?) \[(?P<time>[^\]]{20,40})\] '
    rf"(?P<request>{_QUOTED}) (?P<status>\d{{3}}) (?P<bytes>\d{{1,18}}|-)"
    rf"(?: {_QUOTED} (?P<agent>{_QUOTED}))?(?P<extra>(?: .*)?)",
    re.ASCII | re.DOTALL,
)
# With several upstreams, nginx separates their times by commas and colons.
_EXTRA = re.compile(
    rf"\s+(?:(?P<key>[A-Za-z_]\w*)=)?(?P<value>{_QUOTED}|[^\s\",]+(?:(?:,\s*| : )[^\s\",]+)*)", re.ASCII
)
_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,18})?", re.ASCII)
_UPSTREAMS = re.compile(r"\s*[,:]\s*")
_UPSTREAM_NAMES = re.compile(r",\s*| : ")
_CLOCK = re.compile(
    r"(?P<day>\d\d/[A-Z][a-z]{2}/\d{4}):(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) (?P<zone>[+-]\d{4})", re.ASCII
)


def parse_line(line: bytes, service: str, host: str) -> dict[str, Any]:
    """One line as a request record of `host`; its values are not yet checked against their bounds.

    Where `host` is empty, the record is of the host that the line names in `host=`, as the log of a proxy does.

    Before the client's address may come the name of the virtual host. After the user agent, or after the size in the
    common format, may come, in any order: a number, the request time, in seconds if it has a point (nginx's
    `$request_time`), in microseconds if not (Apache's `%D`, by which the line's time is when the request began); two
    whole numbers, the bytes that came and went with headers (`%I %O`); these, quoted or not:

    - `rt=`, `urt=`: nginx's `$request_time` and `$upstream_response_time`, seconds;
    - `end=`: seconds since 1970 with a fraction, nginx's `$msec`; finer than the whole seconds before;
    - `cl=`: the content length that the client declared, `-` for none: what the picker sees too;
    - `rl=`: nginx's `$request_length`, with request line and headers; of requests without a body it says nothing, and
      where `cl` is given it does not count;
    - `host=`: the name of the upstream that answered, the last of several;
    - `auth=`: a method of `fingerpost.client_attributes.auth_method`; `cc=`: the country header;

    and quoted texts and other `key=value` fields, which are ignored. Without a time `duration_s` is None. The format
    does not tell the host's load.

    `client` is the address of the connection as text, not checked, None if the log hides it: to look the region up,
    never to be stored. What a client says of itself (`X-Forwarded-For`) is not believed.

    Raises:
        RefusedError: `line:malformed`, `request:malformed` (no method and path), `time:malformed`,
            `duration_s:malformed`, `service_time_s:malformed`, `bytes_in:malformed` or `auth:malformed`.
    """
    found = _LINE.fullmatch(line.decode("utf-8", "replace").rstrip())
    if not found:
        raise RefusedError("line:malformed")
    client, user, time_text, request_text, status, sent, agent, extra = found.groups()
    method, path = request_line(request_text[1:-1])
    row: dict[str, Any] = {
        "time": time_us(time_text),
        "service": service,
        "host": host,
        "method": method,
        "route": route_of(path),
        "status": int(status),
        "bytes_in": 0,
        "bytes_out": 0 if sent == "-" else int(sent),
        "auth": "none" if user in ("-", '""') else "basic",
        "user_agent_class": _user_agent_class(agent),
        "region": "none",
        "duration_s": None,
        "client": client_of(client),
    }
    if extra:
        row.update(_extra(extra, row["time"], has_body=method not in BODILESS))
    named = row.pop("named", None)
    if not host:
        row["host"] = named
    return row


def _user_agent_class(quoted: str | None) -> str:
    text = (quoted or "")[1:-1][:MAX_USER_AGENT]
    return user_agent_class("" if text == "-" else text)


def _extra(text: str, time_us: int, has_body: bool) -> dict[str, Any]:
    """The fields after the user agent that are known.

    Args:
        time_us: that the line begins with, microseconds since 1970.
        has_body: whether requests like this one have a body.
    """
    known: dict[str, Any] = {}
    numbers: list[str] = []
    declared, at = False, 0
    while at < len(text):
        found = _EXTRA.match(text, at)
        if not found:
            raise RefusedError("line:malformed")
        at = found.end()
        key, value = found["key"], found["value"].strip('"')
        if key is None and not found["value"].startswith('"'):
            if not _NUMBER.fullmatch(value):
                raise RefusedError("line:malformed")
            numbers.append(value)
        elif key == "rt":
            known["duration_s"] = _number(value, "duration_s")
        elif key == "urt":
            # The last upstream is the one that answered.
            told = [each for each in _UPSTREAMS.split(value) if each != "-"]
            known["service_time_s"] = _number(told[-1], "service_time_s") if told else None
        elif key == "end":
            seconds = _number(value, "time")
            if seconds is not None:
                known["time"] = round(seconds * US)
        elif key == "cl":
            known["bytes_in"], declared = _size(value), True
        elif key == "rl":
            length = _size(value)
            if (has_body and not declared) or length < 0:  # the latter is for the record's check to refuse
                known["bytes_in"] = length
        elif key == "host" and value not in ("-", ""):
            # The last upstream is the one that answered.
            known["named"] = _UPSTREAM_NAMES.split(value)[-1]
        elif key == "auth" and value not in ("-", ""):
            if value not in AUTH_METHODS:
                raise RefusedError("auth:malformed")
            known["auth"] = value
        elif key == "cc":
            known["region"] = coarse_region(value)
    known.update(_unnamed(numbers, known, time_us, has_body and not declared))
    return known


def _unnamed(numbers: list[str], known: dict[str, Any], time_us: int, has_body: bool) -> dict[str, Any]:
    """What numbers without a name tell: nginx's `$request_time`, Apache's `%D`, or its `%I %O`."""
    if not numbers:
        return {}
    if len(numbers) == 2 and all(map(str.isdecimal, numbers)):
        return {"bytes_in": int(numbers[0])} if has_body and "bytes_in" not in known else {}
    if len(numbers) > 1 or "duration_s" in known:
        raise RefusedError("line:malformed")
    if "." in numbers[0]:
        return {"duration_s": float(numbers[0])}
    took_us = int(numbers[0])
    # Apache writes when a request came.
    return {"duration_s": took_us / US, "time": known.get("time", time_us + max(0, took_us))}


def _size(text: str) -> int:
    length = _number(text, "bytes_in")
    return 0 if length is None else int(length)


def _number(text: str, column: str) -> float | None:
    if text in ("-", ""):
        return None
    if not _NUMBER.fullmatch(text):
        raise RefusedError(f"{column}:malformed")
    return float(text)


def time_us(text: str) -> int:
    """Microseconds since 1970 of a time such as `17/May/2015:10:05:03 +0000`.

    Raises:
        RefusedError: `time:malformed`.
    """
    found = _CLOCK.fullmatch(text)
    if not found:
        raise RefusedError("time:malformed")
    day, hour, minute, second, zone = found.groups()
    seconds = (int(hour) * 60 + int(minute)) * 60 + int(second)
    # A leap second, 60, is the first of the next minute.
    if hour > "23" or minute > "59" or second > "60":
        raise RefusedError("time:malformed")
    return (midnight_s(day, zone) + seconds) * US
