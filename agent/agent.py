"""The agent beside a host: follows its requests, samples it, and reports both, and what it makes of them."""

import logging
import math
import signal
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from fingerpost.agent.active_categories import ActiveCategories
from fingerpost.agent.announcer import Announcer
from fingerpost.agent.attribution import attribute
from fingerpost.agent.batches import quarantine_lines, write_batch
from fingerpost.agent.bounded_folder import bounded_inbox, bounded_quarantine
from fingerpost.agent.ended_windows import Numbering
from fingerpost.agent.fingerprints import Report, host_values
from fingerpost.agent.health import Problems, RequestChecks
from fingerpost.agent.host_history import HistoryFile, HostHistory
from fingerpost.agent.http import OF_ACCESS
from fingerpost.agent.options import AgentOptions
from fingerpost.agent.record_buffer import RecordBuffer
from fingerpost.agent.sampling.base import NotYetError, Sampler, SamplingError
from fingerpost.agent.sampling.trace import CpuTrace
from fingerpost.agent.sender import Sender
from fingerpost.agent.sources import REFUSED, Source
from fingerpost.clock import US, clock_us
from fingerpost.decision_sample import sample_decisions
from fingerpost.fingerprint import Fingerprint
from fingerpost.lake import QUARANTINE, service_folder
from fingerpost.records import FINGERPRINT, HOST_SAMPLE, REQUEST_RECORD, Column
from fingerpost.telemetry.host_attribution import HostAttribution
from fingerpost.telemetry.windows import APART_S, SETTLE_S
from fingerpost.window_report import pack

logger = logging.getLogger(__name__)
# The CPU counter is read often, which is cheap.
_METER_S = 0.1
# The wall clock and the one that never jumps may drift apart by this between two looks; more is a jump.
_JUMP_S = 2.0


