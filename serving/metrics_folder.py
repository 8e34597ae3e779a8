"""Where the workers of an engine keep the numbers they share: files that every request writes to, by way of memory."""

import contextlib
import hashlib
import os
import socket
from pathlib import Path

import psutil

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own in it, which others cannot write)
_CLAIM = "kept-in-memory"


def keep_in_memory(memory: Path = _MEMORY) -> None:
    """Moves the folder from the disk into memory, where there is such a place; before the first metric is made.

    Such a file is written through a mapping: on a full disk a write to it ends the process.
    """
    given = os.environ.get(_VARIABLE)
    if not given or not memory.is_dir() or Path(given).is_relative_to(memory):
        return
    # The same for all workers of an engine, and for its next life.
    name = hashlib.sha256(f"{socket.gethostname()} {os.getuid()} {given}".encode()).hexdigest()[:16]
    folder = memory / f"fingerpost-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            return
        if _is_first(Path(given)):
            _forget_earlier_life(folder)
    except OSError:
        return
    os.environ[_VARIABLE] = str(folder)


def forget_dead_workers() -> None:
    """Removes the gauges of workers that are gone, which would stay at their last values for ever."""
    folder = os.environ.get(_VARIABLE)
    if not folder:
        return
    from prometheus_client.multiprocess import mark_process_dead

    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            mark_process_dead(int(pid))


def remove_own() -> None:
    """Removes what is in memory with the last worker: nobody else would."""
    folder = Path(os.environ.get(_VARIABLE, ""))
    if not folder.is_relative_to(_MEMORY):
        return
    for path in folder.glob(f"*_{os.getpid()}.db"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others still have theirs there
        folder.rmdir()


def _is_first(given: Path) -> bool:
    """Whether we are the first worker of this life; BentoML empties the given folder before it starts them."""
    try:
        (given / _CLAIM).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _forget_earlier_life(folder: Path) -> None:
    for path in folder.glob("*.db"):
        pid = path.stem.rpartition("_")[2]
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)
