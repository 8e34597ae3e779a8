"""The guard of unit tests: processes, sockets and databases are noticed, also where the error is caught."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading

import pytest

from tests.support.unit_guard import UnitGuard

pytestmark = pytest.mark.process


def connect():
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def bind():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("act", "event"),
    [
        (lambda: subprocess.run([sys.executable, "-c", ""], check=True), "subprocess.Popen"),
        (lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}), "os.posix_spawn"),
        (bind, "socket.bind"),
        (connect, "socket.connect"),
        (lambda: sqlite3.connect(":memory:"), "sqlite3.connect"),
    ],
)
def test_what_a_unit_test_does_not_do_ends_it(act, event):
    guard = UnitGuard()
    with guard.watching():
        with pytest.raises(RuntimeError, match="mark the test or its file"):
            act()
        with contextlib.suppress(RuntimeError):
            act()
    assert len(guard.seen) == 2
    assert all(event in each for each in guard.seen)


def test_threads_of_earlier_tests_are_not_this_ones():
    guard, go = UnitGuard(), threading.Event()
    earlier = threading.Thread(target=lambda: go.wait(10) and bind())
    earlier.start()
    with guard.watching():
        go.set()
        earlier.join()
    assert guard.seen == []
    bind()
