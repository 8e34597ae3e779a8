"""The fingerprint store: the latest fingerprint of every host, shared by all workers and replicas."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from fingerpost.errors import FingerpostError
from fingerpost.masking import described
from fingerpost.serving.store_database import (
    PLACE_COLUMNS,
    PLACES,
    SILENT_S,
    UPSERT,
    Database,
    changes,
    fingerprints,
    writing,
)

_CHUNK = 400
STALE = "stale"
Result = TypeVar("Result")
Order = tuple[str, int, int]


class StoreError(Exception):
    """The database cannot be used now."""


@dataclass(frozen=True)
class Arrival:
    """A checked fingerprint at the door: what orders it, and its bytes."""

    service: str
    host: str
    boot_id: str
    sequence: int
    time_us: int
    received_us: int
    packed: bytes


@dataclass(frozen=True)
class Stored:
    """A stored fingerprint.

    Args:
        first_seen_us: when the host came, or came back after a silence.
        change: number of the change that wrote it; later changes have greater numbers.
    """

    host: str
    boot_id: str
    sequence: int
    time_us: int
    received_us: int
    first_seen_us: int
    change: int
    packed: bytes


@dataclass(frozen=True)
class Mark:
    """A place in the sequence of changes; another `epoch` is another database, whose numbers begin anew."""

    epoch: str
    change: int


@dataclass(frozen=True)
class Limits:
    """Bounds of the store.

    Args:
        ttl_us: silence after which a host that comes back is new.
        skew_us: how far clocks may be apart: a stored time that lies further ahead is of a clock that was set back.
    """

    hosts: int
    services: int
    ttl_us: int
    skew_us: int = 5_000_000


class FingerprintStore:
    """Keeps the latest fingerprint of every (service, host).

    Made anew by itself when its file is gone or damaged: what it holds is seconds old, and comes again. Every method
    raises StoreError when the database is locked, full or not there; the next call tries again.

    Args:
        url: of the database, SQLAlchemy's form.
    """

    def __init__(self, url: str, limits: Limits) -> None:
        self._database, self._limits = Database(url), limits
        # Of reading and of writing: with SQLite one may fail while the other works.
        self._failures: dict[bool, str] = {}
        self._asked: dict[int, float] = {}

    @property
    def problem(self) -> str | None:
        """Why the database cannot be used now, or None; also of one that has been silent for some seconds."""
        since = min(list(self._asked.values()), default=None)
        if since is not None and time.monotonic() - since > SILENT_S:
            return f"no answer for {time.monotonic() - since:.0f} s"
        return next(iter(list(self._failures.values())), None)

    def put(self, arrivals: Sequence[Arrival]) -> list[str | None]:
        """Stores what is newer than what is there, in one transaction.

        Returns:
            For each arrival None if it was stored, else `stale`, `hosts:too_many` or `services:too_many`.
        """
        return self._use(lambda engine: self._put(engine, arrivals), True) if arrivals else []

    def try_writing(self) -> None:
        """Writes, and changes nothing: only to know whether that is possible."""

        def write(engine: Engine) -> None:
            with writing(engine) as connection:
                connection.execute(update(changes).values(value=changes.c.value))

        self._use(write, True)

    def mark(self) -> Mark:
        """Where the changes are now."""

        def read(connection: Connection) -> Mark:
            row = connection.execute(select(changes.c.epoch, changes.c.value)).one()
            return Mark(row.epoch, row.value)

        return self._read(read)

    def changed(self, service: str, after: int) -> list[Stored]:
        """The fingerprints of a service that changed after a change, in the order of their changes."""
        columns = [fingerprints.c[name] for name in Stored.__dataclass_fields__]
        wanted = (fingerprints.c.service == service) & (fingerprints.c.change > after)
        query = select(*columns).where(wanted).order_by(fingerprints.c.change)
        return self._read(lambda connection: [Stored(*row) for row in connection.execute(query)])

    def hosts(self) -> list[tuple[str, str, int, int, int]]:
        """(service, host, time_us, received_us, first_seen_us) of every host, in order."""
        table = fingerprints.c
        query = select(table.service, table.host, table.time_us, table.received_us, table.first_seen_us)
        query = query.order_by(table.service, table.host)
        return self._read(lambda connection: [tuple(row) for row in connection.execute(query)])

    def services(self) -> dict[str, int]:
        """The number of hosts of every service."""
        return self._read(_count_hosts)

    def purge(self, before_us: int) -> int:
        """Removes the hosts that were silent since before a time; returns how many."""

        def remove(engine: Engine) -> int:
            with writing(engine) as connection:
                gone: int = connection.execute(
                    delete(fingerprints).where(fingerprints.c.received_us < before_us)
                ).rowcount
            return gone

        return self._use(remove, True, proves=False)

    def bring_back(self, now_us: int) -> None:
        """Takes what came in the future, by a clock that was set back since, to have come now: so that it ages."""
        table = fingerprints.c

        def change(engine: Engine) -> None:
            with writing(engine) as connection:
                for column in (table.first_seen_us, table.received_us):
                    ahead = column > now_us + self._limits.skew_us
                    connection.execute(update(fingerprints).where(ahead).values({column: now_us}))

        self._use(change, True, proves=False)

    def reading(self, read: Callable[[Connection], Result]) -> Result:
        """Reads of another table of this database."""
        return self._read(read)

    def writing(self, write: Callable[[Connection, int], Result]) -> Result:
        """Writes to another table of this database.

        Args:
            write: gets a connection within a transaction that keeps other writers out, and the number of its change.
        """

        def work(engine: Engine) -> Result:
            with writing(engine) as connection:
                return write(connection, next_change(connection, 1))

        return self._use(work, True)

    def close(self) -> None:
        self._database.close()

    def _put(self, engine: Engine, arrivals: Sequence[Arrival]) -> list[str | None]:
        with writing(engine) as connection:
            change = next_change(connection, len(arrivals)) - 1
            known = _known(connection, arrivals)
            counts = None
            answers: list[str | None] = []
            rows: dict[tuple[str, str], dict[str, Any]] = {}
            for arrival in arrivals:
                key = (arrival.service, arrival.host)
                before = rows.get(key) or known.get(key)
                answer = None if before is None or self._is_newer(arrival, before) else STALE
                if before is None:
                    counts = _count_hosts(connection) if counts is None else counts
                    answer = self._full(counts, arrival.service)
                    if answer is None:
                        counts[arrival.service] = counts.get(arrival.service, 0) + 1
                answers.append(answer)
                if answer is None:
                    change += 1
                    rows.pop(key, None)
                    rows[key] = self._row(arrival, before, change)
            if rows:
                connection.execute(UPSERT, list(rows.values()))
        return answers

    def _is_newer(self, arrival: Arrival, before: dict[str, Any]) -> bool:
        given = (arrival.boot_id, arrival.sequence, arrival.time_us)
        present = (before["boot_id"], before["sequence"], before["time_us"])
        return is_newer(given, present, arrival.received_us + self._limits.skew_us)

    def _full(self, counts: dict[str, int], service: str) -> str | None:
        if service not in counts and len(counts) >= self._limits.services:
            return "services:too_many"
        return "hosts:too_many" if counts.get(service, 0) >= self._limits.hosts else None

    def _row(self, arrival: Arrival, before: dict[str, Any] | None, change: int) -> dict[str, Any]:
        back = before is None or arrival.received_us - before["received_us"] > self._limits.ttl_us
        first = arrival.received_us if back or before is None else min(before["first_seen_us"], arrival.received_us)
        return {**vars(arrival), "first_seen_us": first, "change": change}

    def _read(self, read: Callable[[Connection], Result]) -> Result:
        def use(engine: Engine) -> Result:
            with engine.begin() as connection:
                return read(connection)

        return self._use(use, False)

    def _use(self, work: Callable[[Engine], Result], writes: bool, proves: bool = True) -> Result:
        """Does some work.

        Args:
            proves: whether it shows that the database can be used; what may find nothing to write does not.
        """
        asking = threading.get_ident()
        self._asked[asking] = time.monotonic()
        try:
            engine = None
            try:
                engine = self._database.opened()
                result = work(engine)
            except SQLAlchemyError as error:
                if not self._database.renewed(engine, error):
                    raise
                result = work(self._database.opened())
        except (SQLAlchemyError, OSError, FingerpostError) as error:
            problem = described(error).splitlines()[0][:200]
            self._failures[writes] = problem
            raise StoreError(problem) from error
        finally:
            del self._asked[asking]
        if proves:
            self._failures.pop(writes, None)
        return result


def next_change(connection: Connection, count: int) -> int:
    """The first of as many numbers for changes, which become visible in their order.

    Taken first in a transaction, it also keeps other writers out until the end.
    """
    counted = update(changes).values(value=changes.c.value + count).returning(changes.c.value)
    last: int = connection.execute(counted).scalar_one()
    return last - count + 1


def _known(connection: Connection, arrivals: Sequence[Arrival]) -> dict[tuple[str, str], dict[str, Any]]:
    """What is stored of the hosts of some arrivals."""
    hosts: dict[str, set[str]] = {}
    for arrival in arrivals:
        hosts.setdefault(arrival.service, set()).add(arrival.host)
    found = {}
    for service, names in hosts.items():
        wanted = sorted(names)
        for begin in range(0, len(wanted), _CHUNK):
            values = {"of_service": service, "of_hosts": wanted[begin : begin + _CHUNK]}
            for row in connection.execute(PLACES, values):
                found[(service, row.host)] = dict(zip(PLACE_COLUMNS, row, strict=True))
    return found


def is_newer(given: Order, present: Order, latest_us: int) -> bool:
    """Whether a fingerprint comes after the one that is there.

    In one life of an agent the sequence number alone says so, whatever its clock does. Another life has to be later,
    but not than a time that cannot be: one of a clock that was set back since.

    Args:
        given, present: boot id, sequence number and time, microseconds since 1970, of each.
        latest_us: a time beyond it cannot be.
    """
    (life, sequence, time_us), (present_life, present_sequence, present_us) = given, present
    if life == present_life:
        return sequence > present_sequence
    return time_us > present_us or present_us > latest_us


def _count_hosts(connection: Connection) -> dict[str, int]:
    query = select(fingerprints.c.service, func.count()).group_by(fingerprints.c.service)
    return {row[0]: row[1] for row in connection.execute(query)}
