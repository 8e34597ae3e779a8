"""What recurs is found, by the clock and by work; a host is followed alone as it is beside others."""

import numpy as np
import pytest

from fingerpost.telemetry.recurrence import (
    HELD,
    RECURRENCE,
    REMEMBERED,
    SPELL,
    find_period,
    follow_slowness,
    follow_spells,
    recurrence_views,
    slowness,
)


def recurring(period, lasts, windows, rng=None, jitter=0.0):
    """Slowness of windows: 1 within spells, and the share of a window that is within one at their edges."""
    begins = np.arange(period * 0.3, windows, period)
    begins = begins + (rng.uniform(-jitter, jitter, len(begins)) if rng is not None else 0.0)
    window = np.arange(windows)[:, None]
    within = np.minimum(window + 1, begins + lasts) - np.maximum(window, begins)
    return np.clip(within, 0, 1).sum(axis=1)


def fresh(hosts):
    return np.full((REMEMBERED, hosts), np.nan), np.full((len(RECURRENCE), hosts), np.nan)


def follow(slow, passed=None):
    """State after some windows of one host, shape (W,), of which those that are NaN are left out if `passed`."""
    ring, state = fresh(1)
    last = -1
    for number, value in enumerate(slow):
        if passed and np.isnan(value):
            continue
        follow_slowness(ring, state, np.array([value]), number - last, number)
        last = number
    return ring, state


@pytest.mark.parametrize("period", [6.0, 9.7, 12.3, 25.0, 60.0])
def test_the_period_is_found_to_a_tenth_of_a_window(period):
    rng = np.random.default_rng(1)
    slow = recurring(period, 2.5, 240, rng, jitter=0.2) + rng.uniform(0, 0.1, 240)
    found, regularity = find_period(slow[:, None])
    assert found[0] == pytest.approx(period, abs=0.15)
    assert regularity[0] > 0.7


def test_two_periods_are_enough_and_one_is_not():
    slow = recurring(20, 3, 60)
    assert np.isnan(find_period(slow[:35, None])[0][0])
    assert find_period(slow[:50, None])[0][0] == pytest.approx(20, abs=0.5)


def test_what_does_not_recur_is_regular_by_chance_at_most():
    rng = np.random.default_rng(2)
    wander = np.clip(np.cumsum(rng.normal(0, 0.1, (360, 50)), axis=0), 0, 1)
    noise = rng.uniform(0, 0.2, (360, 50))
    for slow in (wander, noise):
        assert np.nanmedian(find_period(slow)[1]) < 0.45
    period, regularity = find_period(np.zeros((360, 3)))
    assert np.isnan(period).all() and np.isnan(regularity).all()


def test_what_is_due_is_told_before_it_comes():
    slow = recurring(13.0, 2, 200)
    ring, state = fresh(1)
    due = []
    for number, value in enumerate(slow):
        follow_slowness(ring, state, np.array([value]), 1, number)
        due.append(state[2:4, 0].copy())
    due = np.array(due)
    settled = slice(60, 195)
    np.testing.assert_allclose(due[settled, 0], slow[61:196], atol=0.15)
    np.testing.assert_allclose(due[settled, 1], slow[62:197], atol=0.15)


def test_a_host_followed_alone_is_followed_as_beside_others_to_the_bit():
    rng = np.random.default_rng(3)
    slow = np.stack([recurring(period, 2, 150, rng, 0.2) for period in (8, 13, 21)], axis=1)
    slow += rng.uniform(0, 0.1, slow.shape)
    slow[rng.random(slow.shape) < 0.2] = np.nan
    slow[70:90, 1] = np.nan
    slow[-1] = 0.1
    ring, state = fresh(3)
    last = np.full(3, -1)
    for number, row in enumerate(slow):
        passed = np.where(np.isfinite(row), number - last, 0)
        for span in np.unique(passed[passed > 0]).tolist():
            hosts = np.flatnonzero(passed == span)
            some, of = ring[:, hosts], state[:, hosts]
            follow_slowness(some, of, row[hosts], span, number)
            ring[:, hosts], state[:, hosts], last[hosts] = some, of, number
    for host in range(3):
        own_ring, own = follow(slow[:, host], passed=True)
        np.testing.assert_array_equal(own[:, 0], state[:, host])
        np.testing.assert_array_equal(own_ring[:, 0], ring[:, host])


