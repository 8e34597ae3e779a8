"""Events that people or systems tell: deploys, configuration changes, campaigns; each field checked.

An event is known from when it was told until it is withdrawn. Planned ones are told before they happen: in a request to
the engine, or in a calendar file, whose events count as known from the start.
"""

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fingerpost.clock import US
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.names import is_name
from fingerpost.records import has_surrogates

KINDS = ("deploy", "config", "campaign")
MAX_BYTES = 4096
MAX_NOTE = 200
ID_PATTERN = "^[0-9a-f]{16}$"
_ID = re.compile(ID_PATTERN)
# Further from now no event matters, nor is one taken: a year ahead, and as long as telemetry may be kept back.
_AHEAD_US, _BEFORE_US = 400 * 86_400 * US, 31 * 86_400 * US
_MAX_CALENDAR_BYTES = 4 * 2**20
_CALENDAR_FIELDS = {"kind", "service", "host", "at", "until", "note"}


@dataclass(frozen=True)
class Event:
    """One event; times in microseconds since 1970.

    Args:
        service: that it concerns; empty, in a calendar alone: all.
        host: that it concerns; empty: all of the service.
        at_us: when it begins.
        until_us: when it ends; None: it has no length.
        note: a few words for people.
        told_us: when it was told; 0: it has always been known.
        withdrawn_us: when it was withdrawn; None: it was not.
    """

    kind: str
    service: str
    host: str
    at_us: int
    until_us: int | None = None
    note: str = ""
    told_us: int = 0
    withdrawn_us: int | None = None

    @property
    def id(self) -> str:
        """The same for the same event told twice."""
        text = json.dumps([self.kind, self.service, self.host, self.at_us, self.until_us, self.note])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What `event_from_json` reads; times in seconds since 1970."""
        until = None if self.until_us is None else self.until_us / US
        given = {"kind": self.kind, "service": self.service, "host": self.host, "at": self.at_us / US, "until": until}
        return {name: value for name, value in {**given, "note": self.note}.items() if value not in (None, "")}

    def listed(self) -> dict[str, Any]:
        """What `event_from_listing` reads; `id` is for people who withdraw it."""
        withdrawn = {} if self.withdrawn_us is None else {"withdrawn": self.withdrawn_us / US}
        return {**self.to_json(), "id": self.id, "told": self.told_us / US, **withdrawn}


def event_from_json(body: bytes, now_us: int) -> Event:
    """A checked event, told now; fields that this program does not know are left out.

    Raises:
        RefusedError: `event:malformed`, `event:too_large`, or `FIELD:WHAT`.
    """
    given = _fields_of(body)
    at = given.get("at")
    at_us = now_us if at is None else _micros(at, "at")
    until = given.get("until")
    event = _checked({**given, "at": at_us, "until": None if until is None else _micros(until, "until")})
    if not now_us - _BEFORE_US <= event.at_us <= now_us + _AHEAD_US:
        raise RefusedError(f"at:{'too_old' if event.at_us < now_us else 'future'}")
    if event.until_us is not None and event.until_us > now_us + _AHEAD_US:
        raise RefusedError("until:future")
    return replace(event, told_us=now_us)


def withdrawal_from_json(body: bytes) -> tuple[str, str]:
    """The service of an event that is to be withdrawn, and the event's id.

    Raises:
        RefusedError: as `event_from_json`.
    """
    given = _fields_of(body)
    if not isinstance(given.get("id"), str) or _ID.fullmatch(given["id"]) is None:
        raise RefusedError("id:bad_id")
    return given["service"], given["id"]


def _fields_of(body: bytes) -> dict[str, Any]:
    """The fields of a message that names a service; raises RefusedError: it is none."""
    if len(body) > MAX_BYTES:
        raise RefusedError("event:too_large")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("event:malformed") from error
    if not isinstance(given, dict):
        raise RefusedError("event:malformed")
    if not is_name(given.get("service")):
        raise RefusedError("service:bad_name")
    return given


def event_from_listing(given: Mapping[str, Any]) -> Event:
    """An event as the engine lists it, see `Event.listed`.

    Raises:
        KeyError, TypeError, RefusedError: it is none.
    """
    until, told = given.get("until"), _micros(given["told"], "told")
    times = {"at": _micros(given["at"], "at"), "until": None if until is None else _micros(until, "until")}
    withdrawn = given.get("withdrawn")
    withdrawn_us = None if withdrawn is None else _micros(withdrawn, "withdrawn")
    return replace(
        _checked({**given, **times, "service": str(given["service"])}), told_us=told, withdrawn_us=withdrawn_us
    )


def read_calendar(path: Path) -> tuple[Event, ...]:
    """The events of a calendar file, in TOML: tables `[[event]]` of `kind`, `at`, `until`, `service`, `host`, `note`.

    The first two are required. Times without an offset are UTC.

    Raises:
        FingerpostError: it cannot be read; the message names the event and the field.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CALENDAR_BYTES + 1)
        if len(text) > _MAX_CALENDAR_BYTES:
            raise ValueError(f"it is larger than {_MAX_CALENDAR_BYTES // 2**20} MB")
        given = tomllib.loads(text.decode()).get("event", [])
    except (OSError, ValueError) as error:
        raise FingerpostError(f"the calendar {path} cannot be read: {error}") from error
    if not isinstance(given, list):
        raise FingerpostError(f"the calendar {path} cannot be read: write its events as [[event]]")
    events = []
    for number, each in enumerate(given, start=1):
        try:
            events.append(_of_calendar(each))
        except RefusedError as error:
            raise FingerpostError(f"event {number} of the calendar {path} cannot be used: {error.reason}") from error
    return tuple(events)


def _of_calendar(given: Any) -> Event:
    if not isinstance(given, dict):
        raise RefusedError("event:malformed")
    if unknown := sorted(given.keys() - _CALENDAR_FIELDS):
        raise RefusedError(f"{unknown[0]}:unknown")
    if given.get("service", "") != "" and not is_name(given["service"]):
        raise RefusedError("service:bad_name")
    times = {}
    for name in ("at", "until"):
        value = given.get(name)
        if value is not None and not isinstance(value, datetime):
            raise RefusedError(f"{name}:type")
        times[name] = value and round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * US)
    if times["at"] is None:
        raise RefusedError("at:missing")
    return _checked({"service": "", **given, **times})


def _checked(given: Mapping[str, Any]) -> Event:
    """An event of fields whose service and times have been checked to be a name, or empty, and microseconds."""
    kind, host, note = given.get("kind"), given.get("host", ""), given.get("note", "")
    if kind not in KINDS:
        raise RefusedError("kind:unknown")
    if host != "" and not is_name(host):
        raise RefusedError("host:bad_name")
    if not isinstance(note, str):
        raise RefusedError("note:type")
    if len(note) > MAX_NOTE:
        raise RefusedError("note:too_long")
    if has_surrogates(note) or not note.isprintable():
        raise RefusedError("note:not_printable")
    if given["until"] is not None and given["until"] < given["at"]:
        raise RefusedError("until:before_at")
    return Event(str(kind), given["service"], host, given["at"], given["until"], note)


def _micros(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RefusedError(f"{field}:type")
    if not 0 <= value < 1e11:
        raise RefusedError(f"{field}:{'negative' if value < 0 else 'too_large'}")
    return round(value * US)
