"""Holds unit tests to what they are: whatever starts a process, a server, a connection or a database ends the test."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Audit events of the interpreter (https://docs.python.org/3/library/audit_events.html) that no library can avoid.
EVENTS = {
    "subprocess.Popen": "starts a process",
    "os.fork": "starts a process",
    "os.forkpty": "starts a process",
    "os.posix_spawn": "starts a process",
    "socket.bind": "opens a socket",
    "socket.connect": "opens a connection",
    "sqlite3.connect": "opens a database",
}


class UnitGuard:
    """Raises in a unit test at what such a test does not do, and notes it for where the error is caught."""

    def __init__(self) -> None:
        self._watching = False
        self._threads_before: set[int | None] = set()
        self.seen: list[str] = []
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches this thread, and those that begin from now on: what earlier tests left behind is not this one's."""
        self._threads_before = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        self.seen, self._watching = [], True
        try:
            yield
        finally:
            self._watching = False

    def _audit(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if self._watching and event in EVENTS and threading.get_ident() not in self._threads_before:
            told = f"A test without the mark `process` {EVENTS[event]} ({event}): mark the test or its file"
            self.seen.append(told)
            raise RuntimeError(told)
