"""The agent beside a host: follows an access log, samples the host, and reports both into the lake in batches."""

import contextlib
import fcntl
import json
import logging
import signal
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from fingerpost.errors import RefusedError
from fingerpost.lake import write_text_atomically
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, refusal
from fleet.batches import quarantine_lines, write_batch
from fleet.log_formats import LOG_FORMATS
from fleet.sampling import SamplingError, Subject
from fleet.sampling.process import ProcessSampler
from fleet.tail import LogTail, Position

logger = logging.getLogger(__name__)
_US = 1_000_000
_POLL_S = 0.25
_MAX_ROWS = 50_000


@dataclass(frozen=True)
class AgentOptions:
    """What one agent watches, and how often it reports; all times in seconds."""

    lake: Path
    service: str
    host: str
    access_log: Path | None = None
    log_format: str = "envoy"
    pid: int | None = None
    cores: float | None = None
    mem_limit_bytes: int | None = None
    stats_url: str | None = None
    batch_s: float = 5.0
    sample_s: float = 1.0
    clock_skew_s: float = 5.0
    max_age_s: float = 30 * 86400.0


class Agent:
    """Collects request records of its host and host samples; `report` writes what was collected as batches.

    Several agents may follow one log (that of a proxy before several hosts): each takes the lines that name its host.
    Lines that nobody can claim are refused by just one of them, the one that holds the lock beside the lake.

    After a crash the log is read on from the last report: batches are named by where they begin, so what was reported
    twice is in the lake once.
    """

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        state = options.lake / "agents" / f"service={options.service}"
        state.mkdir(parents=True, exist_ok=True)
        self._checkpoint = state / f"{options.host}.json"
        # One lock a log: agents on logs of their own must not wait for each other.
        self._claim_path = state / f"unclaimed-{zlib.crc32(str(options.access_log).encode()):08x}.lock"
        self._claim: IO[str] | None = None
        self._tail = LogTail(options.access_log, self._load_position()) if options.access_log else None
        self._format = LOG_FORMATS[options.log_format]
        self._batch_start = self._tail.position if self._tail else Position()
        subject = Subject(options.service, options.host, options.cores, options.mem_limit_bytes, options.stats_url)
        self._sampler = ProcessSampler(subject, options.pid)
        self._records: list[dict[str, Any]] = []
        self._samples: list[dict[str, Any]] = []
        self._refused: list[tuple[str, bytes]] = []
        self.counts: Counter[str] = Counter()

    def read_log(self) -> None:
        """Takes in what was added to the log; a line never stops it.

        While the lake cannot be written to, at most 50,000 rows are held; the rest waits in the log.
        """
        if self._tail is None or self._full():
            return
        for line in self._tail.lines():
            self._take(line)
            if self._full() and not self._report_or_keep():
                self._tail.rewind()
                return

    def sample_host(self) -> None:
        """Takes one host sample; a host that is gone is counted, and looked for again the next time."""
        try:
            row = self._sampler.sample()
        except SamplingError as error:
            self.counts["samples_failed"] += 1
            logger.warning("cannot sample the host: %s", error)
            return
        reason = refusal(row, HOST_SAMPLE, *self._time_bounds())
        if reason:
            self.counts[f"refused {reason}"] += 1
        else:
            self._samples.append(row)

    def report(self) -> None:
        """Writes what was collected into the lake's inbox, then notes how far the log was read."""
        options, start = self._options, self._batch_start
        # Samples first: they are what makes a host known to the ingest of its records.
        if self._samples:
            name = f"{options.host}-{self._samples[0]['time']}"
            write_batch(options.lake, "samples", HOST_SAMPLE, self._samples, name)
            self.counts["samples"] += len(self._samples)
        if self._records:
            name = f"{options.host}-{self._records[0]['time']}-{start.offset}"
            write_batch(options.lake, "requests", REQUEST_RECORD, self._records, name)
            self.counts["records"] += len(self._records)
        if self._refused:
            now_us = time.time_ns() // 1000
            # Named by where and with what it begins: the same when reported again, another after a truncation.
            name = f"{options.host}-{start.offset}-{zlib.crc32(self._refused[0][1]):08x}"
            quarantine_lines(options.lake, options.service, now_us, name, self._refused)
        self._records, self._samples, self._refused = [], [], []
        if self._tail:
            self._batch_start = self._tail.position
            self._save_position()

    def run(self) -> None:
        """Collects and reports until SIGTERM or SIGINT, then reports once more."""
        stopping = False

        def stop(_signal: int, _frame: FrameType | None) -> None:
            nonlocal stopping
            stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        logger.info("agent started", extra={"host": self._options.host, "access_log": str(self._options.access_log)})
        next_sample = next_report = time.monotonic()
        while not stopping:
            now = time.monotonic()
            self.read_log()
            if now >= next_sample:
                self.sample_host()
                next_sample = now + self._options.sample_s
            if now >= next_report:
                self._report_or_keep()
                next_report = now + self._options.batch_s
            time.sleep(min(_POLL_S, self._options.sample_s))
        self.read_log()
        self._report_or_keep()
        logger.info("agent stopped", extra={"host": self._options.host, "counts": dict(self.counts)})

    def _full(self) -> bool:
        return len(self._records) + len(self._refused) >= _MAX_ROWS

    def _report_or_keep(self) -> bool:
        try:
            self.report()
        except OSError as error:
            self.counts["reports_failed"] += 1
            logger.error("cannot write to the lake, will try again: %s", error)
            excess = len(self._samples) - _MAX_ROWS
            if excess > 0:
                del self._samples[:excess]
                self.counts["samples_dropped"] += excess
            return False
        return True

    def _take(self, line: bytes) -> None:
        host = self._format.claim(line, self._options.host)
        if host is not None and host != self._options.host:
            self.counts["foreign"] += 1
            return
        if host is None and not self._holds_claim():
            self.counts["unclaimed"] += 1
            return
        try:
            row = self._format.parse(line, self._options.service, self._options.host)
            reason = refusal(row, REQUEST_RECORD, *self._time_bounds())
        except RefusedError as error:
            reason = error.reason
        if reason is None:
            self._records.append(row)
        else:
            self.counts[f"refused {reason}"] += 1
            self._refused.append((reason, line))

    def _holds_claim(self) -> bool:
        if self._claim is None:
            handle = self._claim_path.open("w")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.close()
                return False
            self._claim = handle
        return True

    def _time_bounds(self) -> tuple[int, int]:
        now = time.time()
        return int((now - self._options.max_age_s) * _US), int((now + self._options.clock_skew_s) * _US)

    def _load_position(self) -> Position:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(self._checkpoint.read_text())
            return Position(int(saved["inode"]), int(saved["offset"]))
        return Position()

    def _save_position(self) -> None:
        text = json.dumps({"inode": self._batch_start.inode, "offset": self._batch_start.offset})
        write_text_atomically(self._checkpoint, text)
