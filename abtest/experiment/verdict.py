"""The verdict on an experiment, from its pairs, at any time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from fingerpost.abtest.experiment.confidence import Sequence, paired_sequence
from fingerpost.abtest.experiment.guardrails import Outcome, Rules, decided_by_latency, guardrails
from fingerpost.abtest.experiment.pairs import Pairs, paired_differences
from fingerpost.abtest.experiment.slots import GEOMEAN, METRICS, typical
from fingerpost.arrays import Ints

PRIMARY = GEOMEAN


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
        verdict: `better`, `not worse`, `worse` or `no difference` of the challenger; `undecided` as yet, or at the end
            for lack of pairs; `guardrail`: stop it at once.
        rule: the rule that decided, as a stable name: `latency`, `margin`, `indifference`, `errors`, `gross errors`,
            `p99`, `mean`, `throughput`, `category`, `category errors`, `named` (by the policy),
            `gross harm` (for which the engine closed the arm), `all pairs seen`, `too few pairs`.
        reason: the same as a sentence.
        decided_at: the pair at which, from 1; None while nothing has.
        pairs, planned, elapsed: pairs that count, planned, and over by now.
        over: whether all slots are past.
        skipped, records, misrouted: see `fingerpost.abtest.experiment.pairs.Pairs`.
        effects: by metric.
        washout_s: what is left out at the beginning of each slot by now, seconds: more than planned where an arm was
            found to reach into the next slot; None before the first pair.
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
    washout_s: float | None = None
    trusts: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values; numbers that are not finite are None."""
        return dict(to_jsonable_python(self, inf_nan_mode="null"))


def judge(pairs: Pairs, rules: Rules, planned: int, over: bool) -> Verdict:
    """The verdict on what was seen so far; asking again and again costs nothing in error probability.

    The first rule to be met decides, and what it decided stays. Guardrails are looked at from the first pair on; while
    one looks broken, nothing good is said of the challenger.

    Args:
        planned: number of pairs at the most.
        over: whether no more are to come.
    """
    sequences = metric_sequences(pairs, rules)
    limits = guardrails(pairs, rules)
    broken = [met for each in limits if (met := each.found())]
    suspected = np.any([each.suspected_after(len(pairs)) for each in limits], axis=0)
    found = [*broken, *decided_by_latency(pairs, suspected, rules, over)]

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
        washout_s=float(pairs.washout_s[-1]) if len(pairs.washout_s) else None,
    )
    if found:
        first = min(found, key=lambda each: each.pair)
        return conclude(first.verdict, first.rule, first.reason, first.pair)
    unarmed = _without_arms(pairs)
    if not over:
        return conclude("undecided", "", f"{len(pairs)} of {planned} pairs seen; nothing is decided yet{unarmed}", None)
    if len(sequences[PRIMARY][1]) < rules.min_pairs:
        few = f"only {len(pairs)} pairs can be used of at least {rules.min_pairs}{unarmed}"
        return conclude("undecided", "too few pairs", few, None)
    within = f"after all pairs latency may differ by a factor of {_factors(sequences[PRIMARY][0])}"
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
    """Each metric's confidence sequence, of log ratios or of differences of rates, and the places of its pairs."""
    found = {}
    for metric in METRICS:
        differences, places = paired_differences(pairs, metric)
        scale = rules.max_error_increase if metric == "error_rate" else 0.1
        found[metric] = (paired_sequence(differences, rules.alpha, scale), places)
    return found


def primary_sequence(pairs: Pairs, rules: Rules) -> dict[str, list[float | int]]:
    """The confidence sequence of latency, challenger over champion, to draw: `pair`, `estimate`, `low`, `high`.

    Looks at which nothing could be said yet are left out.
    """
    sequence, places = metric_sequences(pairs, rules)[PRIMARY]
    known = np.isfinite(sequence.lower) & np.isfinite(sequence.upper) & np.isfinite(sequence.centre)
    ends = {"estimate": sequence.centre, "low": sequence.lower, "high": sequence.upper}
    return {
        "pair": (places[sequence.looks - 1] + 1)[known].tolist() if len(places) else [],
        **{name: np.round(np.exp(values[known]), 4).tolist() for name, values in ends.items()},
    }


def _effects(pairs: Pairs, sequences: Mapping[str, tuple[Sequence, Ints]]) -> dict[str, Effect]:
    effects = {}
    for metric, (champion, challenger) in typical(pairs.values, METRICS).items():
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
