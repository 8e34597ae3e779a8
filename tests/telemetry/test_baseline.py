"""What the baseline makes of the latest windows: quick where much was measured, slow where little, and forgetful."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fingerpost.telemetry.baseline import BASELINE_INPUTS, baseline_of, follow_latest

NAN = np.nan
PLACE = {name: place for place, name in enumerate(BASELINE_INPUTS)}
SPELL = np.log(8.0)


def usual(hosts=4, categories=6, rate=100.0):
    return np.full((hosts, categories), np.log(rate))


def cells(latest, requests, age_s=0.0, errors=0.0):
    """BASELINE_INPUTS of hosts that are alike, but for their last windows."""
    made = np.zeros((*latest.shape, len(BASELINE_INPUTS)))
    made[..., :3] = np.log(100.0), np.log(0.04), np.log(0.1)
    for name, value in (("throughput_rps_last", latest), ("requests_last", requests), ("evidence", 1e6)):
        made[..., PLACE[name]] = value
    made[..., PLACE["error_share"]], made[..., PLACE["age_s"]] = errors, age_s
    return made


def rates(given):
    return baseline_of(given, np.zeros(len(given), dtype=np.int64)).filled()[..., 0]


def test_a_spell_is_followed_within_a_window():
    latest = usual()
    latest[0] -= SPELL
    moved = follow_latest(usual(), latest, np.full(latest.shape, 100.0))
    assert np.exp(usual()[0] - moved[0]) == pytest.approx(7.5, rel=0.1)
    assert moved[1:] == pytest.approx(usual()[1:])


def test_what_all_categories_show_moves_one_that_had_no_request():
    latest, requests = usual(), np.full((4, 6), 60.0)
    latest[0] -= SPELL
    requests[0, 3] = 0.0
    moved = follow_latest(usual(), latest, requests)
    assert usual()[0, 3] - moved[0, 3] > 0.9 * SPELL


def test_a_few_slow_requests_move_little():
    latest, requests = usual(), np.zeros((4, 6))
    latest[0, 2] -= SPELL
    requests[0, 2] = 1.0
    assert usual()[0, 2] - follow_latest(usual(), latest, requests)[0, 2] < 0.5


def test_a_slow_category_leaves_the_others_of_its_host_nearly_as_they_were():
    latest = usual(categories=20)
    latest[0, 0] -= np.log(3.0)
    moved = follow_latest(usual(categories=20), latest, np.full(latest.shape, 100.0))
    assert np.log(100.0) - moved[0, 0] > 0.7 * np.log(3.0)
    assert np.abs(moved[0, 1:] - np.log(100.0)).max() < 0.05


def test_a_host_that_is_sent_nothing_is_soon_taken_to_be_as_usual():
    latest = usual()
    latest[0] -= SPELL
    requests = np.full(latest.shape, 60.0)
    found = [rates(cells(latest, requests, age_s))[0, 0] for age_s in (0.0, 15.0, 45.0, 300.0)]
    assert found == sorted(found)
    assert found[0] < np.log(100.0 / 6)
    assert found[-1] == pytest.approx(np.log(100.0), abs=0.05)


def test_failed_requests_measure_nothing():
    latest = usual()
    latest[0] -= SPELL
    assert rates(cells(latest, np.full(latest.shape, 60.0), errors=1.0))[0] == pytest.approx(np.log(100.0), abs=0.05)


LOGS = st.floats(-18, 30)


@given(
    hnp.arrays(float, (3, 4), elements=st.one_of(LOGS, st.just(NAN))),
    hnp.arrays(float, (3, 4), elements=st.one_of(LOGS, st.just(NAN))),
    hnp.arrays(float, (3, 4), elements=st.one_of(st.floats(0, 1e9), st.just(NAN))),
)
def test_it_stays_within_what_was_measured_and_knows_no_more(before, latest, requests):
    moved = follow_latest(before, latest, requests)
    assert (np.isfinite(moved) == np.isfinite(before)).all()
    nothing = np.nan_to_num(requests).sum(axis=1) == 0
    assert moved[nothing] == pytest.approx(before[nothing], nan_ok=True)
    for host in range(3):
        known = np.isfinite(before[host]) & np.isfinite(latest[host])
        if known.any():
            ratios = np.append((latest - before)[host, known], 0.0)
            change = (moved - before)[host, known]
            # As a mean of rates of the same host can be, and no further.
            span = ratios.max() - ratios.min()
            assert (np.abs(change) <= span + np.abs(ratios).max() + 1e-6).all()
