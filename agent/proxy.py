"""The agent beside a proxy: follows its log for all hosts, and reports windows, decisions and arrivals."""

import logging
import signal
import threading
import time
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
from prometheus_client.core import Metric

from fingerpost.agent.active_categories import ActiveCategories
from fingerpost.agent.batches import quarantine_lines, write_batch
from fingerpost.agent.bounded_folder import bounded_inbox, bounded_quarantine
from fingerpost.agent.decision_reservoir import DecisionReservoir
from fingerpost.agent.fingerprints import Report
from fingerpost.agent.health import Problems, RequestChecks
from fingerpost.agent.options import AgentOptions
from fingerpost.agent.proxy_log import ProxyLog
from fingerpost.agent.proxy_windows import ProxyWindows
from fingerpost.agent.record_buffer import RecordBuffer
from fingerpost.agent.sender import Sender
from fingerpost.clock import US, clock_us
from fingerpost.errors import RefusedError
from fingerpost.metric_family import Family
from fingerpost.records import REQUEST_RECORD
from fingerpost.telemetry.arrivals import Arrivals
from fingerpost.telemetry.windows import APART_S, SETTLE_S, window_end_us
from fingerpost.window_report import pack

logger = logging.getLogger(__name__)
_TICK_S = 0.1
# Reports in one packet of the spool.
_REPORTS = 100
# Decision records of so many windows wait while the lake cannot be written.
_MAX_WAITING = 100
_HOSTS = Family("fingerpost_proxy_hosts", "gauge", "Hosts that the proxy sends requests to.")
_LINES = Family("fingerpost_proxy_lines_rps", "gauge", "Lines a second that the log grows by.")
_EVERY = Family("fingerpost_proxy_every", "gauge", "Of so many lines one is read.")
_ARRIVALS = (
    Family("fingerpost_arrivals_rps", "gauge", "Requests that arrive a second, over ten seconds.", ("category",)),
    Family("fingerpost_arrivals_trend", "gauge", "By how much that grows each second, over a minute.", ("category",)),
    Family(
        "fingerpost_arrivals_peak_rps", "gauge", "Requests of the busiest second of the last minute.", ("category",)
    ),
)
FAMILIES = (_HOSTS, _LINES, _EVERY, *_ARRIVALS)


