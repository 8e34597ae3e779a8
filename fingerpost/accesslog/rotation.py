"""A log's rotated files: which they are, in which order they were written, and where in them a reader stood."""

import contextlib
import gzip
import hashlib
import json
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

PACKED = ".gz"
MARK_BYTES = 64
HEAD_BYTES = 4096
# `access.log.1`, `access.log-20260131`, `access.log.old`.
_AFTER = re.compile(r"[-._]?\d[\w.:+-]*|[-._](?:old|bak|prev)")
# `access-20260131.log`; a short number there may as well be another log.
_WITHIN = re.compile(r"[-._]\d{4}[\w.:+-]*")
# A file's time may be stored in whole seconds by what compressed it.
_COARSE_NS = 1_000_000_000
# What damaged or unfinished compressed files raise.
UNPACKING_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Position:
    """Where a reader stands in a log.

    Args:
        inode: of the file; 0: nothing was read yet.
        offset: bytes that were read of it, of a compressed file those it holds.
        mark: of the bytes before the offset, by which the file is known again if it was copied or compressed; empty:
            not known.
        written_ns: when the file was last written to, nanoseconds since 1970; 0: not known.
        heads: marks of the beginnings of files that were read before, the newest last.
    """

    inode: int = 0
    offset: int = 0
    mark: str = ""
    written_ns: int = 0
    heads: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Position":
        """What `to_json` wrote, also that of earlier versions, which knew inode and offset only.

        Raises:
            ValueError: it is something else; the message names what does not fit.
        """
        try:
            given = json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if not isinstance(given, dict):
            raise ValueError("it is no object")
        for name in ("inode", "offset", "written_ns"):
            value = given.get(name, 0 if name == "written_ns" else None)
            if type(value) is not int or not 0 <= value < 2**63:
                raise ValueError(f"{name} is {str(value)[:40]!r}, not a number from 0 to 2^63 - 1")
        mark, heads = given.get("mark", ""), given.get("heads", [])
        if not isinstance(mark, str) or not isinstance(heads, list) or not all(isinstance(each, str) for each in heads):
            raise ValueError("its marks are no texts")
        return cls(given["inode"], given["offset"], mark, given.get("written_ns", 0), tuple(heads))


def mark_of(content: bytes) -> str:
    """A mark of some bytes of a log that does not tell what they are; empty for none."""
    return hashlib.sha256(content).hexdigest()[:16] if content else ""


def is_rotated(name: str, log: str) -> bool:
    """Whether a file name is what rotation makes of a log's, such as `access.log.2.gz` of `access.log`."""
    name = name.removesuffix(PACKED)
    if name.startswith(log):
        return _AFTER.fullmatch(name[len(log) :]) is not None
    stem, dot, ending = log.rpartition(".")
    ending = dot + ending
    if not stem or not name.startswith(stem) or not name.endswith(ending) or len(name) < len(log):
        return False
    return _WITHIN.fullmatch(name[len(stem) : -len(ending)]) is not None


def open_log(path: Path) -> BufferedReader:
    """Opens a log for reading, also a compressed one.

    Raises:
        OSError: it cannot be opened.
    """
    return cast(BufferedReader, gzip.open(path, "rb")) if path.suffix == PACKED else path.open("rb")


def head_of(path: Path) -> str:
    """The mark of a file's beginning; empty for a file that is empty or cannot be read."""
    with contextlib.suppress(OSError, *UNPACKING_ERRORS), open_log(path) as file:
        return mark_of(file.read(HEAD_BYTES))
    return ""


def find(log: Path, stood: Position) -> Path | None:
    """The file in which a reader stood: renamed, copied or compressed meanwhile, or still the log; None: it is gone."""
    for path in _beside(log):
        with contextlib.suppress(OSError):
            if path.stat().st_ino == stood.inode and _fits(path, stood):
                return path
    return copy_of(log, stood)


def copy_of(log: Path, stood: Position) -> Path | None:
    """The rotated file that holds the bytes before a position, whatever its inode."""
    if not stood.mark:
        return None
    written = [(ns, path) for ns, path in _rotated(log) if ns >= stood.written_ns - _COARSE_NS]
    return next((path for _, path in reversed(written) if _fits(path, stood)), None)


def next_after(log: Path, written_ns: int, inode: int | None, heads: tuple[str, ...]) -> Path | None:
    """The rotated file that was finished next after a moment; None: there is none, it goes on in the log itself.

    Args:
        written_ns: when the file before it was last written to, nanoseconds since 1970.
        inode: of the file before it, if it is still there.
        heads: marks of the beginnings of files that were read: a compressed copy has another inode, and maybe another
            time.
    """
    for ns, path in _rotated(log):
        with contextlib.suppress(OSError):
            if ns >= written_ns and path.stat().st_ino != inode:
                head = head_of(path)
                if head and head not in heads:
                    return path
    return None


def _fits(path: Path, stood: Position) -> bool:
    """Whether a file has been read up to a position, as far as its mark can tell."""
    packed = path.suffix == PACKED
    if not packed and path.stat().st_size < stood.offset:
        return False
    if not stood.mark:
        return True
    size = min(stood.offset, MARK_BYTES)
    with contextlib.suppress(OSError, *UNPACKING_ERRORS), open_log(path) as file:
        file.seek(stood.offset - size)
        return mark_of(file.read(size)) == stood.mark
    return False


def _beside(log: Path) -> list[Path]:
    """The log and all files of its folder that may have been it, whatever rotation calls them."""
    with contextlib.suppress(OSError):
        return [log, *(each for each in log.parent.iterdir() if each.name.startswith(log.stem) and each != log)]
    return [log]


def _rotated(log: Path) -> list[tuple[int, Path]]:
    """The rotated files of a log with the time of their last change, by that time."""
    return sorted(_times(log))


def _times(log: Path) -> Iterator[tuple[int, Path]]:
    beside = _beside(log)
    names = {path.name for path in beside}
    for path in beside:
        # One that is being compressed is there twice, and whole only under its own name.
        if not is_rotated(path.name, log.name) or (path.suffix == PACKED and path.stem in names):
            continue
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                yield found.st_mtime_ns, path
