"""Keeps the access log of an Envoy in the next container small: rotate.py LOG ADMIN_SOCKET [MEGABYTES] [FILES].

Envoy opens a new log when its administration is asked to; the agent and the router read the old one to its end.
"""

import http.client
import socket
import sys
import time
from pathlib import Path

from fingerpost.cli.stack.logs import Bounds, move_on

EVERY_S = 5.0


def reopen(admin: str) -> None:
    """Has Envoy open its logs anew.

    Raises:
        OSError, http.client.HTTPException: it does not answer.
    """
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    try:
        connection.sock.connect(admin)
        connection.request("POST", "/reopen_logs")
        connection.getresponse().read()
    finally:
        connection.close()


def main(log: str, admin: str, megabytes: str = "256", files: str = "2") -> None:
    bounds, left = Bounds(round(float(megabytes) * 2**20), int(files)), False
    while True:
        try:
            left = move_on(Path(log), bounds) or left
            if left:
                reopen(admin)
                left = False
        except (OSError, http.client.HTTPException) as error:
            print(f"rotate: {error}", file=sys.stderr, flush=True)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
