"""Gross harm by one version is told from the newest requests; what hurts both, or hardly, is not."""

import numpy as np
import pytest

from fingerpost.clock import US
from fingerpost.serving.gross_harm import NONE, HarmWatch, Requests

NOW = 1_790_000_000 * US


def requests(rng, count, suspected, since_s=0.0, until_s=0.0, lost=0.0, times=1.0):
    """Requests that ended in a span of seconds before now."""
    ended = NOW - (rng.uniform(until_s, max(since_s, until_s), count) * US).astype(np.int64)
    duration = 0.05 * np.exp(rng.normal(0, 1, count)) * times
    return Requests(ended, duration, rng.random(count) < lost, np.full(count, suspected))


def seen(*parts):
    watch = HarmWatch(0.01)
    for part in parts:
        watch.add(part)
    return watch


@pytest.mark.parametrize(
    ("how", "words"),
    [({"lost": 1.0}, "100% failed"), ({"lost": 0.3}, "failed"), ({"times": 20.0}, "0% failed")],
)
def test_gross_harm_is_told_of_few_requests(how, words):
    rng = np.random.default_rng(1)
    watch = seen(requests(rng, 1000, False, 60, 5), requests(rng, 100, True, 4, **how))
    assert words in watch.harm(NOW)


@pytest.mark.parametrize("how", [{}, {"lost": 0.03}, {"times": 1.5}])
def test_what_is_small_is_left_to_the_sequences(how):
    rng = np.random.default_rng(2)
    watch = seen(requests(rng, 5000, False, 60, 5), requests(rng, 5000, True, 10, **how))
    assert watch.harm(NOW) is None


def test_what_hurt_the_other_arm_as_much_is_no_harm_of_this_one():
    rng = np.random.default_rng(3)
    watch = seen(requests(rng, 1000, False, 60, 5, lost=0.3), requests(rng, 500, True, 4, lost=0.3))
    assert watch.harm(NOW) is None


def test_too_few_requests_tell_nothing_and_old_ones_are_no_news():
    rng = np.random.default_rng(4)
    others = requests(rng, 1000, False, 60, 5)
    assert seen(NONE).harm(NOW) is None
    assert seen(others, requests(rng, 19, True, 4, lost=1.0)).harm(NOW) is None
    assert seen(requests(rng, 99, False, 60, 5), requests(rng, 100, True, 4, lost=1.0)).harm(NOW) is None
    assert seen(others, requests(rng, 100, True, 40, 30, lost=1.0)).harm(NOW) is None


@pytest.mark.parametrize(("lost", "refuted"), [(0.0, False), (0.3, True)])
def test_a_closing_is_refuted_by_the_other_arm_that_does_as_badly(lost, refuted):
    rng = np.random.default_rng(5)
    closed = NOW - 26 * US
    watch = seen(
        requests(rng, 1000, False, 90, 35),
        requests(rng, 200, True, 30, 27, lost=0.3),
        # What was left to it is no evidence.
        requests(rng, 200, False, 25, 20, lost=1.0),
        requests(rng, 200, False, 15, 1, lost=lost),
    )
    assert watch.refuted(closed, NOW) is refuted
    assert not watch.refuted(closed, NOW - 2 * US)


def test_memory_is_bounded():
    rng = np.random.default_rng(6)
    watch = seen(requests(rng, 1000, False, 1000, 900), *(requests(rng, 30_000, False, 60) for _ in range(3)))
    assert len(watch._kept.ended_us) <= 50_000
    assert watch._kept.ended_us.min() >= NOW - 300 * US
