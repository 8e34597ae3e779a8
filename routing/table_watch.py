"""Reading the picker's file again whenever the router has written it."""

import os
from pathlib import Path

from fingerpost.errors import RefusedError
from routing.table_file import PickerTable, decode


class TableWatch:
    """The newest table in a file; a broken file leaves the one before it in force.

    Args:
        path: need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[int, int, int] | None = None

    def newer(self) -> PickerTable | None:
        """The table, if the file has changed since the last call.

        Raises:
            RefusedError: it has changed, and is not a table.
        """
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
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
        return decode(data)
