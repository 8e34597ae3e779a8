"""An emulated fleet: many hosts in one process that sleep instead of working, so that two cores carry dozens of them.

Each host has a port, a number of slots and a first-come-first-served queue. How long a request takes depends on its
category (the path, `/c3`) and the host; the query's `x` is the request's own size, so that every policy under test
meets the same work. Hosts report their load as ORCA does, and their in-flight count and the CPU time of a request as
the demo's hosts do: a request uses a core for as long as its work takes.

`/sick?share=0.5&after=0.001` makes a host fail that share of its requests, after so many seconds and without a slot;
`&category=3` only those of that category, `&status=502` with another status than 500. A share of 0 heals it.

Hosts may have a regular job or burst credits, which slow them down; `/metrics` tells their CPU as node_exporter does.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from examples.demo.classes import Job
from fingerpost.middleware.load import Load
from fingerpost.middleware.orca import HEADER, load_report, with_inflight

_MAX_HEAD = 16_384
_REPORT_S = 0.5
_LENGTH = b"content-length"
_MEMORY = "node_memory_MemTotal_bytes 1000000000\nnode_memory_MemAvailable_bytes 500000000\n"


@dataclass(frozen=True)
class Credits:
    """Burst credits: a host is throttled once they are used up, until most of them are back.

    Args:
        limit_s: what may be used, seconds of a wholly busy host.
        resume: share of the limit down to which the use of a throttled host has to drain.
        drain, slow_drain: what a second gives back, and what it does while the host is throttled.
        times: how many times longer requests then take.
    """

    limit_s: float
    resume: float = 0.2
    drain: float = 0.4
    slow_drain: float = 1.0
    times: float = 6.0


class Throttle:
    """Follows the use of one host's credits; `advance` is called at every change of what is busy."""

    def __init__(self, limits: Credits, now_s: float) -> None:
        self._credits, self._used_s, self._at_s = limits, 0.0, now_s
        self.slow = False

    def advance(self, now_s: float, busy: float) -> None:
        """Counts the time since the last call, in which this share of the host was busy."""
        span_s, self._at_s = now_s - self._at_s, now_s
        change = -self._credits.slow_drain if self.slow else busy - self._credits.drain
        self._used_s = max(self._used_s + span_s * change, 0.0)
        limit_s = self._credits.limit_s
        self.slow = self._used_s > self._credits.resume * limit_s if self.slow else self._used_s >= limit_s


@dataclass(frozen=True)
class SleepingFleet:
    """What the fleet is.

    Args:
        ports: one for each host.
        slots: requests a host serves at once.
        service_s: mean service time of each category on each host, seconds.
        tells: hosts tell their load, in-flight count and CPU time in headers; False: all that is known is a log.
        jobs, credits: of each host, None where it has none; empty: no host has any.
        spells: file to which hosts with credits append `HOST SECONDS 1` when they are throttled, and `... 0` when that
            ends, seconds since 1970.
    """

    ports: list[int]
    slots: int
    service_s: list[list[float]]
    tells: bool = True
    jobs: list[Job | None] = field(default_factory=list)
    credits: list[Credits | None] = field(default_factory=list)
    spells: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> "SleepingFleet":
        """Out of what `to_json` wrote."""
        told = json.loads(text)
        told["jobs"] = [each and Job(**each) for each in told["jobs"]]
        told["credits"] = [each and Credits(**each) for each in told["credits"]]
        return cls(**told)


@dataclass(frozen=True)
class Sickness:
    """Which requests a host fails: this share of those of a category (None: of all), after so many seconds."""

    share: float = 0.0
    after_s: float = 0.0
    category: int | None = None
    status: int = 500

    @classmethod
    def of_query(cls, query: str) -> "Sickness":
        """Out of `share=0.5&after=0.001&category=3`; raises ValueError for what is no number."""
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        category = int(asked["category"]) if "category" in asked else None
        status = int(asked.get("status", cls.status))
        return cls(float(asked.get("share", 0)), float(asked.get("after", 0)), category, status)

    def as_query(self) -> str:
        """What `of_query` reads."""
        category = {} if self.category is None else {"category": self.category}
        return urlencode({"share": self.share, "after": self.after_s, "status": self.status, **category})


