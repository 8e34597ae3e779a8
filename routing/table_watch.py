"""Reading the picker's file again whenever the router has written it."""

import os
import stat
from pathlib import Path

from fingerpost.errors import RefusedError
from fingerpost.routing.table_file import PickerTable, decode

_MAX_BYTES = 2**28
# The native picker looks so often (`LOOK_EVERY_MS` in `routing/native/source.c`), seconds.
LOOK_S = 0.25


class TableWatch:
    """The newest table in a file; a broken file leaves the one before it in force.

    Args:
        path: need not be there yet.

    Attributes:
        table: the newest.
        written_us: when its file was written, microseconds since 1970; 0 before the first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.table: PickerTable | None = None
        self.written_us = 0
        self._known: tuple[int, int, int] | None = None

    def newer(self) -> PickerTable | None:
        """The table, if the file has changed since the last call.

        Raises:
            RefusedError: it has changed, and is not a table.
        """
        try:
            # A pipe in its place must not hold us up.
            with open(self._path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_BYTES:
                    raise RefusedError("table:unreadable")
                known = (about.st_ino, about.st_size, about.st_mtime_ns)
                if known == self._known:
                    return None
                data = file.read()
                # Only now: what could not be read is looked at again, though it stays the same.
                self._known = known
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RefusedError("table:unreadable") from error
        self.table = decode(data)
        self.written_us = about.st_mtime_ns // 1000
        return self.table
