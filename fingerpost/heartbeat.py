"""Heartbeats by the protocol of systemd (`sd_notify`): a supervisor that has asked for them learns who hangs.

A datagram, not a file: it says the same on a full disk. Under systemd `Type=notify` and `WatchdogSec=` hear it too.
"""

import contextlib
import os
import socket
import sys
import uuid

VARIABLE = "NOTIFY_SOCKET"
_MESSAGE = b"READY=1\nWATCHDOG=1"
_MAX_AT_ONCE = 1000


def beat() -> None:
    """Tells whoever started this process, if it wants to know, that its main loop goes round. Never fails or waits."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(_MESSAGE, f"\0{address[1:]}" if address.startswith("@") else address)


class Heartbeats:
    """Hears the heartbeats of one process and its descendants; Linux alone has the kind of address that needs no file.

    Raises:
        OSError: no socket can be made.
    """

    def __init__(self) -> None:
        self._name = f"@fingerpost-{uuid.uuid4().hex}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(f"\0{self._name[1:]}")

    @staticmethod
    def possible() -> bool:
        return sys.platform == "linux"

    def environment(self) -> dict[str, str]:
        """What the process needs to know."""
        return {VARIABLE: self._name}

    def heard(self) -> bool:
        """Whether there was a heartbeat since the last call."""
        for number in range(_MAX_AT_ONCE):
            try:
                self._socket.recv(256)
            except BlockingIOError:
                return number > 0
        return True

    def close(self) -> None:
        self._socket.close()
