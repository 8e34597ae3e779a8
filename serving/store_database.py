"""The store's database: opened at its first use, anew when its file is another, and set aside when that is damaged."""

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from fingerpost.locks import locked
from fingerpost.serving.store_schema import create_schema, is_damage, open_database, sqlite_path

logger = logging.getLogger(__name__)
# A database that answers at all has refused by then.
SILENT_S = 5.0
# A file that is damaged again and again is on a disk that fails: its copies must not fill it.
_MAX_SET_ASIDE = 3


class Database:
    """One engine of SQLAlchemy at a time, for all threads.

    Args:
        url: SQLAlchemy's form.
    """

    def __init__(self, url: str) -> None:
        self._url, self._path = url, sqlite_path(url)
        self._engine: Engine | None = None
        self._inode: int | None = None
        self._lock = threading.Lock()

    def opened(self) -> Engine:
        """The engine, with the tables in place.

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