def test_a_host_that_is_silent_is_held_for_a_while_and_then_forgotten():
    ring, state = fresh(1)
    follow_slowness(ring, state, np.array([0.8]), 1, 100)
    follow_slowness(ring, state, np.array([0.1]), HELD + 3, 102 + HELD)
    assert ring[-HELD - 4 :, 0].tolist() == [0.8, *[0.8] * HELD, 0.0, 0.0, 0.1]
    follow_slowness(ring, state, np.array([0.1]), 10 * REMEMBERED, 10_000)
    assert np.isnan(state[0, 0])
    assert ring[:-1, 0].max() == 0


def followed(slow, cpu_util=0.5):
    """RECURRENCE_VIEWS by spells after each window of 10 s, and the state at the end."""
    state, views = np.full((len(SPELL), 1), np.nan), []
    for value, busy in zip(slow, np.broadcast_to(cpu_util, len(slow)), strict=True):
        follow_spells(state, np.array([value]), np.array([busy]), 1, 10.0)
        views.append([float(each[0]) for each in recurrence_views(np.full((6, 1), np.nan), state, np.zeros(1))[4:]])
    return np.array(views).T, state[:, 0]


CYCLE = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]


def test_work_counts_from_the_end_of_a_spell_to_the_next_beginning():
    (spell_s, fine_s, work, share), state = followed([0.0, *CYCLE * 4, 0.5, 0.0])
    # From when it recovered to the window in which it becomes slow again: four windows, half of each busy.
    assert state[SPELL.index("limit")] == 20
    # Three spells that have come after the same work are a recurrence, fewer are none.
    assert np.isnan(work[:19]).all()
    assert spell_s[19:].tolist() == [5, 15, 25, 35, 45, 55, 5, 15]
    assert fine_s[19:].tolist() == [45, 55, 5, 15, 25, 35, 45, 5]
    assert work[21:].tolist() == [0, 5, 10, 15, 20, 0]
    assert share[21:].tolist() == [0, 0.25, 0.5, 0.75, 1, 0]


def test_spells_after_very_different_work_are_chance():
    busy = np.repeat([0.5, 0.1, 0.9, 0.2, 0.6], 6)
    views, state = followed(CYCLE * 5, busy)
    assert state[SPELL.index("variation")] > 0.4
    assert np.isnan(views).all()


def test_what_recurs_by_chance_is_not_told():
    state = np.array([[12.0, 12.0], [0.2, 0.7], [0.5, 0.5], [0.1, 0.1], [0, 0], [1, 1]])
    spell = np.array([[0.0, 0.0], [30.0, 30.0], [10.0, 10.0], [5.0, 5.0], [10.0, 10.0], [np.nan, np.nan]])
    chance, regular = np.array(recurrence_views(state, spell, np.zeros(2))).T
    np.testing.assert_array_equal(chance, [np.nan, 0.2, *[np.nan] * 6])
    np.testing.assert_array_equal(regular, [12, 0.7, 0.5, 0.1, 30, 10, np.nan, np.nan])
    silent = np.array(recurrence_views(state, spell, np.full(2, 5.0))).T[1]
    np.testing.assert_array_equal(silent[2:6], [np.nan, np.nan, 35, 15])


def test_slowness_is_of_whichever_tells_and_bounded():
    off = np.array([np.nan, 0.3, -0.5, 9.0, np.nan])
    rate = np.array([-0.4, np.nan, -0.1, 0.0, np.nan])
    np.testing.assert_array_equal(slowness(off, rate), [0.4, 0.3, 0.1, 1.0, np.nan])


def test_a_host_whose_state_was_saved_is_searched_when_it_would_have_been():
    """States are saved as float32, which holds no number of windows since 1970."""
    rng = np.random.default_rng(5)
    slow = np.clip(recurring(13.0, 2, 60, rng, 0.1) + rng.uniform(0, 0.05, 60), 0, 1).astype(np.float32)
    for first in range(179_000_001, 179_000_019):
        ring, state = fresh(2)
        for number, value in enumerate(slow.tolist(), first):
            state[:, 1] = state[:, 1].astype(np.float32)
            follow_slowness(ring, state, np.full(2, value), 1, number)
            np.testing.assert_allclose(state[:, 0], state[:, 1], rtol=1e-5)
