"""The sending side: records go to the agent from a thread of their own, and never hold up a request."""

import atexit
import contextlib
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from fingerpost.middleware.wire import MAX_DATAGRAM, VERSION

_FLUSH_S, _RETRY_S, _FINISH_S = 0.2, 0.05, 0.3
_MAX_HELD = 4096
_SEND_BUFFER = 2**20
_HEADROOM = 64
_FEW, _PAUSE_S = 16, 0.0005


class Reporter:
    """Sends records in batches, five times a second, to the datagram socket at `path`.

    While the socket is missing or full, up to 4096 records wait; then the oldest go, and the next batch says how many.
    A forked child begins with none of its parent's records, and with a thread and a socket of its own.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._records: deque[Callable[[], dict[str, Any]]] = deque()
        self._packed: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self._closed = False
        self.dropped = 0

    def report(self, record: Callable[[], dict[str, Any]]) -> None:
        """Takes a record to be, which is made and sent within 0.2 s, by the reporter's own thread."""
        if len(self._records) >= _MAX_HELD:
            self._drop()
            return
        self._records.append(record)
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self._start()

    def flush(self) -> None:
        """Sends what can be sent now, without waiting."""
        with self._lock:
            if self._closed:
                return
            self._pack(_MAX_HELD)
            while (self._packed or self.dropped) and self._send_batch():
                pass
            while len(self._packed) > _MAX_HELD:
                self._packed.popleft()
                self._drop()

    def finish(self) -> None:
        """Flushes at the end of a process: waits up to 0.3 s for an agent that is there, but has not read on yet."""
        deadline = time.monotonic() + _FINISH_S
        self.flush()
        while self._packed and self._socket is not None and time.monotonic() < deadline:
            time.sleep(_RETRY_S)
            self.flush()

    def close(self) -> None:
        """Flushes, and ends thread and socket; what comes after is not sent."""
        self.flush()
        with self._lock:
            self._closed = True
            self._disconnect()
        self._wake.set()

    def __del__(self) -> None:
        # Also ends the thread; at the end of the interpreter, modules may be gone already.
        with contextlib.suppress(Exception):
            self.close()

    def _drop(self) -> None:
        with self._count_lock:
            self.dropped += 1

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=_flush_for_ever, args=(weakref.ref(self),), name="fingerpost-reporter", daemon=True
                )
                self._thread.start()

    def pack_some(self) -> bool:
        """Makes a few records, so that the thread that does it holds up others for a moment only; whether more wait."""
        with self._lock:
            self._pack(_FEW)
        return bool(self._records)

    def _pack(self, most: int) -> None:
        for _ in range(min(most, len(self._records))):
            record = self._records.popleft()
            try:
                packed = msgpack.packb(record(), unicode_errors="replace")
            except Exception:  # whatever strange servers and clients put into it, the thread must go on
                self._drop()
                continue
            if len(packed) < MAX_DATAGRAM - _HEADROOM:
                self._packed.append(packed)
            else:
                self._drop()

    def _send_batch(self) -> bool:
        size, batch, dropped = _HEADROOM, [], self.dropped
        for packed in self._packed:
            size += len(packed)
            if size > MAX_DATAGRAM:
                break
            batch.append(packed)
        head = msgpack.packb({"dropped": dropped, "records": [None] * len(batch)})
        # Nothing is packed twice: the records take the place of the nils, one byte each, that end the map.
        head = head[: len(head) - len(batch)]
        if not self._send(bytes([VERSION]) + head + b"".join(batch)):
            return False
        for _ in batch:
            self._packed.popleft()
        with self._count_lock:
            self.dropped -= dropped
        return True

    def _send(self, datagram: bytes) -> bool:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                self._socket.connect(self._path)
            self._socket.send(datagram)
        except BlockingIOError:
            return False
        except OSError:
            # Also when the agent was restarted: its new socket is another one under the same name.
            self._disconnect()
            return False
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _after_fork(self) -> None:
        inherited = self._socket
        self._begin()
        if inherited is not None:
            inherited.close()


_ALL: "weakref.WeakSet[Reporter]" = weakref.WeakSet()


def _flush_for_ever(reference: "weakref.ref[Reporter]") -> None:
    """The thread of a reporter; it sleeps while there is nothing to send, and ends with it."""
    while (reporter := reference()) is not None and not reporter._closed:
        blocked, wake = bool(reporter._packed), reporter._wake
        del reporter
        if not blocked:
            wake.wait()
        wake.clear()
        time.sleep(_RETRY_S if blocked else _FLUSH_S)
        reporter = reference()
        if reporter is not None:
            while reporter.pack_some():
                time.sleep(_PAUSE_S)
            reporter.flush()
            del reporter


def _after_fork() -> None:
    for reporter in list(_ALL):
        reporter._after_fork()


def _at_exit() -> None:
    for reporter in list(_ALL):
        reporter.finish()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
