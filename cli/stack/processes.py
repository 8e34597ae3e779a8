"""A set of child processes that live and die together.

Each child leads a session of its own, so that the terminal's Ctrl-C reaches only us and stopping can reach all of a
child's own children, also those that outlived it: they carry a mark in their environment (`marks.py`). If we die
without a word, a process of its own ends what is left (`sentinel.py`); on Linux each child is told at once.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType

import psutil

from fingerpost import heartbeat
from fingerpost.cli.stack.logs import Bounds, copy_and_cut
from fingerpost.cli.stack.marks import Mark, end_marked, marked
from fingerpost.cli.stack.sentinel import start_sentinel
from fingerpost.errors import NotReadyError, ProcessDiedError
from fingerpost.masking import masked

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.1
_LEFT_OVER_GRACE_S = 3.0
_TOLD_BYTES = 64 * 1024
LOG_BOUNDS = Bounds(16 * 2**20, 4)


@dataclass
class Child:
    """A started process.

    Args:
        log: the file that its output goes to, after that of earlier starts.
        began: size of the log when it started.
        log_problem: why its output goes nowhere; empty: it does not.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    began: int = 0
    log_problem: str = ""

    def output(self) -> str:
        """What it has written since its start: the last 64 KiB of it; empty if it cannot be read."""
        if self.log_problem:
            return ""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A log that was cut meanwhile holds nothing else than what came since.
            begin = self.began if self.began <= size else 0
            file.seek(max(begin, size - _TOLD_BYTES))
            return file.read().decode(errors="replace")
        return ""

    def failure(self) -> str:
        """How it ended, in words, with the end of its log."""
        code = self.process.returncode
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        last = "".join(f"\n    {masked(line)[:300]}" for line in self.output().strip().splitlines()[-5:])
        log = f"its log is {self.log}{', ending:' if last else ''}{last}"
        return f"{self.name} (pid {self.process.pid}) {how}; {'it had no log' if self.log_problem else log}"


class ProcessGroup:
    """Starts processes and watches over them; leaving the context stops them all.

    Args:
        log_dir: each process writes to `<name>.log` there, after a line that says when it started.
        env: variables for every process, beside our own.
        bounds: of each log; see `bound_logs`.
    """

    def __init__(self, log_dir: Path, env: Mapping[str, str], bounds: Bounds = LOG_BOUNDS) -> None:
        self._log_dir, self._bounds = log_dir.absolute(), bounds
        self._id = uuid.uuid4().hex
        self._env = {**os.environ, **env}
        # What a supervisor wants to hear of us it does not want to hear of each of them.
        self._env.pop(heartbeat.VARIABLE, None)
        self._children: list[Child] = []
        self._sentinel: subprocess.Popen[bytes] | None = None
        self._interrupts = 0
        log_dir.mkdir(parents=True, exist_ok=True)

    def catch_signals(self) -> None:
        """Has SIGINT, SIGTERM and SIGHUP noted, to be acted on in `check`: an exception out of a handler can strike,
        and be swallowed, anywhere. Call it from the main thread; a second signal while stopping ends the waiting."""
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup` has a terminal's end ignored.
            if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:
                signal.signal(each, self._note_signal)

    def end_left_over(self, names: Collection[str] | None = None) -> int:
        """Ends what an earlier stack with the same log folder has left; politely, then not.

        Only for whoever knows that no other stack runs there.

        Args:
            names: of these processes alone; None: of all.

        Returns:
            How many processes there were.
        """

        def ours(mark: Mark) -> bool:
            if mark.folder != self._log_dir or mark.stack == self._id:
                return False
            return names is None or mark.part in names

        return end_marked(ours, _LEFT_OVER_GRACE_S)

    def __enter__(self) -> "ProcessGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Starts a process; its standard output and error go to its log, or nowhere if that cannot be opened.

        Raises:
            OSError, subprocess.SubprocessError: it cannot be started.
        """
        self.keep_sentinel()
        log = self._log_dir / f"{name}.log"
        output, problem = self._open_log(log, name)
        try:
            began = os.fstat(output).st_size
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._env, **(env or {}), **Mark(self._id, name, self._log_dir).environment()},
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (we have no threads)
            )
        finally:
            os.close(output)
        child = Child(name, process, log, began, problem)
        self._children.append(child)
        return child

    def family(self, child: Child) -> set[int]:
        """Process ids of a child and all that it has started, as far as they live."""
        found = {child.process.pid, *(each.pid for each in marked(self._of(child.name)))}
        with contextlib.suppress(psutil.Error):
            found |= {each.pid for each in psutil.Process(child.process.pid).children(recursive=True)}
        return found

    def bound_logs(self) -> None:
        """Keeps each log to its size; what cannot be done now is tried again at the next call."""
        for child in self._children:
            with contextlib.suppress(OSError):
                copy_and_cut(child.log, self._bounds)

    def keep_sentinel(self) -> None:
        """Starts the process that ends what we leave behind, if there is none; without it all else goes on."""
        if self._sentinel is None or self._sentinel.poll() is not None:
            with contextlib.suppress(OSError):
                self._sentinel = start_sentinel(self._id)

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
        self.end(child)

    def end(self, child: Child, grace_s: float = 10.0) -> None:
        """Ends one process of the set and all that it has started, and lets go of it; politely, then not."""
        self._children.remove(child)
        if child.process.poll() is None and grace_s > 0:
            child.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(grace_s)
        _end_group(child, signal.SIGKILL)
        # Before a next start: what is left would hold the port, and answer in its place.
        end_marked(self._of(child.name))
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
        for child in children:
            _end_group(child, signal.SIGKILL)
        end_marked(lambda mark: mark.stack == self._id)
        for child in children:
            child.process.wait()
        if self._sentinel is not None and self._sentinel.stdin is not None:
            self._sentinel.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._sentinel.wait(grace_s)
            self._sentinel = None

    def _of(self, name: str) -> Callable[[Mark], bool]:
        return lambda mark: mark.stack == self._id and mark.part == name

    def _open_log(self, log: Path, name: str) -> tuple[int, str]:
        """A descriptor for a process's output, and why it leads nowhere if it does: no log is worth a process."""
        with contextlib.suppress(OSError):
            copy_and_cut(log, self._bounds)
        try:
            output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), f"{error.strerror}: {log}"
        with contextlib.suppress(OSError):
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            os.write(output, f"--- {now} {name} starts ---\n".encode())
        return output, ""

    def _note_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._interrupts += 1


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def _end_group(child: Child, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, how)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
