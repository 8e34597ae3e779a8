"""Load on an engine from plain sockets, so that the client costs little beside what is measured."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fingerpost.fingerprint import MEDIA_TYPE

_CONNECTIONS = 8


@dataclass
class Fetches:
    """Latencies in seconds, and how many answers were not what they should be."""

    latencies: list[float] = field(default_factory=list)
    errors: int = 0


async def fetch_until(port: int, etag: str, done: Callable[[], bool], pace_s: float = 0.0) -> Fetches:
    """Fetches the table of `shop` over 8 connections, with the ETag, until `done()`.

    Args:
        pace_s: seconds a connection rests between requests; 0: as fast as it goes.
    """
    found = Fetches()
    request = f"GET /v1/services/shop/table HTTP/1.1\r\nhost: x\r\nif-none-match: {etag}\r\n\r\n".encode()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not done():
            began = time.perf_counter()
            status = await _exchange(reader, writer, request)
            found.latencies.append(time.perf_counter() - began)
            found.errors += status not in (200, 304)
            if pace_s:
                await asyncio.sleep(pace_s)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))
    return found


async def send_fleet(port: int, rounds: Sequence[Sequence[bytes]], per_s: float, seconds: float) -> list[float]:
    """Sends each host's message at an even pace, one fingerprint a request; returns the latencies of those accepted."""
    bodies = [body for each in rounds for body in each][: round(per_s * seconds)]
    latencies: list[float] = []
    began = time.perf_counter()
    places = iter(range(len(bodies)))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place in places:
            await asyncio.sleep(max(0.0, began + place / per_s - time.perf_counter()))
            body = bodies[place]
            head = (
                f"POST /v1/fingerprints HTTP/1.1\r\nhost: x\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            )
            sent = time.perf_counter()
            if await _exchange(reader, writer, head.encode() + body) == 200:
                latencies.append(time.perf_counter() - sent)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(4 * _CONNECTIONS)))
    return latencies


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.split(b":")[1]))
    return int(head.split(b" ", 2)[1])
