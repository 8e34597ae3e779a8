"""Announces this host to the engine: where it is and of what class, while it serves, and that it leaves."""

import http.client
import logging
import socket
import threading
import time
import zlib
from collections import Counter
from dataclasses import replace
from urllib.parse import urlsplit

from fingerpost.agent.sender import Target, ask
from fingerpost.announcement import ANNOUNCE_EVERY_S, DRAINING, Announcement, Notice, announcement_from_wire
from fingerpost.engine_api import EngineError, checked, notice_call
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.masking import described

logger = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 15.0
AUTO = "auto:"


class Announcer:
    """Tells the engine of the host from a thread of its own: at once, every half minute, and when it leaves.

    It does not wait in the spool behind what was measured: only what is so now is of use. What fails is tried again
    after longer and longer pauses up to 15 s.

    Args:
        notice: of the host that serves.
        drain_s: how long the host goes on serving after `leave`; 0: it does not leave with its agent.

    Attributes:
        problem: why the engine does not know; None: it does.
    """

    def __init__(self, notice: Notice, target: Target, drain_s: float = 0.0) -> None:
        self._notice, self._target, self._drain_s = notice, target, drain_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="announcer", daemon=True)
        self._left_at_s: float | None = None
        self.counts: Counter[str] = Counter()
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Announces that the host drains, if it leaves with its agent; errors are logged."""
        self._stopping.set()
        if self._drain_s > 0:
            self._left_at_s = time.monotonic()
            self._send(replace(self._notice, state=DRAINING))
            logger.info("the host drains for %g s", self._drain_s)

    @property
    def drains_for_s(self) -> float:
        """Time until routers have heard that the host drains, seconds; 0: it does not, or they have."""
        if self._left_at_s is None or self.problem is not None:
            return 0.0
        return max(0.0, self._left_at_s + self._drain_s - time.monotonic())

    def _work(self) -> None:
        # Each host at another time, so that a fleet that starts as one does not speak as one for ever.
        every_s = ANNOUNCE_EVERY_S * (0.9 + 0.1 * (zlib.crc32(self._notice.host.encode()) % 1000) / 1000)
        pause_s = 1.0
        while not self._stopping.is_set():
            sent = self._send(self._notice)
            pause_s = 1.0 if sent else min(2 * pause_s, _LONGEST_PAUSE_S)
            self._stopping.wait(every_s if sent else pause_s)

    def _send(self, notice: Notice) -> bool:
        try:
            checked(ask(self._target, notice_call(notice)))
        except (OSError, http.client.HTTPException, EngineError) as error:
            if self.problem is None:
                logger.warning("the engine at %s does not take the announcement: %s", self._target.url, error)
            self.problem = f"the engine does not know of this host: {described(error)}"
            self.counts["failures"] += 1
            return False
        if self.problem is not None:
            logger.info("the engine knows of this host again")
        self.problem = None
        self.counts["announced"] += 1
        return True


def announced(address: str, engine_url: str, zone: str, host_class: str, slots: int | None) -> Announcement:
    """What is to be announced, checked.

    Args:
        address: `ADDRESS:PORT`; `auto:PORT`: the address by which the engine is reached; empty: none.

    Raises:
        FingerpostError: a value does not fit; the message names it.
    """
    if address.startswith(AUTO):
        address = f"{_own_address(engine_url)}:{address.removeprefix(AUTO)}"
    given = {"address": address, "zone": zone, "class": host_class, "slots": slots}
    try:
        return announcement_from_wire({name: value for name, value in given.items() if value})
    except RefusedError as error:
        name = error.reason.partition(":")[0]
        how = {
            "address": "write an IP address and a port, 10.0.0.7:8000 or [fd00::7]:8000, or auto:8000",
            "slots": "write a number from 1 to 1000000",
        }.get(name, "use 1 to 64 letters, digits, '.', '-', '_', beginning with a letter or digit")
        raise FingerpostError(f"--{name} {given[name]!r}: {how}") from error


def _own_address(engine_url: str) -> str:
    parts = urlsplit(engine_url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
            # Sends nothing: the system only says by which address it would.
            probe.connect(found[0][4])
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise FingerpostError(f"--address {AUTO}: {engine_url} cannot be reached from here: {error}") from error
    return f"[{own}]" if ":" in own else own
