"""Measures how unlike hosts are: variance components of log service times, with intervals.

The model: log service time = category + host + (host x category) + residual. What counts for routing by category is the
third: how much faster a host is at one category than its speed in general says. All spreads are standard deviations of
logs, so 0.1 is about 10%.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fingerpost.arrays import Floats, Ints

# Differences below this share are nothing that a routing policy could use.
MATTERS = 0.05
Verdict = Literal["not at all", "in speed only", "by category", "unclear"]
_BLOCKS = 20
_ROUNDS = 30
_MAX_CELLS = 3_000_000
# Of variance components over that of a residual: how much the weights of cells take the interaction to be.
_WEIGHT_PRIOR = 0.05
_MAX_DESIGN = 50.0


@dataclass(frozen=True)
class Spread:
    """A standard deviation of logs, with the bounds of its 95% interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"sd": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


@dataclass(frozen=True)
class Difference:
    """How unlike the hosts are.

    Attributes:
        host: spread of the hosts' general speed; `interaction`: by category beyond that.
        residual: spread of single requests of one host and category.
        log_s: estimated mean log service time, seconds, shape (hosts, categories), drawn towards host + category by
            empirical Bayes where a cell has few requests.
        error: standard deviation that this estimate leaves, same shape.
        count: requests that each estimate rests on, same shape.
    """

    host: Spread
    interaction: Spread
    residual: float
    log_s: Floats
    error: Floats
    count: Floats

    @property
    def verdict(self) -> Verdict:
        """The answer in two words; `unclear` if the interval leaves both open."""
        if self.interaction.low > 0 and self.interaction.value >= MATTERS:
            return "by category"
        if self.interaction.high >= MATTERS * 2 and self.interaction.value >= MATTERS:
            return "unclear"
        if self.host.value >= MATTERS and self.host.low > 0:
            return "in speed only"
        return "unclear" if max(self.host.high, self.interaction.high) >= MATTERS * 2 else "not at all"

    def drawn(self, rng: np.random.Generator) -> Floats:
        """One fleet that could be this one: the estimates with errors as large as theirs, shape (hosts, categories)."""
        return self.log_s + self.error * rng.standard_normal(self.log_s.shape)