class ProxyAgent:
    """Reads what the proxy logged, and reports every window once it is closed.

    Nothing that it holds is needed after a restart: what was not reported is read again from the log.

    Attributes:
        problems: what is wrong now, and what to do.
        reported_s: when windows were last closed, by the monotonic clock.

    Args:
        options: with `proxy`.
        sender: of the reports.
    """

    # It makes no fingerprint of a host.
    last: Report | None = None

    def __init__(
        self,
        options: AgentOptions,
        log: ProxyLog,
        intake: RecordBuffer,
        book: ActiveCategories,
        sender: Sender,
        boot_id: str,
        clock: Callable[[], int] = clock_us,
    ) -> None:
        self._options, self._log, self._intake, self._book, self._sender = options, log, intake, book, sender
        self._boot_id, self._clock_us = boot_id, clock
        self.counts: Counter[str] = Counter()
        self._windows = ProxyWindows(options.service, options.host, options.window_s, self.counts)
        self._decisions = DecisionReservoir(round(options.decisions_per_s * options.window_s))
        self._arrivals = Arrivals(len(book.table.names))
        self._arrivals_lock = threading.Lock()
        self._waiting: deque[list[dict[str, Any]]] = deque(maxlen=_MAX_WAITING)
        self._span_us = round(options.window_s * US)
        self._inbox = bounded_inbox(options.lake, options.service, options.host, options.inbox_bytes)
        self._quarantine = bounded_quarantine(options.lake, options.service, options.max_quarantine_bytes)
        self.problems = Problems()
        fits = (
            f"does --log-format {options.log_format} fit? `fingerpost logs check {options.access_log}` says which does"
        )
        self._checks = RequestChecks(self.problems, fits)
        self.reported_s = time.monotonic()

    def read(self) -> bool:
        """Takes in what was added to the log, and reports the windows that are over; True: there is more to read."""
        if self._log.closed_us > self._clock_us() + self._span_us:
            self._begin_anew()
        for lines, every in self._log.batches():
            latest_us = self._take(lines, every)
            self._log.passed(latest_us)
            if latest_us:
                # While a long log is caught up with, its windows are over when later ones have begun.
                self.close(min(latest_us, self._clock_us()))
        self.problems.tell("requests", self._log.problem())
        if not self._log.has_more:
            self.close(self._clock_us())
        return self._log.has_more

    def close(self, now_us: int) -> None:
        """Reports the windows that are over by a time, microseconds since 1970; nothing if none is."""
        end_us = (now_us - round(SETTLE_S * US)) // self._span_us * self._span_us
        if end_us <= self._log.closed_us:
            return
        self._use_categories()
        packed = [
            pack(report) for report in self._windows.close(end_us, self._clock_us(), self._boot_id, self._book.table)
        ]
        for begin in range(0, len(packed), _REPORTS):
            self._sender.put(*packed[begin : begin + _REPORTS])
        self.counts["reports"] += len(packed)
        why = self._sender.spool_problem
        self.problems.tell("spool", why and f"cannot write to the spool, reports wait in memory: {why}", logging.ERROR)
        if rows := self._decisions.close(end_us):
            self._waiting.append(rows)
        try:
            self._write()
            self._log.reported(end_us)
        except OSError as error:
            self.counts["reports_failed"] += 1
            self.problems.tell("lake", f"cannot write to the lake, will try again: {error}", logging.ERROR)
            self._log.closed_us = end_us
        else:
            self.problems.tell("lake", None)
        self.reported_s = time.monotonic()

    def run(self) -> None:
        """Reads and reports until SIGTERM or SIGINT."""
        stopping = threading.Event()

        def stop(_signal: int, _frame: FrameType | None) -> None:
            stopping.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        logger.info("agent started", extra={"proxy": self._options.host, "boot_id": self._boot_id})
        # Windows close at all agents at one moment: each reads a little apart from others.
        apart_s = APART_S * (zlib.crc32(self._options.host.encode()) % 1000) / 1000
        next_read_s = 0.0
        while not stopping.is_set():
            now_s = time.time()
            if now_s >= next_read_s:
                more = self.read()
                pause_s = self._log.pause_s
                next_read_s = 0.0 if more else pause_s - (time.time() - apart_s) % pause_s + time.time()
            if next_read_s:
                time.sleep(_TICK_S)
        self.read()
        self._log.close()
        self._sender.stop()
        logger.info("agent stopped", extra={"proxy": self._options.host, "counts": self.all_counts()})

    def all_counts(self) -> dict[str, int]:
        """Every count of what was taken, refused and failed."""
        return dict(self.counts + self._intake.counts + self._log.counts)

    def metrics(self) -> Iterator[Metric]:
        """Of the log, and of what arrives; besides what every agent has."""
        log = self._log
        yield _HOSTS.of([((), self._windows.hosts)])
        yield _LINES.of([((), log.pace.lines_per_s)])
        yield _EVERY.of([((), log.every)])
        with self._arrivals_lock:
            names, rates = self._book.table.names, self._arrivals.rates(self._clock_us())
        for family, values in zip(_ARRIVALS, (rates.rate_rps, rates.trend_rps_per_s, rates.peak_rps), strict=True):
            rows = zip(names, values.tolist(), rates.peak_rps.tolist(), strict=False)
            yield family.of(((category,), value) for category, value, peak in rows if peak)

    def _take(self, lines: list[bytes], every: int) -> int:
        """Takes in some lines; returns the latest time among them, 0 if there is none."""
        log, intake = self._log, self._intake
        for line in lines:
            if not line.strip():
                continue
            try:
                intake.take(log.parse(line), line)
            except RefusedError as error:
                if log.refuses:
                    intake.refuse(error.reason, line)
                else:
                    self.counts["unclaimed"] += 1
        taken, intake.records = intake.records, []
        self.counts["records"] += len(taken)
        latest_us = max((row["time"] for row in taken), default=0)
        own, windows = log.own_agents(), self._windows
        self._checks.update(taken, intake.taken, intake.reasons)
        rows = [row for row in taken if row["host"] not in own and windows.known(row["host"], row["time"])]
        self.counts["own_agents"] += sum(row["host"] in own for row in taken)
        ends = window_end_us([row["time"] for row in rows], self._options.window_s).tolist()
        timely = [(end, row) for end, row in zip(ends, rows, strict=True) if end > log.closed_us]
        self.counts["late"] += len(rows) - len(timely)
        rows = [row for _, row in timely]
        if not rows:
            return latest_us
        self._book.note(rows)
        self._use_categories()
        windows.add(rows, every)
        self._decisions.add([end for end, _ in timely], rows, float(every))
        begun_us = np.array([row["time"] - round(US * (row.get("duration_s") or 0.0)) for row in rows])
        with self._arrivals_lock:
            self._arrivals.add(begun_us, self._book.assign(rows).astype(np.int64), every)
        return latest_us

    def _use_categories(self) -> None:
        with self._arrivals_lock:
            mapping = self._book.refresh()
            if mapping is not None:
                self._arrivals.use_categories(mapping, len(self._book.table.names))

    def _write(self) -> None:
        """Writes decision records and refused lines that wait.

        Raises:
            OSError: they cannot be written, and wait on.
        """
        options, intake = self._options, self._intake
        while self._waiting:
            rows = self._waiting[0]
            end_us = int(window_end_us(rows[0]["time"], options.window_s))
            # Named by its window: the same if it is made again after a restart.
            path = write_batch(options.lake, "requests", REQUEST_RECORD, rows, f"{options.host}-{end_us}-proxy")
            self.counts["decisions"] += len(rows)
            self._bound_inbox(self._inbox.add(path))
            self._waiting.popleft()
        if intake.refused:
            mark = zlib.crc32(intake.refused[0][1])
            file = f"{options.host}-{self._clock_us()}-{mark:08x}"
            path = quarantine_lines(options.lake, options.service, clock_us(), file, intake.refused)
            self.counts["quarantine_dropped"] += self._quarantine.add(path) or 0
        intake.clear()

    def _bound_inbox(self, removed: int | None) -> None:
        if removed is None:
            return
        self.counts["batches_dropped"] += removed
        most = f"{self._options.inbox_bytes / 2**20:g} MB"
        text = f"{removed} batches that nobody fetched were removed: more than {most} waited in the lake's inbox"
        self.problems.tell("inbox", f"{text}; docs/agent.md says how they travel" if removed else None)

    def _begin_anew(self) -> None:
        """The clock went back: what comes now would be too late for ever."""
        logger.warning("the clock went back: windows begin anew")
        self.counts["clock_jumps"] += 1
        self._windows.begin_anew()
        self._boot_id = uuid.uuid4().hex
        self._log.closed_us = 0
