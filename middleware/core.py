"""Follows a request for ASGI and WSGI alike: it comes, its response begins, it ends and is reported."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fingerpost.clock import clock_us
from fingerpost.middleware.load import HostLoad
from fingerpost.middleware.memory import WAYS, PeakMemory
from fingerpost.middleware.meter import Meter, settle
from fingerpost.middleware.orca import FORMATS, HEADER, load_report, with_inflight
from fingerpost.middleware.reporter import Reporter
from fingerpost.names import check_name

FAILED = 500


class Exchange(Meter):
    """One request and its response, while it is under way.

    Attributes:
        inflight: requests in the process when it came.
        waited_s: seconds spent waiting for the client: for the rest of its body, or until it took the response.
        ended_at: when the response was handed over, on the clock of `time.perf_counter`; 0.0: not yet.
        largest: bytes of the largest piece of the response.
    """

    __slots__ = ("bytes_in", "bytes_out", "ended_at", "inflight", "largest", "started_at", "status", "waited_s")

    def __init__(self, inflight: int) -> None:
        super().__init__()
        self.inflight = inflight
        self.started_at = time.perf_counter()
        self.ended_at = self.waited_s = 0.0
        self.status: int | None = None
        self.bytes_in = self.bytes_out = self.largest = 0

    def sent(self, length: int) -> None:
        """Counts a piece of the response."""
        self.bytes_out += length
        self.largest = max(self.largest, length)


class Instrument:
    """Measures the requests of one process and reports them.

    Args:
        service, host: names, as in request records.
        socket: path of the agent's socket; None: nothing is reported.
        slots: requests the process serves at once, if it is bounded.
        cores, mem_limit_bytes: what it may use; None: as the system says.
        memory: `bodies`, `tracemalloc` (slow) or None; see `fingerpost.middleware.memory`.
        orca: `text`, `json` or `bin`: responses carry the ORCA load report; None: they do not.
        host_headers: responses carry `x-fingerpost-inflight` and `x-fingerpost-cpu-s`, the CPU-seconds until then.

    Raises:
        ValueError: a name that is none, or an unknown way or format.
    """

    def __init__(
        self,
        service: str,
        host: str,
        socket: str | Path | None,
        slots: int | None,
        cores: float | None,
        mem_limit_bytes: int | None,
        memory: str | None,
        orca: str | None,
        host_headers: bool,
    ) -> None:
        if memory is not None and memory not in WAYS:
            raise ValueError(f"unknown way {memory!r} to measure memory: use {', '.join(WAYS)} or None")
        if orca is not None and orca not in FORMATS:
            raise ValueError(f"unknown format {orca!r} of the load report: use {', '.join(FORMATS)} or None")
        self._service = check_name(service, "service")
        self._host = check_name(host, "host")
        self._memory = memory
        self._peaks = PeakMemory() if memory == "tracemalloc" else None
        self._orca = orca
        self._report: tuple[object, str] = (None, "")
        self._host_headers = host_headers
        self.load = HostLoad(cores, mem_limit_bytes, slots)
        self.reporter = Reporter(socket) if socket else None

    def begin(self) -> Exchange:
        exchange = Exchange(self.load.arrive())
        if self._peaks:
            self._peaks.arrive(exchange)
        return exchange

    def headers(self, exchange: Exchange, status: int) -> list[tuple[str, str]]:
        """Notes that the response begins; returns the headers to add to it."""
        exchange.status = status
        load = self.load.respond(status)
        added = []
        if self._host_headers:
            settle()
            added = [
                ("x-fingerpost-inflight", str(exchange.inflight)),
                ("x-fingerpost-cpu-s", f"{exchange.cpu_s:.6f}"),
            ]
        if self._orca and load is not None:
            inflight = self.load.inflight
            # A load is one object until it is refreshed, so its text is made ten times a second at the most. The count,
            # by which proxies choose, is of now.
            if self._report[0] is not load:
                self._report = (
                    load,
                    load_report(load, {"inflight": inflight} if self._orca == "bin" else {}, self._orca),
                )
            added.append((HEADER, with_inflight(self._report[1], inflight)))
        return added

    def end(self, exchange: Exchange, facts: Callable[[], dict[str, Any]]) -> None:
        """Counts the request out and reports it.

        Args:
            facts: gives method, route, and what the client says of itself; called later, in the reporter's thread, so
                that nobody waits for it.
        """
        self.load.leave()
        peak = self._peaks.leave(exchange) if self._peaks else None
        if self.reporter is None:
            return
        now = time.perf_counter()
        ended_us = clock_us()
        if exchange.ended_at:
            ended_us -= int((now - exchange.ended_at) * 1e6)
        else:
            exchange.ended_at = now
        self.reporter.report(partial(self._record, exchange, facts, ended_us, peak))

    def _record(
        self, exchange: Exchange, facts: Callable[[], dict[str, Any]], ended_us: int, peak: int | None
    ) -> dict[str, Any]:
        duration_s = exchange.ended_at - exchange.started_at
        return {
            "time": ended_us,
            "service": self._service,
            "host": self._host,
            **facts(),
            "status": exchange.status or FAILED,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "duration_s": duration_s,
            "service_time_s": max(0.0, duration_s - exchange.waited_s),
            "inflight": exchange.inflight,
            "cpu_s": exchange.cpu_s,
            "mem_bytes": exchange.bytes_in + exchange.largest if self._memory == "bodies" else peak,
        }
