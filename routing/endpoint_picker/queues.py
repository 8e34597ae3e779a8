"""Asks endpoints how many requests wait there: one gauge of what they expose for Prometheus.

Pickers that know nothing of each other send to the same hosts at once. A server of language models tells its queue:
what all pickers have sent it and it has not begun.
"""

import asyncio
import logging
import re
import time
from collections import Counter

import httpx

from fingerpost.errors import FingerpostError
from fingerpost.routing.endpoint_picker.endpoints import Endpoints

_LOG = logging.getLogger("fingerpost.endpoint_picker")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
# Beyond this an exposition is refused: the largest of real servers have some hundred kilobytes.
_MAX_BYTES = 4 * 2**20
_MAX_WAITING = 1e6
_TIMEOUT_S = 1.0
# A queue counts for so many looks: one that fails says nothing of how long the queue is by now.
_LOOKS = 4


def waiting(exposition: bytes, metric: str) -> float | None:
    """The sum over the series of a gauge in Prometheus' text format; None where there is none, or one is no count."""
    series = re.findall(rb"^%b(?:\{[^\n]*\})?[ \t]+(\S+)" % metric.encode(), exposition, re.MULTILINE)
    try:
        counts = [float(value) for value in series]
    except ValueError:
        return None
    return sum(counts) if counts and all(0 <= count <= _MAX_WAITING for count in counts) else None


class Queues:
    """Looks at the queues of all endpoints, each by itself: one that hangs holds up none.

    Args:
        metric: the gauge's name, such as `vllm:num_requests_waiting`.
        every_s: time between looks, seconds.
        path: where endpoints expose it.

    Attributes:
        failed: looks that told nothing, by reason: `unreachable`, `status`, `too_large` or `no_metric`.

    Raises:
        FingerpostError: it is no name of a metric.
    """

    def __init__(self, endpoints: Endpoints, metric: str, every_s: float, path: str = "/metrics") -> None:
        if not _NAME.fullmatch(metric):
            raise FingerpostError(f"{metric!r} is no name of a metric: give one such as vllm:num_requests_waiting")
        self._endpoints, self._metric, self._every_s, self._path = endpoints, metric, every_s, path
        self.failed: Counter[str] = Counter()
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._troubled: set[str] = set()

    async def follow(self) -> None:
        """Looks again and again until it is cancelled."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=False) as client:
            try:
                while True:
                    known = self._endpoints.addresses[: self._endpoints.known]
                    self._troubled &= set(known)
                    for address in known:
                        if address not in self._asked:
                            self._asked[address] = asyncio.create_task(self._look(client, address))
                    await asyncio.sleep(self._every_s)
            finally:
                left = list(self._asked.values())
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async def _look(self, client: httpx.AsyncClient, address: str) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                problem = await self._ask(client, address)
        except (httpx.HTTPError, TimeoutError, OSError):
            problem = "unreachable"
        finally:
            self._asked.pop(address, None)
        if not problem:
            self._troubled.discard(address)
            return
        self.failed[problem] += 1
        if address not in self._troubled:
            self._troubled.add(address)
            _LOG.warning("the queue of %s is not known (%s of %s): own counts are used", address, problem, self._metric)

    async def _ask(self, client: httpx.AsyncClient, address: str) -> str:
        """Takes note of an endpoint's queue; the reason if it cannot."""
        body = bytearray()
        async with client.stream("GET", f"http://{address}{self._path}") as response:
            if response.status_code != httpx.codes.OK:
                return "status"
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    return "too_large"
        count = waiting(bytes(body), self._metric)
        if count is None:
            return "no_metric"
        self._endpoints.queue(address, count, time.monotonic() + _LOOKS * self._every_s)
        return ""
