"""Parses the times of access logs: microseconds since 1970, whatever form and time zone they are in."""

import re
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from fingerpost.clock import US
from fingerpost.errors import RefusedError

_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, start=1)}
# `17/May/2015:10:05:03 +0000` of Apache and nginx; HAProxy's has milliseconds and no time zone.
_CLOCK = re.compile(
    r"(?P<day>\d\d/[A-Z][a-z]{2}/\d{4}):(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
    r"(?:[.,](?P<part>\d{1,9}))?(?: ?(?P<zone>[+-]\d{4}))?",
    re.ASCII,
)
_FINE = re.compile(r"([.,]\d{6})\d+", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def clock_us_of(text: str) -> int:
    """Microseconds since 1970 of a time as access logs or ISO 8601 write it; without a zone it is of this machine's.

    Raises:
        RefusedError: `time:malformed`.
    """
    found = _CLOCK.fullmatch(text.strip("[]"))
    if not found:
        return _iso_us(text.strip("[]"))
    day, hour, minute, second, part, zone = found.groups()
    # A leap second, 60, is the first of the next minute.
    if hour > "23" or minute > "59" or second > "60":
        raise RefusedError("time:malformed")
    part_us = int((part or "")[:6].ljust(6, "0"))
    if zone is None:
        return local_s(day, int(hour), int(minute), int(second)) * US + part_us
    seconds = (int(hour) * 60 + int(minute)) * 60 + int(second)
    return (midnight_s(day, zone) + seconds) * US + part_us


@lru_cache(maxsize=256)
def midnight_s(day: str, zone: str) -> int:
    """Seconds since 1970 at which a day such as `17/May/2015` began in a time zone such as `+0200`.

    Raises:
        RefusedError: `time:malformed`.
    """
    try:
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:])) * (-1 if zone[0] == "-" else 1)
        return round(_moment(day, 0, 0, 0, timezone(offset)).astimezone(UTC).timestamp())
    except (LookupError, ValueError, OverflowError) as error:
        raise RefusedError("time:malformed") from error


def local_s(day: str, hour: int, minute: int, second: int, now_s: float | None = None) -> int:
    """Seconds since 1970 of a time in the time zone of this machine.

    An hour that comes twice, as summer time ends, is the one nearer to the present.

    Args:
        now_s: the present, seconds since 1970; None: now.

    Raises:
        RefusedError: `time:malformed`.
    """
    first, second_time = _local_s(day, hour, minute, second)
    if first == second_time:
        return first
    present_s = time.time() if now_s is None else now_s
    return min(first, second_time, key=lambda each: abs(each - present_s))


@lru_cache(maxsize=1024)
def _local_s(day: str, hour: int, minute: int, second: int) -> tuple[int, int]:
    """Of both readings of a time that may come twice."""
    try:
        # A leap second, 60, is the first of the next minute.
        moment = _moment(day, hour, minute, min(second, 59), None)
        first, again = (round(moment.replace(fold=fold).astimezone().timestamp()) for fold in (0, 1))
        # A time that summer time skips has two readings as well, which stand the other way around.
        return (first + second // 60, (again if again > first else first) + second // 60)
    except (LookupError, ValueError, OverflowError, OSError) as error:
        raise RefusedError("time:malformed") from error


def _iso_us(text: str) -> int:
    try:
        found = datetime.fromisoformat(_FINE.sub(r"\1", text))
        return (found.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError) as error:
        raise RefusedError("time:malformed") from error


def _moment(day: str, hour: int, minute: int, second: int, zone: tzinfo | None) -> datetime:
    return datetime(int(day[7:]), _MONTHS[day[3:6]], int(day[:2]), hour, minute, second, tzinfo=zone)
