"""Decides from pairs: what is harm enough to end an experiment, and what of latency is shown."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fingerpost.abtest.experiment.confidence import bounded_evidence, paired_evidence, past_scale
from fingerpost.abtest.experiment.pairs import Pairs, differences_of, paired_differences
from fingerpost.abtest.experiment.slots import GEOMEAN, MAX_CATEGORIES, P99, RAW_MEAN
from fingerpost.arrays import Floats, Ints
from fingerpost.settings import Settings

Outcome = Literal["better", "not worse", "worse", "no difference", "undecided", "guardrail"]
# Errors that rise by this many times what is allowed end an experiment after two pairs, with no statistics.
_GROSS = 10.0
_GROSS_PAIRS = 2
# A category may fail by so many times more than all requests together: it has fewer of them.
_OF_CATEGORY = 5.0
# Of alpha, what a version that is no different may be called better by; the rest is for worse.
_BETTER_SHARE = 0.8


@dataclass(frozen=True)
class Rules:
    """What decides.

    Args:
        alpha: probability that a challenger which is no different is ever called better or worse.
        min_pairs: pairs before which it is called neither.
        margin: a relative rise of latency that is tolerated in a version that is newer: shown to be below it, the
            challenger is not worse. 0: only a lower latency is looked for.
        max_error_increase: rise of the error rate that is tolerated, 0..1.
        max_p99_ratio: the challenger's p99 over the champion's that is tolerated, above 1.
        max_mean_ratio: the same of the raw mean latency.
        max_category_ratio: the same of the geometric mean latency of any one category.
        min_throughput_ratio: requests a second over the champion's that are tolerated, below 1.
        indifference: a relative difference of latency that nobody minds.
    """

    alpha: float = 0.05
    min_pairs: int = 10
    margin: float = 0.03
    max_error_increase: float = 0.01
    max_p99_ratio: float = 1.5
    max_mean_ratio: float = 1.2
    max_category_ratio: float = 1.5
    min_throughput_ratio: float = 0.8
    indifference: float = 0.01

    def shared(self, challengers: int) -> "Rules":
        """The rules for each of several challengers: what all of them are wrongly called stays alpha (Bonferroni)."""
        return replace(self, alpha=self.alpha / challengers)

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        return cls(
            settings.experiment_alpha,
            settings.experiment_min_pairs,
            settings.experiment_margin,
            settings.max_error_increase,
            settings.max_p99_ratio,
            settings.max_mean_ratio,
            settings.max_category_ratio,
            settings.min_throughput_ratio,
        )


@dataclass(frozen=True)
class Found:
    """A rule that was met.

    Args:
        pair: the pair at which, from 1.
        rule: its stable name.
        reason: the same as a sentence.
    """

    pair: int
    verdict: Outcome
    rule: str
    reason: str


@dataclass(frozen=True)
class Guardrail:
    """One limit of harm, and what the pairs say of it.

    Args:
        places: of the pairs that have the quantity.
        broken: after each of them, whether it is beyond its limit for certain.
        suspected: whether it looks so, by the differences so far.
    """

    rule: str
    reason: str
    places: Ints
    broken: NDArray[np.bool_]
    suspected: NDArray[np.bool_]

    def found(self) -> Found | None:
        """Where it was broken first."""
        where = np.flatnonzero(self.broken)
        return Found(int(self.places[where[0]]) + 1, "guardrail", self.rule, self.reason) if len(where) else None

    def suspected_after(self, pairs: int) -> NDArray[np.bool_]:
        """Whether it looks broken after each of all pairs, shape (pairs,)."""
        latest = np.searchsorted(self.places, np.arange(pairs), side="right")
        return np.concatenate(([False], self.suspected))[latest]


def guardrails(pairs: Pairs, rules: Rules) -> list[Guardrail]:
    """All limits of harm.

    Each has an alpha of its own, those of categories one together: a category has 1 / `MAX_CATEGORIES` of it.
    """
    threshold, of_category = math.log(1 / rules.alpha), math.log(MAX_CATEGORIES / rules.alpha)
    limit, least = rules.max_error_increase, rules.min_throughput_ratio
    rises, places = paired_differences(pairs, "error_rate")
    so_far = np.cumsum(rises) / np.arange(1, len(rises) + 1)
    gross = so_far > _GROSS * limit
    gross[: _GROSS_PAIRS - 1] = False
    found = [
        Guardrail("gross errors", f"the error rate rises by more than {_GROSS * limit:g}", places, gross, gross),
        _errors(pairs.values["error_rate"], limit, threshold, "errors", "the error rate"),
        _rise(pairs.values[P99], rules.max_p99_ratio, threshold, "p99", "p99"),
        _rise(pairs.values[RAW_MEAN], rules.max_mean_ratio, threshold, "mean", "raw mean latency"),
        replace(
            _rise(pairs.values["throughput_rps"][:, ::-1], 1 / least, threshold, "throughput", ""),
            reason=f"requests a second fall below {least:g} times the champion's",
        ),
    ]
    if len(pairs.latency_of) > 1:
        for name, values in pairs.latency_of.items():
            found.append(_rise(values, rules.max_category_ratio, of_category, "category", f"latency of {name!r}"))
        for name, values in pairs.errors_of.items():
            about = ("category errors", f"the error rate of {name!r}")
            found.append(_errors(values, _OF_CATEGORY * limit, of_category, *about))
    return found


def _rise(values: Floats, ratio: float, threshold: float, rule: str, name: str) -> Guardrail:
    differences, places = differences_of(values, logs=True)
    beyond = differences - math.log(ratio)
    above, _ = paired_evidence(beyond)
    reason = f"{name} rises to more than {ratio:g} times the champion's"
    return Guardrail(rule, reason, places, above >= threshold, _leaning(beyond) > 0)


def _errors(values: Floats, limit: float, threshold: float, rule: str, name: str) -> Guardrail:
    """Of errors that come in a steady share the typical pair tells soonest, of those in rare bursts the mean."""
    rises, places = differences_of(values, logs=False)
    steady, _ = paired_evidence(rises - limit, limit)
    broken = np.maximum(steady, bounded_evidence(rises, -1.0, 1.0, limit)) >= threshold + math.log(2)
    return Guardrail(rule, f"{name} rises by more than {limit:g}", places, broken, np.cumsum(rises - limit) > 0)


def shown_harm(differences: Floats, limit: float, alpha: float, scale: float = 0.1) -> NDArray[np.bool_]:
    """After each pair, whether differences certainly lie above 0, and look to lie above the limit.

    Where there is no difference it is ever shown with a probability of at most alpha.

    Args:
        differences: of pairs in the order of time, shape (..., pairs).
        scale: the size of a difference to be expected at first.
    """
    above, _ = paired_evidence(differences, scale)
    return np.asarray((above >= math.log(1 / alpha)) & (_leaning(differences - limit) > 0))


def _leaning(differences: Floats) -> Floats:
    """After each pair, to which side of 0 the differences so far lean; outliers count as much as large ones do."""
    return np.asarray(np.cumsum(np.tanh(differences / past_scale(differences, 0.1)), axis=-1))


def shown_of_latency(differences: Floats, rules: Rules) -> dict[Outcome, NDArray[np.bool_]]:
    """After each pair, what is shown of log ratios of latency; each array of the shape of the differences.

    Each is one-sided: a version that is no different is ever called better with a probability of at most 0.8 alpha,
    worse with 0.2 alpha; one that is worse by the margin is ever called not worse with at most alpha. Not worse is
    held back as long as the differences so far promise a gain: more pairs may show that it is better.

    Args:
        differences: of pairs in the order of time, shape (..., pairs); each row is an experiment of its own.
    """
    above, below = paired_evidence(differences)
    near = math.log1p(rules.indifference)
    shown: dict[Outcome, NDArray[np.bool_]] = {
        "better": below >= math.log(1 / (_BETTER_SHARE * rules.alpha)),
        "worse": above >= math.log(1 / ((1 - _BETTER_SHARE) * rules.alpha)),
    }
    if rules.margin > 0:
        shown["not worse"] = within_margin(differences, rules) & (_leaning(differences + near) >= 0)
    least, most = paired_evidence(differences + near)[0], paired_evidence(differences - near)[1]
    shown["no difference"] = np.minimum(least, most) >= math.log(2 / rules.alpha)
    for each in shown.values():
        each[..., : rules.min_pairs - 1] = False
    return shown


def within_margin(differences: Floats, rules: Rules) -> NDArray[np.bool_]:
    """After each pair, whether latency is shown to lie below the champion's plus the margin; see `shown_of_latency`."""
    if rules.margin <= 0:
        return np.zeros(differences.shape, dtype=bool)
    _, below = paired_evidence(differences - math.log1p(rules.margin))
    shown = below >= math.log(1 / rules.alpha)
    shown[..., : rules.min_pairs - 1] = False
    return np.asarray(shown)


def decided_by_latency(pairs: Pairs, suspected: NDArray[np.bool_], rules: Rules, over: bool) -> list[Found]:
    """The outcomes of latency that are shown, each by its first pair; the strongest of one pair first.

    Args:
        suspected: after each pair, whether a guardrail looks broken: as long as it does, nothing good is said.
        over: whether no more pairs are to come, for which *not worse* would be held back.
    """
    differences, places = paired_differences(pairs, GEOMEAN)
    shown = shown_of_latency(differences, rules)
    if over and within_margin(differences, rules).any():
        shown["not worse"][-1] = True
    words: dict[Outcome, tuple[str, str]] = {
        "better": ("latency", "latency is lower"),
        "worse": ("latency", "latency is higher"),
        "not worse": ("margin", f"latency is less than {rules.margin:.1%} above the champion's"),
        "no difference": ("indifference", f"latency differs by less than {rules.indifference:.0%}"),
    }
    found = []
    for outcome, (rule, reason) in words.items():
        if outcome in shown:
            met = shown[outcome] if outcome == "worse" else shown[outcome] & ~suspected[places]
            where = np.flatnonzero(met)
            found += [Found(int(places[where[0]]) + 1, outcome, rule, reason)] if len(where) else []
    return found
