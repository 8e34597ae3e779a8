"""Confidence sequences: how often they are wrong when looked at all the time, and how soon they are right."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.abtest.experiment.confidence import bounded_sequence, paired_evidence, paired_sequence, past_scale

ALPHA = 0.05
THRESHOLD = math.log(2 / ALPHA)


def slots_without_effect(rng, runs, pairs, kind):
    """Log latency of slots, shape (runs, 2 * pairs): heavy tails, dependence, trends, outbreaks."""
    noise = {
        "cauchy": lambda: rng.standard_cauchy((runs, 2 * pairs)),
        "skewed": lambda: rng.pareto(1.5, (runs, 2 * pairs)),
        "student": lambda: rng.standard_t(2, (runs, 2 * pairs)),
        "constant": lambda: np.zeros((runs, 2 * pairs)),
        "rare": lambda: 5.0 * (rng.random((runs, 2 * pairs)) < 0.03),
    }[kind]()
    slots = np.zeros_like(noise)
    for place in range(1, 2 * pairs):
        slots[:, place] = 0.9 * slots[:, place - 1] + 0.2 * noise[:, place]
    return slots + np.linspace(0, 3, 2 * pairs)


@pytest.mark.parametrize("kind", ["cauchy", "skewed", "student", "constant", "rare"])
@pytest.mark.parametrize("pairs", [12, 200])
def test_a_thousand_experiments_without_effect_are_rarely_called_by_looking_after_every_pair(kind, pairs):
    rng = np.random.default_rng(pairs)
    slots = slots_without_effect(rng, 1000, pairs, kind)
    coins = rng.choice((-1.0, 1.0), (1000, pairs))
    above, below = paired_evidence(coins * (slots[:, 1::2] - slots[:, ::2]))
    called = ((above >= THRESHOLD) | (below >= THRESHOLD)).any(axis=1)
    assert called.mean() <= ALPHA


def test_a_fixed_interval_looked_at_as_often_would_be_wrong_far_more_often():
    rng = np.random.default_rng(1)
    differences = rng.normal(0, 0.2, (1000, 200))
    seen = np.arange(1, 201)
    mean = np.cumsum(differences, axis=1) / seen
    spread = np.sqrt(np.maximum(np.cumsum(differences**2, axis=1) / seen - mean**2, 0) / seen)
    assert (np.abs(mean) > 1.96 * spread)[:, 10:].any(axis=1).mean() > 4 * ALPHA
    above, below = paired_evidence(differences)
    assert (np.maximum(above, below) >= THRESHOLD).any(axis=1).mean() <= ALPHA


@pytest.mark.parametrize(("effect", "within"), [(0.3, 200), (0.5, 80), (1.0, 25), (3.0, 11)])
def test_effects_are_found_soon(effect, within):
    # In standard deviations of a pair; a test of fixed size needs 87, 31 and 8 pairs for the first three.
    differences = np.random.default_rng(2).normal(-effect * 0.2, 0.2, (400, 400))
    _, below = paired_evidence(differences)
    assert (below[:, :within] >= THRESHOLD).any(axis=1).mean() > 0.8


def test_the_sequence_covers_a_true_effect_at_all_looks():
    rng = np.random.default_rng(3)
    differences = 0.4 + 0.3 * rng.standard_t(2, (1000, 60))
    # The interval leaves the truth out where there is evidence against it.
    above, below = paired_evidence(differences - 0.4)
    missed = (np.maximum(above, below) >= THRESHOLD).any(axis=1)
    assert missed.mean() <= ALPHA
    for each in (*np.flatnonzero(missed)[:5], *range(5)):
        sequence = paired_sequence(differences[each], ALPHA)
        assert ((sequence.lower > 0.4) | (sequence.upper < 0.4)).any() == missed[each]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=80), st.floats(0.01, 0.3))
def test_the_interval_says_what_the_evidence_says(values, alpha):
    sequence = paired_sequence(values, alpha)
    above, below = paired_evidence(values)
    threshold = math.log(2 / alpha)
    sure = np.abs(np.stack([above, below]) - threshold).min(axis=0) > 1e-6
    assert ((sequence.lower > 0) == (above >= threshold))[sure].all()
    assert ((sequence.upper < 0) == (below >= threshold))[sure].all()
    assert (sequence.lower <= sequence.centre + 1e-6).all()
    assert (sequence.centre <= sequence.upper + 1e-6).all()


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=60), st.floats(-2, 2))
def test_the_scale_knows_only_the_past(values, other):
    changed = [*values[:-1], other]
    assert past_scale(np.array(values), 0.1).tolist() == past_scale(np.array(changed), 0.1).tolist()


def test_many_observations_are_looked_at_a_few_hundred_times():
    sequence = paired_sequence(np.random.default_rng(4).normal(0.05, 0.1, 1200), ALPHA)
    assert len(sequence.looks) <= 256
    assert sequence.looks[-1] == 1200
    assert 0.02 < sequence.lower[-1] < 0.05 < sequence.upper[-1] < 0.08


def test_nothing_says_nothing():
    for sequence in (paired_sequence([], ALPHA), bounded_sequence([], 0, 1, ALPHA)):
        assert not len(sequence.looks)
    first = paired_sequence([0.3], ALPHA)
    assert (first.lower[0], first.upper[0]) == (-math.inf, math.inf)
    assert first.centre[0] == pytest.approx(0.3)


@pytest.mark.parametrize("rates", [(0.02, 0.02), (0.0, 0.0), (0.3, 0.05)])
def test_bounded_means_are_covered_at_all_looks(rates):
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(60):
        differences = rng.binomial(30, rates[1], 60) / 30 - rng.binomial(30, rates[0], 60) / 30
        sequence = bounded_sequence(differences, -1, 1, ALPHA)
        truth = rates[1] - rates[0]
        missed += bool(((sequence.lower > truth) | (sequence.upper < truth)).any())
        assert (sequence.lower >= -1).all()
        assert (sequence.upper <= 1).all()
    assert missed / 60 <= ALPHA


def test_a_bounded_mean_becomes_known():
    values = np.random.default_rng(6).binomial(1, 0.2, 400)
    sequence = bounded_sequence(values, 0, 1, ALPHA)
    assert 0.1 < sequence.lower[-1] < sequence.centre[-1] < sequence.upper[-1] < 0.31
