"""Locks between processes of one machine; the kernel lets go of them when their owner dies, however it dies."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fingerpost.errors import FingerpostError

_POLL_S = 0.05


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
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise FingerpostError(f"another process has {path} for more than {timeout_s:g} s") from error
                time.sleep(_POLL_S)
        # Closing the file lets go of the lock.
        yield
