"""Confidence sequences: intervals that hold at every look at once, so that anybody may look at any time.

Both kinds here are capital processes (test martingales). For a supposed value somebody bets a fixed share of a
capital of 1 on every observation, at stakes that are fair if the supposition is true; the probability that the
capital *ever* reaches 1/alpha is then at most alpha (Ville, 1939). The interval are the values that nobody has grown
rich against. The share is a mixture over `BETS`, since the best one depends on the effect, which is not known:
Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2023.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fingerpost.arrays import Floats, Ints

BETS = (0.1, 0.2, 0.4, 0.7, 0.95)
_MAX_LOOKS = 256
_STEPS = 32
_FIRST_SCALED = 5
# Beyond this many scales the hyperbolic tangent is 1.
_SATURATED = 20.0


@dataclass(frozen=True)
class Sequence:
    """A confidence sequence as of some looks, each array of shape (looks,).

    Args:
        looks: how many observations had been seen, from 1; every one of them, or 256 of them if there are more.
        lower, upper: the interval; infinite, or the bounds of the values, where nothing can be said yet.
        centre: what is estimated.
    """

    looks: Ints
    lower: Floats
    upper: Floats
    centre: Floats


def paired_sequence(differences: ArrayLike, alpha: float, scale: float = 0.1) -> Sequence:
    """The centre of symmetry of differences within pairs whose order was drawn by a fair coin.

    Where the treatment does nothing, the coin alone decides the sign of each difference: given all sizes and all of
    the past, plus and minus are equally likely, whatever the outcomes' tails, trends or autocorrelation. The stake is
    `tanh((d - centre) / scale)`, odd and bounded, with a scale that only knows the past. So the coverage is exact at
    any number of pairs for a constant effect; it rests on the design, not on a model. (Tests of symmetry by betting:
    Ramdas, Ruf, Larsson and Koolen, 2020; Vovk and Wang, Nonparametric e-tests of symmetry, 2024. Randomised pairs:
    Bojinov, Simchi-Levi and Zhao, Design and Analysis of Switchback Experiments, 2023.)

    Args:
        differences: in the order of time, shape (n,), finite.
        alpha: probability that the interval ever misses.
        scale: the size of a difference to be expected, used until there are some.
    """
    values = np.asarray(differences, dtype=np.float64)
    scales = past_scale(values, scale)
    looks = _looks(len(values))
    if not len(values):
        return Sequence(looks, np.zeros(0), np.zeros(0), np.zeros(0))
    far = _SATURATED * float(scales.max())
    low, high = float(values.min()) - far, float(values.max()) + far

    def lower(sign: float) -> Floats:
        def gains(centre: Floats) -> Floats:
            return np.tanh(sign * (values - sign * centre[:, None]) / scales)

        ends = (low, high) if sign > 0 else (-high, -low)
        return _least_not_refuted(gains, ends, looks, np.log(2 / alpha))

    within = np.arange(1, len(values) + 1) <= looks[:, None]

    def excess(centre: Floats) -> Floats:
        return np.where(within, np.tanh((values - centre[:, None]) / scales), 0.0).sum(axis=1)

    return Sequence(looks, lower(1.0), -lower(-1.0), _root(excess, low, high, len(looks)))


def bounded_sequence(values: ArrayLike, low: float, high: float, alpha: float) -> Sequence:
    """The mean of values that lie in [low, high]; only that each has this mean, given the past, is assumed.

    It adapts to the variance, as empirical-Bernstein sequences do (Howard, Ramdas, McAuliffe and Sekhon, Time-uniform,
    nonparametric, nonasymptotic confidence sequences, 2021), and is narrower.

    Args:
        values: in the order of time, shape (n,), within the bounds.
        alpha: probability that the interval ever misses.
    """
    observed = np.clip(np.asarray(values, dtype=np.float64), low, high)
    looks = _looks(len(observed))
    if not len(observed):
        return Sequence(looks, np.zeros(0), np.zeros(0), np.zeros(0))

    def lower(seen: Floats, least: float, most: float) -> Floats:
        def gains(mean: Floats) -> Floats:
            return (seen - mean[:, None]) / np.maximum(mean[:, None] - least, 1e-12)

        return np.maximum(_least_not_refuted(gains, (least, most), looks, np.log(2 / alpha)), least)

    means = (np.cumsum(observed) / np.arange(1, len(observed) + 1))[looks - 1]
    return Sequence(looks, lower(observed, low, high), -lower(-observed, -high, -low), means)


def paired_evidence(differences: ArrayLike, scale: float = 0.1) -> tuple[Floats, Floats]:
    """Log capital against "the centre is at most 0" and against "at least 0", after each pair.

    The interval of `paired_sequence` lies above 0 as soon as the first is at least `log(2 / alpha)`, and below 0 as
    soon as the second is.

    Args:
        differences: shape (..., n); each row is an experiment of its own.

    Returns:
        Two arrays of that shape.
    """
    values = np.asarray(differences, dtype=np.float64)
    gains = np.tanh(values / past_scale(values, scale))
    return _log_capital(gains), _log_capital(-gains)


def bounded_evidence(values: ArrayLike, low: float, high: float, mean: float) -> Floats:
    """Log capital against "the mean is at most this", after each value; see `bounded_sequence`.

    Args:
        values: shape (..., n), within the bounds.
        mean: above `low`.
    """
    observed = np.clip(np.asarray(values, dtype=np.float64), low, high)
    return _log_capital((observed - mean) / (mean - low))


def past_scale(values: Floats, first: float) -> Floats:
    """For each value a robust size of those before it: 1.5 standard deviations, by the median absolute deviation.

    It is looked at anew each time there are a quarter more values; before there are five, and where they hardly vary,
    it is `first` and a hundredth of it.

    Args:
        values: shape (..., n).
        first: above 0.
    """
    scales = np.full(values.shape, first)
    count, following = values.shape[-1], _FIRST_SCALED
    while following < count:
        past = values[..., :following]
        spread = np.median(np.abs(past - np.median(past, axis=-1, keepdims=True)), axis=-1, keepdims=True)
        scales[..., following:] = np.maximum(1.5 * 1.4826 * spread, first / 100)
        following = max(following + 1, following * 5 // 4)
    return scales


def _looks(count: int) -> Ints:
    if count <= _MAX_LOOKS:
        return np.arange(1, count + 1)
    return np.unique(np.linspace(1, count, _MAX_LOOKS).round().astype(np.int64))


def _log_capital(gains: Floats) -> Floats:
    grown = np.stack([np.cumsum(np.log(1 + bet * gains), axis=-1) for bet in BETS])
    return np.asarray(np.logaddexp.reduce(grown, axis=0) - np.log(len(BETS)))


def _least_not_refuted(
    gains: Callable[[Floats], Floats], ends: tuple[float, float], looks: Ints, threshold: float
) -> Floats:
    """For each look the value at which log capital falls below the threshold; it falls as the value rises."""

    def surplus(value: Floats) -> Floats:
        stakes = gains(value)
        unseen = np.arange(1, stakes.shape[1] + 1) > looks[:, None]
        stakes[unseen] = 0.0
        grown = np.stack([np.log(1 + bet * stakes).sum(axis=1) for bet in BETS])
        return np.asarray(np.logaddexp.reduce(grown, axis=0) - np.log(len(BETS)) - threshold)

    least = np.full(len(looks), ends[0])
    return np.where(surplus(least) >= 0, _root(surplus, *ends, len(looks)), -np.inf)


def _root(falling: Callable[[Floats], Floats], low: float, high: float, count: int) -> Floats:
    """Where falling functions pass 0, by bisection; the lower end of the bracket, so no bound is too narrow."""
    below, above = np.full(count, low), np.full(count, high)
    for _ in range(_STEPS):
        middle = (below + above) / 2
        right = falling(middle) >= 0
        below, above = np.where(right, middle, below), np.where(right, above, middle)
    return below


BLOCKS = 20
MIN_BLOCKS = 8


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; NaN where there is nothing, the interval also where there are too few blocks."""

    value: float
    low: float
    high: float
    blocks: int

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def time_blocks(time_us: ArrayLike, blocks: int = BLOCKS) -> Ints:
    """For each time the number of its block, of so many of equal length from the first to the last time."""
    times = np.asarray(time_us, dtype=np.int64)
    if not times.size:
        return times
    span = max(int(times.max() - times.min()) + 1, 1)
    return np.asarray((times - times.min()) * blocks // span)


def clustered_mean(
    values: ArrayLike, blocks: ArrayLike, weights: ArrayLike | None = None, alpha: float = 0.05
) -> Estimate:
    """The weighted mean of values, with a t interval over blocks of time.

    A ratio of sums, whose variance is that of the blocks' residuals (the delta method, as for cluster samples: Cochran,
    Sampling Techniques, 1977, 9A). With blocks longer than what is correlated, it holds for dependent values (batch
    means: Schmeiser, Batch size effects in the analysis of simulation output, 1982, who advises 10 to 30 of them).

    Args:
        values, blocks, weights: shape (n,); values that are not finite do not count.
        alpha: probability that the interval misses.
    """
    from scipy.stats import t

    value = np.asarray(values, dtype=np.float64)
    weight = np.ones(value.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    known = np.isfinite(value) & (weight > 0)
    if not known.any():
        return Estimate(math.nan, math.nan, math.nan, 0)
    value, weight = value[known], weight[known]
    names, place = np.unique(np.asarray(blocks)[known], return_inverse=True)
    mean, count = float(np.average(value, weights=weight)), len(names)
    if count < MIN_BLOCKS:
        return Estimate(mean, math.nan, math.nan, count)
    residual = np.bincount(place, weights=weight * (value - mean))
    error = math.sqrt(count / (count - 1) * float(np.square(residual).sum())) / float(weight.sum())
    reach = float(t.ppf(1 - alpha / 2, count - 1)) * error
    return Estimate(mean, mean - reach, mean + reach, count)
