"""A set of child processes that live and die together.

Each child leads a session of its own, so that the terminal's Ctrl-C reaches only us and stopping can reach all of a
child's own children, also those that outlived it: they carry a mark in their environment. On Linux each child is also
told to end when we die, however we die.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import psutil

from fingerpost.errors import NotReadyError, ProcessDiedError

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.1
_MARK = "FINGERPOST_STACK_ID"


@dataclass
class Child:
    """A started process: its name, handle and log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def failure(self) -> str:
        """How it ended, in words, with the end of its log."""
        code = self.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = self.log.read_text(errors="replace").strip().splitlines()[-5:] if self.log.exists() else []
        last = "".join(f"\n    {line[:300]}" for line in lines)
        return f"{self.name} (pid {self.process.pid}) {how}; its log is {self.log}{', ending:' if last else ''}{last}"


class Stack:
    """Starts processes and watches over them; leaving the context stops them all.

    Args:
        log_dir: each process writes to `<name>.log` there, anew at each start.
        env: variables for every process, beside our own.
    """

    def __init__(self, log_dir: Path, env: Mapping[str, str]) -> None:
        self._log_dir = log_dir
        self._mark = uuid.uuid4().hex
        self._env = {**os.environ, **env, _MARK: self._mark}
        self._children: list[Child] = []
        self._interrupts = 0
        log_dir.mkdir(parents=True, exist_ok=True)

    def catch_signals(self) -> None:
        """Has SIGINT and SIGTERM noted, to be acted on in `check`: an exception out of a handler can strike, and be
        swallowed, anywhere. Call it from the main thread; a second signal while stopping ends the waiting."""
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._note_signal)

    def __enter__(self) -> "Stack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Starts a process; its standard output and error go to its log."""
        log = self._log_dir / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._env, **(env or {})},
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (we have no threads)
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Waits until `ready()` is true, as long as every process lives.

        Raises:
            KeyboardInterrupt: a signal came.
            ProcessDiedError: a process ended; its name, how, and the end of its log.
            NotReadyError: the time was up.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise NotReadyError(f"{what} after {timeout_s:.0f} s; the logs are in {self._log_dir}")
            time.sleep(_POLL_S)

    def finish(self, child: Child, timeout_s: float, tick: Callable[[], None] = lambda: None) -> None:
        """Waits for a process that is meant to end, calling `tick` meanwhile, and lets go of it.

        Raises:
            ProcessDiedError: it or another failed.
            NotReadyError: the time was up.
        """

        def ended() -> bool:
            tick()
            return child.process.poll() == 0

        self.wait_until(ended, timeout_s, f"{child.name} was not done")
        self._children.remove(child)
        _end_group(child, signal.SIGKILL)

    def end(self, child: Child, grace_s: float = 10.0) -> None:
        """Ends one process of the set, and lets go of it; politely, then not."""
        self._children.remove(child)
        child.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(grace_s)
        _end_group(child, signal.SIGKILL)
        child.process.wait()

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self._interrupts > 0

    def check(self) -> None:
        """Raises KeyboardInterrupt after a signal, and ProcessDiedError if a process has ended."""
        if self._interrupts:
            raise KeyboardInterrupt
        for child in self._children:
            if child.process.poll() is not None:
                raise ProcessDiedError(child.failure())

    def stop(self, grace_s: float = 10.0) -> None:
        """Ends every process and its descendants, last started first; politely, then not. Safe to call again."""
        children, self._children = list(reversed(self._children)), []
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline, heard = time.monotonic() + grace_s, self._interrupts
        while any(child.process.poll() is None for child in children):
            if time.monotonic() > deadline or self._interrupts > heard:
                break
            time.sleep(_POLL_S)
        left = _marked(self._mark)
        for child in children:
            _end_group(child, signal.SIGKILL)
            child.process.wait()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=grace_s)

    def _note_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._interrupts += 1


def _marked(mark: str) -> list[psutil.Process]:
    """Every process with our mark in its environment: also those whose parent is gone, or that left its session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_MARK) == mark:
                found.append(process)
    return found


def _end_group(child: Child, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, how)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
