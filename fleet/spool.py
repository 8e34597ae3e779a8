"""What waits to be sent, on disk: in order, bounded, and there after a restart."""

from collections.abc import Iterator
from pathlib import Path

from fingerpost.lake import write_atomically

_SUFFIX = ".packed"


class Spool:
    """A queue of small packets in a folder, one file each, named by their number. One process writes it.

    Past its cap the oldest packets go first, and are counted.

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
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size(self) -> int:
        """The packets' sizes together."""
        return self._bytes

    def put(self, packet: bytes) -> None:
        """Adds a packet; it is on disk, whole, when this returns.

        Raises:
            OSError: it cannot be written; nothing has changed.
        """
        number = self._next
        write_atomically(self._path(number), lambda temporary: temporary.write_bytes(packet))
        self._next += 1
        self._sizes[number] = len(packet)
        self._bytes += len(packet)
        while self._bytes > self._max_bytes and len(self._sizes) > 1:
            self.remove([next(iter(self._sizes))])
            self.dropped += 1

    def oldest(self, most: int, most_bytes: int) -> list[tuple[int, bytes]]:
        """The oldest packets with their numbers, in order: at most so many, of at most so many bytes, but one."""
        found: list[tuple[int, bytes]] = []
        size = 0
        for number in list(self._sizes)[:most]:
            size += self._sizes.get(number, 0)
            if found and size > most_bytes:
                break
            try:
                found.append((number, self._path(number).read_bytes()))
            except FileNotFoundError:  # dropped by the cap meanwhile, or by a person
                self._forget(number)
        return found

    def remove(self, numbers: list[int]) -> None:
        """Removes packets; those that are gone already are no error."""
        for number in numbers:
            self._path(number).unlink(missing_ok=True)
            self._forget(number)

    def _forget(self, number: int) -> None:
        self._bytes -= self._sizes.pop(number, 0)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_SUFFIX}"

    def _found(self) -> Iterator[tuple[int, Path]]:
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.stem.isdigit():
                yield int(path.stem), path
