"""Reads an agent's request records from an access log, or from a queue that others fill."""

import contextlib
import fcntl
import logging
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from fingerpost.accesslog import formats
from fingerpost.accesslog.rotation import Position
from fingerpost.accesslog.tail import LogTail
from fingerpost.agent.record_buffer import RecordBuffer
from fingerpost.errors import RefusedError
from fingerpost.lake import set_aside, write_text_atomically

logger = logging.getLogger(__name__)
# Begins the name of the lock that an agent of one host holds on a log that it follows.
FOLLOWS = "follows-"
# Begins the name of a count of what was refused; its reason follows.
REFUSED = "refused "


class Source(Protocol):
    """What the agent asks of a source; it is read every `pause_s` seconds, and before each report."""

    pause_s: float

    @property
    def counts(self) -> Counter[str]:
        """Events by name."""

    def read(self, intake: RecordBuffer, report: Callable[[], bool]) -> None:
        """Puts what has come into the intake; while that is full, `report` is tried, and False ends the reading."""

    def batch_name(self) -> str:
        """A name for the rows read since the last `commit`: the same if they are read again."""

    def commit(self) -> None:
        """What was read so far has been reported, and need not be read again."""

    def close(self) -> None:
        """Lets go of files and sockets."""

    def problem(self) -> str | None:
        """Why nothing can be read now, and what to do; None: it can."""


class Queue(Protocol):
    """What a `QueueSource` takes its rows from."""

    counts: Counter[str]

    def records(self) -> list[dict[str, Any]]:
        """What has come since the last call."""

    def close(self) -> None:
        """Takes no more."""


