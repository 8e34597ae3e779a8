"""CPU-seconds under gevent and eventlet: greenlets take turns on one thread, and each turn is its own request's."""

import sys
from typing import Any

from fingerpost.middleware.meter import CURRENT, own_lane, switch

_LIBRARIES = ("gevent", "eventlet")


def charge_greenlets() -> None:
    """Has each turn of a greenlet on this thread charged to its request; once a thread is enough.

    Nothing is done where no such library is loaded. A tracer that is there already goes on being called.
    """
    lane = own_lane()
    if lane.traced or not any(name in sys.modules for name in _LIBRARIES):
        return
    lane.traced = True
    import greenlet

    before = greenlet.gettrace()

    def traced(event: str, args: Any) -> None:
        # The context is that of the greenlet whose turn begins.
        switch(CURRENT.get())
        if before is not None:
            before(event, args)

    greenlet.settrace(traced)
