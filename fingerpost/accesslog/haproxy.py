"""HAProxy's HTTP log format (`option httplog`), with or without the syslog header."""

import re
from typing import Any

from fingerpost.accesslog.fields import client_of, request_line, route_of
from fingerpost.accesslog.times import local_s
from fingerpost.client_attributes import AUTH_METHODS, coarse_region, user_agent_class
from fingerpost.errors import RefusedError
from fingerpost.names import is_name
from fingerpost.request_status import CLIENT_GONE, NO_ANSWER

_US, _MS = 1_000_000, 1000
# The first place that fits is the line's own: a header that was captured comes later and may look the same.
_LINE = re.compile(
    r"(?:.*? )??(?P<client>\S+):\d{1,5} "
    r"\[(?P<day>\d\d/[A-Z][a-z]{2}/\d{4}):(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)\.(?P<ms>\d{3})\] "
    r"\S++ [^\s/]++/(?P<server>\S++) "
    r"(?P<timers>-?\d{1,15}/-?\d{1,15}/-?\d{1,15}/-?\d{1,15}/\+?-?\d{1,15}) "
    r"(?P<status>-?\d{1,3}) \+?(?P<bytes>\d{1,18}) \S++ \S++ (?P<ended>\S{4}) "
    r"\d{1,9}/\d{1,9}/\d{1,9}/\d{1,9}/\+?\d{1,9} \d{1,9}/\d{1,9} "
    r"(?:\{(?P<headers>[^}]*)\} (?:\{[^}]*\} )?)?"
    # `option httpslog` goes on with the handshake.
    r'"(?P<request>[^"]*)"(?:\s.*)?',
    re.ASCII | re.DOTALL,
)
_SERVER = re.compile(rb"\] \S++ [^\s/]++/(\S++) -?\d+/")
_MAX_CAPTURED = 5
_SIZE = re.compile(r"\d{0,18}", re.ASCII)
_ENCODED = re.compile(r"#([0-9A-F]{2})")


def claimed_host(line: bytes) -> str | None:
    """The server a line names, found without parsing it; None for a line nobody can claim, such as `<NOSRV>`'s."""
    found = _SERVER.search(line)
    host = found.group(1).decode("utf-8", "replace") if found else None
    return host if is_name(host) else None


def parse_line(line: bytes, service: str) -> dict[str, Any]:
    """One line as a request record of the server it names; its values are not yet checked against their bounds.

    HAProxy writes the time of the request's beginning in the time zone of its machine, which is taken to be ours. The
    duration is the total time; the service time is what the server took to its response headers. Captured headers are
    optional. If two to five are captured for the request, `{host|user-agent|content-length|auth|country}`, they give
    the user-agent class, the size, the auth method (`client_attributes.auth_method`) and the region. `client` is the
    address of the connection as text, not checked: to look the region up, never to be stored.

    Raises:
        RefusedError: `line:malformed`, `request:malformed` (no method and path, such as `<BADREQ>`), `time:malformed`,
            or `host:mismatch` (the line is not about the server it was claimed for).
    """
    found = _LINE.fullmatch(line.decode("utf-8", "replace"))
    if not found:
        raise RefusedError("line:malformed")
    method, path = request_line(found["request"])
    claimed = claimed_host(line)
    if claimed != found["server"] and (claimed or is_name(found["server"])):
        raise RefusedError("host:mismatch")
    timers = [int(part) for part in found["timers"].replace("+", "").split("/")]
    response_ms, total_ms = timers[3], timers[4]
    agent, size, auth, country = _captured(found["headers"])
    begin_s = local_s(found["day"], int(found["hour"]), int(found["minute"]), int(found["second"]))
    return {
        "time": begin_s * _US + (int(found["ms"]) + total_ms) * _MS,
        "service": service,
        "host": found["server"],
        "method": method,
        "route": route_of(path),
        "status": _status(int(found["status"]), found["ended"]),
        "bytes_in": size,
        "bytes_out": int(found["bytes"]),
        "auth": auth,
        "user_agent_class": user_agent_class(agent),
        "region": coarse_region(country),
        "duration_s": total_ms / _MS,
        # -1: the server never answered.
        "service_time_s": None if response_ms == -1 else response_ms / _MS,
        "client": client_of(found["client"].strip("[]")),
    }


def _status(status: int, ended: str) -> int:
    """The status; of a session that the client or the server broke off, as its termination state tells, another.

    -1 stands for no status at all, after which the first character of the state says who left: `C` the client.
    """
    if ended[0] in "Cc" and status < NO_ANSWER:
        return CLIENT_GONE
    return NO_ANSWER if status < 0 or (ended[0] in "Ss" and status < CLIENT_GONE) else status


def _captured(headers: str | None) -> tuple[str, int, str, str]:
    """User agent, size, auth method and country of the captured headers; nothing of headers that are others."""
    captured = (headers or "").split("|")
    size, auth, country = [*captured[2:], "", "", ""][:3]
    ours = _SIZE.fullmatch(size) and (not auth or auth in AUTH_METHODS)
    if not (2 <= len(captured) <= _MAX_CAPTURED and ours):
        return "", 0, "none", ""
    # HAProxy writes what would break its format as `#` and two digits.
    agent = _ENCODED.sub(lambda found: chr(int(found[1], 16)), captured[1])
    return agent, int(size or 0), auth or "none", country
