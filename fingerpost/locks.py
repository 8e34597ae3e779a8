"""Locks between processes of one machine; the kernel lets go of them when their owner dies, however it dies."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fingerpost.errors import AlreadyRunningError, FingerpostError

_POLL_S = 0.05
_MAX_OWNER_BYTES = 4096


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, by its own word; `pid` 0 and `about` empty where it could not leave one (a full disk)."""

    pid: int = 0
    about: str = ""

    def __str__(self) -> str:
        about = f" ({self.about})" if self.about else ""
        return f"pid {self.pid}{about}" if self.pid else "a process that left no name"


@contextmanager
def locked(path: Path, timeout_s: float = 30.0, shared: bool = False) -> Iterator[None]:
    """Holds a lock file while the context lasts.

    Args:
        path: the file; made if it is not there, and never removed, since others may be waiting for it.
        shared: others may hold it too, if they also share it.

    Raises:
        FingerpostError: others have it for longer than `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with path.open("a") as file:
        while not _take(file, shared):
            if time.monotonic() > deadline:
                raise FingerpostError(f"another process has {path} for more than {timeout_s:g} s")
            time.sleep(_POLL_S)
        # Closing the file lets go of the lock.
        yield


@contextmanager
def sole(path: Path, what: str, about: str = "", cure: str = "stop it first") -> Iterator[None]:
    """Makes sure that this process is the only one that does something, while the context lasts.

    A child that is forked and runs no other program holds the lock on; one that does (a subprocess) does not.

    Args:
        path: the lock file; made if it is not there, and never removed.
        what: what only one process may do, for the message.
        about: what the owner tells of itself to those who come later: ports, hosts.
        cure: what to do, for the message.

    Raises:
        AlreadyRunningError: another process holds it; the message names its process id and what it told of itself.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _take(file):
            raise AlreadyRunningError(f"{what} already: {_owner(file)}; {cure}")
        # The lock is what counts: a full disk must not keep anybody from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), json.dumps({"pid": os.getpid(), "about": about}).encode())
        yield


def holder(path: Path) -> Owner | None:
    """Who holds a `sole` lock now; None if nobody does."""
    try:
        with path.open() as file:
            return None if _take(file, shared=True) else _owner(file)
    except FileNotFoundError:
        return None


def _take(file: IO[Any], shared: bool = False) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(file: IO[Any]) -> Owner:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(os.pread(file.fileno(), _MAX_OWNER_BYTES, 0))
        return Owner(int(told["pid"]), str(told["about"]))
    return Owner()
