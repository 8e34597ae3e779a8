"""A host's measured CPU or memory, split over the categories of the requests that were on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats, decayed

# How far a category's cost may lie from what its share of the host's time suggests, before data say so: its relative
# standard deviation. Of work that waits for disks or locks the time says little, so it is not trusted further.
_PRIOR_SPREAD = 0.3
# Times are told in whole milliseconds, or seconds: by this share of the typical cost any cost may lie off its share.
_MIN_SPREAD = 0.05
# No fit is believed to leave less than this share of use unexplained.
_MIN_NOISE = 1e-6
_LEAST = 1e-12
# What a host uses when idle is told by idle spans, once there have been so many seconds of them.
_MIN_IDLE_S = 5.0
# The variance of a span's use that is not its requests', in units of that of one typical request.
_SPAN_VARIANCE = 0.05
# Of mended costs: no more than this.
_MAX_PULL = 3.0
# Exchanges without progress before coefficients change sides one by one.
_PATIENCE = 3


@dataclass(frozen=True)
class Attribution:
    """What one request of each category costs.

    Args:
        cost: shape (C,), in the unit of what was split; NaN for a category that was not seen.
        error: standard error of each, shape (C,).
        background: what was used with no request there, per second of time (CPU) or at any time (memory).
    """

    cost: Floats
    error: Floats
    background: float


class CostAttribution:
    """Non-negative weighted least squares of use on counts, with forgetting and a prior.

    Use in a span = background x length + sum over categories of cost x requests in it. Costs are drawn to those that
    the categories' shares of the host's time suggest, the more so the fewer requests there were; with no such shares,
    to one cost for all. (Utilisation-law regression: Spinner, Casale, Brosig and Kounev, 2015, survey such estimators.)

    Args:
        categories: number of categories, C.
        halflife_s: age at which a span weighs half.
        began_s: seconds of any one clock.
        conserved: what is used was used by something, as CPU is and memory is not: so idle spans tell the background,
            and the costs of all requests add up to the rest.
    """

    def __init__(self, categories: int, halflife_s: float, began_s: float, conserved: bool = True) -> None:
        self._halflife_s, self._last_s = halflife_s, began_s
        size = categories + 1  # the last one is the background
        self._gram = np.zeros((size, size))
        self._moment = np.zeros(size)
        self._requests = np.zeros(categories)
        self._hints = np.zeros(categories)
        # Moments of (present, length, use), and totals of (hints, length, use).
        self._scale = np.zeros((3, 3))
        self._totals = np.zeros(3)
        self._spans = np.zeros(1)
        self._conserved = conserved
        self._idle = np.zeros(2)  # use and length
        self._was_idle = False

    def observe(
        self,
        time_s: Floats,
        length: Floats,
        use: Floats,
        requests: Floats,
        hints: Floats,
        present: Floats | None = None,
    ) -> None:
        """Takes spans in, S of them.

        Args:
            time_s: their ends, seconds, ascending, shape (S,).
            length: what the background is counted by: seconds for CPU, 1 for memory, shape (S,).
            use: CPU-seconds used in each, or mean bytes held, shape (S,).
            requests: of each category, by the parts that lay in the span, shape (S, C).
            hints: their shares of the host's time, shape (S, C); zeros where those are not known.
            present: what use without requests is told from, where no span is idle: seconds that requests were on the
                host's cores, shape (S,); None: their number. Requests of one category differ, and long ones are in many
                spans by small parts, so their number would leave much use to no request.
        """
        last_s = float(time_s[-1])
        weight = decayed(last_s - time_s, self._halflife_s)
        before = decayed(last_s - self._last_s, self._halflife_s)
        sums = (self._requests, self._hints, self._scale, self._totals, self._spans, self._idle)
        for state in (self._gram, self._moment, *sums):
            np.multiply(state, before, out=state)
        count = requests.sum(axis=1)
        total = np.stack([count if present is None else present, length, use])
        self._requests += weight @ requests
        self._hints += weight @ hints
        trust = weight / self._variance(requests) if self._conserved else weight
        rows = np.column_stack([requests, length])
        weighted = rows * trust[:, None]
        self._gram += rows.T @ weighted
        self._moment += use @ weighted
        self._scale += (total * trust) @ total.T
        self._totals += np.array([hints.sum(axis=1), length, use]) @ weight
        self._spans += weight.sum()
        # What a request leaves to be done when it has ended is done right after it.
        idle = count <= 0
        self._idle += total[[2, 1]] @ (weight * (idle & np.append(self._was_idle, idle[:-1])))
        self._was_idle = bool(idle[-1])
        self._last_s = last_s

    def attribution(self) -> Attribution:
        """The costs as of the last span."""
        cost, error = np.full(self._requests.shape, np.nan), np.full(self._requests.shape, np.nan)
        seen = self._requests > _LEAST
        if not seen.any():
            return Attribution(cost, error, 0.0)
        scale, totals, idle = self._scale, self._totals, self._idle
        was_idle = self._conserved and idle[1] >= _MIN_IDLE_S
        background = idle[0] / idle[1] if was_idle else _at_no_requests(scale)
        background_known = self._conserved
        centre, spread = self._prior(seen, totals, background)
        free = np.append(seen, not background_known)
        gram, moment = self._gram[np.ix_(free, free)], self._moment[free]
        square, spans = scale[2, 2], float(self._spans[0])
        if background_known:
            moment = moment - background * self._gram[free, -1]
            square += background * (background * scale[1, 1] - 2 * scale[1, 2])
        else:
            # The background is left to the data.
            loose = 10 * np.sqrt(scale[2, 2] / max(scale[1, 1], _LEAST)) + _LEAST
            centre, spread = np.append(centre, background), np.append(spread, loose)
        found, deviation = _fit(gram, moment, square, spans, centre, spread)
        if background_known:
            requests = self._requests[seen]
            # The counts are not exact, since work is not spread evenly over a request's time: that pulls costs down.
            pulled = max(0.0, totals[2] - background * totals[1]) / max(float(found @ requests), _LEAST)
            factor = float(np.clip(pulled, 1 / _MAX_PULL, _MAX_PULL))
            found, deviation = found * factor, deviation * factor
        count = int(seen.sum())
        cost[seen], error[seen] = found[:count], deviation[:count]
        return Attribution(cost, error, float(background if background_known else found[-1]))

    def _variance(self, requests: Floats) -> Floats:
        """How uncertain the use of each span is beforehand, shape (S,), in units of one typical request's variance.

        Each request adds a variance of its own, which goes by the square of what it costs: a span of cheap requests
        tells what those cost, one with a dear request among them does not.
        """
        typical = max(float(self._hints.sum()), _LEAST) / max(float(self._requests.sum()), _LEAST)
        hinted = (self._requests > 0) & (self._hints > 0)
        each = np.divide(self._hints, self._requests, out=np.full_like(self._hints, typical), where=hinted)
        return requests @ (each / typical) ** 2 + _SPAN_VARIANCE

    def _prior(self, seen: NDArray[np.bool_], totals: Floats, background: float) -> tuple[Floats, Floats]:
        """Where the costs are expected, and their standard deviations, above 0."""
        # What is not the background goes by the hints. Fitting use to the hints would make little of them, since they
        # are far noisier than counts.
        hints = self._hints if self._totals[0] > 0 else self._requests
        # Less than nothing is left where requests tell of more than was used.
        used = max(0.0, float(self._totals[2]))
        typical = used / self._requests.sum()
        above = max(0.0, 1 - background * totals[1] / max(float(totals[2]), _LEAST)) * used
        each = above * hints[seen] / hints.sum() / self._requests[seen]
        return each, _PRIOR_SPREAD * each + _MIN_SPREAD * typical + _LEAST

    def folded(self, new_index: Sequence[int], categories: int) -> "CostAttribution":
        """The same state over other categories; `new_index` gives for each of ours the one that takes its requests."""
        new = CostAttribution(categories, self._halflife_s, self._last_s, self._conserved)
        new._scale, new._totals, new._spans = self._scale, self._totals, self._spans
        new._idle, new._was_idle = self._idle, self._was_idle
        target = np.append(np.asarray(new_index, dtype=np.intp), categories)
        np.add.at(new._gram, (target[:, None], target[None, :]), self._gram)
        np.add.at(new._moment, target, self._moment)
        np.add.at(new._requests, target[:-1], self._requests)
        np.add.at(new._hints, target[:-1], self._hints)
        return new


def _at_no_requests(scale: Floats) -> float:
    """The background by a regression of use on the number of requests, of moments (requests, length, use)."""
    size = np.sqrt(np.maximum(np.diag(scale)[:2], _LEAST))
    normal = scale[:2, :2] / np.outer(size, size) + 1e-9 * np.eye(2)
    return float((nnls_normal(normal, scale[:2, 2] / size) / size)[1])


def _fit(
    gram: Floats, moment: Floats, square: float, spans: float, centre: Floats, spread: Floats
) -> tuple[Floats, Floats]:
    """Coefficients, not below 0, and their standard deviations, of least squares drawn to a prior.

    Args:
        gram, moment, square: sums of x'x, x'y and y'y over `spans` spans.
        centre, spread: mean and standard deviation of the prior.
    """
    # In units of the prior's spread, so that costs of any size, and a background beside them, are solved alike.
    gram, moment, centre = gram * np.outer(spread, spread), moment * spread, centre / spread
    found = centre
    for _ in range(3):  # how much the prior counts depends on the noise, which only the fit tells
        unexplained = square - 2 * moment @ found + found @ gram @ found
        noise = max(_MIN_NOISE * square, float(unexplained), _LEAST) / spans
        normal = gram + noise * np.eye(len(centre))
        found = nnls_normal(normal, moment + noise * centre)
    deviation = np.sqrt(noise * np.maximum(np.diag(np.linalg.inv(normal)), 0.0))
    return found * spread, deviation * spread


def nnls_normal(gram: Floats, moment: Floats) -> Floats:
    """The x >= 0 that minimises x'Gx / 2 - m'x, by block principal pivoting.

    Coefficients that come out on the wrong side of zero change sides all at once, or, when that stops helping, one by
    one, which is sure to end. (Portugal, Judice and Vicente, 1994; Kim and Park, 2011.) A tenth of the memory of the
    usual library, which an agent beside a host cannot afford.

    Args:
        gram: G, symmetric and positive definite, shape (k, k).
        moment: m, shape (k,).

    Returns:
        x, shape (k,).
    """
    size = len(moment)
    free = np.ones(size, dtype=bool)
    solution, slope = np.zeros(size), np.zeros(size)
    scale = float(np.abs(moment).max(initial=0.0))
    fewest, patience = size + 1, _PATIENCE
    for _ in range(10 * size + 10):
        solution[:] = 0.0
        solution[free] = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
        slope[:] = gram @ solution - moment
        wrong = np.where(free, solution < 0, slope < -1e-10 * scale)
        count = int(wrong.sum())
        if not count:
            return solution
        if count < fewest:
            fewest, patience = count, _PATIENCE
        elif patience:
            patience -= 1
        else:
            last = np.flatnonzero(wrong)[-1]
            wrong = np.arange(size) == last
        free = free ^ wrong
    return np.maximum(solution, 0.0)


@dataclass(frozen=True)
class SharedTime:
    """Requests and the spans they were in, a place a pair, shape (n,).

    Args:
        request, span: their indices.
        part: 0..1, the share of the request's own time that lay in the span; they add up to 1 over all time.
        seconds: the request's share of the host's time in the span.
    """

    request: NDArray[np.intp]
    span: NDArray[np.intp]
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
