"""The tables of the fingerprint store, and how its database is opened: SQLite by default, PostgreSQL by URL."""

import sqlite3
import uuid
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
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

_NAME = String(64)
_BUSY_MS = 2000
# A machine that is gone without a word is noticed after some seconds, not after the system's quarter of an hour.
_ALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}

metadata = MetaData()
# The latest fingerprint of every host, as it came, with what is needed to order and to age it.
fingerprints = Table(
    "fingerprints",
    metadata,
    Column("service", _NAME, primary_key=True),
    Column("host", _NAME, primary_key=True),
    Column("boot_id", _NAME, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("received_us", BigInteger, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("packed", LargeBinary, nullable=False),
    Index("fingerprints_by_change", "service", "change"),
)
# One row: how many changes there were, and which life of the database this is.
changes = Table(
    "fingerprint_changes",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("epoch", _NAME, nullable=False),
    Column("value", BigInteger, nullable=False),
)
COUNTER = "fingerprints"

# The two statements of every group of arrivals, made once: to make and compile them costs more than to run them.
PLACE_COLUMNS = ("service", "host", "boot_id", "sequence", "time_us", "received_us", "first_seen_us")
PLACES = select(*(fingerprints.c[name] for name in PLACE_COLUMNS)).where(
    fingerprints.c.service == bindparam("of_service"), fingerprints.c.host.in_(bindparam("of_hosts", expanding=True))
)
_NAMES = [column.name for column in fingerprints.columns]
# The same words in SQLite and PostgreSQL.
_SET = ", ".join(f"{name} = excluded.{name}" for name in _NAMES)
UPSERT = text(
    f"INSERT INTO fingerprints ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)}) "  # noqa: S608
    f"ON CONFLICT (service, host) DO UPDATE SET {_SET}"
)


def open_database(url: str) -> Engine:
    """An engine for the store; connects at the first use."""
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
        metadata.create_all(connection)
        if connection.execute(select(changes.c.value)).first() is None:
            row = {"name": COUNTER, "epoch": uuid.uuid4().hex, "value": 0}
            connection.execute(insert(engine, changes).on_conflict_do_nothing(), row)


def insert(engine: Engine, table: Table) -> Any:
    """The dialect's insert, which knows `on conflict`."""
    return (postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert)(table)


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
