"""Off-policy estimates on made logs, where the truth is known, and on a lake."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fingerpost.abtest.experiment.confidence import clustered_mean, time_blocks
from fingerpost.abtest.offpolicy.estimate import capped_cost, evaluate_policy
from fingerpost.abtest.offpolicy.records import ChallengerOffPolicy
from fingerpost.abtest.offpolicy.target_policy import replayed_choices
from fingerpost.clock import US
from fingerpost.settings import Settings

HOSTS, CATEGORIES = 5, 4
MEANS = 0.02 * np.exp(np.random.default_rng(11).normal(0, 0.5, (CATEGORIES, HOSTS)))


def least(costs, exploration):
    """Probabilities of a router of least cost, shape as costs."""
    best = costs == costs.min(axis=-1, keepdims=True)
    return exploration / HOSTS + (1 - exploration) * best / best.sum(axis=-1, keepdims=True)


# The champion misjudges hosts; the challenger does not.
CHAMPION = least(MEANS * np.exp(np.random.default_rng(12).normal(0, 0.6, MEANS.shape)), 0.2)
CHALLENGER = least(MEANS, 0.2)
TRUTH = float((CHALLENGER * MEANS).sum(axis=1).mean())


def logged(rng, count):
    """Requests as the champion routed them, in a time that has its ups and downs."""
    time_us = np.sort(rng.integers(0, 3600 * US, count))
    category = rng.integers(0, CATEGORIES, count)
    host = (rng.random(count)[:, None] > np.cumsum(CHAMPION, axis=1)[category]).sum(axis=1)
    cost = MEANS[category, host] * rng.gamma(2.0, 0.5, count)
    return time_us, category, host, cost, CHAMPION[category, host]


def test_estimates_cover_the_truth_and_doubly_robust_ones_vary_least():
    rng = np.random.default_rng(1)
    found = [evaluate_policy(*each, CHALLENGER[each[1]]) for each in (logged(rng, 4000) for _ in range(120))]
    assert all(each.usable for each in found)
    spread = {}
    for name in ("ips", "snips", "dr"):
        estimates = [getattr(each, name) for each in found]
        covered = np.mean([each.low <= TRUTH <= each.high for each in estimates])
        values = np.array([each.value for each in estimates])
        assert covered > 0.89, name
        assert abs(values.mean() - TRUTH) < 4 * values.std() / np.sqrt(len(values)), name
        spread[name] = values.std()
    assert spread["dr"] < 0.8 * spread["ips"]
    assert spread["dr"] < spread["snips"]
    champion = float((CHAMPION * MEANS).sum(axis=1).mean())
    gains = [each.gain for each in found]
    assert np.mean([each.low <= TRUTH - champion <= each.high for each in gains]) > 0.89
    assert np.mean([each.high < 0 for each in gains]) > 0.9


def test_the_policy_that_was_logged_costs_what_was_logged():
    each = logged(np.random.default_rng(2), 3000)
    found = evaluate_policy(*each, CHAMPION[each[1]])
    assert found.effective == pytest.approx(3000)
    assert found.ips.value == pytest.approx(found.logged.value)
    assert found.dr.value == pytest.approx(found.logged.value, rel=0.02)
    assert found.gain.low < 0 < found.gain.high


def test_the_same_policy_gains_nothing_however_wrong_its_replay_is():
    """What the replay does not know is the same in both, where the log alone would tell of a gain."""
    time_us, category, host, cost, propensity = logged(np.random.default_rng(7), 4000)
    replay = least(MEANS * np.exp(np.random.default_rng(8).normal(0, 0.3, MEANS.shape)), 0.2)[category]
    found = evaluate_policy(time_us, category, host, cost, propensity, replay, reference=replay)
    assert (found.gain.low, found.gain.value, found.gain.high) == (0, 0, 0)
    alone = evaluate_policy(time_us, category, host, cost, propensity, replay)
    assert not alone.gain.low < 0 < alone.gain.high


def test_large_weights_count_in_full():
    """Of forty hosts each explored request that the target policy had taken weighs thousands."""
    rng = np.random.default_rng(10)
    count, hosts = 20_000, 40
    explored = rng.random(count) < 0.01
    host = np.where(explored, rng.integers(1, hosts, count), 0)
    propensity = np.where(explored, 0.01 / hosts, 0.99)
    target = np.zeros((count, hosts))
    target[:, 1] = 1.0
    found = evaluate_policy(
        np.arange(count) * 10**6, np.zeros(count, dtype=int), host, np.ones(count), propensity, target
    )
    assert found.largest_weight > 1000
    assert not found.usable


def test_an_estimate_that_cannot_be_relied_on_decides_nothing():
    each = logged(np.random.default_rng(1), 4000)
    estimate = evaluate_policy(*each, CHALLENGER[each[1]])
    good = ChallengerOffPolicy(estimate, 1.0, 0.97, ("1", "2"))
    assert good.result().verdict == "better"
    for bad, words in (
        (replace(good, replay=0.4), "agrees with its own choices in 0.40"),
        (replace(good, estimate=replace(estimate, mean_weight=0.5)), "mean weight is 0.50"),
        (replace(good, estimate=replace(estimate, usable=False, reason="too few")), "too few"),
    ):
        assert bad.result() is None
        assert words in bad.unreliable


def test_too_little_overlap_is_refused():
    time_us, category, host, cost, _ = logged(np.random.default_rng(3), 2000)
    # One request in a thousand explores, and the other policy always wants another host.
    propensity = np.full(2000, 0.999)
    propensity[:3] = 0.0002
    elsewhere = np.full((2000, HOSTS), 0.0002)
    elsewhere[np.arange(2000), (host + 1) % HOSTS] = 0.9992
    elsewhere[np.arange(3), host[:3]] = 0.9992
    found = evaluate_policy(time_us, category, host, cost, propensity, elsewhere)
    assert not found.usable
    assert "explore more" in found.reason
    assert found.effective < 100
    assert abs(found.mean_weight - 1) > 0.1
    assert (found.dr, found.ips) == (None, None)
    json.dumps(found.to_json(), allow_nan=False)


def test_agreement_alone_is_no_knowledge():
    rng = np.random.default_rng(6)
    time_us, category, host, cost, _ = logged(rng, 5000)
    # Both agree but for one category, where hardly a request explored what the other would do.
    chosen = least(MEANS, 0.01)
    host = (rng.random(5000)[:, None] > np.cumsum(chosen, axis=1)[category]).sum(axis=1)
    other = chosen.copy()
    other[0] = np.roll(other[0], 1)
    found = evaluate_policy(time_us, category, host, cost, chosen[category, host], other[category])
    assert found.distance == pytest.approx(0.25, abs=0.03)
    assert found.deviating < 25
    assert not found.usable
    same = evaluate_policy(time_us, category, host, cost, chosen[category, host], chosen[category])
    assert (same.distance, same.usable) == (0.0, True)


def test_requests_that_say_nothing_do_not_count():
    time_us, category, host, cost, propensity = logged(np.random.default_rng(4), 1000)
    probability = CHALLENGER[category].copy()
    propensity[:100], probability[100:200], cost[200:300] = np.nan, np.nan, np.nan
    found = evaluate_policy(time_us, category, host, cost, propensity, probability)
    assert found.requests == 700
    none = evaluate_policy(time_us, category, host, cost, np.zeros(1000), probability)
    assert (none.requests, none.usable) == (0, False)


def test_failing_fast_does_not_pay():
    assert capped_cost([0.001, 0.5, 9.0], [True, False, False], 2.0).tolist() == [2.0, 0.5, 2.0]


def test_intervals_over_blocks_hold_for_dependent_values():
    rng = np.random.default_rng(5)
    covered = naive = 0
    for _ in range(200):
        values = np.zeros(2000)
        noise = rng.normal(0, 1, 2000)
        for place in range(1, 2000):
            values[place] = 0.9 * values[place - 1] + noise[place]
        found = clustered_mean(values, time_blocks(np.arange(2000)))
        covered += found.low <= 0 <= found.high
        naive += abs(values.mean()) < 1.96 * values.std() / np.sqrt(2000)
    assert covered / 200 > 0.88
    assert naive / 200 < 0.6


def prediction_log(time_us, throughput, file):
    """A log of predictions of two hosts and categories `a`, `b`: throughput by category, then by host."""
    rows = [
        {
            "time_us": time_us, "file": file, "host": f"h{host}", "category": category,
            "challenger_throughput_rps": throughput[category][host], "challenger_latency_p50_s": 0.01,
        }
        for category in throughput for host in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_router_is_replayed_with_the_predictions_and_loads_of_the_time():
    settings = Settings(exploration=0.1, exploration_within=2.0)
    logs = pd.concat(
        [
            prediction_log(10 * US, {"a": (100.0, 50.0), "b": (10.0, 10.0)}, "1"),
            prediction_log(20 * US, {"a": (50.0, 100.0), "b": (10.0, 10.0)}, "2"),
        ]
    )
    records = pd.DataFrame(
        [(5, 1, "h0", "a"), (13, 2, "h0", "a"), (13.5, 2.2, "h0", "a"), (14, 2, "h0", "a"), (22, 1, "h1", "a"),
         (24, 0.1, "h0", "b"), (25, 0.1, "h0", "unknown"), (500, 0.1, "h0", "a")],
        columns=["ended", "duration_s", "host", "category"],
    )  # fmt: skip
    records["time_us"] = (records["ended"] * US).astype("int64")
    chosen = replayed_choices(records, logs, "challenger", settings, max_age_s=60)
    assert chosen.hosts == ("h0", "h1")
    rows = chosen.probability.tolist()
    assert np.isnan(rows[0]).all()  # before the first log
    assert rows[1] == pytest.approx([0.95, 0.05])  # an idle host that is twice as fast
    assert rows[2] == pytest.approx([0.5, 0.5])  # one is on it: (1 + 1) / 100 = 1 / 50
    assert rows[3] == pytest.approx([0.05, 0.95])  # two are
    assert rows[4] == pytest.approx([0.05, 0.95])  # the next log
    assert rows[5] == pytest.approx([0.5, 0.5])
    assert np.isnan(rows[6]).all()
    assert np.isnan(rows[7]).all()  # too old a log
