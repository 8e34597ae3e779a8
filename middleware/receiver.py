"""The receiving side: the agent's datagram socket, and the records that came through it."""

import os
import socket
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from fingerpost.bounded import Bounds, unpacked
from fingerpost.middleware.wire import MAX_DATAGRAM, VERSION, allowed

_MAX_DATAGRAMS = 64
_RECEIVE_BUFFER = 2**20
# A datagram has room for hundreds of records; an empty map takes one byte of it, and 64 in memory.
_BATCH = Bounds(containers=4098, array=4096, map=64, text=MAX_DATAGRAM, binary=MAX_DATAGRAM)


class MiddlewareReceiver:
    """Binds the socket at `path`; the file is made anew, may be written to by its owner only, and goes with `close`.

    Attributes:
        counts: `records`; `dropped` by the senders; `bad_datagrams` (not ours, not readable, too long) and
            `bad_records` (not a map).

    Args:
        mode: of the socket file; 0o660 lets the group send too.

    Raises:
        OSError: the folder is missing, or the path is something else than a socket.
    """

    def __init__(self, path: str | Path, mode: int = 0o600) -> None:
        self.path = Path(path)
        self._remove_stale()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The file must never be open to others, not even between bind and chmod.
        mask = os.umask(0o777 & ~mode)
        try:
            self._socket.bind(str(self.path))
        except OSError:
            self._socket.close()
            raise
        finally:
            os.umask(mask)
        self._inode = self.path.stat().st_ino
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self.counts: Counter[str] = Counter()

    def fileno(self) -> int:
        """For `select`: readable when there is something to take."""
        return self._socket.fileno()

    def records(self) -> list[dict[str, Any]]:
        """Takes what has come, at most 64 datagrams, without waiting; never raises for what is in them.

        Returns:
            Records with the keys and types of `fingerpost.middleware.wire.RECORD_KEYS`, any of which may be missing.
        """
        taken: list[dict[str, Any]] = []
        for _ in range(_MAX_DATAGRAMS):
            try:
                datagram = self._socket.recv(MAX_DATAGRAM + 1)
            except BlockingIOError:
                break
            except InterruptedError:
                continue
            taken += self._unpack(datagram)
        self.counts["records"] += len(taken)
        return taken

    def close(self) -> None:
        """Closes the socket, and removes its file unless another receiver has taken the path over."""
        self._socket.close()
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass

    def _unpack(self, datagram: bytes) -> list[dict[str, Any]]:
        batch = _batch(datagram)
        if batch is None:
            self.counts["bad_datagrams"] += 1
            return []
        records, dropped = batch
        self.counts["dropped"] += dropped
        good = [allowed(record) for record in records if isinstance(record, dict)]
        self.counts["bad_records"] += len(records) - len(good)
        return good

    def _remove_stale(self) -> None:
        try:
            if stat.S_ISSOCK(self.path.lstat().st_mode):
                self.path.unlink()
        except FileNotFoundError:
            pass


def _batch(datagram: bytes) -> tuple[list[Any], int] | None:
    """The records and the number of dropped ones of a datagram, or None if it is not one of ours."""
    if len(datagram) > MAX_DATAGRAM or datagram[:1] != bytes([VERSION]):
        return None
    try:
        batch = unpacked(datagram[1:], _BATCH)
    except ValueError:
        return None
    if not isinstance(batch, dict) or not isinstance(batch.get("records"), list):
        return None
    dropped = batch.get("dropped")
    return batch["records"], dropped if type(dropped) is int and 0 <= dropped < 2**40 else 0
