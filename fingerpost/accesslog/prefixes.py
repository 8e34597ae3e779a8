"""Takes off what collectors put before a line of a log: syslog, container runtimes, journald, compose."""

import re

from fingerpost.accesslog.fields import json_object
from fingerpost.errors import RefusedError

_ISO = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"
_TAG = rb"[^\s:\[\]]{1,64}(?:\[\d{1,10}\])?: ?"
_PREFIXES = re.compile(
    rb"(?:"
    # RFC 5424: version, time, host, application, process, message id, structured data.
    rb"<\d{1,3}>1 (?:-|" + _ISO + rb") \S{1,255} \S{1,48} \S{1,128} \S{1,32} "
    rb'(?:-|(?:\[(?:[^\]\\"]|"(?:[^"\\]|\\.)*+")*+\])++) ?(?:\xef\xbb\xbf)?'
    # RFC 3164, and journald's short forms.
    rb"|(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,9})?|"
    + _ISO
    + rb") \S{1,255} "
    + _TAG
    +
    # The tag alone, as of nginx's `nohostname`.
    rb"|<\d{1,3}>(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?"
    + _TAG
    + rb"|<\d{1,3}>"
    # A container runtime's (CRI): stream, and whether the line is whole.
    rb"|" + _ISO + rb" (?:stdout|stderr) (?P<whole>[FP])(?::\S*)? "
    rb"|\[pod/[^\]\s]{1,300}\] "
    # `docker compose logs`.
    rb"|[A-Za-z0-9][\w.-]{0,127}+ *+\| +"
    rb")"
)
# A time alone, of `kubectl logs --timestamps`; a format's own line may begin so too.
_TIME = re.compile(_ISO + rb" ")
# Each prefix may stand in another's message.
_MOST = 3
_PARTIAL = b"P"
_DOCKER, _JOURNAL = b'{"log":', b'"__REALTIME_TIMESTAMP"'


def without_prefix(line: bytes) -> bytes:
    """A line without what collectors put before it, the line itself where that is nothing.

    Raises:
        RefusedError: `line:cut`: the collector says that it is but a part of one.
    """
    for _ in range(_MOST):
        found = _PREFIXES.match(line)
        if found:
            if found["whole"] == _PARTIAL:
                raise RefusedError("line:cut")
            line = line[found.end() :]
        elif line.startswith(_DOCKER) or (line.startswith(b"{") and _JOURNAL in line):
            inner = _inner(line)
            if inner is None:
                return line
            line = inner
        else:
            return line
    return line


def without_time(line: bytes) -> bytes:
    """A line without the time that it begins with, if it does."""
    found = _TIME.match(line)
    return line[found.end() :] if found else line


def _inner(line: bytes) -> bytes | None:
    """The message within a line of JSON, as Docker and journald write it."""
    try:
        entry = json_object(line)
    except RefusedError:
        return None
    message = entry.get("log", entry.get("MESSAGE"))
    if isinstance(message, list):  # of bytes that are no text
        try:
            return bytes(message)
        except (TypeError, ValueError):
            return None
    if not isinstance(message, str):
        return None
    text = message.encode("utf-8", "replace")
    if "log" in entry and not text.endswith(b"\n"):
        raise RefusedError("line:cut")
    return text.rstrip(b"\n")
