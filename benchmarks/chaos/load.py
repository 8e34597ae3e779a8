"""Clients: an open loop of requests that can be told apart wherever they are recorded, by their sizes alone."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

_SIZES_IN, _SIZES_OUT = 500, 4000
MAX_REQUESTS = _SIZES_IN * _SIZES_OUT
_ROUTES = ("cart", "item", "search")
_PATIENCE_S, _REFUSED_PAUSE_S, _MAX_IN_FLIGHT = 60.0, 0.05, 400


class Id(NamedTuple):
    """What tells a request from every other: the bytes of its body and of its answer."""

    bytes_in: int
    bytes_out: int


def request_id(number: int) -> Id:
    """The id of a request, by its number from 0."""
    return Id(1 + number % _SIZES_IN, 1 + number // _SIZES_IN % _SIZES_OUT)


@dataclass(frozen=True)
class Failure:
    """A request that failed; times are of the clock that never goes back."""

    began: float
    ended: float
    why: str


@dataclass
class Told:
    """What the clients know.

    Attributes:
        answered: requests with status 200 and the whole body, each with the time of its end.
        longest_refused_s: the longest time that a client found nobody at the proxy's port.
    """

    sent: int = 0
    answered: dict[Id, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    refused: int = 0
    longest_refused_s: float = 0.0
    skipped: int = 0


class Clients:
    """Sends requests from a thread until stopped, at random times whatever becomes of them.

    A connection that is refused was never a request: the client goes on trying for a minute, as one with a second
    proxy would try that. All else that is not the whole answer is a failure.
    """

    def __init__(
        self,
        url: str,
        rate_rps: float,
        seed: int,
        route_of: Callable[[int], str] = lambda number: _ROUTES[number % len(_ROUTES)],
    ) -> None:
        self._url, self._rate_rps, self._rng = url, rate_rps, random.Random(seed)
        self._route_of = route_of
        self.told = Told()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Sends no more, and waits for all answers."""
        self._stopping.set()
        self._thread.join(2 * _PATIENCE_S)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=5.0)
        async with httpx.AsyncClient(limits=limits, timeout=_PATIENCE_S, trust_env=False) as client:
            going: set[asyncio.Task[None]] = set()
            for number in self._numbers():
                await asyncio.sleep(self._rng.expovariate(self._rate_rps))
                if len(going) >= _MAX_IN_FLIGHT:
                    self.told.skipped += 1
                    continue
                task = asyncio.create_task(self._send(client, number))
                going.add(task)
                task.add_done_callback(going.discard)
            if going:
                await asyncio.wait(going)

    def _numbers(self) -> Iterator[int]:
        for number in range(MAX_REQUESTS):
            if self._stopping.is_set():
                return
            yield number

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        told, which = self.told, request_id(number)
        url = f"{self._url}/{self._route_of(number)}?bytes={which.bytes_out}"
        told.sent += 1
        first = began = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                answer = await client.post(url, content=b"." * which.bytes_in)
            except httpx.ConnectError as error:
                told.refused += 1
                if began - first > _PATIENCE_S:
                    told.failures.append(Failure(began, time.monotonic(), f"refused: {error}"))
                    return
                await asyncio.sleep(_REFUSED_PAUSE_S)
                continue
            except httpx.HTTPError as error:
                told.failures.append(Failure(began, time.monotonic(), f"{type(error).__name__}: {error}"))
                return
            break
        told.longest_refused_s = max(told.longest_refused_s, began - first)
        ended = time.monotonic()
        if answer.status_code == httpx.codes.OK and len(answer.content) == which.bytes_out:
            told.answered[which] = ended
        else:
            told.failures.append(Failure(began, ended, f"{answer.status_code}: {answer.text[:100]}"))
