"""Fingerprints at the door: opened, checked, stored in groups by one thread, so that a commit serves many messages."""

import asyncio
import logging
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fingerpost.errors import RefusedError
from fingerpost.fingerprint import open_message, unpack
from fingerpost.settings import Settings
from serving.metrics import EngineMetrics
from serving.store import STALE, Arrival, FingerprintStore, StoreError

logger = logging.getLogger(__name__)
MAX_PACKED_BYTES = 512 * 2**10
_MAX_WAITING = 2000
_MAX_GROUP = 2000
# A commit costs more than a message: those that come within this time of the first share one.
_GATHER_S = 0.02


class BusyError(Exception):
    """More messages wait than may."""


@dataclass
class Receipt:
    """What became of a message.

    Args:
        reasons: reason to number of refused fingerprints.
    """

    accepted: int = 0
    stale: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    services: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        refused = self.reasons.total()
        return {"accepted": self.accepted, "stale": self.stale, "refused": refused, "reasons": dict(self.reasons)}


@dataclass
class _Message:
    body: bytes
    answer: "asyncio.Future[Receipt]"
    loop: asyncio.AbstractEventLoop
    receipt: Receipt = field(default_factory=Receipt)

    def resolve(self, error: Exception | None = None) -> None:
        def tell() -> None:
            if not self.answer.done():
                if error is None:
                    self.answer.set_result(self.receipt)
                else:
                    self.answer.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop has ended: nobody waits
            logger.debug("an answer came after the end")


class Ingest:
    """Takes messages and stores their fingerprints."""

    def __init__(self, store: FingerprintStore, settings: Settings, metrics: EngineMetrics) -> None:
        self._store, self._settings, self._metrics = store, settings, metrics
        self._waiting: queue.Queue[_Message | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="ingest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stores what waits, then ends."""
        self._waiting.put(None)
        self._thread.join(10)

    async def accept(self, body: bytes) -> Receipt:
        """Stores the fingerprints of a message; returns once they are committed.

        Raises:
            RefusedError: the message cannot be read at all.
            StoreError: they cannot be stored now.
            BusyError: too many messages wait.
        """
        loop = asyncio.get_running_loop()
        message = _Message(body, loop.create_future(), loop)
        try:
            self._waiting.put_nowait(message)
        except queue.Full as error:
            raise BusyError from error
        return await message.answer

    def _work(self) -> None:
        while True:
            group, ending = self._next_group()
            try:
                self._store_group(group)
            except Exception as error:  # one group's trouble is not the next one's
                logger.exception("a group of fingerprints was not stored")
                for message in group:
                    message.resolve(StoreError(f"{type(error).__name__}"))
            if ending:
                return

    def _next_group(self) -> tuple[list[_Message], bool]:
        message = self._waiting.get()
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

    def _store_group(self, group: list[_Message]) -> None:
        arrivals: list[Arrival] = []
        owners: list[_Message] = []
        readable: list[_Message] = []
        for message in group:
            try:
                parts = open_message(message.body)
            except RefusedError as error:
                self._metrics.refused(error.reason, 1)
                message.resolve(error)
                continue
            readable.append(message)
            for part in parts:
                arrival = self._check(part, message.receipt)
                if arrival is not None:
                    arrivals.append(arrival)
                    owners.append(message)
        try:
            answers = self._store.put(arrivals)
        except StoreError as error:
            self._metrics.store_failed()
            for message in readable:
                message.resolve(error)
            return
        for arrival, message, answer in zip(arrivals, owners, answers, strict=True):
            _note(message.receipt, arrival.service, answer)
        for message in readable:
            self._metrics.received(message.receipt.accepted, message.receipt.stale, message.receipt.reasons)
            message.resolve()

    def _check(self, part: bytes, receipt: Receipt) -> Arrival | None:
        now_us = time.time_ns() // 1000
        try:
            if len(part) > MAX_PACKED_BYTES:
                raise RefusedError("fingerprint:too_large")
            earliest = now_us - round(self._settings.fingerprint_max_age_s * 1e6)
            found = unpack(part, earliest, now_us + round(self._settings.clock_skew_s * 1e6))
        except RefusedError as error:
            receipt.reasons[error.reason] += 1
            return None
        return Arrival(found.service, found.host, found.boot_id, found.sequence, found.time_us, now_us, part)


def _note(receipt: Receipt, service: str, answer: str | None) -> None:
    if answer is None:
        receipt.accepted += 1
        receipt.services.add(service)
    elif answer == STALE:
        receipt.stale += 1
    else:
        receipt.reasons[answer] += 1
