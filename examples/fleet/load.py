"""Clients of the fleet: the demo's, at several proxies at once and for as long as they are wanted."""

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import Iterator

from examples.demo.load import Arrival, arrivals, drive

_LONGEST_S = 86400.0


async def drive_all(targets: list[tuple[str, str, float]]) -> dict[str, object]:
    """Sends requests until SIGTERM or SIGINT, and waits for the last answers.

    Args:
        targets: service, URL, and requests a second of each.

    Returns:
        `sent`, and `statuses`: how many requests had which status, or which error instead of one.
    """
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)

    def until_stopped(planned: Iterator[Arrival]) -> Iterator[Arrival]:
        return itertools.takewhile(lambda _: not stop.is_set(), planned)

    reports = await asyncio.gather(
        *(
            drive(url, until_stopped(arrivals(rate, _LONGEST_S, seed)), service)
            for seed, (service, url, rate) in enumerate(targets, start=1)
        )
    )
    statuses = sum((report.statuses for report in reports), Counter[str]())
    return {"sent": sum(report.sent for report in reports), "statuses": dict(statuses)}
