"""Keeps which hosts there are: announced, draining, removed; shared by all workers and replicas through the store."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, delete, func, select

from fingerpost.announcement import DRAINED_S, DRAINING, REMOVED, SERVING, Announcement, Notice
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.serving.store import Limits, ReportStore
from fingerpost.serving.store_database import hosts as reporting
from fingerpost.serving.store_database import members, states, upsert

# Of a service most of whose hosts fell silent at once none leaves before so many times the usual silence.
_PATIENCE = 24
_LOOK_EVERY_S = 0.5
_MAX_KEPT = 1000
_UPSERT = upsert(members)


@dataclass(frozen=True)
class Member:
    """A host that was announced, drained or removed; times in microseconds since 1970.

    Args:
        boot_id: life of its agent; empty: no agent has announced it.
        state: `serving`, `draining` or `removed`.
        joined_us: when it began to serve, from which on it is ramped up.
        heard_us: when its agent was last heard of, or, without one, its operator.
    """

    host: str
    boot_id: str
    state: str
    about: Announcement
    joined_us: int
    heard_us: int


def merged(before: Member | None, notice: Notice, now_us: int, ttl_us: int, since_us: int | None = None) -> Member:
    """The member after a notice; `before` itself if the notice is to be passed over.

    A host that drains or was removed stays so until its agent begins another life, or an operator resumes it: what a
    running agent repeats says nothing new. An agent that ends speaks for its own life alone. With another life of its
    agent, or after a long silence, a host is as good as new: its caches are cold, and what is known of it is of before.

    Args:
        ttl_us: silence after which a host that comes back is new.
        since_us: when the host was first heard of, if it reported before it was announced.
    """
    about = notice.about or (before.about if before else Announcement())
    if before is None:
        joined_us = now_us if since_us is None else min(since_us, now_us)
        return Member(notice.host, notice.boot_id, notice.state, about, joined_us, now_us)
    operator = not notice.boot_id
    same_life = operator or before.boot_id in ("", notice.boot_id)
    if not same_life and notice.state != SERVING:
        return before
    state = notice.state
    if same_life and not operator and before.state != SERVING:
        state = before.state
    back = not operator and (not same_life or now_us - before.heard_us > ttl_us)
    joined_us = now_us if state == SERVING and (back or before.state != SERVING) else before.joined_us
    heard_us = before.heard_us if operator and state == SERVING else now_us
    return Member(notice.host, notice.boot_id or before.boot_id, state, about, joined_us, heard_us)


def departed(heard: Mapping[str, tuple[str, int]], now_us: int, since_us: int, ttl_us: int) -> list[str]:
    """The hosts of a service that have left for good, in order.

    Those that were draining leave soon after they fell silent, others after `ttl_us`. Where more than half of them are
    silent, the network is likelier to be cut than the fleet to be gone: none leaves for a day's worth of that.

    Args:
        heard: of each host its state, and when it was last heard of, microseconds since 1970.
        since_us: when this process began to listen.
    """
    silent_us = {host: now_us - max(heard_us, since_us) for host, (_, heard_us) in heard.items()}
    serving = [host for host, (state, _) in heard.items() if state == SERVING]
    silent = [host for host in serving if silent_us[host] > ttl_us]
    if 2 * len(silent) > len(serving):
        silent = [host for host in silent if silent_us[host] > _PATIENCE * ttl_us]
    limit_us = {DRAINING: round(DRAINED_S * US), REMOVED: ttl_us}
    gone = [host for host, (state, _) in heard.items() if silent_us[host] > limit_us.get(state, silent_us[host])]
    return sorted([*silent, *gone])


class Members:
    """The members of all services, in the store's database. Every method raises StoreError as the store does.

    Args:
        ttl_us: a host leaves after so long a silence.
        now_us: when this process began to listen.
    """

    def __init__(self, store: ReportStore, limits: Limits, ttl_us: int, now_us: int) -> None:
        self._store, self._limits, self._ttl_us, self._since_us = store, limits, ttl_us, now_us

    def take(self, notice: Notice, now_us: int) -> str:
        """Notes a notice; returns the state that is in force.

        Raises:
            RefusedError: `hosts:too_many` or `services:too_many`.
        """

        def write(connection: Connection, change: int) -> str:
            key = (members.c.service == notice.service) & (members.c.host == notice.host)
            row = connection.execute(select(members).where(key)).first()
            before = None if row is None else _member(row)
            since_us = None
            if before is None:
                _check_room(connection, notice.service, self._limits)
                since_us = _first_seen_us(connection, notice.service, notice.host)
            after = merged(before, notice, now_us, self._limits.ttl_us, since_us)
            if after is not before:
                connection.execute(_UPSERT, _row(notice.service, after, change))
            if after.state == REMOVED:
                _delete(connection, notice.service, [notice.host])
            return after.state

        return self._store.writing(write)

    def changed(self, service: str, after: int) -> list[Member]:
        """The members of a service that changed after a change of the store."""
        query = select(members).where((members.c.service == service) & (members.c.change > after))
        return self._store.reading(lambda connection: [_member(row) for row in connection.execute(query)])

    def listing(self, service: str) -> list[dict[str, Any]]:
        """Every host of a service that reports or was announced, and was not removed; seconds since 1970; in order."""

        def read(connection: Connection) -> tuple[list[Member], dict[str, int]]:
            of_service = select(members).where(members.c.service == service)
            latest = select(reporting.c.host, func.max(reporting.c.received_us).label("received_us"))
            reported = latest.where(reporting.c.service == service).group_by(reporting.c.host)
            known = [_member(row) for row in connection.execute(of_service)]
            return known, {row.host: row.received_us for row in connection.execute(reported)}

        known, reported = self._store.reading(read)
        found = {each.host: each for each in known}
        gone = {each.host for each in known if each.state == REMOVED}
        return [_listed(host, found.get(host), reported.get(host)) for host in sorted({*found, *reported} - gone)]

    def purge(self, now_us: int) -> int:
        """Removes the hosts that have left for good; returns how many."""

        def write(connection: Connection, _change: int) -> int:
            same = (members.c.service == reporting.c.service) & (members.c.host == reporting.c.host)
            columns = (members.c.service, members.c.host, members.c.state, members.c.heard_us)
            latest = func.max(reporting.c.received_us)
            query = select(*columns, latest).outerjoin_from(members, reporting, same).group_by(*columns)
            heard: dict[str, dict[str, tuple[str, int]]] = {}
            for service, host, state, heard_us, received_us in connection.execute(query):
                heard.setdefault(service, {})[host] = (state, max(heard_us, received_us or 0))
            count = 0
            for service, hosts in heard.items():
                gone = departed(hosts, now_us, self._since_us, self._ttl_us)
                for begin in range(0, len(gone), 400):
                    some = gone[begin : begin + 400]
                    _delete(connection, service, some)
                    connection.execute(delete(members).where((members.c.service == service) & members.c.host.in_(some)))
                count += len(gone)
            return count

        return self._store.writing(write)


class Roster:
    """The listings as routers ask for them, read from the store at most every half second."""

    def __init__(self, known: Members) -> None:
        self._members = known
        self._kept: dict[str, tuple[float, str, bytes]] = {}
        self._lock = threading.Lock()

    def listing(self, service: str) -> tuple[str, bytes]:
        """An ETag that changes with addresses, zones, classes and states, and the JSON; StoreError as the store's."""
        with self._lock:
            kept = self._kept.get(service)
            if kept is None or time.monotonic() - kept[0] > _LOOK_EVERY_S:
                hosts = self._members.listing(service)
                stable = [{name: value for name, value in each.items() if name != "heard"} for each in hosts]
                mark = f'"{hashlib.sha256(orjson.dumps(stable)).hexdigest()[:20]}"'
                kept = (time.monotonic(), mark, orjson.dumps({"hosts": hosts}))
                if len(self._kept) >= _MAX_KEPT:
                    self._kept.clear()
                self._kept[service] = kept
            return kept[1:]

    def take(self, notice: Notice, now_us: int) -> str:
        """As `Members.take`, known to the list at once."""
        state = self._members.take(notice, now_us)
        with self._lock:
            self._kept.pop(notice.service, None)
        return state


