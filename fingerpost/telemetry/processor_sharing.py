"""Attributes a host's work in spans of time to requests by when they began and ended."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class SharedTime:
    """Requests and the spans they were in, a place a pair, shape (n,).

    Args:
        request, span: their indices.
        part: 0..1, the share of the request's own time that lay in the span; they add up to 1 over all time.
        seconds: the request's share of the host's time in the span.
    """

    request: Ints
    span: Ints
    part: Floats
    seconds: Floats


def processor_sharing(begin_s: Floats, end_s: Floats, edges_s: Floats, slots: float = np.inf) -> SharedTime:
    """What part of each request lay in each span, and its share of the host's time there.

    While n requests are on the host, each is given 1/n of it (processor sharing; the estimator of Perez,
    Pacheco-Sanchez and Casale, 2015, for complete logs).

    Args:
        begin_s, end_s: of every request that was on the host in the spans, shape (R,), seconds of any one clock.
        edges_s: ascending; the spans lie between neighbours, shape (S + 1,).
        slots: requests that the host serves at once; of more, the later ones wait, and waiting is no work.
    """
    start = _service_start(begin_s, end_s, slots) if np.isfinite(slots) else begin_s
    length = end_s - start
    # A request too short for the clock lies in the span that holds its end, as does the last of any other.
    last = np.searchsorted(edges_s, end_s, side="left") - 1
    first = np.where(length > 0, np.searchsorted(edges_s, start, side="right") - 1, last)
    spans = len(edges_s) - 1
    outside = (last < 0) | (first >= spans)
    first, last = np.maximum(first, 0), np.minimum(last, spans - 1)
    count = np.where(outside, 0, last - first + 1)
    request = np.repeat(np.arange(len(count)), count)
    span = first[request] + np.arange(len(request)) - np.repeat(np.cumsum(count) - count, count)
    low, high = np.maximum(start[request], edges_s[span]), np.minimum(end_s[request], edges_s[span + 1])
    inside = high - low
    part = np.divide(inside, length[request], out=np.ones(len(request)), where=length[request] > 0)
    begins, ends = np.clip(start, edges_s[0], edges_s[-1]), np.clip(end_s, edges_s[0], edges_s[-1])
    # Sorted, not unique: doubles are spans of no length, and numpy loads masked arrays to tell them apart.
    times = np.sort(np.concatenate([begins, ends, edges_s]))
    present = np.searchsorted(np.sort(begins), times[:-1], side="right") - np.searchsorted(
        np.sort(ends), times[:-1], side="right"
    )
    integral = np.concatenate([[0.0], np.cumsum(np.diff(times) / np.maximum(present, 1))])
    seconds = integral[np.searchsorted(times, high)] - integral[np.searchsorted(times, low)]
    return SharedTime(request, span, part, seconds)


def _service_start(begin_s: Floats, end_s: Floats, slots: float) -> Floats:
    """When each request left the queue: the k-th to come is served once all but `slots` - 1 before it have ended."""
    order = np.argsort(begin_s, kind="stable")
    freed = np.full(len(begin_s), -np.inf)
    ended = np.sort(end_s)
    count = int(slots)
    freed[order[count:]] = ended[: max(0, len(begin_s) - count)]
    return np.minimum(np.maximum(begin_s, freed), end_s)
