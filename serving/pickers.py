"""Knows which pickers follow a service's table, and how old the table is that each of them has."""

import logging
import threading
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine, delete, select

from fingerpost.clock import US, clock_us
from fingerpost.names import is_name
from fingerpost.serving.store import ReportStore, StoreError
from fingerpost.serving.store_database import pickers, upsert, writing

logger = logging.getLogger(__name__)
# What they say of themselves, `KIND/NAME`.
KINDS = ("router", "endpoint-picker")
_SAVE = upsert(pickers, " WHERE excluded.right_us > pickers.right_us")
_SAVE_EVERY_S = 2.0
# One that has not asked for so long is gone.
GONE_S = 600.0
# Of all services, between two times that they are saved; and those of one service that are listed.
_MAX_WAITING, _MAX_LISTED = 5000, 1000


@dataclass(frozen=True)
class Picker:
    """Who follows a service's table.

    Args:
        kind: `router`, beside Envoy, or `endpoint-picker`.
        name: of its machine, and of its file where that is not the usual one.
        right_us: when the table that it was given last was known to be right, microseconds since 1970.
    """

    service: str
    kind: str
    name: str
    right_us: int

    def age_s(self, now_us: int) -> float:
        """Since its table was known to be right, seconds."""
        return max(0.0, (now_us - self.right_us) / US)


class Pickers:
    """The pickers of all services, shared by workers and replicas through the store; saved by a thread of its own.

    Who asks for a table does not wait for that: what cannot be saved is told again by the next request.
    """

    def __init__(self, store: ReportStore) -> None:
        self._store = store
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._waiting: dict[tuple[str, str, str], Picker] = {}
        self._thread = threading.Thread(target=self._follow, name="pickers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def note(self, service: str, who: str, right_us: int) -> None:
        """Notes that a picker was given the table that was known to be right at a time.

        Args:
            who: what it says of itself, `KIND/NAME`; anything else is passed over.
        """
        kind, _, name = who.partition("/")
        if kind not in KINDS or not is_name(name):
            return
        key = (service, kind, name)
        with self._lock:
            if key in self._waiting or len(self._waiting) < _MAX_WAITING:
                self._waiting[key] = Picker(*key, right_us)

    def listing(self, service: str, now_us: int) -> list[Picker]:
        """The pickers of a service that asked lately, those with the oldest table first.

        Raises:
            StoreError: the database cannot be used now.
        """
        columns = pickers.c
        lately = (columns.service == service) & (columns.right_us > now_us - round(GONE_S * US))
        query = select(columns.service, columns.kind, columns.name, columns.right_us).where(lately)
        query = query.order_by(columns.right_us, columns.kind, columns.name).limit(_MAX_LISTED)
        return self._store.read(lambda connection: [Picker(*row) for row in connection.execute(query)])

    def save(self) -> None:
        """Writes what was noted since the last time, and removes who is gone.

        Raises:
            StoreError: the database cannot be used now.
        """
        with self._lock:
            noted, self._waiting = list(self._waiting.values()), {}
        if not noted:
            return
        rows: list[dict[str, Any]] = [asdict(each) for each in noted]

        def write(engine: Engine) -> None:
            with writing(engine) as connection:
                connection.execute(delete(pickers).where(pickers.c.right_us < clock_us() - round(GONE_S * US)))
                connection.execute(_SAVE, rows)

        self._store.use(write, True, proves=False)

    def _follow(self) -> None:
        while not self._stop.wait(_SAVE_EVERY_S):
            try:
                self.save()
            except StoreError as error:
                # The store's own problem is told as such.
                logger.debug("pickers cannot be saved: %s", error)
