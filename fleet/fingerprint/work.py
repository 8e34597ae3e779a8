"""Whose work a host did in a span of time, told from when its requests began and ended."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def shared_time(
    begin_s: Floats, end_s: Floats, span: tuple[float, float], slots: float = np.inf
) -> tuple[Floats, Floats]:
    """What part of each request lay in a span, and its share of the host's time there.

    While n requests are on the host, each is given 1/n of it (processor sharing; the estimator of Perez,
    Pacheco-Sanchez and Casale, 2015, for complete logs).

    Args:
        begin_s, end_s: of every request that was on the host in the span, shape (n,).
        span: its beginning and end, seconds of the same clock.
        slots: requests that the host serves at once; of more, the later ones wait, and waiting is no work.

    Returns:
        part: 0..1, the share of the request's own time that lay in the span, shape (n,); they add up to 1 over spans.
        seconds: the request's share of the host's time in the span, shape (n,).
    """
    start = _service_start(begin_s, end_s, slots) if np.isfinite(slots) else begin_s
    low, high = np.clip(start, *span), np.clip(end_s, *span)
    length = end_s - start
    inside = high - low
    # A request too short for the clock lies in the span that holds its end.
    instant = (length <= 0) & (end_s > span[0]) & (end_s <= span[1])
    part = np.divide(inside, length, out=instant.astype(np.float64), where=length > 0)
    # Sorted, not unique: doubles are spans of no length, and numpy loads masked arrays to tell them apart.
    edges = np.sort(np.concatenate([low, high, np.asarray(span)]))
    present = np.searchsorted(np.sort(low), edges[:-1], side="right") - np.searchsorted(
        np.sort(high), edges[:-1], side="right"
    )
    each = np.diff(edges) / np.maximum(present, 1)
    integral = np.concatenate([[0.0], np.cumsum(each)])
    seconds = integral[np.searchsorted(edges, high)] - integral[np.searchsorted(edges, low)]
    return part, seconds


def _service_start(begin_s: Floats, end_s: Floats, slots: float) -> Floats:
    """When each request left the queue: the k-th to come is served once all but `slots` - 1 before it have ended."""
    order = np.argsort(begin_s, kind="stable")
    freed = np.full(len(begin_s), -np.inf)
    ended = np.sort(end_s)
    count = int(slots)
    freed[order[count:]] = ended[: max(0, len(begin_s) - count)]
    return np.minimum(np.maximum(begin_s, freed), end_s)
