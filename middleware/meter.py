"""CPU-seconds of one request, wherever its code runs: steps of coroutines, child tasks, worker threads.

Every thread knows which meter it runs for at the moment (its lane). Going from one meter to another charges the first
with the thread's CPU time since it began, so that nothing is charged twice, however meters are nested, and a thread
that runs for nobody charges nobody.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

# gevent may have put greenlets in the place of threads: what is meant here are the system's.
_MONKEY = sys.modules.get("gevent.monkey")
_local: Any = _MONKEY.get_original("threading", "local") if _MONKEY else threading.local
_new_lock: Any = _MONKEY.get_original("_thread", "allocate_lock") if _MONKEY else threading.Lock
P = ParamSpec("P")
T = TypeVar("T")


class Meter:
    """What one request has used so far: `cpu_s`, CPU-seconds. Threads may charge it at the same time."""

    __slots__ = ("cpu_s", "lock")

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.lock = _new_lock()


CURRENT: ContextVar[Meter | None] = ContextVar("fingerpost_meter", default=None)


# Which of two classes it is, is known when it runs.
class Lane(_local):
    """Whom a thread runs for, since when on its CPU clock, and whether turns of greenlets on it are charged."""

    meter: Meter | None = None
    since = 0.0
    traced = False


_LANE = Lane()


def own_lane() -> Lane:
    """This thread's."""
    return _LANE


def switch(meter: Meter | None) -> Meter | None:
    """Charges whom this thread ran for until now, and runs for `meter` from here on.

    Returns:
        Whom it ran for; to be switched back to.
    """
    lane = _LANE
    now = time.thread_time()
    before = lane.meter
    if before is not None:
        with before.lock:
            before.cpu_s += now - lane.since
    lane.meter = meter
    lane.since = now
    return before


def settle() -> None:
    """Charges whom this thread runs for with what it has used until now."""
    switch(_LANE.meter)


@contextmanager
def charge_thread() -> Iterator[None]:
    """Charges this thread's CPU time to the request whose context it runs in; without one, to nobody."""
    meter = CURRENT.get()
    if meter is None:
        yield
        return
    before = switch(meter)
    try:
        yield
    finally:
        switch(before)


def metered(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, with its CPU time charged to the request that is current here, or else where it is called.

    For work that is handed to a thread which does not get the request's context.
    """
    bound = CURRENT.get()

    @wraps(function)
    def charged(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_charged(bound or CURRENT.get(), function, *args, **kwargs)

    return charged


def run_charged(meter: Meter | None, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Calls `function`, charging its CPU time, and that of what it starts, to `meter`."""
    if meter is None:
        return function(*args, **kwargs)
    token = CURRENT.set(meter)
    before = switch(meter)
    try:
        return function(*args, **kwargs)
    finally:
        switch(before)
        CURRENT.reset(token)
