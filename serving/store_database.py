"""The store's tables and its database: SQLite by default, PostgreSQL by URL.

The database is opened at its first use, anew when its file is another, and set aside when that is damaged.
"""

import logging
import sqlite3
import threading
import uuid
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from fingerpost.errors import FingerpostError
from fingerpost.locks import locked

logger = logging.getLogger(__name__)
# A database that answers at all has refused by then.
SILENT_S = 5.0
# A file that is damaged again and again is on a disk that fails: its copies must not fill it.
_MAX_SET_ASIDE = 3
_NAME = String(64)
_BUSY_MS = 2000
# A machine that is gone without a word is noticed after some seconds, not after the system's quarter of an hour.
_ALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}

metadata = MetaData()
# The latest report of every reporter of a host: what orders the next one, and ages the host.
hosts = Table(
    "hosts",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("host", _NAME, primary_key=True),
    Column("reporter", _NAME, primary_key=True),
    Column("boot_id", _NAME, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("end_us", BigInteger, nullable=False),
    Column("received_us", BigInteger, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
)
# The log of reports as they came, until they are landed in the lake and in the states of their hosts.
reports = Table(
    "reports",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("change", BigInteger, primary_key=True, autoincrement=False),
    Column("host", _NAME, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("received_us", BigInteger, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("packed", LargeBinary, nullable=False),
)
# The rolling state of every host, as of a change of the log.
states = Table(
    "states",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("host", _NAME, primary_key=True),
    Column("change", BigInteger, nullable=False),
    Column("packed", LargeBinary, nullable=False),
)
# Up to which change a service's windows are in the lake's inbox, and who lands them now.
landings = Table(
    "landings",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("change", BigInteger, nullable=False),
    Column("owner", _NAME, nullable=False),
    Column("until_us", BigInteger, nullable=False),
)
# Every host that was announced, drained or removed, with how it was announced last, as JSON.
members = Table(
    "members",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("host", _NAME, primary_key=True),
    Column("boot_id", _NAME, nullable=False),
    Column("state", String(16), nullable=False),
    Column("about", String(4096), nullable=False),
    Column("joined_us", BigInteger, nullable=False),
    Column("heard_us", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Index("members_by_change", "service", "change"),
)
# Events that were told of services and hosts; an empty host: all of the service.
events = Table(
    "events",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("id", _NAME, primary_key=True),
    Column("host", _NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("until_us", BigInteger),
    Column("note", String(1024), nullable=False),
    Column("told_us", BigInteger, nullable=False),
    Column("withdrawn_us", BigInteger),
)
# Who follows the tables, and when the table that each was given last was known to be right.
pickers = Table(
    "pickers",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("name", _NAME, primary_key=True),
    Column("right_us", BigInteger, nullable=False),
)
# One row: how many changes there were, and which life of the database this is.
changes = Table(
    "report_changes",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("epoch", _NAME, nullable=False),
    Column("value", BigInteger, nullable=False),
)
# Tables of versions before window reports; what they held was seconds old.
_FORMER = ("fingerprints", "fingerprint_changes")

# The statements of every group of arrivals, made once: to make and compile them costs more than to run them.
PLACE_COLUMNS = (
    *("service", "host", "reporter", "boot_id", "sequence"),
    *("time_us", "end_us", "received_us", "first_seen_us"),
)
PLACES = select(*(hosts.c[name] for name in PLACE_COLUMNS)).where(
    hosts.c.service == bindparam("of_service"), hosts.c.host.in_(bindparam("of_hosts", expanding=True))
)


def _insertion(table: Table) -> str:
    names = [column.name for column in table.columns]
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"  # noqa: S608


def upsert(table: Table, condition: str = "") -> Any:
    """A statement that inserts rows or replaces those of the same key, in the same words in SQLite and PostgreSQL.

    Args:
        condition: of replacing, with `excluded` as the new row; empty: always.
    """
    keys = ", ".join(column.name for column in table.primary_key.columns)
    values = ", ".join(f"{column.name} = excluded.{column.name}" for column in table.columns)
    return text(f"{_insertion(table)} ON CONFLICT ({keys}) DO UPDATE SET {values}{condition}")


UPSERT = upsert(hosts)
APPEND = text(_insertion(reports))
_FIRST_CHANGE = text("INSERT INTO report_changes (name, epoch, value) VALUES (:name, :epoch, 0) ON CONFLICT DO NOTHING")


class Database:
    """Holds one engine of SQLAlchemy at a time, for all threads.

    Args:
        url: SQLAlchemy's form.
    """

    def __init__(self, url: str) -> None:
        self._url, self._path = url, sqlite_path(url)
        self._engine: Engine | None = None
        self._inode: int | None = None
        self._lock = threading.Lock()

    def opened(self) -> Engine:
        """Opens the engine if it is not, with the tables in place.

        Raises:
            SQLAlchemyError, OSError, FingerpostError: it cannot be opened.
        """
        with self._lock:
            if self._engine is not None and self._path is not None and self._inode != _inode(self._path):
                logger.warning("the store's file is another or gone: opening it anew", extra={"path": str(self._path)})
                self.close()
            if self._engine is None:
                if self._path is not None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                engine = open_database(self._url)
                with _alone(self._path):
                    self._inode = _inode(self._path)
                    create_schema(engine)
                    self._inode = _inode(self._path)
                self._engine = engine
            return self._engine

    def renewed(self, failed: Engine | None, error: SQLAlchemyError) -> bool:
        """Renames a file that is damaged, so that a new one is begun.

        Args:
            failed: the engine that told so; None: it could not even be opened.
            error: what it told.

        Returns:
            Whether there is another database to be tried now.
        """
        path = self._path
        if path is None or not is_damage(error):
            return False
        with self._lock:
            if self._engine is not failed:
                return True  # another thread was faster
            with _alone(path):
                self.close()
                if _inode(path) != self._inode:
                    return True  # another process was faster
                if not path.is_file():
                    return False
                aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
                # What belongs to it first: SQLite would take it for that of a new file.
                for ending in ("-wal", "-shm"):
                    path.with_name(path.name + ending).unlink(missing_ok=True)
                path.rename(aside)
                for old in sorted(path.parent.glob(f"{path.name}.damaged-*"))[:-_MAX_SET_ASIDE]:
                    old.unlink(missing_ok=True)
        logger.error(
            "the store's file was damaged (%s): it is %s now, and a new one is begun, which hosts fill as they report",
            str(error).splitlines()[0][:200],
            aside,
        )
        return True

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _alone(path: Path | None) -> AbstractContextManager[None]:
    """SQLite refuses to turn a new file to WAL, without waiting, while another process does so."""
    return nullcontext() if path is None else locked(path.with_name(f"{path.name}.lock"), timeout_s=SILENT_S)


def _inode(path: Path | None) -> int | None:
    try:
        return path.stat().st_ino if path is not None else None
    except FileNotFoundError:
        return None


def open_database(url: str) -> Engine:
    """Makes an engine for the store; it connects at the first use."""
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": _BUSY_MS / 1000}, pool_size=4, max_overflow=4)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    connect = {"connect_timeout": 3, "options": f"-c lock_timeout={_BUSY_MS} -c statement_timeout=10000", **_ALIVE}
    return create_engine(url, connect_args=connect, pool_size=4, max_overflow=4, pool_pre_ping=True, pool_timeout=5)


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL; None for other databases."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def is_damage(error: SQLAlchemyError) -> bool:
    """Whether SQLite says that what it reads is not what it, or anybody, has written as a database."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def create_schema(engine: Engine) -> None:
    """Makes the tables and the counter's row where they are missing; safe in several processes at once."""
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            # `create table if not exists` races with itself in PostgreSQL.
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236472)")
        for name in _FORMER:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
        metadata.create_all(connection)
        _check_columns(connection)
        if connection.execute(select(changes.c.value)).first() is None:
            connection.execute(_FIRST_CHANGE, {"name": "reports", "epoch": uuid.uuid4().hex})


def _check_columns(connection: Connection) -> None:
    """Refuses tables of the same names that another version made otherwise.

    Raises:
        FingerpostError: a column is missing; the message says what to do.
    """
    found = inspect(connection)
    for table in metadata.sorted_tables:
        there = {column["name"] for column in found.get_columns(table.name)}
        if missing := sorted({column.name for column in table.columns} - there):
            raise FingerpostError(
                f"the store at {connection.engine.url} was made by another version: its table {table.name} has no "
                f"{', '.join(missing)}. Stop the engines and remove the store's tables ({', '.join(metadata.tables)}), "
                "or its file: hosts are known again as soon as their agents report"
            )


def writing(engine: Engine) -> Any:
    """A transaction that writes: with SQLite it takes the write lock at its begin, where waiting for it is safe."""
    return engine.execution_options(fingerpost_writes=True).begin()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the transactions are ours, see _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_BUSY_MS}", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("fingerpost_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
