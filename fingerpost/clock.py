"""Time as records carry it: whole microseconds since 1970, UTC."""

import time

US = 1_000_000


def clock_us() -> int:
    """The present, microseconds since 1970."""
    return time.time_ns() // 1000