def _listed(host: str, member: Member | None, received_us: int | None) -> dict[str, Any]:
    heard_us = max(member.heard_us if member else 0, received_us or 0)
    return {
        "host": host,
        "address": member.about.address if member else "",
        "zone": member.about.zone if member else "",
        "class": member.about.host_class if member else "",
        "slots": member.about.slots if member else None,
        "cores": member.about.cores if member else None,
        "state": member.state if member else SERVING,
        "reports": received_us is not None,
        "heard": heard_us / US,
    }


def _member(row: Row[Any]) -> Member:
    about = Announcement(**json.loads(row.about))
    return Member(row.host, row.boot_id, row.state, about, row.joined_us, row.heard_us)


def _row(service: str, member: Member, change: int) -> dict[str, Any]:
    about = json.dumps({name: value for name, value in asdict(member.about).items() if value})
    return {"service": service, **vars(member), "about": about, "change": change}


def _delete(connection: Connection, service: str, hosts: Sequence[str]) -> None:
    for table in (reporting, states):
        connection.execute(delete(table).where((table.c.service == service) & table.c.host.in_(hosts)))


def _check_room(connection: Connection, service: str, limits: Limits) -> None:
    query = select(members.c.service, func.count()).group_by(members.c.service)
    counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(query)}
    if service not in counts and len(counts) >= limits.services:
        raise RefusedError("services:too_many")
    if counts.get(service, 0) >= limits.hosts:
        raise RefusedError("hosts:too_many")


def _first_seen_us(connection: Connection, service: str, host: str) -> int | None:
    key = (reporting.c.service == service) & (reporting.c.host == host)
    return connection.execute(select(func.min(reporting.c.first_seen_us)).where(key)).scalar()