class SleepingHost:
    """One host: requests hold a slot for as long as their work takes, the others wait in line."""

    def __init__(self, fleet: SleepingFleet, number: int) -> None:
        self._slots, self._tells = fleet.slots, fleet.tells
        self._service_s = [row[number] for row in fleet.service_s]
        self._busy, self._done, self._errors, self._busy_s = 0, 0, 0, 0.0
        self._since = self._begun = time.monotonic()
        self._used_s, self._counted = 0.0, self._since
        self._number, self._spells = number, fleet.spells
        self._job = fleet.jobs[number] if fleet.jobs else None
        limits = fleet.credits[number] if fleet.credits else None
        self._throttle = Throttle(limits, self._since) if limits else None
        self._throttled_times = limits.times if limits else 1.0
        self._waiting: deque[tuple[float, asyncio.Future[float]]] = deque()
        self.sickness = Sickness()
        self._rng = random.Random(number)
        self._report = load_report(Load(0.0, None, 0.0, 0.0, 0.0), {}, "text")

    @property
    def inflight(self) -> int:
        return self._busy + len(self._waiting)

    def work_s(self, target: str) -> float | None:
        """How long the request's work takes, or None if there is no such work."""
        path, _, query = target.partition("?")
        try:
            size = float(parse_qs(query).get("x", ["1"])[0])
            return self._service_s[int(path.removeprefix("/c"))] * min(max(size, 0.0), 100.0)
        except (ValueError, IndexError):
            return None

    def fails(self, target: str) -> bool:
        """Throws the dice whether a request fails."""
        sick = self.sickness
        mine = sick.category is None or target.partition("?")[0] == f"/c{sick.category}"
        return mine and self._rng.random() < sick.share

    async def serve(self, work_s: float) -> float:
        """Waits for a slot and holds it for the work; returns for how long, seconds: longer where the host is slow."""
        finished: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        if self._busy < self._slots:
            self._begin(work_s, finished)
        else:
            self._waiting.append((work_s, finished))
        return await finished

    def times_slower(self) -> float:
        """How many times longer a request takes that begins now."""
        slower = self._throttled_times if self._throttle and self._throttle.slow else 1.0
        return slower * (self._job.times if self._job and self._job.runs(time.time()) else 1.0)

    def metrics(self) -> str:
        """The host's CPU as node_exporter tells it: a slot is a core."""
        self._count()
        idle_s = self._slots * (time.monotonic() - self._begun) - self._used_s
        cpu = f'node_cpu_seconds_total{{cpu="0",mode="user"}} {self._used_s}\n'
        return f'{cpu}node_cpu_seconds_total{{cpu="0",mode="idle"}} {max(idle_s, 0.0)}\n{_MEMORY}'

    def _count(self) -> None:
        """Counts the use since it was last counted."""
        now = time.monotonic()
        self._used_s += self._busy * (now - self._counted)
        self._counted = now
        if self._throttle:
            was = self._throttle.slow
            self._throttle.advance(now, self._busy / self._slots)
            if self._throttle.slow != was and self._spells:
                with Path(self._spells).open("a") as file:
                    file.write(f"{self._number} {time.time():.3f} {int(self._throttle.slow)}\n")

    def _begin(self, asked_s: float, finished: "asyncio.Future[float]") -> None:
        self._count()
        work_s = asked_s * self.times_slower()
        self._busy += 1
        asyncio.get_running_loop().call_later(work_s, self._end, work_s, finished)

    def _end(self, work_s: float, finished: "asyncio.Future[float]") -> None:
        self._count()
        self._busy -= 1
        self._done += 1
        self._busy_s += work_s
        if not finished.done():
            finished.set_result(work_s)
        while self._waiting and self._busy < self._slots:
            next_s, waiting = self._waiting.popleft()
            # Whoever went away before its turn takes no slot.
            if not waiting.done():
                self._begin(next_s, waiting)

    def headers(self, inflight: int, work_s: float | None) -> str:
        """What the host tells with an answer, as header lines, each with its end."""
        if not self._tells:
            return ""
        return (
            f"x-fingerpost-inflight: {inflight}\r\n{HEADER}: {self.report()}\r\n"
            f"x-fingerpost-cpu-s: {work_s or 0.0:.6f}\r\n"
        )

    def report(self) -> str:
        """The ORCA load report of the last half second, and the requests in flight now."""
        now = time.monotonic()
        span = now - self._since
        if span >= _REPORT_S:
            used = min(self._busy_s / (span * self._slots), 1.0)
            load = Load(used, None, used, self._done / span, 0.0)
            self._report = load_report(load, {}, "text")
            self._since, self._done, self._busy_s = now, 0, 0.0
        # This request has left its slot, and is answered now.
        return with_inflight(self._report, self.inflight + 1)


class _Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time on a connection, as a proxy sends them."""

    def __init__(self, host: SleepingHost) -> None:
        self._host = host
        self._unread = b""
        self._skip = 0
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the protocol's name)
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._take()

    def _take(self) -> None:
        taken = min(self._skip, len(self._unread))
        self._unread, self._skip = self._unread[taken:], self._skip - taken
        if self._task is not None or self._skip:
            return
        head, end, rest = self._unread.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _MAX_HEAD and self._transport:
                self._transport.close()
            return
        lines = head.split(b"\r\n")
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == _LENGTH and value.strip().isdigit():
                self._skip = int(value)
        self._unread = rest
        self._task = asyncio.get_running_loop().create_task(self._answer(lines[0]))

    async def _answer(self, line: bytes) -> None:
        host, inflight = self._host, self._host.inflight
        parts = line.decode("latin-1").split(" ")
        work_s = host.work_s(parts[1]) if len(parts) == 3 else None
        status, body = "404 Not Found", ""
        if len(parts) == 3 and parts[1].startswith("/sick"):
            host.sickness = Sickness.of_query(parts[1].partition("?")[2])
            status = "200 OK"
        elif work_s is not None and host.fails(parts[1]):
            await asyncio.sleep(host.sickness.after_s)
            status, work_s = f"{host.sickness.status} Failed", None
        elif work_s is not None:
            work_s = await host.serve(work_s)
            status = "200 OK"
        elif len(parts) == 3 and parts[1] == "/metrics":
            status, body = "200 OK", host.metrics()
        elif len(parts) == 3 and parts[1] == "/healthz":
            status = "200 OK"
        answer = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{host.headers(inflight, work_s)}\r\n{body}"
        if self._transport and not self._transport.is_closing():
            self._transport.write(answer.encode())
        self._task = None
        self._take()


async def serve_fleet(fleet: SleepingFleet) -> None:
    """Serves all hosts until cancelled; prints `ready` once they listen."""
    loop = asyncio.get_running_loop()
    for number, port in enumerate(fleet.ports):
        host = SleepingHost(fleet, number)
        await loop.create_server(lambda host=host: _Connection(host), "127.0.0.1", port)  # type: ignore[misc]
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve_fleet(SleepingFleet.of_json(sys.stdin.readline())))
