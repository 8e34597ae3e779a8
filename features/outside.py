"""What comes from outside of the telemetry: events and holidays, as features of hosts at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from fingerpost.arrays import Bools, Floats, Ints
from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.events import KINDS, Event, read_calendar
from fingerpost.features.definition import OUTSIDE_FEATURES
from fingerpost.lake import read

# An event further away says nothing any more, or nothing yet.
_REACH_S = 7 * 86_400.0
_NEVER_US = 2**62


@dataclass(frozen=True)
class Outside:
    """What is known from outside about a service.

    Args:
        events: of the service, or of all.
        country: whose public holidays count, `DE`, or `DE-BY` for one of its parts; empty: none.
    """

    events: tuple[Event, ...] = ()
    country: str = ""

    def of_hosts(self, hosts: Sequence[str]) -> "OutsideOfHosts":
        """The same for the hosts of a fleet, in their order."""
        place = {name: number for number, name in enumerate(hosts)}
        told = [event for event in self.events if not event.host or event.host in place]
        columns = [
            (
                KINDS.index(event.kind),
                place.get(event.host, -1),
                event.at_us,
                _end_us(event),
                event.told_us,
                _gone_us(event),
            )
            for event in told
        ]
        return OutsideOfHosts(len(hosts), np.array(columns, dtype=np.int64).reshape(-1, 6).T, self.country)


NOTHING = Outside()


@dataclass(frozen=True)
class OutsideOfHosts:
    """Events beside the places of hosts.

    Args:
        hosts: how many there are, H.
        events: kind, place of its host or -1 for all, begin, end (before the begin: it has none), when it was told
            and when withdrawn, microseconds since 1970; shape (6, events).
        country: of `Outside`.
    """

    hosts: int
    events: Ints
    country: str

    def at(self, now_us: int) -> dict[str, Floats]:
        """OUTSIDE_FEATURES at a time, each of shape (H,), by what was told by then and not withdrawn; NaN: nothing.

        `KIND_since_s` and `KIND_until_s` are seconds since the latest and until the next event begins, up to a week;
        `KIND_on` is 1 while one lasts, else 0, and `holiday` is 1 on a public holiday (UTC), else 0.

        Raises:
            FingerpostError: the country is not known.
        """
        found: dict[str, Floats] = {}
        kind, host, at_us, end_us, told_us, gone_us = self.events
        standing = (told_us <= now_us) & (now_us < gone_us)
        since_s = (now_us - at_us) / US
        for number, name in enumerate(KINDS):
            known = (kind == number) & standing
            past, ahead = known & (since_s >= 0), known & (since_s < 0)
            found[f"{name}_since_s"] = self._nearest(since_s, host, past & (since_s <= _REACH_S))
            found[f"{name}_until_s"] = self._nearest(-since_s, host, ahead & (since_s >= -_REACH_S))
            on = self._nearest(since_s, host, past & (now_us < end_us))
            # Without any event there is nothing to learn: then the column is empty, not full of zeros.
            found[f"{name}_on"] = np.isfinite(on).astype(np.float64) if known.any() else on
        found["holiday"] = np.full(self.hosts, is_holiday(self.country, now_us) if self.country else np.nan)
        return {name: found[name] for name in OUTSIDE_FEATURES}

    def _nearest(self, seconds: Floats, host: Ints, chosen: Bools) -> Floats:
        nearest = np.full(self.hosts, np.inf)
        everywhere = chosen & (host < 0)
        nearest[:] = np.min(seconds, initial=np.inf, where=everywhere)
        np.minimum.at(nearest, host[chosen & ~everywhere], seconds[chosen & ~everywhere])
        return np.where(np.isfinite(nearest), nearest, np.nan)


def is_holiday(country: str, now_us: int) -> float:
    """1.0 on a public holiday of a country, by the UTC date, else 0.0; raises as `OutsideOfHosts.at`."""
    day = datetime.fromtimestamp(now_us // US, UTC)
    return float((day.month, day.day) in _holidays(country, day.year))


@lru_cache(maxsize=64)
def _holidays(country: str, year: int) -> frozenset[tuple[int, int]]:
    try:
        import holidays
    except ImportError as error:
        raise FingerpostError("FINGERPOST_HOLIDAYS needs holidays: pip install 'fingerpost[engine]'") from error
    name, _, part = country.partition("-")
    try:
        found = holidays.country_holidays(name, subdiv=part or None, years=year)
    except NotImplementedError as error:
        raise FingerpostError(f"FINGERPOST_HOLIDAYS = {country!r} names no country that is known: {error}") from error
    return frozenset((day.month, day.day) for day in found)


def outside_of(service: str, told: Sequence[Event], calendar: Path | None, country: str) -> Outside:
    """What is known about a service.

    Args:
        told: events that were told of it.
        calendar: of `fingerpost.events.read_calendar`; None: there is none.
        country: of `Outside`.

    Raises:
        FingerpostError: the calendar cannot be read.
    """
    planned = [event for event in read_calendar(calendar) if event.service in ("", service)] if calendar else []
    return Outside((*told, *planned), country)


def events_in_lake(lake: Path, service: str, kinds: Sequence[str] = KINDS) -> list[Event]:
    """The events of these kinds that were told of a service, as they were landed; one that was told twice counts once.

    One that was withdrawn is landed again, with when that was.
    """
    rows = read(lake, "events", service).to_pylist()
    found: dict[str, Event] = {}
    for row in rows:
        told_us = round(row["time"].timestamp() * US)
        until_us, host, note = row["until_us"], row["host"] or "", row["note"] or ""
        event = Event(row["kind"], service, host, row["at_us"], until_us, note, told_us, row["withdrawn_us"])
        if event.kind in kinds and (event.id not in found or found[event.id].withdrawn_us is None):
            first = found.setdefault(event.id, event)
            found[event.id] = replace(first, withdrawn_us=event.withdrawn_us)
    return list(found.values())


def _gone_us(event: Event) -> int:
    return _NEVER_US if event.withdrawn_us is None else event.withdrawn_us


def _end_us(event: Event) -> int:
    return event.at_us - 1 if event.until_us is None else event.until_us
