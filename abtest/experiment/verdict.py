"""The verdict on an experiment, from its pairs, at any time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from fingerpost.abtest.experiment.confidence import Sequence, bounded_sequence, paired_sequence
from fingerpost.abtest.experiment.pairs import METRICS, Pairs, paired_differences, typical_metrics
from fingerpost.arrays import Ints
from fingerpost.settings import Settings

Outcome = Literal["better", "worse", "no difference", "undecided", "guardrail"]
_Found = tuple[int, Outcome, str, str]
_Sequences = Mapping[str, tuple[Sequence, Ints]]
PRIMARY = "latency_mean_s"
# Errors that rise by this many times what is allowed end an experiment after two pairs, with no statistics.
_GROSS = 10.0
_GROSS_PAIRS = 2


@dataclass(frozen=True)
class Rules:
    """What decides.

    Args:
        alpha: probability that a challenger which is no different is ever called better or worse.
        min_pairs: pairs before which it is called neither.
        max_error_increase: rise of the error rate that is tolerated, 0..1.
        max_p99_ratio: the challenger's p99 over the champion's that is tolerated, above 1.
        indifference: a relative difference of latency that nobody minds.
    """

    alpha: float = 0.05
    min_pairs: int = 10
    max_error_increase: float = 0.01
    max_p99_ratio: float = 1.5
    indifference: float = 0.01

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        return cls(
            settings.experiment_alpha,
            settings.experiment_min_pairs,
            settings.max_error_increase,
            settings.max_p99_ratio,
        )


@dataclass(frozen=True)
class Effect:
    """What the challenger changes in one metric.

    Args:
        unit: `ratio` (challenger over champion; 1 is no change) or `difference` (0 is no change).
        champion, challenger: medians over the slots, in the metric's own unit.
        estimate, low, high: the change and its confidence sequence as of now; infinite or NaN where not known.
        pairs: on how many it rests.
    """

    metric: str
    unit: str
    champion: float
    challenger: float
    estimate: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Verdict:
    """What is known of an experiment.

    Args:
        verdict: `better`, `worse` or `no difference` of the challenger; `undecided` as yet, or at the end for lack of
            pairs; `guardrail`: stop it at once.
        rule: the rule that decided, as a stable name: `latency`, `errors`, `gross errors`, `p99`, `indifference`,
            `all pairs seen`, `too few pairs`.
        reason: the same as a sentence.
        decided_at: the pair at which, from 1; None while nothing has.
        pairs, planned, elapsed: pairs that count, planned, and over by now.
        over: whether all slots are past.
        skipped, records, misrouted: see `fingerpost.abtest.experiment.pairs.Pairs`.
        effects: by metric.
        trusts: how far the guard trusts the predictions of `champion` and `challenger`, 0..1: an arm without trust is
            least request. Empty where the router keeps its table on another machine.
    """

    verdict: Outcome
    rule: str
    reason: str
    decided_at: int | None
    pairs: int
    planned: int
    elapsed: int
    over: bool
    alpha: float
    skipped: Mapping[str, int] = field(default_factory=dict)
    records: int = 0
    misrouted: int = 0
    effects: Mapping[str, Effect] = field(default_factory=dict)
    experiment: Mapping[str, Any] | None = None
    trusts: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values; numbers that are not finite are None."""
        return dict(to_jsonable_python(self, inf_nan_mode="null"))


def judge(pairs: Pairs, rules: Rules, planned: int, over: bool) -> Verdict:
    """The verdict on what was seen so far; asking again and again costs nothing in error probability.

    The first rule to be met decides, and what it decided stays. Guardrails are looked at from the first pair on.

    Args:
        planned: number of pairs at the most.
        over: whether no more are to come.
    """
    sequences = metric_sequences(pairs, rules)
    found = [each for each in (*_guardrails(pairs, sequences, rules), *_latency(sequences, rules)) if each]

    conclude = partial(
        Verdict,
        pairs=len(pairs),
        planned=planned,
        elapsed=len(pairs) + sum(pairs.skipped.values()),
        over=over,
        alpha=rules.alpha,
        skipped=pairs.skipped,
        records=pairs.records,
        misrouted=pairs.misrouted,
        effects=_effects(pairs, sequences),
    )
    if found:
        decided_at, verdict, rule, reason = min(found, key=lambda each: each[0])
        return conclude(verdict, rule, reason, decided_at)
    unarmed = _without_arms(pairs)
    if not over:
        return conclude("undecided", "", f"{len(pairs)} of {planned} pairs seen; nothing is decided yet{unarmed}", None)
    if len(sequences[PRIMARY][1]) < rules.min_pairs:
        few = f"only {len(pairs)} pairs can be used of at least {rules.min_pairs}{unarmed}"
        return conclude("undecided", "too few pairs", few, None)
    within = f"after all pairs mean latency may differ by a factor of {_factors(sequences[PRIMARY][0])}"
    return conclude("no difference", "all pairs seen", within, len(pairs))


