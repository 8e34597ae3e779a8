"""Sends window reports to the engine, in order, from a spool that outlives the agent and the engine's absence."""

import http.client
import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fingerpost.agent.spool import Spool
from fingerpost.engine_api import DEFAULT_TIMEOUT_S, Answer, Call, EngineError, headers_of, receipt_of, send_call
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.masking import described
from fingerpost.packed_message import MAX_MESSAGE_BYTES, MAX_PARTS, message, open_message
from fingerpost.tls import SYSTEM, ClientTLS
from fingerpost.tokens import Token

logger = logging.getLogger(__name__)
_BATCH = 100
# Begins a packet of several parts; a map, as one part is, begins with other bytes.
_GZIP = b"\x1f\x8b"
_LONGEST_PAUSE_S = 15.0
# A receipt is small, and a category table; a list of 5,000 hosts has 1 MB.
_MAX_ANSWER = 4 * 2**20


@dataclass(frozen=True)
class Target:
    """The engine to send to.

    Args:
        url: such as `http://127.0.0.1:3000`; a path is put before the engine's own.
        token: its bearer token, or the file of it; empty if it wants none.
        tls: for `https`; its files are read for each call.
    """

    url: str
    token: Token = field(default="", repr=False)
    tls: ClientTLS = SYSTEM


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

    def put(self, *packed: bytes) -> None:
        """Adds what was packed, several as one packet of the spool, and wakes the thread."""
        with self._lock:
            self._spool.put(packed[0] if len(packed) == 1 else message(packed))
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
        """Counts packets and bytes that wait, and packets that the cap has dropped."""
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
            except (OSError, http.client.HTTPException, EngineError) as error:
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
            OSError, http.client.HTTPException, EngineError: the engine does not answer, or is to be asked again.
        """
        with self._lock:
            packets = self._spool.oldest(_BATCH, MAX_MESSAGE_BYTES // 2)
        if not packets:
            return False
        numbers, parts = _parts_of(packets)
        answer = ask(self._target, send_call(parts))
        try:
            receipt = receipt_of(answer, len(parts))
            self.counts.update({name: receipt[name] for name in ("accepted", "stale", "refused")})
            problem = receipt.get("error") if receipt["refused"] else None
        except EngineError as error:
            if error.temporary:
                raise
            self.counts["refused"] += len(parts)
            problem = error.reason
        if problem:
            logger.error("the engine refused window reports (%d): %s", answer.status, problem)
        with self._lock:
            self._spool.remove(numbers)
        return True


def _parts_of(packets: list[tuple[int, bytes]]) -> tuple[list[int], list[bytes]]:
    """The numbers of the first packets that fit into one message, and all that was packed in them."""
    numbers: list[int] = []
    parts: list[bytes] = []
    for number, packet in packets:
        found = [packet]
        if packet.startswith(_GZIP):
            try:
                found = open_message(packet)
            except RefusedError as error:  # a damaged file; the engine would refuse it as well
                logger.warning("packet %d of the spool cannot be sent: %s", number, error.reason)
                found = []
        if numbers and len(parts) + len(found) > MAX_PARTS:
            break
        numbers.append(number)
        parts += found
    return numbers, parts


def ask(target: Target, call: Call) -> Answer:
    """The engine's answer to a call.

    Raises:
        OSError, http.client.HTTPException: there is none.
        EngineError: a file of the token, or for TLS, cannot be read.
    """
    parts = urlsplit(target.url)
    connection = _connection(parts.netloc, target.tls if parts.scheme == "https" else None)
    headers = {**call.headers, **headers_of(target.token)}
    try:
        connection.request(call.method, parts.path.rstrip("/") + call.path, call.body, headers)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read(_MAX_ANSWER))
    finally:
        connection.close()


def _connection(place: str, tls: ClientTLS | None) -> http.client.HTTPConnection:
    if tls is None:
        return http.client.HTTPConnection(place, timeout=DEFAULT_TIMEOUT_S)
    try:
        return http.client.HTTPSConnection(place, timeout=DEFAULT_TIMEOUT_S, context=tls.context())
    except FingerpostError as error:
        raise EngineError(None, str(error)) from error
