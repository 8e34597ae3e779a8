"""Sending fingerprints to the engine, in order, from a spool that outlives us and the engine's absence."""

import http.client
import json
import logging
import threading
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

from fingerpost.agent.spool import Spool
from fingerpost.fingerprint import MAX_MESSAGE_BYTES, MEDIA_TYPE, message
from fingerpost.masking import described

logger = logging.getLogger(__name__)
_TIMEOUT_S = 10.0
_BATCH = 100
_LONGEST_PAUSE_S = 15.0
_PATH = "/v1/fingerprints"


@dataclass(frozen=True)
class Target:
    """Where the engine is.

    Args:
        url: such as `http://127.0.0.1:3000`; a path is put before the engine's own.
        token: its bearer token, empty if it wants none.
    """

    url: str
    token: str = ""


class Sender:
    """Drains a spool to the engine from a thread of its own, so that a slow engine delays nobody.

    A packet leaves the spool when the engine has answered for it. What the engine refuses for good (4xx) is dropped and
    counted, since to send it again would block all others; anything else is tried again, after longer and longer
    pauses up to 15 s.

    Args:
        spool: filled by `put`.
        target: the engine.
    """

    def __init__(self, spool: Spool, target: Target) -> None:
        self._spool = spool
        self._target = target
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="sender", daemon=True)
        self.counts: Counter[str] = Counter()
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    def put(self, packet: bytes) -> None:
        """Adds a packet to the spool and wakes the thread."""
        with self._lock:
            self._spool.put(packet)
        self._wake.set()

    @property
    def spool_problem(self) -> str | None:
        """Why packets wait in memory only; None: they are on disk."""
        return self._spool.problem

    def stop(self, timeout_s: float = 3.0) -> None:
        """Tries once more to send what waits, and ends; the rest stays in the spool for the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def state(self) -> dict[str, int]:
        """What waits, in packets and bytes, and what the cap has dropped."""
        with self._lock:
            return {"waiting": len(self._spool), "bytes": self._spool.size, "dropped": self._spool.dropped}

    def _drain(self) -> None:
        pause_s = 1.0
        while True:
            stopping = self._stopping.is_set()
            self._wake.clear()
            try:
                while self._send_some():
                    pass
                self.problem, pause_s = None, 1.0
                wait_s: float | None = None
            except (OSError, http.client.HTTPException) as error:
                if self.problem is None:
                    logger.warning("the engine at %s cannot be reached, will try again: %s", self._target.url, error)
                self.problem = described(error)
                self.counts["failures"] += 1
                wait_s, pause_s = pause_s, min(_LONGEST_PAUSE_S, 2 * pause_s)
            if stopping:
                return
            # After a failure new packets do not wake us: the engine would be asked in vain for each.
            if wait_s is None:
                self._wake.wait()
            else:
                self._stopping.wait(wait_s)

    def _send_some(self) -> bool:
        """Sends the oldest packets; False if none wait.

        Raises:
            OSError, http.client.HTTPException: the engine does not answer, or not well.
        """
        with self._lock:
            packets = self._spool.oldest(_BATCH, MAX_MESSAGE_BYTES // 2)
        if not packets:
            return False
        status, answer = self._post(message([packet for _, packet in packets]))
        if status >= http.client.INTERNAL_SERVER_ERROR or status in (408, 429):
            raise http.client.HTTPException(f"status {status}")
        if status >= http.client.BAD_REQUEST and status != http.client.CONFLICT:
            logger.error("the engine refused fingerprints (%d): %s", status, answer[:300])
        if status < http.client.BAD_REQUEST:
            self._count(answer, len(packets), "accepted")
        elif status in (http.client.CONFLICT, http.client.UNPROCESSABLE_ENTITY):
            self._count(answer, len(packets), "refused")  # it was read, and nothing of it was stored
        else:
            self.counts["refused"] += len(packets)
        with self._lock:
            self._spool.remove([number for number, _ in packets])
        return True

    def _count(self, answer: str, sent: int, otherwise: str) -> None:
        """Counts what the engine says became of them; all as `otherwise` if it does not say."""
        try:
            told = json.loads(answer)
            self.counts.update({name: int(told[name]) for name in ("accepted", "stale", "refused")})
        except (ValueError, TypeError, KeyError):
            self.counts[otherwise] += sent

    def _post(self, body: bytes) -> tuple[int, str]:
        parts = urlsplit(self._target.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=_TIMEOUT_S)
        headers = {"Content-Type": MEDIA_TYPE}
        if self._target.token:
            headers["Authorization"] = f"Bearer {self._target.token}"
        try:
            connection.request("POST", parts.path.rstrip("/") + _PATH, body, headers)
            response = connection.getresponse()
            return response.status, response.read(65_536).decode("utf-8", "replace")
        finally:
            connection.close()