def _without_arms(pairs: Pairs) -> str:
    """Why no pair can be used where records do not tell their arms; else nothing."""
    if len(pairs) or not pairs.without_arm:
        return ""
    share = (
        "no request's record tells"
        if pairs.without_arm == pairs.records
        else (f"{pairs.without_arm} of {pairs.records} requests' records do not tell")
    )
    return f": {share} which arm routed it; only Envoy's log does, read by `fingerpost agent --proxy` (docs/agent.md)"


def metric_sequences(pairs: Pairs, rules: Rules) -> dict[str, tuple[Sequence, Ints]]:
    """Each metric's confidence sequence, of log ratios or of differences of rates, and the places of its pairs.

    Of error rates the level is half of alpha: the other half is for their mean, see `_guardrails`.
    """
    found = {}
    for metric in METRICS:
        differences, places = paired_differences(pairs, metric)
        errors = metric == "error_rate"
        level, scale = (rules.alpha / 2, rules.max_error_increase) if errors else (rules.alpha, 0.1)
        found[metric] = (paired_sequence(differences, level, scale), places)
    return found


def _guardrails(pairs: Pairs, sequences: _Sequences, rules: Rules) -> list[_Found | None]:
    """Errors by the typical difference of a pair, sharp where they come in a steady share, and by the mean, which also
    sees what comes in rare bursts; and p99."""
    rises, _ = paired_differences(pairs, "error_rate")
    so_far = np.cumsum(rises) / np.arange(1, len(rises) + 1)
    gross = so_far > _GROSS * rules.max_error_increase
    gross[: _GROSS_PAIRS - 1] = False
    errors, p99 = sequences["error_rate"], sequences["latency_p99_s"]
    mean = bounded_sequence(rises, -1.0, 1.0, rules.alpha / 2)
    limit, ratio = rules.max_error_increase, rules.max_p99_ratio
    return [
        _first(
            gross, np.arange(1, len(rises) + 1), errors[1], "guardrail", "gross errors",
            f"the error rate rises by more than {_GROSS * limit:g}",
        ),
        _first(
            errors[0].lower > limit, errors[0].looks, errors[1], "guardrail", "errors",
            f"the error rate rises by more than {limit:g}",
        ),
        _first(
            mean.lower > limit, mean.looks, errors[1], "guardrail", "errors",
            f"the mean error rate rises by more than {limit:g}",
        ),
        _first(
            p99[0].lower > math.log(ratio), p99[0].looks, p99[1], "guardrail", "p99",
            f"p99 rises to more than {ratio:g} times the champion's",
        ),
    ]  # fmt: skip


def _latency(sequences: _Sequences, rules: Rules) -> list[_Found | None]:
    sequence, places = sequences[PRIMARY]
    enough = sequence.looks >= rules.min_pairs
    margin = math.log1p(rules.indifference)
    alike = (sequence.lower > -margin) & (sequence.upper < margin)
    return [
        _first(enough & (sequence.upper < 0), sequence.looks, places, "better", "latency", "mean latency is lower"),
        _first(enough & (sequence.lower > 0), sequence.looks, places, "worse", "latency", "mean latency is higher"),
        _first(
            enough & alike, sequence.looks, places, "no difference", "indifference",
            f"mean latency differs by less than {rules.indifference:.0%}",
        ),
    ]  # fmt: skip


def _first(
    met: NDArray[np.bool_],
    looks: Ints,
    places: Ints,
    verdict: Outcome,
    rule: str,
    reason: str,
) -> _Found | None:
    where = np.flatnonzero(met)
    return (int(places[looks[where[0]] - 1]) + 1, verdict, rule, reason) if len(where) else None


def _effects(pairs: Pairs, sequences: _Sequences) -> dict[str, Effect]:
    effects = {}
    for metric, (champion, challenger) in typical_metrics(pairs).items():
        sequence, places = sequences[metric]
        if not len(places):
            continue
        ends = np.array([sequence.centre[-1], sequence.lower[-1], sequence.upper[-1]])
        unit = "difference" if metric == "error_rate" else "ratio"
        estimate, low, high = map(float, ends if unit == "difference" else np.exp(ends))
        effects[metric] = Effect(metric, unit, champion, challenger, estimate, low, high, len(places))
    return effects


def _factors(of: Sequence) -> str:
    return f"{math.exp(of.lower[-1]):.3f} to {math.exp(of.upper[-1]):.3f}"
