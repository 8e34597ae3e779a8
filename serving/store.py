"""The report store: hosts, and the log of their reports, shared by all workers and replicas."""

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
    APPEND,
    PLACE_COLUMNS,
    PLACES,
    SILENT_S,
    UPSERT,
    Database,
    changes,
    hosts,
    landings,
    reports,
    states,
    writing,
)

_CHUNK = 400
_PROBE_BYTES = 64 * 2**10
# Of one host: its own agent, and proxies.
_MAX_REPORTERS = 64
STALE = "stale"
Result = TypeVar("Result")
Order = tuple[str, int, int, int]
Place = tuple[str, str, str]


class StoreError(Exception):
    """The database cannot be used now."""


@dataclass(frozen=True)
class Arrival:
    """A checked report: what orders it, and its bytes.

    Args:
        end_us: of its window; 0: it has none.
    """

    service: str
    host: str
    reporter: str
    boot_id: str
    sequence: int
    time_us: int
    end_us: int
    received_us: int
    packed: bytes


@dataclass(frozen=True)
class Stored:
    """A stored report.

    Args:
        first_seen_us: when the host came, or came back after a silence.
        change: number of the change that wrote it; later changes have greater numbers.
    """

    host: str
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


class ReportStore:
    """Keeps the hosts of every service, and their reports in the order in which they came.

    Made anew by itself when its file is gone or damaged: hosts come back with their next reports. Every method raises
    StoreError when the database is locked, full or not there; the next call tries again.

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
        return self.use(lambda engine: self._put(engine, arrivals), True) if arrivals else []

    def try_writing(self) -> None:
        """Writes as much as a report has, and takes it back: only to know whether that is possible."""
        probe = {"service": "", "change": 0, "host": "", "time_us": 0, "received_us": 0, "first_seen_us": 0}

        def write(engine: Engine) -> None:
            for statement, values in ((APPEND, {**probe, "packed": bytes(_PROBE_BYTES)}), (_TAKE_BACK, {})):
                with writing(engine) as connection:
                    connection.execute(_TAKE_BACK)
                    connection.execute(statement, values)

        self.use(write, True)

    def mark(self) -> Mark:
        """Where the changes are now."""

        def read(connection: Connection) -> Mark:
            row = connection.execute(select(changes.c.epoch, changes.c.value)).one()
            return Mark(row.epoch, row.value)

        return self.read(read)

    def changed(self, service: str, after: int, most: int | None = None) -> list[Stored]:
        """The reports of a service that came after a change, in order, at most so many."""
        columns = [reports.c[name] for name in Stored.__dataclass_fields__]
        wanted = (reports.c.service == service) & (reports.c.change > after)
        query = select(*columns).where(wanted).order_by(reports.c.change).limit(most)
        return self.read(lambda connection: [Stored(*row) for row in connection.execute(query)])

    def hosts(self) -> list[tuple[str, str, int, int, int]]:
        """(service, host, time_us, received_us, first_seen_us) of every host, in order."""
        table = hosts.c
        latest = [func.max(each) for each in (table.time_us, table.received_us)]
        query = select(table.service, table.host, *latest, func.min(table.first_seen_us))
        query = query.group_by(table.service, table.host).order_by(table.service, table.host)
        return self.read(lambda connection: [tuple(row) for row in connection.execute(query)])

    def services(self) -> dict[str, int]:
        """The number of hosts of every service."""
        return self.read(_count_hosts)

    def purge(self, before_us: int) -> int:
        """Removes the hosts that were silent since before a time, with their states; returns how many."""

        def remove(engine: Engine) -> int:
            with writing(engine) as connection:
                known = connection.execute(_DISTINCT).scalar_one()
                connection.execute(delete(hosts).where(hosts.c.received_us < before_us))
                left: int = connection.execute(_DISTINCT).scalar_one()
                if left < known:
                    there = select(hosts.c.host).where(
                        hosts.c.service == states.c.service, hosts.c.host == states.c.host
                    )
                    connection.execute(delete(states).where(~there.exists()))
            return int(known) - left

        return self.use(remove, True, proves=False)

    def trim(self, before_us: int, in_any_case_us: int) -> None:
        """Removes reports that are landed, and in the states of their hosts or came before a time.

        Args:
            in_any_case_us: those of before go even where nobody has landed them.
        """
        of_host = (states.c.service == reports.c.service) & (states.c.host == reports.c.host)
        known = select(states.c.change).where(of_host).scalar_subquery()
        landed = select(landings.c.change).where(landings.c.service == reports.c.service).scalar_subquery()
        done = (reports.c.change <= landed) & ((reports.c.change <= known) | (reports.c.received_us < before_us))
        # The last one of each reporter says that the host is there, also to a worker that starts anew.
        of_reporter = (hosts.c.service == reports.c.service) & (hosts.c.change == reports.c.change)
        latest = select(hosts.c.host).where(of_reporter).exists()

        def remove(engine: Engine) -> None:
            with writing(engine) as connection:
                connection.execute(delete(reports).where((done | (reports.c.received_us < in_any_case_us)) & ~latest))

        self.use(remove, True, proves=False)

    def bring_back(self, now_us: int) -> None:
        """Takes what came in the future, by a clock that was set back since, to have come now: so that it ages."""

        def change(engine: Engine) -> None:
            with writing(engine) as connection:
                for column in (hosts.c.first_seen_us, hosts.c.received_us):
                    ahead = column > now_us + self._limits.skew_us
                    connection.execute(update(hosts).where(ahead).values({column: now_us}))

        self.use(change, True, proves=False)

    def reading(self, read: Callable[[Connection], Result]) -> Result:
        """Reads of another table of this database."""
        return self.read(read)

    def writing(self, write: Callable[[Connection, int], Result]) -> Result:
        """Writes to another table of this database.

        Args:
            write: gets a connection within a transaction that keeps other writers out, and the number of its change.
        """

        def work(engine: Engine) -> Result:
            with writing(engine) as connection:
                return write(connection, next_change(connection, 1))

        return self.use(work, True)

    def close(self) -> None:
        self._database.close()

    def _put(self, engine: Engine, arrivals: Sequence[Arrival]) -> list[str | None]:
        with writing(engine) as connection:
            change = next_change(connection, len(arrivals)) - 1
            known = _known(connection, arrivals)
            counts = None
            answers: list[str | None] = []
            places: dict[Place, dict[str, Any]] = {}
            log: list[dict[str, Any]] = []
            for arrival in arrivals:
                of_host = known.setdefault((arrival.service, arrival.host), {})
                before = of_host.get(arrival.reporter)
                answer = None if before is None or self._is_newer(arrival, before) else STALE
                if not of_host:
                    counts = _count_hosts(connection) if counts is None else counts
                    answer = self._full(counts, arrival.service)
                    if answer is None:
                        counts[arrival.service] = counts.get(arrival.service, 0) + 1
                elif before is None and len(of_host) >= _MAX_REPORTERS:
                    answer = "reporters:too_many"
                answers.append(answer)
                if answer is None:
                    change += 1
                    row = self._row(arrival, of_host, change)
                    of_host[arrival.reporter] = row
                    places[(arrival.service, arrival.host, arrival.reporter)] = row
                    log.append({**row, "packed": arrival.packed})
            if log:
                connection.execute(UPSERT, list(places.values()))
                connection.execute(APPEND, log)
        return answers

    def _is_newer(self, arrival: Arrival, before: dict[str, Any]) -> bool:
        given = (arrival.boot_id, arrival.sequence, arrival.time_us, arrival.end_us)
        present = (before["boot_id"], before["sequence"], before["time_us"], before["end_us"])
        return is_newer(given, present, arrival.received_us + self._limits.skew_us)

    def _full(self, counts: dict[str, int], service: str) -> str | None:
        if service not in counts and len(counts) >= self._limits.services:
            return "services:too_many"
        return "hosts:too_many" if counts.get(service, 0) >= self._limits.hosts else None

    def _row(self, arrival: Arrival, of_host: dict[str, dict[str, Any]], change: int) -> dict[str, Any]:
        """The place of a reporter after a report; a host is known since any of its reporters told of it."""
        heard_us = max((each["received_us"] for each in of_host.values()), default=None)
        back = heard_us is None or arrival.received_us - heard_us > self._limits.ttl_us
        firsts = [] if back else [each["first_seen_us"] for each in of_host.values()]
        row = {name: getattr(arrival, name) for name in PLACE_COLUMNS if name != "first_seen_us"}
        before = of_host.get(arrival.reporter)
        if (
            before is not None
            and not arrival.end_us
            and before["time_us"] <= arrival.received_us + self._limits.skew_us
        ):
            row["end_us"] = before["end_us"]
        return {**row, "first_seen_us": min([arrival.received_us, *firsts]), "change": change}

    def read(self, read: Callable[[Connection], Result]) -> Result:
        """Reads something; a method of this class as any other."""

        def use(engine: Engine) -> Result:
            with engine.begin() as connection:
                return read(connection)

        return self.use(use, False)

    def use(self, work: Callable[[Engine], Result], writes: bool, proves: bool = True) -> Result:
        """Does some work with the database.

        Args:
            writes: whether it writes.
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


