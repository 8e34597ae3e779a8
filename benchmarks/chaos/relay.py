"""A wire between agents and engine that can be cut: by refusal, or in silence."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from fingerpost.settings import LOOPBACK

_BLOCK = 65536


class Relay:
    """Passes connections on to a port, from a thread.

    Attributes:
        port: where it listens, once started.
    """

    def __init__(self, target: int, port: int = 3100) -> None:
        self.port, self._target = port, target
        self._way = "open"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._ready = threading.Event()

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @contextlib.contextmanager
    def cut(self, way: str) -> Iterator[None]:
        """Cuts the wire: `refused` closes what connects, `silent` takes it and never answers."""
        self._way = way
        try:
            yield
        finally:
            self._way = "open"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, LOOPBACK, self.port))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in (going := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*going, return_exceptions=True))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = self._way
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while self._way == "silent":
                await asyncio.sleep(0.1)
            if way == "open":
                back, forth = await asyncio.open_connection(LOOPBACK, self._target)
                await asyncio.gather(_pass(reader, forth), _pass(back, writer))
        writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
        writer.close()
