"""A host's measured CPU or memory, split over the categories of the requests that were on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet.fingerprint.decay import ForwardDecay
from fleet.fingerprint.nnls import nnls_normal

Floats = NDArray[np.float64]
# How far a category's cost may lie from what its share of the host's time suggests, before data say so: its relative
# standard deviation. Of work that waits for disks or locks the time says little, so it is not trusted further.
_PRIOR_SPREAD = 0.3
# Times are told in whole milliseconds, or seconds: by this share of the typical cost any cost may lie off its share.
_LEAST_SPREAD = 0.05
# No fit is believed to leave less than this share of use unexplained.
_LEAST_NOISE = 1e-6
_LEAST = 1e-12


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


class Splitter:
    """Non-negative least squares of use on counts, with forgetting and a prior.

    Use in a span = background x length + sum over categories of cost x requests in it. Costs are drawn to those that
    the categories' shares of the host's time suggest, the more so the fewer requests there were; with no such shares,
    to one cost for all. (Utilisation-law regression: Spinner, Casale, Brosig and Kounev, 2015, survey such estimators.)

    Args:
        categories: number of categories, C.
        halflife_s: age at which a span weighs half.
        began_s: seconds of any one clock.
    """

    def __init__(self, categories: int, halflife_s: float, began_s: float) -> None:
        self._decay = ForwardDecay(halflife_s, began_s)
        size = categories + 1  # the last one is the background
        self._gram = np.zeros((size, size))
        self._moment = np.zeros(size)
        self._requests = np.zeros(categories)
        self._hints = np.zeros(categories)
        # Moments of (requests, length, use), and totals of (hints, length, use).
        self._scale = np.zeros((3, 3))
        self._totals = np.zeros(3)
        self._spans = np.zeros(1)
        self._last_s = began_s

    def observe(self, time_s: Floats, length: Floats, use: Floats, requests: Floats, hints: Floats) -> None:
        """Takes spans in, S of them.

        Args:
            time_s: their ends, seconds, ascending, shape (S,).
            length: what the background is counted by: seconds for CPU, 1 for memory, shape (S,).
            use: CPU-seconds used in each, or mean bytes held, shape (S,).
            requests: of each category, by the parts that lay in the span, shape (S, C).
            hints: their shares of the host's time, shape (S, C); zeros where those are not known.
        """
        self._stay_in_range(float(time_s[-1]))
        weight = self._decay.weight(time_s)
        rows = np.column_stack([requests, length])
        weighted = rows * weight[:, None]
        self._gram += rows.T @ weighted
        self._moment += use @ weighted
        self._requests += weight @ requests
        self._hints += weight @ hints
        total = np.stack([requests.sum(axis=1), length, use])
        self._scale += (total * weight) @ total.T
        self._totals += np.array([hints.sum(axis=1), length, use]) @ weight
        self._spans += weight.sum()
        self._last_s = float(time_s[-1])

    def attribution(self) -> Attribution:
        """The costs as of the last span."""
        cost, error = np.full(self._requests.shape, np.nan), np.full(self._requests.shape, np.nan)
        present = float(self._decay.weight(self._last_s))
        seen = self._requests / present > _LEAST
        if not seen.any():
            return Attribution(cost, error, 0.0)
        free = np.append(seen, True)
        gram, moment = self._gram[np.ix_(free, free)] / present, self._moment[free] / present
        scale, spans = self._scale / present, float(self._spans[0]) / present
        centre, spread = self._prior(seen, scale)
        # In units of the prior's spread, so that costs of any size, and a background beside them, are solved alike.
        gram, moment = gram * np.outer(spread, spread), moment * spread
        centre = centre / spread
        found = centre
        for _ in range(3):  # how much the prior counts depends on the noise, which only the fit tells
            unexplained = scale[2, 2] - 2 * moment @ found + found @ gram @ found
            noise = max(_LEAST_NOISE * scale[2, 2], float(unexplained), _LEAST) / spans
            normal = gram + noise * np.eye(len(centre))
            found = nnls_normal(normal, moment + noise * centre)
        deviation = np.sqrt(noise * np.maximum(np.diag(np.linalg.inv(normal)), 0.0))
        cost[seen], error[seen] = (found * spread)[:-1], (deviation * spread)[:-1]
        return Attribution(cost, error, float(found[-1] * spread[-1]))

    def _prior(self, seen: NDArray[np.bool_], scale: Floats) -> tuple[Floats, Floats]:
        """Where the costs and the background are expected, and their standard deviations, both above 0."""
        # The background is what is left at no requests; the rest goes by the hints. Fitting use to the hints would
        # make little of them, since they are far noisier than counts.
        size = np.sqrt(np.maximum(np.diag(scale)[:2], _LEAST))
        normal = scale[:2, :2] / np.outer(size, size) + 1e-9 * np.eye(2)
        _, background = nnls_normal(normal, scale[:2, 2] / size) / size
        hints, total = (self._hints, self._totals[0]) if self._totals[0] > 0 else (self._requests, self._requests.sum())
        above = max(0.0, self._totals[2] - background * self._totals[1]) / total
        each = above * hints[seen] / self._requests[seen]
        typical = self._totals[2] / self._requests.sum()
        # The background is left to the data.
        loose = 10 * np.sqrt(scale[2, 2] / max(scale[1, 1], _LEAST)) + _LEAST
        return np.append(each, background), np.append(_PRIOR_SPREAD * each + _LEAST_SPREAD * typical + _LEAST, loose)

    def folded(self, new_index: Sequence[int], categories: int) -> "Splitter":
        """The same state over other categories; `new_index` gives for each of ours the one that takes its requests."""
        new = Splitter(categories, 1.0, 0.0)
        new._decay, new._last_s = self._decay, self._last_s
        new._scale, new._totals, new._spans = self._scale, self._totals, self._spans
        target = np.append(np.asarray(new_index, dtype=np.intp), categories)
        np.add.at(new._gram, (target[:, None], target[None, :]), self._gram)
        np.add.at(new._moment, target, self._moment)
        np.add.at(new._requests, target[:-1], self._requests)
        np.add.at(new._hints, target[:-1], self._hints)
        return new

    def _stay_in_range(self, now_s: float) -> None:
        factor = self._decay.rescaling(now_s)
        if factor is not None:
            states = (self._gram, self._moment, self._requests, self._hints, self._scale, self._totals, self._spans)
            for state in states:
                np.multiply(state, factor, out=state)
