"""Takes in reports: opened, checked, stored in groups by one thread, so that a commit serves many messages."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fingerpost.clock import US, clock_us
from fingerpost.errors import RefusedError
from fingerpost.packed_message import open_message
from fingerpost.serving.health import RefusalRate
from fingerpost.serving.metrics import EngineMetrics
from fingerpost.serving.store import STALE, Arrival, ReportStore, StoreError
from fingerpost.settings import Settings
from fingerpost.window_report import unpack

logger = logging.getLogger(__name__)
MAX_PACKED_BYTES = 512 * 2**10
_MAX_WAITING = 2000
_MAX_GROUP = 2000
# What waits, and what is stored at once, is bounded by its bytes as well: a message may have 4 MB, and unpack to 32.
_MAX_WAITING_BYTES = 64 * 2**20
_MAX_GROUP_BYTES = 32 * 2**20
# A commit costs more than a message: those that come within this time of the first share one.
_GATHER_S = 0.05
_TRY_EVERY_S = 1.0


class BusyError(Exception):
    """More messages wait than may."""


@dataclass
class Receipt:
    """What became of a message.

    Args:
        reasons: reason to number of refused reports.
    """

    accepted: int = 0
    stale: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    services: set[str] = field(default_factory=set)

    @property
    def status(self) -> int:
        """Of the answer: 200 if anything was stored, or there was nothing to store; 409 if all of it was stale, else
        422."""
        if self.accepted or not (self.stale or self.reasons):
            return 200
        return 422 if self.reasons else 409

    @property
    def error(self) -> str:
        """Why nothing was stored: the most frequent reason."""
        return self.reasons.most_common(1)[0][0] if self.reasons else "sequence:not_newer"

    def to_json(self) -> dict[str, Any]:
        refused = self.reasons.total()
        return {"accepted": self.accepted, "stale": self.stale, "refused": refused, "reasons": dict(self.reasons)}


@dataclass
class _Message:
    """A message that waits.

    Args:
        answer: the receipt, or the error that `accept` is to raise: one that is raised here, and kept by a future,
            would hold on to the message and all that was unpacked.
    """

    body: bytes
    answer: "asyncio.Future[Receipt | Exception]"
    loop: asyncio.AbstractEventLoop
    receipt: Receipt = field(default_factory=Receipt)

    def resolve(self, error: Exception | None = None) -> None:
        self.body = b""

        def tell() -> None:
            if not self.answer.done():
                self.answer.set_result(self.receipt if error is None else error)

        try:
            self.loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop has ended: nobody waits
            logger.debug("an answer came after the end")


class Ingest:
    """Takes messages and stores their reports."""

    def __init__(self, store: ReportStore, settings: Settings, metrics: EngineMetrics, refusals: RefusalRate) -> None:
        self._store, self._settings, self._metrics, self._refusals = store, settings, metrics, refusals
        self._waiting: queue.Queue[_Message | None] = queue.Queue(_MAX_WAITING)
        # Of messages that are not answered yet; only the event loop touches it.
        self._waiting_bytes = 0
        self._thread = threading.Thread(target=self._work, name="ingest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stores what waits, then ends."""
        self._waiting.put(None)
        self._thread.join(10)

    async def accept(self, body: bytes) -> Receipt:
        """Stores the reports of a message; returns once they are committed.

        Raises:
            RefusedError: the message cannot be read at all.
            StoreError: they cannot be stored now.
            BusyError: too many messages wait.
        """
        if self._waiting_bytes and self._waiting_bytes + len(body) > _MAX_WAITING_BYTES:
            raise BusyError
        loop = asyncio.get_running_loop()
        message = _Message(body, loop.create_future(), loop)
        try:
            self._waiting.put_nowait(message)
        except queue.Full as error:
            raise BusyError from error
        size = len(body)
        self._waiting_bytes += size
        # Not when the caller goes away: the message waits all the same.
        message.answer.add_done_callback(lambda _: self._no_longer_waits(size))
        del body
        answer = await asyncio.shield(message.answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _no_longer_waits(self, size: int) -> None:
        self._waiting_bytes -= size

    def _work(self) -> None:
        while True:
            group, ending = self._next_group()
            try:
                rest: Sequence[_Message] = group
                while rest:
                    rest = self._store_some(rest)
            except Exception as error:  # one group's trouble is not the next one's
                logger.exception("a group of reports was not stored")
                for message in group:
                    message.resolve(StoreError(type(error).__name__))
            if ending:
                return

    def _next_group(self) -> tuple[list[_Message], bool]:
        try:
            message = self._waiting.get(timeout=_TRY_EVERY_S)
        except queue.Empty:
            self._try_store()
            return [], False
        if message is not None:
            time.sleep(_GATHER_S)
        group: list[_Message] = []
        while message is not None and len(group) < _MAX_GROUP:
            group.append(message)
            try:
                message = self._waiting.get_nowait()
            except queue.Empty:
                return group, False
        return group, message is None

    def _try_store(self) -> None:
        """While the store has a problem, finds out whether it still has, though nobody sends anything."""
        if self._store.problem:
            with contextlib.suppress(StoreError):
                self._store.try_writing()

    def _store_some(self, group: Sequence[_Message]) -> Sequence[_Message]:
        """Stores the first messages of a group; returns those that are left for the next time."""
        arrivals: list[Arrival] = []
        owners: list[_Message] = []
        readable: list[_Message] = []
        size = opened = 0
        for message in group:
            if size > _MAX_GROUP_BYTES:
                break
            opened += 1
            try:
                parts = open_message(message.body)
            except RefusedError as error:
                self._metrics.refused(error.reason, 1)
                self._refusals.note(0, {error.reason: 1})
                message.resolve(RefusedError(error.reason))
                continue
            readable.append(message)
            for part in parts:
                arrival = self._check(part, message.receipt)
                if arrival is not None:
                    arrivals.append(arrival)
                    owners.append(message)
                    size += len(part)
        try:
            answers = self._store.put(arrivals)
        except StoreError as error:
            self._metrics.store_failed()
            for message in readable:
                message.resolve(StoreError(str(error)))
            return group[opened:]
        for arrival, message, answer in zip(arrivals, owners, answers, strict=True):
            _note(message.receipt, arrival.service, answer)
        for message in readable:
            receipt = message.receipt
            self._metrics.received(receipt.accepted, receipt.stale, receipt.reasons)
            self._refusals.note(receipt.accepted + receipt.stale, receipt.reasons)
            message.resolve()
        return group[opened:]

    def _check(self, part: bytes, receipt: Receipt) -> Arrival | None:
        now_us, settings = clock_us(), self._settings
        try:
            if len(part) > MAX_PACKED_BYTES:
                raise RefusedError("report:too_large")
            earliest = now_us - round(settings.max_age_days * 86400 * US)
            found = unpack(part, earliest, now_us + round(settings.clock_skew_s * US))
            # Windows of another length have no place in the rolling state, nor in training.
            if found.window_s != settings.window_s:
                raise RefusedError("window_s:other")
        except RefusedError as error:
            receipt.reasons[error.reason] += 1
            return None
        order = (found.boot_id, found.sequence, found.time_us, found.end_us)
        return Arrival(found.service, found.host, found.reporter, *order, now_us, part)


def _note(receipt: Receipt, service: str, answer: str | None) -> None:
    if answer is None:
        receipt.accepted += 1
        receipt.services.add(service)
    elif answer == STALE:
        receipt.stale += 1
    else:
        receipt.reasons[answer] += 1
