"""Bounds connections to the engine: so many at once, each with little time to ask and to take its answer.

Neither BentoML nor uvicorn bounds any of it: a client that connects and sends nothing is held for ever. So
`GuardedProtocol` takes the place of uvicorn's protocol (see `bento_compat.install`), which does all the rest.
"""

import asyncio
import contextlib
import logging
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fingerpost.serving.metrics import engine_metrics
from fingerpost.settings import get_settings

logger = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
# Files besides connections: the store's, logs, models, metrics.
_OTHER_FILES = 256
_MAX_HEAD_BYTES = 64 * 2**10
_MAX_PIPELINED = 16
_NO_ROOM = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 35\r\n"
    b'retry-after: 1\r\nconnection: close\r\n\r\n{"error":"all connections are busy"}'
)


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds on one worker's connections.

    Args:
        most: at once.
        head_s: until a request's head has come, since the connection began or the answer before was sent, seconds.
        stalled_s: for which nothing of an answer may be taken, seconds.
    """

    most: int
    head_s: float
    stalled_s: float


class Connections:
    """All connections of a worker; only its event loop touches it.

    Args:
        note: called for each connection that was ended, with how: `no_room`, `slow` or `stalled`.
    """

    def __init__(self, limits: ConnectionLimits, note: Callable[[str], None]) -> None:
        self._limits, self._note = limits, note
        self._all: dict[GuardedProtocol, tuple[int, float]] = {}
        # Those whose next request has not begun, with since when, the longest waiting first.
        self._waiting: dict[GuardedProtocol, float] = {}
        self._looking = False

    def __len__(self) -> int:
        return len(self._all)

    def began(self, connection: "GuardedProtocol") -> None:
        """Takes a new one in. Where there is no room the one goes that has said nothing for the longest time."""
        now_s = connection.loop.time()
        self._all[connection] = (0, now_s)
        self._waiting[connection] = now_s
        if len(self._all) > self._limits.most:
            self._end(next(iter(self._waiting)), "no_room")
        if not self._looking:
            self._looking = True
            connection.loop.call_later(_LOOK_EVERY_S, self._look, connection.loop)

    def asked(self, connection: "GuardedProtocol") -> None:
        """The head of a request has come."""
        self._waiting.pop(connection, None)

    def answered(self, connection: "GuardedProtocol") -> None:
        """The answer is sent, or under way."""
        if connection in self._all and not connection.transport.is_closing():
            self._waiting[connection] = connection.loop.time()

    def ended(self, connection: "GuardedProtocol") -> None:
        self._all.pop(connection, None)
        self._waiting.pop(connection, None)

    def _end(self, connection: "GuardedProtocol", how: str) -> None:
        self._note(how)
        self._waiting.pop(connection, None)
        if how == "no_room" and not connection.transport.is_closing():
            connection.transport.write(_NO_ROOM)
            connection.transport.close()
        else:
            connection.transport.abort()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends those that are too slow; while there are any connections, once a second."""
        now_s = loop.time()
        for connection, since_s in list(self._waiting.items()):
            if now_s - since_s < self._limits.head_s:
                break
            if connection.transport.get_write_buffer_size() == 0:  # else it still takes its answer
                self._end(connection, "slow")
        for connection, (left, since_s) in list(self._all.items()):
            now_left = connection.transport.get_write_buffer_size()
            if now_left == 0 or now_left != left:
                self._all[connection] = (now_left, now_s)
            elif now_s - since_s >= self._limits.stalled_s:
                self._end(connection, "stalled")
        self._looking = bool(self._all)
        if self._looking:
            loop.call_later(_LOOK_EVERY_S, self._look, loop)


class GuardedProtocol(HttpToolsProtocol):
    """One connection, as uvicorn makes it; all the worker's are in `connections()`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._guard = connections()
        # Bytes of the request that are not its body: head, sizes of chunks, trailers.
        self._beside_body = 0
        self._guard.began(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.ended(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head is larger than {_MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        self._beside_body = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError("too many requests wait for their answers on one connection")
        self._beside_body = 0
        self._guard.asked(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        # As much again may be around it, in chunks of whatever size.
        self._beside_body = max(0, self._beside_body - 2 * len(body))
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and (self.cycle is None or self.cycle.response_complete):
            self._guard.answered(self)

    def _should_upgrade(self) -> bool:
        return False  # a WebSocket would be another protocol, without bounds; there is none here

    def _unsupported_upgrade_warning(self) -> None:
        pass  # a line for every request that asks would be for whoever likes to fill the log


@lru_cache(maxsize=1)
def connections() -> Connections:
    """The connections of this worker."""
    metrics = engine_metrics()
    return Connections(limits_of_process(), lambda how: metrics.connections_ended.labels(how).inc())


@lru_cache(maxsize=1)
def limits_of_process() -> ConnectionLimits:
    """The settings' limits, as far as the system's limit of open files lets."""
    settings = get_settings()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    most = settings.engine_max_connections
    if soft != resource.RLIM_INFINITY and soft - _OTHER_FILES < most:
        most = max(16, soft - _OTHER_FILES)
        logger.warning("%d connections at most, not %d: ulimit -n is %d", most, settings.engine_max_connections, soft)
    return ConnectionLimits(most, settings.engine_head_timeout_s, settings.engine_stalled_s)