class Agent:
    """Collects request records and host samples; `report` writes them, and the fingerprint made of them, as batches.

    After a crash an access log is read on from the last report: batches are named by where they begin, so what was
    reported twice is in the lake once. Fingerprints wait in a spool until the engine has taken them.

    Attributes:
        problems: what is wrong now, and what to do.
        last: the last fingerprint that was made.

    Args:
        source: of request records; None: there are none.
        sampler: of the host.
        sender: of window reports; None: nobody is told of windows.
        announcer: of the host; None: no engine hears of it.
    """

    def __init__(
        self,
        options: AgentOptions,
        source: Source | None,
        sampler: Sampler,
        intake: RecordBuffer,
        book: ActiveCategories,
        sender: Sender | None = None,
        boot_id: str | None = None,
        clock: Callable[[], float] = time.time,
        announcer: Announcer | None = None,
    ) -> None:
        self._options, self._announcer = options, announcer
        self._source, self._sampler, self._sender = source, sampler, sender
        self._intake, self._book = intake, book
        self._clock = clock
        self._boot_id = boot_id or uuid.uuid4().hex
        self._sample: dict[str, Any] | None = None
        self._sampled_s = clock()
        self._begin_anew()
        self._history = HostHistory(book.table, options.window_s, options.halflife_s)
        self._history_file = HistoryFile(options.state / f"{options.host}.history", self._history, self._batch_name())
        self._profiled = 0
        self._clock_offset_s = clock() - time.monotonic()
        self.last: Report | None = None
        self._reports: list[Report] = []
        self._lock = threading.Lock()
        self._inbox = bounded_inbox(options.lake, options.service, options.host, options.inbox_bytes)
        self._quarantine = bounded_quarantine(options.lake, options.service, options.max_quarantine_bytes)
        self.counts: Counter[str] = Counter()
        self.problems = Problems()
        self._checks = RequestChecks(self.problems, _hint(options))
        self.reported_s = time.monotonic()

    def read(self) -> None:
        """Takes in the requests that came since the last call."""
        if self._source:
            self._source.read(self._intake, self.report_or_keep)
            self.problems.tell("requests", self._source.problem())

    def meter(self) -> None:
        """Reads the host's CPU counter, to know later when within a sample it was used."""
        try:
            busy_s = self._sampler.busy_s()
        except SamplingError:
            return  # the next sample says so
        if busy_s is not None:
            self._trace.note(self._clock(), busy_s)

    def sample_host(self) -> None:
        """Takes one host sample; a host that is gone is counted, told of, and looked for again the next time."""
        self._notice_jump()
        self.meter()
        since_s = self._sampled_s
        try:
            row = self._sampler.sample()
        except NotYetError as error:
            logger.info("%s", error)
            self.problems.tell("host", None)
            self._sampled_s, self._trace = self._clock(), CpuTrace()
            return
        except SamplingError as error:
            self.counts["samples_failed"] += 1
            self.problems.tell("host", f"cannot sample the host: {error}")
            return
        self.problems.tell("host", None)
        self._sampled_s = row["time"] / 1e6
        used_cpu_s = row.pop("used_cpu_s")
        if used_cpu_s is None:
            used_cpu_s = row["cpu_util"] * row["cores"] * max(0.0, self._sampled_s - since_s)
        edges_s, used_s = self._trace.divide(since_s, self._sampled_s, used_cpu_s)
        if self._intake.take_sample(row):
            self._sample = row
            slots = row["slots"] or math.inf
            self._attribution.add_sample(edges_s, used_s, float(row["mem_bytes"]), row["cores"], slots)
            self._history.add_sample(row)

    def report(self) -> None:
        """Writes what was collected into the lake's inbox, with a fingerprint, then notes how far was read.

        Raises:
            OSError: the lake cannot be written; nothing is forgotten.
        """
        self._profile()
        self._make_fingerprint()
        self._send_windows()
        self._write()
        self._history_file.save(self._batch_name())
        self._intake.clear()
        self._profiled = 0
        self._reports = []
        if self._source:
            self._source.commit()
        self._history_file.committed()
        self.reported_s = time.monotonic()

    def report_or_keep(self) -> bool:
        """Reports; while the lake cannot be written, what was collected is kept, up to the intake's bounds."""
        try:
            self.report()
        except OSError as error:
            self.counts["reports_failed"] += 1
            self.problems.tell("lake", f"cannot write to the lake, will try again: {error}", logging.ERROR)
            return False
        self.problems.tell("lake", None)
        return True

    def run(self) -> None:
        """Collects and reports until SIGTERM or SIGINT, then reports once more."""
        stopping = threading.Event()

        def stop(_signal: int, _frame: FrameType | None) -> None:
            stopping.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        options = self._options
        if self._announcer:
            self._announcer.start()
        logger.info("agent started", extra={"host": options.host, "boot_id": self._boot_id})
        if missing := options.missing():
            logger.warning("%s (docs/agent.md says what tells what)", missing)
        next_read = next_sample = next_report = time.monotonic()
        while not stopping.is_set():
            now = time.monotonic()
            if now >= next_sample:
                self.sample_host()
                next_sample = now + options.sample_s
            else:
                self.meter()
            if now >= min(next_read, next_report):
                self.read()
                next_read = now + (self._source.pause_s if self._source else options.batch_s)
            if now >= next_report:
                self.report_or_keep()
                next_report = now + self._until_report_s()
            # Cheaper than waiting for the event, ten times a second; it is looked at soon enough.
            time.sleep(min(_METER_S, options.sample_s))
        # First of all: until routers hear of it they go on sending requests.
        if self._announcer:
            self._announcer.leave()
            # Its requests of this time are reported too.
            while (left_s := self._announcer.drains_for_s) > 0:
                time.sleep(min(left_s, _METER_S))
                self.read()
        self.read()
        self.report_or_keep()
        if self._source:
            self._source.close()
        if self._sender:
            self._sender.stop()
        logger.info("agent stopped", extra={"host": options.host, "counts": self.all_counts()})

    def _until_report_s(self) -> float:
        """Seconds to the next report: as soon as a window is closed, at each host a little apart from others."""
        options = self._options
        apart_s = min(APART_S, options.batch_s) * (zlib.crc32(options.host.encode()) % 1000) / 1000
        return options.batch_s - (self._clock() - SETTLE_S - apart_s) % options.batch_s

    def all_counts(self) -> dict[str, int]:
        """Every count of what was taken, refused and failed."""
        source = self._source.counts if self._source else Counter()
        return dict(self.counts + self._intake.counts + self._history.counts + self._history.ended.counts + source)

    def _refused_before(self) -> Counter[str]:
        """What was refused before it became a row, by reason: spans, and bodies that nobody can read."""
        counts = self.counts + (self._source.counts if self._source else Counter())
        return Counter(
            {
                name.removeprefix(REFUSED): count
                for name, count in counts.items()
                if name.startswith(REFUSED) and name.removeprefix(REFUSED) not in OF_ACCESS
            }
        )

    def _begin_anew(self) -> None:
        """Forgets what was observed of the host."""
        options, now_s = self._options, self._clock()
        categories = len(self._book.table.names)
        self._attribution = HostAttribution(categories, options.halflife_s, options.attribution_halflife_s, now_s)
        self._sample, self._sequence = None, 0
        self._numbering = Numbering(options, self._boot_id)
        self._sampled_s = now_s
        self._trace = CpuTrace()

    def _notice_jump(self) -> None:
        """After a jump of the clock the ages of what was observed are wrong, so the fingerprint begins anew."""
        offset = self._clock() - time.monotonic()
        if abs(offset - self._clock_offset_s) > _JUMP_S:
            logger.warning("the clock jumped by %.1f s: the fingerprint begins anew", offset - self._clock_offset_s)
            self.counts["clock_jumps"] += 1
            # A life of its own, so that the numbering says so, and the engine does not wait for the old time to return.
            self._boot_id = uuid.uuid4().hex
            self._begin_anew()
        self._clock_offset_s = offset

    def _profile(self) -> None:
        """Has the records since the last call profiled; those that wait for the lake are not profiled twice."""
        fresh = self._intake.records[self._profiled :]
        self._checks.update(fresh, self._intake.taken, self._intake.reasons + self._refused_before())
        self._book.note(fresh)
        mapping = self._book.refresh()
        if mapping is not None:
            self._attribution.use_categories(mapping, len(self._book.table.names))
            self._history.use_table(self._book.table)
        if fresh:
            attribute(self._attribution, fresh, self._book.assign(fresh), self._clock())
            self._history_file.add_requests(fresh)
        self._profiled = len(self._intake.records)
        # A full intake is what a long log is read in: the rest of a window may be yet to come.
        until_us = self._intake.records[-1]["time"] if self._intake.full and fresh else round(self._clock() * 1e6)
        self._history.close(until_us)

    def _make_fingerprint(self) -> None:
        if self._sample is None:
            return
        options, table, block, now_s = self._options, self._history.table, self._history.block(), self._clock()
        made = Fingerprint(
            *(options.service, options.host, self._boot_id, self._sequence, round(now_s * US)),
            *(table.version, table.names, host_values(self._sample, block), block),
        )
        self._sequence += 1
        self.last = Report(made, self._book.table.names, self._attribution.costs(now_s))
        self._reports.append(self.last)
        del self._reports[: -options.max_held_fingerprints]
        self.counts["fingerprints"] += 1

    def _send_windows(self) -> None:
        """Gives the sender a report of each window that has ended."""
        if not self._sender:
            self._history.ended.take()
            return
        table, time_us = self._history.table, round(self._clock() * US)
        for report in self._numbering.reports(self._history.ended, table.version, self._sample, time_us):
            self._sender.put(pack(report))
            self.counts["window_reports"] += 1
        why = self._sender.spool_problem
        said = None if why is None else f"cannot write to the spool, window reports wait in memory: {why}"
        self.problems.tell("spool", said, logging.ERROR)

    def _batch_name(self) -> str:
        return self._source.batch_name() if self._source else self._boot_id

    def _write(self) -> None:
        options, intake = self._options, self._intake
        name = self._batch_name()
        # Samples first: they are what makes a host known to the ingest of its records.
        batches: list[tuple[str, tuple[Column, ...], list[dict[str, Any]]]] = [
            ("samples", HOST_SAMPLE, intake.samples),
            ("requests", REQUEST_RECORD, intake.records),
            ("fingerprints", FINGERPRINT, [row for report in self._reports for row in report.rows()]),
        ]
        if options.deliver == "engine":
            # Windows tell all else: only what experiments need travels besides.
            most = options.decisions_per_s * options.batch_s
            batches = [("requests", REQUEST_RECORD, sample_decisions(intake.records, most))]
        for kind, columns, rows in batches:
            if rows:
                suffix = f"-{name}" if kind == "requests" else ""
                path = write_batch(options.lake, kind, columns, rows, f"{options.host}-{rows[0]['time']}{suffix}")
                self._bound_inbox(path)
        if intake.refused:
            # Named by where and with what it begins: the same when reported again, another after a truncation.
            mark = zlib.crc32(intake.refused[0][1])
            file = f"{options.host}-{name}-{mark:08x}"
            path = quarantine_lines(options.lake, options.service, clock_us(), file, intake.refused)
            self.counts["quarantine_dropped"] += self._quarantine.add(path) or 0

    def _bound_inbox(self, path: Path) -> None:
        """Has the oldest batches go where nobody fetches them, so that the agent does not fill its host's disk."""
        removed = self._inbox.add(path)
        if removed is not None:
            self.counts["batches_dropped"] += removed
            most = f"{self._options.inbox_bytes / 2**20:g} MB"
            text = f"{removed} batches that nobody fetched were removed: more than {most} waited in the lake's inbox"
            self.problems.tell("inbox", f"{text}; docs/agent.md says how they travel" if removed else None)


def _hint(options: AgentOptions) -> str:
    kept = service_folder(options.lake / QUARANTINE, "lines", options.service)
    check = f"`fingerpost logs check {options.access_log}` says which does"
    asked = f"does --log-format {options.log_format} fit? {check}. " if options.access_log else ""
    return f"{asked}They are kept in {kept}"
