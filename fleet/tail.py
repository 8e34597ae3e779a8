"""Following a log file as it grows, through rotation and truncation."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_LINE_BYTES = 64 * 1024
_CHUNK_BYTES = 1 << 20
_MARK_BYTES = 64


@dataclass(frozen=True)
class Position:
    """Where a reader stands: in which file (inode), after how many bytes."""

    inode: int = 0
    offset: int = 0


class LogTail:
    """Reads the complete lines that were added to a log since the last call.

    A renamed (rotated) log is read on until something is in the new one, for its writer goes on for a while; also by a
    reader that was away, if it is still in the same folder. A truncated one is read anew from its beginning, even if it
    has grown past where we stood. What such an end leaves of a line comes as a line. A line longer than 64 KiB comes
    cut to that length, its rest skipped.

    Args:
        path: the log; it need not exist yet.
        position: where an earlier reader stood; used if the file is still the same.
    """

    def __init__(self, path: Path, position: Position | None = None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._resume = position or Position()
        self._partial = b""
        self._skipping = False
        self._mark = b""
        self._at = self._resume.inode
        self._offset = self._resume.offset

    @property
    def position(self) -> Position:
        """After the last complete line that was handed out."""
        return Position(self._at, self._offset)

    def lines(self) -> Iterator[bytes]:
        """The complete lines added since the last call, without their line ends."""
        if self._file is None and not self._open():
            return
        if self._truncated():
            yield from self._last_line()
            self._seek(0)
        yield from self._read()
        if self._rotated():
            yield from self._read()
            yield from self._last_line()
            self.close()
            if self._open():
                yield from self._read()

    def rewind(self) -> None:
        """Forgets what was read but not handed out, to hand it out the next time."""
        if self._file:
            self._seek(self._offset)

    @property
    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("the log is not open")
        return self._file

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file, self._partial, self._skipping = None, b"", False

    def _open(self) -> bool:
        try:
            self._file = (self._renamed() or self._path).open("rb")
        except FileNotFoundError:
            return False
        same = self._inode() == self._resume.inode and self._size() >= self._resume.offset
        self._seek(self._resume.offset if same else 0)
        self._resume = Position()
        return True

    def _renamed(self) -> Path | None:
        """The log where an earlier reader stood, if it was renamed since."""
        wanted = self._resume
        if not wanted.inode or self._is_at(self._path, wanted):
            return None
        siblings = [each for each in self._path.parent.iterdir() if each.name.startswith(self._path.stem)]
        return next((each for each in siblings if self._is_at(each, wanted)), None)

    @staticmethod
    def _is_at(path: Path, wanted: Position) -> bool:
        """Whether a path is the file of a position, and still as long."""
        with contextlib.suppress(OSError):
            found = path.stat()
            return found.st_ino == wanted.inode and found.st_size >= wanted.offset
        return False

    def _last_line(self) -> Iterator[bytes]:
        """The file is finished, so its last line is as complete as it will be."""
        if self._partial and not self._skipping:
            partial, self._partial = self._partial, b""
            yield partial

    def _seek(self, offset: int) -> None:
        self._open_file.seek(offset)
        self._mark = self._before(offset)
        self._partial, self._skipping = b"", False
        self._at, self._offset = self._inode(), offset

    def _read(self) -> Iterator[bytes]:
        while chunk := self._open_file.read(_CHUNK_BYTES):
            self._mark = (self._mark + chunk)[-_MARK_BYTES:]
            *complete, rest = (self._partial + chunk).split(b"\n")
            for line in complete:
                self._offset += len(line) + 1
                if self._skipping:
                    self._skipping = False
                elif line.strip():
                    yield line[:MAX_LINE_BYTES]
            if len(rest) > MAX_LINE_BYTES:
                if not self._skipping:
                    yield rest[:MAX_LINE_BYTES]
                self._skipping = True
                self._offset += len(rest)
                rest = b""
            self._partial = rest

    def _truncated(self) -> bool:
        at = self._open_file.tell()
        if self._size() < at:
            return True
        before = self._before(at)
        # A writer that does not append leaves zeros where the log was, and goes on where it stood, as we do.
        return before != self._mark and bool(before.strip(b"\0"))

    def _before(self, offset: int) -> bytes:
        """The last bytes before an offset: they change if the log was truncated and has grown again."""
        size = min(offset, _MARK_BYTES)
        return os.pread(self._open_file.fileno(), size, offset - size)

    def _rotated(self) -> bool:
        try:
            new = self._path.stat()
        except FileNotFoundError:
            return False
        return new.st_ino != self._inode() and new.st_size > 0

    def _inode(self) -> int:
        return os.fstat(self._open_file.fileno()).st_ino

    def _size(self) -> int:
        return os.fstat(self._open_file.fileno()).st_size
