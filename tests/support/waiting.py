"""Waits for what happens elsewhere: in a process, a server, a thread."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout_s: float = 30.0, pause_s: float = 0.02) -> T:
    """Returns the first true value of a condition; no answer of a server, or no file, counts as false.

    Raises:
        AssertionError: it is not true in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        problem: Exception | None = None
        try:
            if found := condition():
                return found
        except (httpx.TransportError, OSError) as error:
            problem = error
        assert time.monotonic() < deadline, f"not true after {timeout_s:g} s: {problem or condition}"
        time.sleep(pause_s)
