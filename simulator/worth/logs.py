"""Reads access logs of a whole fleet: of any format, with the host that answered each request."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fingerpost.accesslog.check import TRIED, best_format
from fingerpost.accesslog.formats import FORMAT_NAMES, LogFormat
from fingerpost.accesslog.formats import log_format as format_named
from fingerpost.accesslog.prefixes import without_prefix
from fingerpost.accesslog.rotation import open_log
from fingerpost.accesslog.tail import MAX_LINE_BYTES
from fingerpost.errors import NoDataError, RefusedError
from fingerpost.features.foreign import host_name
from fingerpost.names import is_name
from fingerpost.records import REQUEST_RECORD, refusal

COLUMNS = (
    *("time", "host", "method", "route", "status", "bytes_in", "auth", "user_agent_class", "region"),
    *("duration_s", "service_time_s", "inflight"),
)
_FAR_US = 2**62
# The address of the host that answered, of a log of all hosts: nginx's `$upstream_addr` under one of these names.
_UPSTREAM = re.compile(rb'\b(?:upstream|upstream_addr)="?([^",\s]+(?:(?:,\s*| : )[^",\s]+)*)')
# The log of ingress-nginx ends: length, time, [service], [other service], addresses, sizes, times, statuses, id.
_INGRESS = re.compile(
    rb"(\d{1,18}) ([\d.]{1,18}) \[[^\]]*\] \[[^\]]*\] (\S+(?:, \S+)*) (\S+(?:, \S+)*) (\S+(?:, \S+)*) (\S+(?:, \S+)*) "
    rb"[0-9a-f]{16,32}$"
)
_SPLIT = re.compile(r", | : |,")


def read_logs(
    paths: Sequence[Path],
    log_format: str | None,
    max_requests: int,
    notes: list[str],
    refused: Counter[str],
    progress: Callable[[str], None],
) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for path in paths:
        chosen = log_format or _format_of(path)
        progress(f"reading {path} (format {chosen})")
        read_row = _reader(chosen)
        own = host_name(path.name.split(".")[0]) if len(paths) > 1 else ""
        for line in _lines(path):
            if len(rows) >= max_requests:
                notes.append(f"The first {max_requests:,} requests were taken, and what came after them was left out.")
                break
            try:
                rows.append(read_row(line, own))
            except RefusedError as error:
                refused[error.reason] += 1
            if len(rows) % 200_000 == 0 and rows:
                progress(f"{len(rows):,} requests")
    if not rows:
        raise NoDataError(
            f"no line can be used: {dict(refused.most_common(5))}; `host:missing` means that the log does not name the "
            "host that answered (nginx: add upstream=$upstream_addr to the format; or give one log a host)"
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _lines(path: Path) -> Iterator[bytes]:
    with open_log(path) as lines:
        while line := lines.readline(MAX_LINE_BYTES):
            if line.strip():
                yield line.rstrip(b"\r\n")


def _format_of(path: Path) -> str:
    """The format that fits the first lines best."""
    first = list(itertools.islice(_lines(path), TRIED))
    if not first:
        raise NoDataError(f"{path} is empty")
    found = best_format([_combined(line) for line in first])
    if found is None:
        raise NoDataError(
            f"{path}: none of its first {len(first)} lines is of a known format ({', '.join(FORMAT_NAMES)}): "
            "docs/logs.md has them"
        )
    return found


def _reader(name: str) -> Callable[[bytes, str], tuple[Any, ...]]:
    """Reads the columns of one line of a format; the second argument is the host of lines that name none."""
    # A line of ingress-nginx is read as one that names the upstream, which a host's own log need not tell.
    combined = name in ("combined", "ingress-nginx")
    by = format_named("combined" if combined else name)
    return lambda line, own: _row(_combined(line) if combined else line, by, own, combined)


def _row(line: bytes, by: LogFormat, own: str, combined: bool) -> tuple[Any, ...]:
    host: str | None
    if combined:
        found = _UPSTREAM.findall(line)
        # The last address is that of the host that answered. What a client sends stands before our fields.
        text = _SPLIT.split(found[-1].decode("latin-1"))[-1] if found else own
        host = host_name(text) or None
    else:
        host = by.claim(line, own)
    if not is_name(host):
        raise RefusedError("host:missing")
    row = by.parse(line, "worth", host)
    if reason := refusal(row, REQUEST_RECORD, 0, _FAR_US):
        raise RefusedError(reason)
    return tuple(row.get(name) for name in COLUMNS)


def _combined(line: bytes) -> bytes:
    """A line of ingress-nginx as the combined format with named fields; others as they are."""
    try:
        bare = without_prefix(line)
    except RefusedError:
        return line  # a part of one, which its format refuses
    found = _INGRESS.search(bare)
    if found is None:
        return line
    length, took, upstreams, _, times, _ = found.groups()
    last = [_SPLIT.split(each.decode("latin-1")) for each in (upstreams, times)]
    return bare[: found.start()] + b"rl=%s rt=%s " % (length, took) + _answered(*last).encode()


def _answered(upstreams: list[str], times: list[str]) -> str:
    """The upstream that answered: the last one with a time."""
    for upstream, took in reversed(list(zip(upstreams, times, strict=False))):
        if took != "-":
            return f"urt={took} upstream={upstream}"
    return ""
