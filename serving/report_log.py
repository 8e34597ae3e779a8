"""What the report store keeps beside the reports: rolling states of hosts, and how far windows are landed."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, func, select, update

from fingerpost.serving.store import ReportStore
from fingerpost.serving.store_database import landings, reports, states, upsert, writing

# Of two that save at once the later state stays.
_SAVE = upsert(states, " WHERE excluded.change > states.change")
_BEGIN = upsert(landings, " WHERE excluded.change > landings.change")


@dataclass(frozen=True)
class SavedState:
    """The rolling state of a host, with all of its reports up to a change."""

    host: str
    change: int
    packed: bytes


class ReportLog:
    """States and landings of all services; its methods raise StoreError as those of the store.

    Args:
        owner: name of this process among all that share the store.
    """

    def __init__(self, store: ReportStore, owner: str) -> None:
        self._store, self._owner = store, owner

    def states(self, service: str) -> list[SavedState]:
        """The states of the hosts of a service."""
        columns = states.c
        query = select(columns.host, columns.change, columns.packed).where(columns.service == service)
        return self._store.read(lambda connection: [SavedState(*row) for row in connection.execute(query)])

    def save(self, service: str, made: Sequence[SavedState]) -> None:
        """Writes states; a later one that is there stays."""
        rows = [{"service": service, **vars(each)} for each in made]

        def write(engine: Engine) -> None:
            with writing(engine) as connection:
                connection.execute(_SAVE, rows)

        if rows:
            self._store.use(write, True, proves=False)

    def unlanded(self) -> list[str]:
        """The services with reports that are not landed."""
        latest = select(reports.c.service, func.max(reports.c.change).label("change")).where(reports.c.service != "")
        waiting = latest.group_by(reports.c.service).subquery()
        joined = waiting.outerjoin(landings, landings.c.service == waiting.c.service)
        query = select(waiting.c.service).select_from(joined)
        query = query.where(waiting.c.change > func.coalesce(landings.c.change, 0)).order_by(waiting.c.service)
        return self._store.read(lambda connection: [row[0] for row in connection.execute(query)])

    def claim(self, service: str, now_us: int, hold_us: int) -> int | None:
        """Takes over to land a service's windows; returns the change up to which they are landed.

        Returns:
            None: another process lands them, until it says nothing for `hold_us`.
        """

        def write(engine: Engine) -> int | None:
            with writing(engine) as connection:
                first = {"service": service, "change": 0, "owner": self._owner, "until_us": 0}
                connection.execute(_BEGIN, first)
                # A lease of the future is of a clock that was set back.
                free = (landings.c.until_us < now_us) | (landings.c.until_us > now_us + 2 * hold_us)
                mine = (landings.c.service == service) & (free | (landings.c.owner == self._owner))
                taken = update(landings).where(mine).values(owner=self._owner, until_us=now_us + hold_us)
                change: int | None = connection.execute(taken.returning(landings.c.change)).scalar_one_or_none()
                return change

        return self._store.use(write, True, proves=False)

    def note_landed(self, service: str, change: int) -> None:
        """Says that all windows up to a change are in the inbox."""

        def write(engine: Engine) -> None:
            with writing(engine) as connection:
                mine = (landings.c.service == service) & (landings.c.change < change)
                connection.execute(update(landings).where(mine).values(change=change))

        self._store.use(write, True, proves=False)
