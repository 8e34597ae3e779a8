"""Parses the fields that log formats share: routes, clients and times as text, bounded whatever the line holds."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from fingerpost.category import route_template
from fingerpost.errors import RefusedError

MAX_PATH = 1024
MAX_CLIENT = 256
_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, start=1)}


def route_of(path: str) -> str:
    """The route of a path; its query goes first, for a secret in it is not even remembered."""
    return route_template(path.partition("?")[0][:MAX_PATH] or "/")


def client_of(text: str | None) -> str | None:
    """A client's address as text, not checked, or None.

    Of a list (`X-Forwarded-For`) it is the last, the only one that a client cannot choose.
    """
    client = (text or "").rpartition(",")[2].strip()[:MAX_CLIENT]
    return None if client in ("", "-") else client


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


@lru_cache(maxsize=1024)
def local_s(day: str, hour: int, minute: int, second: int) -> int:
    """Seconds since 1970 of a time in the time zone of this machine.

    Raises:
        RefusedError: `time:malformed`.
    """
    try:
        return round(_moment(day, hour, minute, second, None).astimezone().timestamp())
    except (LookupError, ValueError, OverflowError, OSError) as error:
        raise RefusedError("time:malformed") from error


def _moment(day: str, hour: int, minute: int, second: int, zone: tzinfo | None) -> datetime:
    return datetime(int(day[7:]), _MONTHS[day[3:6]], int(day[:2]), hour, minute, second, tzinfo=zone)
