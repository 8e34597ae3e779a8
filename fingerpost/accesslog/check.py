"""Tries a log before an agent follows it: which format fits, what is refused, and what its lines do not tell."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from fingerpost.accesslog.formats import FORMAT_NAMES, LogFormat, log_format
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.records import REQUEST_RECORD, refusal

# Lines that all formats are tried on, and records that are shown.
TRIED, _SHOWN = 200, 5
# Whose record a line of a log is that names no host.
_OWN = "own-host"
# Any time of a log is good here: 1970 to 2100.
_LATEST_US = 4_102_444_800 * US
_UNIT_NOTE = (
    "the whole number at the end of a line is read as microseconds (Apache's %D): give --format apache-s for seconds "
    "(%T), apache-ms for milliseconds (%{ms}T), tomcat for Tomcat's %D"
)
# Of what a log may tell besides the request: the values that tell it, and what people call it.
_TELLS = (
    (("length", "length_all"), "size"),
    # A user's name shows but one kind of credentials.
    (("auth", "authorization"), "auth method"),
    (("agent",), "user agent"),
    (("country",), "country"),
)


@dataclass
class LogCheck:
    """What was found.

    Args:
        format: the name of the format that fits best, or the format string that was given; None: none fits.
        lines, parsed: lines that are not blank, and those that became records.
        refused: the others, by reason.
        records: the first ones as they were read; `time` in microseconds since 1970; `client` is never stored.
        missing: what no line tells, as people call it.
        notes: what to look at.
    """

    format: str | None
    lines: int = 0
    parsed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    records: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether most lines could be read."""
        return self.parsed > 0 and 2 * self.parsed >= self.lines

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "lines": self.lines,
            "parsed": self.parsed,
            "refused": dict(self.refused.most_common()),
            "records": self.records,
            "missing": self.missing,
            "notes": self.notes,
        }


def check_lines(lines: Iterable[bytes], name: str | None = None) -> LogCheck:
    """Reads a whole log, by the format that fits its first lines best.

    Args:
        name: of `fingerpost.accesslog.formats.log_format`; None: all known ones are tried.

    Raises:
        FingerpostError: no such format.
    """
    rest = (line for line in lines if line.strip())
    first = list(islice(rest, TRIED))
    chosen = name or best_format(first)
    found = LogCheck(chosen)
    if chosen is None:
        # What the most usual format says of it is as good a reason as any.
        _read(chain(first, rest), log_format("combined"), found)
        return found
    told = _read(chain(first, rest), log_format(chosen), found)
    found.missing = _missing(found, told)
    return found


def best_format(lines: Sequence[bytes]) -> str | None:
    """The name of the format by which most lines are read; of equals the one that tells most, then the first.

    None where no format reads any line.
    """
    best, score = None, (0, 0)
    for name in FORMAT_NAMES:
        found = LogCheck(name)
        told = _read(iter(lines), log_format(name), found)
        this = (found.parsed, -len(_missing(found, told)))
        if found.parsed and (best is None or this > score):
            best, score = name, this
    return best


def _read(lines: Iterator[bytes], by: LogFormat, found: LogCheck) -> set[str]:
    """Counts lines into `found`; returns which values any of them tells, columns of the record among them."""
    told: set[str] = set()
    whole = fraction = 0
    for line in lines:
        found.lines += 1
        try:
            row = by.parse(line, "log", by.claim(line, _OWN))
        except RefusedError as error:
            found.refused[error.reason] += 1
            continue
        client = row.pop("client", None)
        reason = refusal(row, REQUEST_RECORD, 0, _LATEST_US)
        if reason:
            found.refused[reason] += 1
            continue
        found.parsed += 1
        told |= by.tells(line)
        told |= {name for name in ("duration_s", "service_time_s", "inflight") if row.get(name) is not None}
        fraction += row["time"] % US != 0
        last = line.rpartition(b" ")[2].strip()
        whole += last.isdigit() and row.get("duration_s") == int(last[:15]) / US
        if len(found.records) < _SHOWN:
            row["host"] = None if row["host"] == _OWN else row["host"]
            found.records.append({**row, "client": client})
    if fraction:
        told.add("fraction")
    if found.parsed and whole == found.parsed:
        found.notes = [_UNIT_NOTE]
    return told


def _missing(found: LogCheck, told: set[str]) -> list[str]:
    if not found.parsed:
        return []
    missing = [
        word
        for name, word in (("duration_s", "duration"), ("service_time_s", "service time"), ("inflight", "concurrency"))
        if name not in told
    ]
    missing += [word for names, word in _TELLS if not told & set(names) and not _seen(found, word)]
    return missing if "fraction" in told else [*missing, "fraction of a second"]


def _seen(found: LogCheck, word: str) -> bool:
    """Whether the records shown hold what formats tell without a name of its own."""
    if word == "user agent":
        return any(row["user_agent_class"] != "other" for row in found.records)
    return word == "auth method" and any(row["auth"] != "none" for row in found.records)
