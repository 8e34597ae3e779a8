"""Requests at planned times, whatever became of those before: latency counts from the plan, not from the sending."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

_STATUS = slice(9, 12)


@dataclass
class Outcome:
    """What became of the requests: latencies of those answered with 200, seconds, in order of their answers."""

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    late_s: float = 0.0


class _Client(asyncio.Protocol):
    """One connection; answers have a content-length of 0, as the sleeping fleet sends them."""

    def __init__(self, pool: list["_Client"], outcome: Outcome) -> None:
        self._pool, self._outcome = pool, outcome
        self._planned, self._unread = 0.0, b""
        self.busy = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes, planned: float) -> None:
        self._planned, self.busy = planned, True
        if self.transport:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, end, rest = self._unread.partition(b"\r\n\r\n")
        if not end:
            return
        status = head[_STATUS].decode("latin-1")
        if status != "200":
            # An error's body may follow: this connection is not used again.
            self._finish(status)
            if self.transport:
                self.transport.close()
            return
        self._unread = rest
        self._outcome.latencies_s.append(time.monotonic() - self._planned)
        self._finish(status)
        self._pool.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the protocol's name)
        if self.busy:
            self._finish("lost")
        if self in self._pool:
            self._pool.remove(self)

    def _finish(self, status: str) -> None:
        self.busy = False
        self._outcome.statuses[status] += 1


async def drive(port: int, planned: Sequence[tuple[float, bytes]], patience_s: float) -> Outcome:
    """Sends each request at its time, on as many connections as it takes.

    Args:
        planned: times from now, seconds, ascending, and whole HTTP/1.1 requests without a body.
        patience_s: how long to wait for the last answers.
    """
    loop = asyncio.get_running_loop()
    pool: list[_Client] = []
    outcome, clients = Outcome(), []
    tasks: set[asyncio.Task[None]] = set()

    async def send_new(request: bytes, at: float) -> None:
        try:
            _, client = await loop.create_connection(lambda: _Client(pool, outcome), "127.0.0.1", port)
        except OSError:
            outcome.statuses["refused"] += 1
            return
        clients.append(client)
        client.send(request, at)

    began = time.monotonic()
    for after, request in planned:
        at = began + after
        if (wait := at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        outcome.late_s = max(outcome.late_s, time.monotonic() - at)
        if pool:
            pool.pop().send(request, at)
        else:
            task = loop.create_task(send_new(request, at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    until = time.monotonic() + patience_s
    while time.monotonic() < until and (tasks or any(client.busy for client in clients)):
        await asyncio.sleep(0.02)
    outcome.statuses["unanswered"] = sum(client.busy for client in clients)
    for client in clients:
        client.busy = False
        if client.transport:
            client.transport.abort()
    return outcome
