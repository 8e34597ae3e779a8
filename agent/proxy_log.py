"""Follows a proxy's access log for all of its hosts: in full while it is slow, else by a sample of its lines."""

import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fingerpost.accesslog.rotation import Position
from fingerpost.agent.line_sample import LinePace, LineSample
from fingerpost.agent.sources import FOLLOWS, LogSource
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.locks import holder

# Read at one go; in between reports are made, and signals heard.
_BLOCKS = 32
_OWN_AGENTS_EVERY_S = 10.0


class ProxyLog(LogSource):
    """A log that is read by its blocks.

    A window is reported once: the checkpoint lies before the first line of any window that was not reported, and tells
    which those are. What is read again after a restart is left out where its window was reported already.

    Args:
        log, log_format, service, state: as of `LogSource`.
        name: that the checkpoint is known by.
        lines_per_s: lines to read a second, at most; of a busier log a sample is read.

    Attributes:
        closed_us: end of the last window that was reported; 0: none was.
        every: of how many lines one is read now.
        has_more: whether more waits to be read than `batches` gave.
        pace: of the log.
    """

    pause_s = 1.0
    one_host = False

    def __init__(self, log: Path, log_format: str, service: str, name: str, state: Path, lines_per_s: float) -> None:
        super().__init__(log, log_format, service, name, state)
        self._state = state
        self.closed_us = self._closed_before()
        self.every, self.has_more = 1, False
        self.pace = LinePace(lines_per_s)
        self._sample = LineSample()
        self._looked_s: float | None = None
        self._size = self._tail.position.offset
        # Positions, and the latest time of any request before each.
        self._passed: deque[tuple[int, Position]] = deque(maxlen=4096)
        self._latest_us = 0
        self._own_agents: frozenset[str] = frozenset()
        self._own_agents_s = 0.0

    def batches(self) -> Iterator[tuple[list[bytes], int]]:
        """What was added to the log, at most 32 MiB: lines, and how many lines each stands for.

        What a reader does not come to take is given the next time.
        """
        self._error, self.has_more = None, False
        self._missing = 0 if self._log.exists() else self._missing + 1
        try:
            for number, (lines, size) in enumerate(self._tail.blocks(), start=1):
                if number == 1:
                    self._choose(lines)
                self.pace.saw(len(lines), size)
                every = self.every
                picked = lines if every == 1 else [lines[place] for place in self._sample.pick(len(lines), every)]
                self.counts["lines"] += len(lines)
                self.counts["lines_read"] += len(picked)
                yield picked, every
                if number >= _BLOCKS:
                    self._tail.rewind()
                    self.has_more = True
                    return
        except OSError as error:
            self._error = error
            self.counts["log_errors"] += 1

    @property
    def refuses(self) -> bool:
        """Whether lines without a host are this agent's to refuse: no agent of a host does it."""
        return self._holds_claim()

    def parse(self, line: bytes) -> dict[str, Any]:
        """A line as a request record of the host that it names; errors as of `LogFormat.parse`.

        Raises:
            RefusedError: it is no such line.
        """
        return self._format.parse(line, self._service, None)

    def own_agents(self) -> frozenset[str]:
        """The hosts whose own agents follow this log on this machine: they report what is in it."""
        now_s = time.monotonic()
        if not self._own_agents_s or now_s - self._own_agents_s > _OWN_AGENTS_EVERY_S:
            self._own_agents_s = now_s
            begin = f"{FOLLOWS}{self._log_mark}-"
            names = [path.name for path in self._state.glob(f"{begin}*.lock")]
            self._own_agents = frozenset(
                name.removeprefix(begin).removesuffix(".lock") for name in names if holder(self._state / name)
            )
        return self._own_agents

    def passed(self, latest_us: int) -> None:
        """Notes that all before the present position was taken in, with the latest time among it."""
        self._latest_us = max(self._latest_us, latest_us)
        self._passed.append((self._latest_us, self._tail.position))

    def reported(self, end_us: int) -> None:
        """Notes that all windows up to this end were reported; saved before any line is read on.

        Raises:
            OSError: it cannot be written.
        """
        self.closed_us = end_us
        while self._passed and self._passed[0][0] < end_us:
            self._batch_start = self._passed.popleft()[1]
        text = json.dumps({**json.loads(self._batch_start.to_json()), "closed_us": end_us})
        self._save(text)

    def _choose(self, lines: list[bytes]) -> None:
        """Of how many lines one is to be read, by how much was written since the last look."""
        size = self._tail.size
        now_s = time.time()
        since_s = self._looked_s or self._began_s(lines, now_s)
        self.every = self.pace.grew(size - self._size if size >= self._size else size, max(0.1, now_s - since_s))
        self._looked_s, self._size = now_s, size

    def _began_s(self, lines: list[bytes], now_s: float) -> float:
        """When the first of the lines was written, as far as is known."""
        for line in lines[:100]:
            try:
                time_us = self.parse(line)["time"]
            except RefusedError:
                continue
            if isinstance(time_us, int):
                return time_us / US
        return now_s - 1.0

    def _closed_before(self) -> int:
        try:
            closed_us = json.loads(self._checkpoint.read_text()).get("closed_us", 0)
        except (OSError, ValueError, AttributeError):
            return 0
        return closed_us if type(closed_us) is int and 0 <= closed_us < 2**62 else 0
