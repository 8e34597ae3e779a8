"""Events that are told to the engine: stored for all workers and replicas, landed in the lake, known when it scores."""

import io
import logging
import time
from dataclasses import replace
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, delete, func, select

from fingerpost.clock import US, clock_us
from fingerpost.closed_arms import CLOSED
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.events import Event
from fingerpost.features.outside import NOTHING, Outside, outside_of
from fingerpost.schemas import SCHEMAS
from fingerpost.serving.landing import Landing
from fingerpost.serving.store import ReportStore, StoreError
from fingerpost.serving.store_database import events, upsert
from fingerpost.settings import Settings

logger = logging.getLogger(__name__)
MAX_EVENTS = 10_000
# Events that ended so long ago are in the lake alone: no feature reaches back further.
_KEPT_US = 8 * 86_400 * US
_LOOK_EVERY_S = 5.0
_UPSERT = upsert(events)


class Events:
    """Holds the events of all services, in the store's database.

    Attributes:
        problem: why the calendar cannot be used; None: it can, or there is none.
    """

    def __init__(self, store: ReportStore, landing: Landing, settings: Settings) -> None:
        self._store, self._landing, self._settings = store, landing, settings
        self._known: dict[str, tuple[float, Outside]] = {}
        self._lock = Lock()
        self.problem: str | None = None

    def take(self, event: Event) -> None:
        """Stores an event and lands it in the lake; one that is told again stays as it was first told.

        Raises:
            RefusedError: `events:too_many`, `services:too_many`, or `event:withdrawn`: it was, and stays so.
            StoreError: it cannot be stored.
            FullError, OSError: it cannot be landed; told once more, it is.
        """

        def write(connection: Connection, _change: int) -> Event:
            ended = func.coalesce(events.c.until_us, events.c.at_us)
            connection.execute(delete(events).where(ended < event.told_us - _KEPT_US))
            before = _stored(connection, event.service, event.id)
            if before is not None:
                if before.withdrawn_us is not None:
                    raise RefusedError("event:withdrawn")
                return before
            counts: dict[str, int] = {
                row[0]: row[1]
                for row in connection.execute(select(events.c.service, func.count()).group_by(events.c.service))
            }
            if event.service not in counts and len(counts) >= self._settings.max_services:
                raise RefusedError("services:too_many")
            if counts.get(event.service, 0) >= MAX_EVENTS:
                raise RefusedError("events:too_many")
            connection.execute(_UPSERT, {**_row(event), "id": event.id})
            return event

        self._land(self._store.writing(write))

    def withdraw(self, service: str, event_id: str, now_us: int) -> None:
        """Withdraws an event: from now on it is not known; what was learned from it before stays.

        Args:
            now_us: microseconds since 1970; of an event that was withdrawn before it stays the first time.

        Raises:
            RefusedError: `id:unknown`.
            StoreError, FullError, OSError: as `take`.
        """

        def write(connection: Connection, _change: int) -> Event:
            before = _stored(connection, service, event_id)
            if before is None:
                raise RefusedError("id:unknown")
            if before.withdrawn_us is not None:
                return before
            gone = replace(before, withdrawn_us=now_us)
            connection.execute(_UPSERT, {**_row(gone), "id": gone.id})
            return gone

        self._land(self._store.writing(write))

    def _land(self, stored: Event) -> None:
        # The withdrawal by a name of its own: ingest takes no file again of a date that was merged.
        name = f"event-{stored.id}" if stored.withdrawn_us is None else f"event-{stored.id}-withdrawn"
        self._landing.write("events", stored.service, name, event_file(stored))
        with self._lock:
            self._known.pop(stored.service, None)

    def listing(self, service: str) -> list[Event]:
        """The events of a service that are to come, or ended in the last eight days, by their begin.

        Raises:
            StoreError: the store cannot be read.
        """
        return [event for event in self._all(service) if event.kind != CLOSED]

    def closings(self, service: str) -> list[Event]:
        """The closed arms of the last eight days, withdrawn ones too; see `fingerpost.closed_arms`.

        Raises:
            StoreError: the store cannot be read.
        """
        return [event for event in self._all(service) if event.kind == CLOSED]

    def _all(self, service: str) -> list[Event]:
        query = select(events).where(events.c.service == service).order_by(events.c.at_us, events.c.id)
        return self._store.reading(lambda connection: [_event(row._mapping) for row in connection.execute(query)])

    def outside(self, service: str) -> Outside:
        """What is known from outside about a service; looked up every few seconds, as before where it cannot be."""
        with self._lock:
            looked_s, known = self._known.get(service, (-_LOOK_EVERY_S, NOTHING))
        if time.monotonic() - looked_s < _LOOK_EVERY_S:
            return known
        try:
            settings = self._settings
            found = outside_of(service, self.listing(service), settings.calendar, settings.holidays)
            # A country that is not known shows itself here, and not in the middle of scoring.
            found.of_hosts(()).at(clock_us())
            known = found
            self._tell(None)
        except StoreError:
            pass  # the store tells of itself
        except FingerpostError as error:
            self._tell(str(error))
        with self._lock:
            self._known[service] = (time.monotonic(), known)
        return known

    def _tell(self, problem: str | None) -> None:
        if problem and problem != self.problem:
            logger.warning("predictions go on by the events known before: %s", problem)
        self.problem = problem


def _row(event: Event) -> dict[str, object]:
    about = {"service": event.service, "host": event.host, "kind": event.kind, "note": event.note}
    times = {"at_us": event.at_us, "until_us": event.until_us, "told_us": event.told_us}
    return {**about, **times, "withdrawn_us": event.withdrawn_us}


def _stored(connection: Connection, service: str, event_id: str) -> Event | None:
    found = connection.execute(select(events).where((events.c.service == service) & (events.c.id == event_id))).first()
    return None if found is None else _event(found._mapping)


def _event(row: object) -> Event:
    found = dict(row)  # type: ignore[call-overload]
    found.pop("id")
    return Event(**found)


def event_file(event: Event) -> memoryview:
    """An event as a Parquet file of the lake; its time is when it was told, or else withdrawn."""
    schema, row = SCHEMAS["events"], _row(event)
    row |= {"time": event.told_us if event.withdrawn_us is None else event.withdrawn_us, "host": event.host or None}
    columns = [
        pa.array([row[field.name]], pa.int64() if pa.types.is_timestamp(field.type) else field.type).cast(field.type)
        for field in schema
    ]
    made = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), made)
    return made.getbuffer()