def difference(
    log_s: Floats, host: Ints, category: Ints, shape: tuple[int, int], draws: int = 200, seed: int = 1
) -> Difference:
    """Estimates the variance components.

    Requests lie in blocks of time, which are split into halves at random. What a host does in both halves alike is its
    own; errors of the halves are independent, even where neighbouring requests are slow together. So the products of
    the halves' estimates have the components as their means, negative ones included. Intervals are percentiles over
    splits whose blocks are drawn anew with replacement (bootstrap): they tell of these hosts in such a time.

    Args:
        log_s: log of service times, in order of time, shape (n,).
        host, category: places, shape (n,).
        shape: numbers of hosts and categories.
        draws: number of splits.
    """
    blocks = max(2, min(_BLOCKS, _MAX_CELLS // (shape[0] * shape[1])))
    cells = shape[0] * shape[1]
    cell = host * shape[1] + category
    block = np.arange(len(log_s)) * blocks // max(len(log_s), 1)
    place = block * cells + cell
    count = np.bincount(place, minlength=blocks * cells).reshape(blocks, *shape).astype(np.float64)
    total = np.bincount(place, log_s, blocks * cells).reshape(blocks, *shape)
    square = float((log_s**2).sum())
    n, s = count.sum(axis=0), total.sum(axis=0)
    within = square - float((s**2 / np.maximum(n, 1)).sum())
    residual = max(within / max(float(n.sum() - (n > 0).sum()), 1.0), 1e-9)
    rng = np.random.default_rng(seed)
    found: list[tuple[float, float, float]] = []
    for _ in range(max(2, min(draws, draws * 20_000 // cells + 20))):
        order = rng.permutation(blocks)
        halves = [rng.choice(part, len(part)) for part in (order[: blocks // 2], order[blocks // 2 :])]
        found.append(_products([(count[half].sum(axis=0), total[half].sum(axis=0)) for half in halves], residual))
    of_host, of_cell, design = (np.array(each) for each in zip(*found, strict=True))
    interaction, spread = _spread(of_cell), _spread(of_host)
    noise = residual * float(np.clip(np.median(design), 1.0, _MAX_DESIGN))
    return _estimates(spread, interaction, residual, noise, n, s)


def _products(halves: list[tuple[Floats, Floats]], residual: float) -> tuple[float, float, float]:
    """Variances of host and of host x category, and by how much cells vary more than single requests explain."""
    n_a, n_b = halves[0][0], halves[1][0]
    fits = [two_way(n, s) for n, s in halves]
    both = (n_a > 0) & (n_b > 0)
    left = [
        np.where(both, s / np.maximum(n, 1) - of[:, None] - to, 0.0)
        for (n, s), (of, to) in zip(halves, fits, strict=True)
    ]
    inverse = [np.where(both, 1 / np.maximum(n, 1), 1.0) for n in (n_a, n_b)]
    weight = np.where(both, 1 / ((_WEIGHT_PRIOR + inverse[0]) * (_WEIGHT_PRIOR + inverse[1])), 0.0)
    used, hosts, categories = int(both.sum()), int(both.any(axis=1).sum()), int(both.any(axis=0).sum())
    free = used - hosts - categories + 1
    cell = design = 0.0
    if free > 0:
        cell = float((weight * left[0] * left[1]).sum() / weight.sum()) * used / free
        apart = float((weight * (left[0] - left[1]) ** 2).sum()) * used / free
        design = apart / max(float((weight * residual * (inverse[0] + inverse[1])).sum()), 1e-12)
    seen = both.any(axis=1)
    a, b = (of[seen] - of[seen].mean() for of, _ in fits)
    host = float((a * b).sum()) / max(int(seen.sum()) - 1, 1)
    # What the categories that a host happens to serve add to its general speed.
    share = (n_a + n_b)[seen] / np.maximum((n_a + n_b)[seen].sum(axis=1, keepdims=True), 1)
    return host - max(cell, 0.0) * float((share**2).sum(axis=1).mean()), cell, design


def two_way(count: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Least squares of cell sums by host + category: effects of hosts (weighted mean 0) and categories.

    Args:
        count, total: requests and the sums of their logs, shape (hosts, categories).
    """
    hosts = np.zeros(count.shape[0])
    by_host, by_category = np.maximum(count.sum(axis=1), 1e-9), np.maximum(count.sum(axis=0), 1e-9)
    categories = total.sum(axis=0) / by_category
    for _ in range(_ROUNDS):
        hosts = (total.sum(axis=1) - count @ categories) / by_host
        hosts -= np.average(hosts, weights=by_host)
        categories = (total.sum(axis=0) - hosts @ count) / by_category
    return hosts, categories


def _spread(variances: Floats) -> Spread:
    value, low, high = np.mean(variances), *np.percentile(variances, [2.5, 97.5])
    return Spread(*(float(np.sqrt(max(each, 0.0))) for each in (value, low, high)))


def _estimates(host: Spread, interaction: Spread, residual: float, noise: float, n: Floats, s: Floats) -> Difference:
    of, to = two_way(n, s)
    error = noise / np.maximum(n, 1e-9)
    variance = interaction.value**2
    kept = np.where(n > 0, variance / (variance + error), 0.0) if variance > 0 else np.zeros(n.shape)
    # The error of a host's general speed, drawn to the others' likewise.
    of_error = noise / np.maximum(n.sum(axis=1), 1e-9)
    of_kept = host.value**2 / (host.value**2 + of_error) if host.value > 0 else np.zeros(len(of))
    base = (of * of_kept)[:, None] + to
    cell = np.where(n > 0, s / np.maximum(n, 1) - base, 0.0)
    left: Any = np.sqrt(variance * (1 - kept))
    return Difference(host, interaction, float(np.sqrt(residual)), base + kept * cell, left, n)