def _known(connection: Connection, arrivals: Sequence[Arrival]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """What is stored of the hosts of some arrivals, by reporter."""
    names: dict[str, set[str]] = {}
    for arrival in arrivals:
        names.setdefault(arrival.service, set()).add(arrival.host)
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for service, of_service in names.items():
        wanted = sorted(of_service)
        for begin in range(0, len(wanted), _CHUNK):
            values = {"of_service": service, "of_hosts": wanted[begin : begin + _CHUNK]}
            for row in connection.execute(PLACES, values):
                place = dict(zip(PLACE_COLUMNS, row, strict=True))
                found.setdefault((service, row.host), {})[row.reporter] = place
    return found


def is_newer(given: Order, present: Order, latest_us: int) -> bool:
    """Whether a report comes after the one that is there.

    In one life of an agent the sequence number alone says so, whatever its clock does. Another life has to be later,
    and so has its window: what an agent reads again after a crash was told before. But a time that cannot be is one of
    a clock that was set back since.

    Args:
        given, present: boot id, sequence number, time and end of the window of each, microseconds since 1970.
        latest_us: a time beyond it cannot be.
    """
    (life, sequence, time_us, end_us), (present_life, present_sequence, present_us, present_end_us) = given, present
    if life == present_life:
        return sequence > present_sequence
    return present_us > latest_us or (time_us > present_us and (not end_us or end_us > present_end_us))


def _count_hosts(connection: Connection) -> dict[str, int]:
    query = select(hosts.c.service, func.count(hosts.c.host.distinct())).group_by(hosts.c.service)
    return {row[0]: row[1] for row in connection.execute(query)}


_DISTINCT = select(func.count()).select_from(select(hosts.c.service, hosts.c.host).distinct().subquery())
_TAKE_BACK = delete(reports).where(reports.c.service == "")
