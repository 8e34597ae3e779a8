"""Load on an engine from plain sockets, in a process of its own: what it measures is the engine, not who watches it."""

import asyncio
import contextlib
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from fingerpost.window_report import MEDIA_TYPE

_CONNECTIONS = 8
# Agents are many, and do not wait for each other; but none may rest so long that the server hangs up (5 s).
_MAX_SENDERS = 200
_SENDER_RESTS_S = 1.0


@dataclass
class Answers:
    """What a load was answered.

    Args:
        begun: when each request was sent, seconds of the clock that all processes share (`time.perf_counter`).
        latencies: of each, seconds.
        errors: answers that are not what they should be.
    """

    begun: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    errors: int = 0

    def between(self, begin: float, end: float) -> list[float]:
        """The latencies of those that were under way between two times."""
        each = zip(self.begun, self.latencies, strict=True)
        return [latency for begun, latency in each if begun < end and begun + latency > begin]


class Load:
    """A context manager: a load that goes on in a process of its own until `stop`, or at most until it is left.

    Args:
        asked: `{"kind": "fetch", "port", "etag", "pace_s"}`: the table of `shop` over 8 connections, each of which
            rests `pace_s` between requests and names the table it was last given, at first `etag`; or
            `{"kind": "send", "port", "bodies", "per_s"}`: the messages in a file that `write_bodies` made, at an even
            pace, until all are sent.
    """

    def __init__(self, **asked: Any) -> None:
        command = [sys.executable, "-m", "benchmarks.engine_load", json.dumps(asked)]
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - `__exit__` closes it
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._told)

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._told.close()

    def check(self) -> None:
        """Makes sure that it goes on, or has sent all.

        Raises:
            RuntimeError: it ended with an error.
        """
        if self._process.poll():
            raise RuntimeError(f"the load ended with exit code {self._process.returncode}")

    def stop(self) -> Answers:
        """Ends it.

        Raises:
            RuntimeError: it had ended by itself: what was measured since was measured without it.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"the load ended too soon, with exit code {self._process.returncode}")
        self._process.communicate(timeout=60.0)
        return self._answers()

    def finish(self) -> Answers:
        """Waits until one that sends has sent all."""
        self._process.wait()
        return self._answers()

    def _answers(self) -> Answers:
        self._told.seek(0)
        return Answers(**json.load(self._told))


def write_bodies(path: Path, bodies: list[bytes]) -> str:
    """Writes messages for a load that sends; returns the path."""
    path.write_bytes(msgpack.packb(bodies))
    return str(path)


async def _fetch(found: Answers, port: int, etag: str, pace_s: float) -> None:
    stopped = _stopped()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        has = etag.encode()
        while not stopped.is_set():
            request = b"GET /v1/services/shop/table HTTP/1.1\r\nhost: 127.0.0.1\r\nif-none-match: %b\r\n\r\n" % has
            has = (await _exchange(found, reader, writer, request)).get(b"etag", has)
            if pace_s:
                await asyncio.sleep(pace_s)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))


async def _send(found: Answers, port: int, bodies: str, per_s: float) -> None:
    messages: list[bytes] = msgpack.unpackb(await asyncio.to_thread(Path(bodies).read_bytes))
    began, places, stopped = time.perf_counter(), iter(range(len(messages))), _stopped()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for place in places:
            await asyncio.sleep(max(0.0, began + place / per_s - time.perf_counter()))
            if stopped.is_set():
                break
            head = (
                f"POST /v1/reports HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(messages[place])}\r\n\r\n"
            )
            await _exchange(found, reader, writer, head.encode() + messages[place])
        writer.close()

    senders = min(_MAX_SENDERS, math.ceil(per_s * _SENDER_RESTS_S))
    await asyncio.gather(*(connection() for _ in range(senders)))


def _stopped() -> asyncio.Event:
    """Is set when standard input ends."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        # Past the buffer, whose lock a thread that waits would hold at the end of the process.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop is over
            loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=listen, daemon=True).start()
    return stopped


async def _exchange(
    found: Answers, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> dict[bytes, bytes]:
    """Sends a request, and notes how it is answered; returns the headers, names in lower case."""
    begun = time.perf_counter()
    writer.write(request)
    await writer.drain()
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
    named = (line.partition(b":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in named}
    await reader.readexactly(int(headers.get(b"content-length", 0)))
    found.begun.append(begun)
    found.latencies.append(time.perf_counter() - begun)
    found.errors += int(status.split(b" ", 2)[1]) not in (200, 304)
    return headers


def main() -> None:
    asked = json.loads(sys.argv[1])
    found = Answers()
    # To look for what can be freed would be seen as the engine's slowness.
    gc.disable()
    if asked.pop("kind") == "fetch":
        asyncio.run(_fetch(found, **asked))
    else:
        asyncio.run(_send(found, **asked))
    print(json.dumps(vars(found)), flush=True)


if __name__ == "__main__":
    main()
