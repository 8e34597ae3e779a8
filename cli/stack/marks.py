"""Marks: every process of a stack carries in its environment whose it is, however far it went from its parent."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_VARIABLE = "FINGERPOST_STACK"
_POLL_S = 0.05


@dataclass(frozen=True)
class Mark:
    """Whose a process is.

    Args:
        stack: id of the stack, another one in every run.
        part: the process that the stack started, which it descends from.
        folder: the stack's log folder; by it what an earlier run has left over is known.
    """

    stack: str
    part: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """The variable that marks a process and all it starts."""
        return {_VARIABLE: f"{self.stack}:{self.part}:{self.folder}"}


def marked(wanted: Callable[[Mark], bool]) -> list[psutil.Process]:
    """The living processes whose mark is wanted; never this process, nor one that it descends from."""
    found = []
    kin = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            value = process.environ().get(_VARIABLE, "")
            if not value or process.pid in kin or process.status() == psutil.STATUS_ZOMBIE:
                continue
            stack, part, folder = value.split(":", 2)
            if wanted(Mark(stack, part, Path(folder))):
                found.append(process)
    return found


def end_marked(wanted: Callable[[Mark], bool], grace_s: float = 0.0, most_s: float = 10.0) -> int:
    """Ends the processes whose mark is wanted, and what they start meanwhile: politely first if there is a grace.

    Args:
        most_s: for how long it goes on with what does not end.

    Returns:
        How many there were.
    """
    first = marked(wanted)
    if first and grace_s > 0:
        _each(first, psutil.Process.terminate)
        psutil.wait_procs(first, timeout=grace_s)
    deadline = time.monotonic() + most_s
    while (left := marked(wanted)) and time.monotonic() < deadline:
        _each(left, psutil.Process.kill)
        psutil.wait_procs(left, timeout=_POLL_S)
    return len(first)


def _each(processes: Iterable[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            act(process)
