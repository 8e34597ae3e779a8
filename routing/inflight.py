"""Requests of other proxies on a host, by what it tells with its answers; `routing/native/peers.c` is the same in C.

A proxy counts its own requests live and does not see those of others. A host sees all. So a host's load is the proxy's
own count now and the difference that there was when the host told: its count less the proxy's own at that moment. That
moment is when an answer begins. A count of when the request came would be older by the request's whole latency, most of
all where hosts are crowded.

A host that is sent nothing, because it was crowded, says nothing new: so what it told fades. Its age is in rounds of as
many answers as there are hosts, which is the same for fast and slow services: news must come some ten times before it
is gone, or hosts that were not heard of look empty, and all proxies send to them at once.
"""

import re

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats

ORCA_HEADER = "endpoint-load-metrics"
GONE_ROUNDS, GONE_S = 32, 300.0
MAX_COUNT = 1_000_000
_MAX_REPORT = 8192
_NUMBER = r"([0-9]{1,7})(?:\.([0-9])[0-9]*)?(?![0-9+\-.eE_])"
_TEXT = re.compile(r"(?:^TEXT|,) *(?:named_metrics\.)?inflight[ \t]*=[ \t]*" + _NUMBER)
_JSON = re.compile(r'"inflight"[ \t]*:[ \t]*' + _NUMBER)


def told_requests(report: str) -> int | None:
    """How many requests a host has, the one that it answers among them; None if the report does not say.

    Args:
        report: the response's header `endpoint-load-metrics` (ORCA), as text or JSON; the metric's name is `inflight`.
    """
    kind = report[:5]
    if kind not in ("TEXT ", "JSON ") or len(report) > _MAX_REPORT:
        return None
    found = (_JSON if kind == "JSON " else _TEXT).search(report)
    if found is None or int(found[1]) > MAX_COUNT:
        return None
    return int(found[1]) + ((found[2] or "0") >= "5")


def others_of(told: int, own: int) -> int:
    """Requests of other proxies on a host: what it told less the proxy's own of the same moment, at least 0."""
    return max(0, told - own)


def faded(others: ArrayLike, rounds: ArrayLike, age_s: ArrayLike) -> Floats:
    """What still counts of others' requests that were told some time ago.

    Args:
        rounds: answers with a count since then, over the number of hosts; after `GONE_ROUNDS` nothing counts.
        age_s: seconds since then; after `GONE_S` nothing counts.
    """
    gone = np.maximum(np.asarray(rounds, dtype=np.float64) / GONE_ROUNDS, np.asarray(age_s, dtype=np.float64) / GONE_S)
    return np.asarray(np.asarray(others, dtype=np.float64) * (1.0 - np.clip(gone, 0.0, 1.0)))


def work_ahead(own: Floats, own_s: Floats, queued: Floats, since: Floats, each_s: Floats) -> Floats:
    """Seconds of work that a request finds on hosts which tell how many requests wait there; all of the same shape.

    The picker's own are taken at what they were predicted to take there. Others' are those that wait beyond its own,
    and take as long as its own do: traffic is alike at all pickers.

    Args:
        own: the picker's requests whose answers have not begun, and `own_s` the predicted seconds of them together.
        queued: requests that waited when the host was looked at, 0 where it is not known.
        since: of its own, those that were sent after that look.
        each_s: predicted seconds of the request to be sent, which others' are taken to take where there is no own.
    """
    others = np.maximum(queued + since - own, 0.0)
    each = np.where(own > 0, own_s / np.maximum(own, 1.0), each_s)
    return np.asarray(own_s + others * each)