class LogSource:
    """Follows an access log.

    Several agents may follow one log (that of a proxy before several hosts): each takes the lines that name its host.
    Lines that nobody can claim are refused by just one of them, the one that holds the lock in the state folder.

    Args:
        log: the access log; it need not exist yet.
        log_format: a name or a format string, as of `fingerpost.accesslog.formats.log_format`.
        service, host: whose lines are taken.
        state: folder for the checkpoint, a copy of it, and the lock, shared by the agents of the service.
    """

    # A log can wait, and is cheaper to read in large parts.
    pause_s = 5.0
    one_host = True

    def __init__(self, log: Path, log_format: str, service: str, host: str, state: Path) -> None:
        self._service, self._host = service, host
        self._format = formats.log_format(log_format)
        self._checkpoint, self._copy = state / f"{host}.json", state / f"{host}.copy"
        # One lock a log: agents on logs of their own must not wait for each other.
        self._log_mark = f"{zlib.crc32(str(log).encode()):08x}"
        self._claim_path = state / f"unclaimed-{self._log_mark}.lock"
        self._claim: IO[str] | None = None
        self._log = log
        self._error: OSError | None = None
        self._missing = 0
        self.counts: Counter[str] = Counter()
        self._tail = LogTail(log, self._load_position(), self.counts)
        self._batch_start = self._tail.position
        self._follows = _locked(state / f"{FOLLOWS}{self._log_mark}-{host}.lock") if self.one_host else None

    def read(self, intake: RecordBuffer, report: Callable[[], bool]) -> None:
        """Takes in what was added to the log; a line never stops it. What cannot be held waits in the log."""
        if intake.full:
            return
        self._error = None
        self._missing = 0 if self._log.exists() else self._missing + 1
        try:
            for line in self._tail.lines():
                self._take(line, intake)
                if intake.full and not report():
                    self._tail.rewind()
                    return
        except OSError as error:
            self._error = error
            self.counts["log_errors"] += 1

    def problem(self) -> str | None:
        if self._error is not None:
            return f"{self._log} cannot be read, will try again: {self._error.strerror or self._error}"
        # A log that is being rotated is away for a moment.
        if self._missing > (1 if self._tail.is_open else 0):
            return f"{self._log} does not exist: requests are read as soon as it does; is --access-log right?"
        return None

    def batch_name(self) -> str:
        return str(self._batch_start.offset)

    def commit(self) -> None:
        self._batch_start = self._tail.position
        self._save(self._batch_start.to_json())

    def close(self) -> None:
        self._tail.close()
        for lock in (self._claim, self._follows):
            if lock:
                lock.close()

    def _take(self, line: bytes, intake: RecordBuffer) -> None:
        host = self._format.claim(line, self._host)
        if host is not None and host != self._host:
            self.counts["foreign"] += 1
            return
        if host is None and not self._holds_claim():
            self.counts["unclaimed"] += 1
            return
        try:
            row = self._format.parse(line, self._service, host)
        except RefusedError as error:
            intake.refuse(error.reason, line)
        else:
            intake.take(row, line)

    def _holds_claim(self) -> bool:
        if self._claim is None:
            try:
                self._claim = _locked(self._claim_path)
            except OSError:
                return True  # no lock can be made: better refused, and kept, by several than by none
        return self._claim is not None

    def _first_position(self) -> Position:
        """The log's beginning, noted at once: it may be rotated before anything of it has been reported."""
        try:
            about = self._log.stat()
        except OSError:
            return Position()
        first = Position(about.st_ino, 0, "", about.st_mtime_ns)
        with contextlib.suppress(OSError):
            self._save(first.to_json())
        return first

    def _save(self, text: str) -> None:
        """Saves how far the log was read; twice, since without it all that the log holds is read again."""
        write_text_atomically(self._checkpoint, text)
        write_text_atomically(self._copy, text)

    def _load_position(self) -> Position:
        path = self._checkpoint
        try:
            return Position.from_json(path.read_text())
        except FileNotFoundError:
            return self._first_position()
        except (OSError, ValueError) as error:
            self.counts["checkpoints_refused"] += 1
            kept = set_aside(path)
            found = self._copied()
            logger.warning(
                "%s does not tell how far the log was read (%s): kept as %s; the log is read from %s",
                path,
                error,
                kept.name,
                "its beginning" if found is None else f"where {self._copy.name} says",
            )
            return Position() if found is None else found

    def _copied(self) -> Position | None:
        """The position in the copy, which becomes the checkpoint again; None: the copy is of no use either."""
        try:
            text = self._copy.read_text()
            found = Position.from_json(text)
            write_text_atomically(self._checkpoint, text)
        except (OSError, ValueError):
            return None
        return found


def _locked(path: Path) -> IO[str] | None:
    """A lock file that is ours until it is closed; None: another process has it.

    Raises:
        OSError: it cannot be made.
    """
    handle = path.open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    return handle


class QueueSource:
    """Takes request records that come by themselves, from a socket or by HTTP.

    Args:
        queue: its `records` gives the rows that have come since the last call; it is bounded, and counts what it drops.
        service, host: what the rows are set to: they speak of no other host than ours.
        life: sets the batches of this life of the agent apart from others.
    """

    pause_s = 2.0

    def __init__(self, queue: Queue, service: str, host: str, life: str) -> None:
        self._queue = queue
        self._identity = {"service": service, "host": host}
        self._life = life
        self._batch = 0

    @property
    def counts(self) -> Counter[str]:
        counts = self._queue.counts.copy().items()
        return Counter({name if name.startswith(REFUSED) else f"queue_{name}": count for name, count in counts})

    def read(self, intake: RecordBuffer, report: Callable[[], bool]) -> None:
        """Takes in what has come. What comes while nothing can be reported is dropped, and counted, by its sender."""
        if intake.full and not report():
            return
        for row in self._queue.records():
            intake.take({**row, **self._identity}, repr(row).encode()[:4096])

    def problem(self) -> str | None:
        return None

    def batch_name(self) -> str:
        return f"{self._life}-{self._batch}"

    def commit(self) -> None:
        self._batch += 1

    def close(self) -> None:
        self._queue.close()
