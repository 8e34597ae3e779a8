"""Keeps messages that wait to be sent on disk: in order, bounded, and there after a restart."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from fingerpost.lake import set_aside, write_bytes_atomically

logger = logging.getLogger(__name__)
_SUFFIX = ".packed"
_NAME = re.compile(r"[0-9]{1,18}\.packed")
# What is held in memory while the disk cannot be written; it is sent from there if it can be sent.
_MAX_HELD_BYTES = 4 * 2**20


class Spool:
    """A queue of small packets in a folder, one file each, named by their number. One process writes it.

    Past its cap the oldest packets go first, and are counted. While the disk cannot be written, packets are held in
    memory, at most 4 MiB of them, and written as soon as it can be. What lies in the folder under a packet's name and
    is none is set aside.

    Attributes:
        dropped: packets that went because of the caps.
        problem: why packets are held in memory; None: they are on disk.

    Args:
        folder: of its own; made if it is not there.
        max_bytes: cap on the packets' sizes together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._sizes = {number: path.stat().st_size for number, path in sorted(self._found())}
        self._next = max(self._sizes, default=-1) + 1
        self._bytes = sum(self._sizes.values())
        self._held: dict[int, bytes] = {}
        self.dropped = 0
        self.problem: str | None = None

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size(self) -> int:
        """The packets' sizes together."""
        return self._bytes

    def put(self, packet: bytes) -> None:
        """Adds a packet; if the disk can be written, it is there, whole, when this returns."""
        number, self._next = self._next, self._next + 1
        self._held[number] = packet
        self._sizes[number] = len(packet)
        self._bytes += len(packet)
        self._write_held()
        while self._bytes > self._max_bytes and len(self._sizes) > 1:
            self._drop(next(iter(self._sizes)))
        while sum(map(len, self._held.values())) > _MAX_HELD_BYTES and len(self._held) > 1:
            self._drop(next(iter(self._held)))

    def oldest(self, most: int, most_bytes: int) -> list[tuple[int, bytes]]:
        """The oldest packets with their numbers, in order: at most so many, of at most so many bytes, but one."""
        found: list[tuple[int, bytes]] = []
        size = 0
        for number in list(self._sizes)[:most]:
            size += self._sizes.get(number, 0)
            if found and size > most_bytes:
                break
            try:
                found.append((number, self._held.get(number) or self._path(number).read_bytes()))
            except FileNotFoundError:  # removed by a person
                self._forget(number)
            except OSError as error:
                self._forget(number)
                self.dropped += 1
                _refuse(self._path(number), str(error))
        return found

    def remove(self, numbers: list[int]) -> None:
        """Removes packets; those that are gone already are no error."""
        for number in numbers:
            # What cannot be removed (a disk that became read-only) is sent again after a restart, which harms nobody.
            with contextlib.suppress(OSError):
                self._path(number).unlink(missing_ok=True)
            self._forget(number)

    def _write_held(self) -> None:
        self.problem = None
        for number, packet in list(self._held.items()):
            try:
                write_bytes_atomically(self._path(number), packet)
            except OSError as error:
                self.problem = str(error)
                return
            del self._held[number]

    def _drop(self, number: int) -> None:
        self.remove([number])
        self.dropped += 1

    def _forget(self, number: int) -> None:
        self._held.pop(number, None)
        self._bytes -= self._sizes.pop(number, 0)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_SUFFIX}"

    def _found(self) -> Iterator[tuple[int, Path]]:
        for path in list(self._folder.glob(f"*{_SUFFIX}")):
            if _NAME.fullmatch(path.name) and path.is_file():
                yield int(path.stem), path
            else:
                _refuse(path, "it is no packet")


def _refuse(path: Path, why: str) -> None:
    logger.warning("%s cannot be sent (%s): it is kept as %s", path, why, set_aside(path).name)
