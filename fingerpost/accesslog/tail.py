"""Following a log file as it grows, through rotation and truncation."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from fingerpost.accesslog.rotation import (
    HEAD_BYTES,
    MARK_BYTES,
    PACKED,
    UNPACKING_ERRORS,
    Position,
    copy_of,
    find,
    mark_of,
    next_after,
    open_log,
)

logger = logging.getLogger(__name__)
MAX_LINE_BYTES = 64 * 1024
_CHUNK_BYTES = 1 << 20
_HEADS_KEPT = 8


class LogTail:
    """Reads the complete lines that were added to a log since the last call.

    A renamed (rotated) log is read on until something is in the new one, for its writer goes on for a while; then come
    the files, also compressed ones, that were written between the two, in the order of time. So it is after an absence,
    if they are still in the same folder; what is not there any more is counted and warned of. A truncated log is read
    anew from its beginning, even if it has grown past where we stood; before that the rest of its copy, if there is
    one. What such an end leaves of a line comes as a line. A line longer than 64 KiB comes cut to that length, its rest
    skipped.

    Args:
        path: the log; it need not exist yet.
        position: where an earlier reader stood.
        counts: gets `log_gaps` (files that were gone before they were read to their end) and `log_damaged` (compressed
            files that could not be read to their end).
    """

    def __init__(self, path: Path, position: Position | None = None, counts: Counter[str] | None = None) -> None:
        self._path = path
        self._file: BufferedReader | None = None
        self._packed = False
        self._resume = position or Position()
        self._heads = self._resume.heads
        self._counts: Counter[str] = Counter() if counts is None else counts
        self._skipping = False
        self._partial = b""
        # What was read last, at least as much as a mark is made of, and where it ends.
        self._recent = b""
        self._end = self._offset = 0
        self._inode = self._written_ns = 0

    @property
    def is_open(self) -> bool:
        """Whether a file was found to read."""
        return self._file is not None

    @property
    def size(self) -> int:
        """Bytes of the file that is read, those that are yet to be read too; of a compressed one those that were."""
        if self._file is None:
            return self._resume.offset
        return self._end if self._packed else os.fstat(self._file.fileno()).st_size

    @property
    def position(self) -> Position:
        """After the last complete line that was handed out."""
        if self._file is None:
            return self._resume
        before = self._recent[: len(self._recent) - (self._end - self._offset)][-MARK_BYTES:]
        return Position(self._inode, self._offset, mark_of(before), self._written_ns, self._heads)

    def lines(self) -> Iterator[bytes]:
        """The complete lines added since the last call, without their line ends.

        Raises:
            OSError: the log is there and cannot be read.
        """
        for block, end in self._blocks():
            for line in block:
                self._offset = min(self._offset + len(line) + 1, end)
                if line.strip():
                    yield line[:MAX_LINE_BYTES]
            self._offset = end

    def blocks(self) -> Iterator[tuple[list[bytes], int]]:
        """As `lines`, about 1 MiB of them at a time, with its size; blank lines are left in."""
        for block, end in self._blocks():
            size, self._offset = end - self._offset, end
            yield block, size

    def _blocks(self) -> Iterator[tuple[list[bytes], int]]:
        """Lines with the offset that they end at."""
        if self._file is None and not self._open():
            return
        if self._truncated():
            copy = copy_of(self._path, Position(offset=self._end, mark=mark_of(self._recent[-MARK_BYTES:])))
            if copy is None:
                yield from self._last_line()
                self._seek(0)
            else:
                self._enter(copy, self._offset)
        yield from self._read()
        while self._rotated():
            yield from self._read()
            yield from self._last_line()
            if not self._advance():
                return
            yield from self._read()

    def rewind(self) -> None:
        """Forgets what was read but not handed out, to hand it out the next time."""
        if self._file:
            self._seek(self._offset)

    def close(self) -> None:
        """Closes the file; the next call of `lines` goes on where this reader stood."""
        if self._file:
            self._resume = self.position
            self._file.close()
        self._file, self._partial, self._skipping = None, b"", False

    @property
    def _open_file(self) -> BufferedReader:
        if self._file is None:
            raise ValueError("the log is not open")
        return self._file

    def _open(self) -> bool:
        """Opens the file to go on in; False: there is none yet."""
        stood = self._resume
        if not stood.inode:
            return self._enter(self._path, 0)
        found = find(self._path, stood)
        if found is not None:
            return self._enter(found, stood.offset)
        if not self._path.exists():
            return False
        later = next_after(self._path, stood.written_ns, None, self._heads) if stood.written_ns else None
        if stood.offset or later is None:
            self._counts["log_gaps"] += 1
            logger.warning(
                "%s was replaced or truncated while nobody read it, and what followed byte %d is not in its folder: "
                "requests are missing if any were there; have the rotation keep more files",
                self._path,
                stood.offset,
            )
        return self._enter(later or self._path, 0)

    def _enter(self, path: Path, offset: int) -> bool:
        """Goes on in a file; False if it is gone."""
        try:
            file = open_log(path)
        except FileNotFoundError:
            return False
        if self._file:
            self._file.close()
        self._file, self._packed = file, path.suffix == PACKED
        self._inode = self._note_time().st_ino
        self._seek(offset)
        return True

    def _advance(self) -> bool:
        """Goes on in the file that was written after this one; False if it is gone, to be looked for the next time."""
        about = self._note_time()
        self._open_file.seek(0)
        head = mark_of(self._whole(HEAD_BYTES))
        self._seek(self._offset)
        self._heads = (*self._heads, head)[-_HEADS_KEPT:]
        later = next_after(self._path, about.st_mtime_ns, about.st_ino, self._heads)
        return self._enter(later or self._path, 0)

    def _last_line(self) -> Iterator[tuple[list[bytes], int]]:
        """The file is finished, so its last line is as complete as it will be."""
        if self._partial and not self._skipping:
            partial, self._partial = self._partial, b""
            yield [partial], self._end

    def _seek(self, offset: int) -> None:
        size = min(offset, MARK_BYTES)
        self._open_file.seek(offset - size)
        self._recent = self._whole(size)
        self._open_file.seek(offset)
        self._partial, self._skipping = b"", False
        self._end = self._offset = offset

    def _read(self) -> Iterator[tuple[list[bytes], int]]:
        while chunk := self._some():
            *complete, rest = (self._partial + chunk).split(b"\n")
            self._recent, self._end = self._recent + chunk, self._end + len(chunk)
            if self._skipping and complete:
                self._skipping = False
                self._offset += len(complete.pop(0)) + 1
            if complete:
                yield complete, self._end - len(rest)
            if len(rest) > MAX_LINE_BYTES:
                if self._skipping:
                    self._offset = self._end
                else:
                    yield [rest[:MAX_LINE_BYTES]], self._end
                self._skipping = True
                rest = b""
            self._partial = rest
            self._recent = self._recent[-MARK_BYTES - len(rest) :]
        self._note_time()

    def _some(self) -> bytes:
        """The next bytes; of a compressed file that is damaged all that come before the damage."""
        try:
            return self._open_file.read1(_CHUNK_BYTES) if self._packed else self._open_file.read(_CHUNK_BYTES)
        except UNPACKING_ERRORS as error:
            self._counts["log_damaged"] += 1
            logger.warning("%s cannot be read to its end: %s", self._open_file.name, error)
            return b""

    def _whole(self, size: int) -> bytes:
        with contextlib.suppress(*UNPACKING_ERRORS):
            return self._open_file.read(size)
        return b""

    def _note_time(self) -> os.stat_result:
        """Notes when the file was last written to, as long as it is surely the one that is being read."""
        about = os.fstat(self._open_file.fileno())
        self._written_ns = about.st_mtime_ns
        return about

    def _truncated(self) -> bool:
        if self._packed:
            return False
        if os.fstat(self._open_file.fileno()).st_size < self._end:
            return True
        expected = self._recent[-MARK_BYTES:]
        before = os.pread(self._open_file.fileno(), len(expected), self._end - len(expected))
        # A writer that does not append leaves zeros where the log was, and goes on where it stood, as we do.
        return before != expected and bool(before.strip(b"\0"))

    def _rotated(self) -> bool:
        try:
            new = self._path.stat()
        except FileNotFoundError:
            return False
        return new.st_size > 0 and new.st_ino != self._inode
