"""What requests see of a service: its latest table, ready to be sent, and a way to wait for the next one."""

import asyncio
import threading
import time
from dataclasses import dataclass, field

from serving.scoring import Scored
from serving.table import RoutingTable
from serving.table_formats import RENDERERS


@dataclass
class Published:
    """A table in service; `confirmed_s` is when it was last known to be right (seconds since 1970)."""

    table: RoutingTable
    confirmed_s: float
    _rendered: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expires_at(self, ttl_s: float) -> float:
        """Seconds since 1970."""
        return self.confirmed_s + ttl_s

    def rendered(self, media_type: str) -> bytes | None:
        """The table's bytes if they were made already."""
        return self._rendered.get(media_type)

    def render(self, media_type: str, ttl_s: float) -> bytes:
        """The table's bytes, made once for each media type; `expires_at` in them is that of the first time."""
        with self._lock:
            if media_type not in self._rendered:
                self._rendered[media_type] = RENDERERS[media_type](self.table, self.expires_at(ttl_s))
            return self._rendered[media_type]


class ServiceView:
    """One service that is asked for.

    Written by the refreshing thread, read by requests.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.published: Published | None = None
        self.scored: Scored | None = None
        self.empty = False
        self.asked_s = time.monotonic()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    def publish(self, table: RoutingTable | None, confirmed_s: float) -> None:
        """Puts a table into service, or says again that the present one is right; None: there are no live hosts."""
        present = self.published
        if table is not None and present is not None and present.table.version == table.version:
            present.confirmed_s = confirmed_s
            return
        self.published = Published(table, confirmed_s) if table is not None else None
        self.empty = table is None
        with self._lock:
            waiters, self._waiters = self._waiters, set()
        for loop, event in waiters:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that loop has ended
                continue

    async def changed(self, version: str | None, timeout_s: float) -> None:
        """Waits until the table is another than `version`, or the time is up."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            waiter = (asyncio.get_running_loop(), asyncio.Event())
            with self._lock:
                self._waiters.add(waiter)
            try:
                if self.empty or (self.published is not None and self.published.table.version != version):
                    return
                await asyncio.wait_for(waiter[1].wait(), left)
            except TimeoutError:
                return
            finally:
                with self._lock:
                    self._waiters.discard(waiter)
