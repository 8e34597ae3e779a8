"""The guard: what it corrects, what it leaves, and hosts that fail."""

import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.routing.exponent import compare, follow_trust, trusted_throughput
from fingerpost.routing.guard import MAX_FACTOR, MEMORY_S, SUCCESS_MEMORY_S, Guard, Outcomes

HOSTS, CATEGORIES, SLOTS = 12, 6, 4
NAMES, KINDS = [f"h{number}" for number in range(HOSTS)], [f"c{number}" for number in range(CATEGORIES)]
SERVICE_S = 0.05 * np.random.default_rng(1).lognormal(0, 0.4, (HOSTS, CATEGORIES))
TOLD = np.full(HOSTS, float(SLOTS))


def outcomes(times, count, rng, found=1.0, hosts=HOSTS, **changes) -> Outcomes:
    """Requests sent at random that found so many others in flight; `times` are mean service times."""
    host = changes.pop("host", rng.integers(0, hosts, count))
    category = changes.pop("category", rng.integers(0, times.shape[1], count))
    took = times[host, category] * rng.exponential(size=count) * max(1.0, (found + 1) / SLOTS)
    values: dict[str, Any] = {
        "host": host,
        "category": category,
        "latency_s": took,
        "inflight": np.full(count, float(found)),
        "failed": np.zeros(count, dtype=bool),
        "arm": np.zeros(count, dtype=np.int64),
    }
    return Outcomes(**{**values, **changes})


def corrected(predicted_s, times=SERVICE_S, seconds=20, rate=600, slots=TOLD, seed=1, **changes):
    """The correction of predicted service times after some seconds of traffic."""
    guard, rng, throughput = Guard(NAMES, KINDS), np.random.default_rng(seed), SLOTS / predicted_s
    for second in range(seconds):
        guard.observe(outcomes(times, rate, rng, **changes), ["1"], throughput, slots, float(second))
    return guard.correct("1", throughput, slots, float(seconds))


def spoiled(hosts, factor=0.1):
    """True service times, but of some hosts so many times as long."""
    predicted = SERVICE_S.copy()
    predicted[hosts] *= factor
    return predicted


def test_without_evidence_nothing_is_corrected():
    found = Guard(NAMES, KINDS, 0.7).correct("1", 1 / SERVICE_S, TOLD, 0.0)
    assert (found.trust, found.cost_factor.min(), found.cost_factor.max()) == (0.7, 1.0, 1.0)


def test_good_predictions_stay_as_they_are():
    found = corrected(SERVICE_S)
    assert found.trust == 1.0
    assert np.abs(np.log(found.cost_factor)).max() < 0.1


@pytest.mark.parametrize("found", [1, 40], ids=["free", "waiting"])
@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("bad", [[0], [0, 1, 2], list(range(HOSTS))], ids=["one", "three", "all"])
def test_absurd_hosts_are_corrected_and_the_others_keep_their_predictions(bad, factor, found):
    correction = corrected(spoiled(bad, factor), found=found)
    assert correction.trust == 1.0
    cost = correction.cost_factor * spoiled(bad, factor) / SERVICE_S
    # Up to a scale of its own for each category, which does not matter.
    off = np.abs(np.log(cost / np.median(cost, axis=0)))
    assert off.max() < 0.25


@pytest.mark.parametrize("inflight", [True, False], ids=["told", "by rate and latency"])
def test_hosts_that_tell_no_slots_are_judged_once_they_are_crowded(inflight):
    """At the one that was predicted ten times too fast a queue grows, and latency with it."""
    guard, rng, throughput = Guard(NAMES, KINDS), np.random.default_rng(1), SLOTS / spoiled([0])
    silent = np.full(HOSTS, np.nan)
    # It is sent little more than it can serve.
    part = SLOTS / SERVICE_S[0].mean() / 600
    for second in range(20):
        found = np.where(np.arange(HOSTS) == 0, 2 + 2 * second, 2)
        host = rng.choice(HOSTS, 600, p=np.append(part, np.full(HOSTS - 1, (1 - part) / (HOSTS - 1))))
        category = rng.integers(0, CATEGORIES, 600)
        took = SERVICE_S[host, category] * rng.gamma(found[host] + 1) / SLOTS
        took = np.where(found[host] < SLOTS, SERVICE_S[host, category] * rng.exponential(size=600), took)
        told = found[host].astype(float) if inflight else np.full(600, np.nan)
        seen = outcomes(SERVICE_S, 600, rng, host=host, category=category, latency_s=took, inflight=told)
        guard.observe(seen, ["1"], throughput, silent, float(second))
    factor = guard.correct("1", throughput, silent, 20.0).factor.mean(axis=1)
    assert factor[0] > 3
    assert 0.5 < factor[1:].min() <= factor[1:].max() < 1.5


def test_a_small_host_and_a_slow_one_are_not_told_apart_while_nothing_waits():
    """Of hosts that tell no slots and are not crowded, one has a quarter of the places: nothing speaks against it."""
    size = np.where(np.arange(HOSTS) == 0, 0.25, 1.0)
    guard, rng, throughput = Guard(NAMES, KINDS), np.random.default_rng(1), 16 * size[:, None] / SERVICE_S
    silent = np.full(HOSTS, np.nan)
    for second in range(20):
        guard.observe(outcomes(SERVICE_S, 600, rng, 0.0), ["1"], throughput, silent, float(second))
    assert np.abs(np.log(guard.correct("1", throughput, silent, 20.0).factor.mean(axis=1))).max() < 0.2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shuffled_predictions_lose_all_trust(seed):
    rng = np.random.default_rng(seed)
    correction = corrected(np.stack([row[rng.permutation(HOSTS)] for row in SERVICE_S.T]).T, seed=seed)
    assert correction.trust < 0.2
    # What was measured takes their place.
    left = np.log(correction.cost_factor / SERVICE_S)
    assert (left - left.mean(axis=0)).std() < np.log(SERVICE_S / SERVICE_S.mean(axis=0)).std()


def test_when_the_fleet_is_full_the_few_that_find_a_free_place_disprove_nothing():
    """They are the ones whose host happened to be quick, or slow: no sample of what a host does."""
    guard, rng, throughput = Guard(NAMES, KINDS), np.random.default_rng(1), SLOTS / SERVICE_S
    for second in range(20):
        found = np.full(600, 9.0)
        found[:60] = 1.0
        seen = outcomes(SERVICE_S, 600, rng, inflight=found)
        took = np.where(found < SLOTS, seen.latency_s, seen.latency_s * 10 / SLOTS)
        # What finds a place takes the longer, the better its host is.
        took[:60] /= SERVICE_S[seen.host, seen.category][:60] ** 2 * 400
        guard.observe(replace(seen, latency_s=took), ["1"], throughput, TOLD, float(second))
        assert guard.correct("1", throughput, TOLD, float(second)).trust == 1.0


def test_a_single_wrong_cell_is_corrected_alone():
    predicted = SERVICE_S.copy()
    predicted[3, 2] /= 10
    factor = corrected(predicted).cost_factor
    assert factor[3, 2] > 4 * np.median(factor[:, 2])
    assert np.abs(np.log(np.delete(factor, 2, axis=1))).max() < 0.25


@given(st.floats(0.1, 10), st.floats(1.05, 10), st.floats(1e-3, 1e3))
def test_slower_hosts_cost_more_within_bounds_whatever_the_scale_of_a_category(slow, more, scale):
    def cost(factor, scaled=1.0):
        times, rng = SERVICE_S.copy(), np.random.default_rng(1)
        times[0] *= factor
        predicted = SERVICE_S.copy()
        predicted[:, 1] *= scaled
        guard = Guard(NAMES, KINDS)
        guard.observe(outcomes(times, 20_000, rng), ["1"], SLOTS / predicted, TOLD, 1.0)
        found = guard.correct("1", SLOTS / predicted, TOLD, 1.0)
        assert found.factor.min() >= 1 / MAX_FACTOR
        assert found.factor.max() <= MAX_FACTOR
        return found.factor / np.exp(np.log(found.factor[1:]).mean(axis=0))

    assert (cost(slow * more)[0] >= cost(slow)[0] * (1 - 1e-9)).all()
    # Where all hosts have been measured; where they have not, the scale may be theirs.
    np.testing.assert_allclose(cost(slow, scale), cost(slow), rtol=0.25)


def test_a_host_that_gets_all_requests_is_judged_though_nothing_is_measured_beside_it():
    """Hardly any load, no exploration: each request goes where it is predicted to be fastest."""
    predicted = SERVICE_S.copy()
    predicted[0] /= 20
    guard, rng, throughput, sent = Guard(NAMES, KINDS), np.random.default_rng(1), SLOTS / predicted, []
    for second in range(40):
        cost = guard.correct("1", throughput, TOLD, float(second)).cost_factor / throughput
        category = rng.integers(0, CATEGORIES, 60)
        host = cost.argmin(axis=0)[category]
        guard.observe(outcomes(SERVICE_S, 60, rng, host=host, category=category), ["1"], throughput, TOLD, second + 0.5)
        sent.append((host[category == 2] == 0).mean())
    factor = guard.correct("1", throughput, TOLD, 40.0).factor
    assert sent[0] == 1.0
    assert factor[0, 2] > 5 * np.median(factor[:, 2])


def test_without_new_evidence_a_correction_fades():
    guard, throughput = Guard(NAMES, KINDS), SLOTS / spoiled([0])
    guard.observe(outcomes(SERVICE_S, 3000, np.random.default_rng(1)), ["1"], throughput, TOLD, 0.0)
    cost = [guard.correct("1", throughput, TOLD, wait * MEMORY_S).cost_factor[0].mean() for wait in range(12)]
    assert cost[0] > 5
    assert all(before >= after for before, after in itertools.pairwise(cost))
    assert cost[-1] == pytest.approx(1.0, abs=0.01)


def failing(guard, host, count, now_s, failed=True):
    """So many requests at one host, all failed or all good, and as many good ones at each of the others."""
    hosts = np.repeat(np.arange(HOSTS), count)
    changes = {"host": hosts, "failed": (hosts == host) & failed, "category": np.zeros(len(hosts), dtype=np.int64)}
    seen = outcomes(SERVICE_S, len(hosts), np.random.default_rng(1), **changes)
    guard.observe(seen, ["1"], SLOTS / SERVICE_S, TOLD, now_s)
    return guard.correct("1", SLOTS / SERVICE_S, TOLD, now_s)


def test_a_host_that_fails_costs_more_after_a_few_requests_and_is_tried_again():
    guard = Guard(NAMES, KINDS)
    assert failing(guard, 0, 50, 0.0, failed=False).success.min() == 1.0
    fresh = Guard(NAMES, KINDS)
    costs = [failing(fresh, 0, 1, 0.1 * number).cost_factor[0].mean() for number in range(6)]
    assert costs[2] > 4
    assert costs == sorted(costs)
    after = failing(guard, 0, 30, 1.0)
    assert after.cost_factor[0].min() > 3
    assert after.cost_factor[1:].max() < 1.2
    # Failures measure no time, however fast they are.
    assert np.abs(np.log(after.factor)).max() < 0.5
    # Forgotten in time, and at once where it answers again.
    later = guard.correct("1", SLOTS / SERVICE_S, TOLD, 1.0 + 8 * SUCCESS_MEMORY_S)
    assert later.success[0] == pytest.approx(1.0, abs=0.02)
    failing(guard, 0, 10_000, 2.0)
    assert failing(guard, 0, 100, 3.0, failed=False).success[0] > 0.6


def test_where_all_fail_alike_no_host_is_blamed():
    guard, rng = Guard(NAMES, KINDS), np.random.default_rng(1)
    broken = outcomes(SERVICE_S, 600, rng, failed=np.ones(600, dtype=bool))
    guard.observe(broken, ["1"], SLOTS / SERVICE_S, TOLD, 1.0)
    assert guard.correct("1", SLOTS / SERVICE_S, TOLD, 1.0).success.min() > 0.97


def test_a_black_hole_is_avoided_in_a_closed_loop():
    """A host that fails at once never has requests in flight; few go there all the same."""
    guard, rng = Guard(NAMES, KINDS), np.random.default_rng(1)
    throughput, errors, sent = SLOTS / SERVICE_S, 0, 0
    for second in range(60):
        slope = guard.correct("1", throughput, TOLD, float(second)).cost_factor / throughput
        inflight, hosts = np.zeros(HOSTS), []
        category = rng.integers(0, CATEGORIES, 100)
        for kind in category:
            host = int(np.argmin(slope[:, kind] * (inflight + 1)))
            inflight[host] += host != 0
            inflight *= 0.9
            hosts.append(host)
        failed = np.array(hosts) == 0
        seen = outcomes(SERVICE_S, 100, rng, host=np.array(hosts), category=category, failed=failed)
        guard.observe(seen, ["1"], throughput, TOLD, second + 0.5)
        errors, sent = errors + failed[1:].sum() * (second > 0), sent + 100 * (second > 0)
    assert errors / sent < 0.02


def test_each_arm_has_its_own_trust_and_keeps_it():
    guard, rng = Guard(NAMES, KINDS), np.random.default_rng(1)
    bad = np.stack([row[rng.permutation(HOSTS)] for row in SERVICE_S.T]).T
    predicted = {"1": SLOTS / SERVICE_S, "2": SLOTS / bad}
    trusts: dict[str, list[float]] = {"1": [], "2": []}
    for second in range(480):
        arm = "12"[second // 60 % 2]
        guard.observe(outcomes(SERVICE_S, 20, rng), [arm], predicted[arm], TOLD, float(second))
        trusts[arm].append(guard.correct(arm, predicted[arm], TOLD, float(second)).trust)
    assert set(trusts["1"]) == {1.0}
    assert trusts["2"][0] == 1.0
    assert max(trusts["2"][60:]) < 0.3
    assert guard.trusts["1"] == 1.0


def test_hosts_that_stay_keep_their_evidence_when_others_come_and_go():
    guard, throughput = Guard(NAMES, KINDS), SLOTS / spoiled([0])
    guard.observe(outcomes(SERVICE_S, 5000, np.random.default_rng(1)), ["1"], throughput, TOLD, 0.0)
    before = guard.correct("1", throughput, TOLD, 0.0).factor
    guard.align(["new", *NAMES[:-1]], ["other", *KINDS])
    moved = np.full((HOSTS, CATEGORIES + 1), 50.0)
    moved[1:, 1:] = throughput[:-1]
    after = guard.correct("1", moved, TOLD, 0.0).factor
    np.testing.assert_allclose(after[1:, 1:] / after[1, 1], before[:-1] / before[0, 0], rtol=0.25)
    assert after[0].tolist() == [1.0] * (CATEGORIES + 1)


def test_what_is_held_does_not_grow_while_hosts_come_and_go_for_days():
    """Every three minutes of a day another host in place of the oldest."""
    names, guard, rng = list(NAMES), Guard(NAMES, KINDS), np.random.default_rng(1)
    sizes, throughput = [], SLOTS / SERVICE_S
    for joined in range(480):
        names = [*names[1:], f"new-{joined:06}"]
        guard.align(names, KINDS)
        guard.observe(outcomes(SERVICE_S, 4, rng), ["1"], throughput, TOLD, 180.0 * joined)
        if joined % 80 == 79:
            sizes.append(len(pickle.dumps(guard)))
    assert max(sizes) <= 1.1 * sizes[0]


@given(
    st.lists(st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e-9, 1.0, 1e9]), min_size=4, max_size=4),
    st.lists(st.sampled_from([0.0, float("nan"), float("inf"), 1e-9, 0.1, 3600.0]), min_size=5, max_size=5),
    st.sampled_from([float("nan"), 1.0, 8.0]),
    st.sampled_from([float("nan"), 0.0, 1e6]),
)
def test_nonsense_does_no_harm(predicted, latencies, slots, inflight):
    guard, rate = Guard("ab", "xy"), np.array(predicted).reshape(2, 2)
    every = np.arange(5)
    kinds = every % 3 - 1
    seen = Outcomes(every % 2, kinds, np.array(latencies), np.full(5, inflight), every == 4, np.zeros(5, dtype=int))
    for now_s in (0.0, 0.0, 1.0):
        guard.observe(seen, ["1"], rate, np.array([slots, 4.0]), now_s)
    found = guard.correct("1", rate, np.array([slots, 4.0]), 1.0)
    assert np.isfinite(found.cost_factor).all()
    assert (found.cost_factor > 0).all()
    assert 0.0 <= found.trust <= 1.0


def test_trust_changes_only_where_the_evidence_says_so():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 0.4, (12, 6))
    counts = np.full(x.shape, 30.0)

    def window(slope, scale=1.0):
        measured = counts * np.exp(slope * x + rng.normal(0, 0.05, x.shape))
        return compare(scale * np.exp(x), measured, counts)

    assert follow_trust(window(1.0), window(1.0), 0.3) == 1.0
    assert follow_trust(window(1.0, 10.0), window(1.0, 10.0), 0.3) == 1.0
    assert follow_trust(window(-1.0), window(-1.0), 1.0) == 0.0
    # Doubt is quick: the newest alone disproves.
    assert follow_trust(window(1.0), window(-1.0), 1.0) == 0.0
    assert 0.3 < follow_trust(window(0.5), window(0.5), 1.0) < 0.6
    few = compare(np.exp(x[:1]), counts[:1], counts[:1])
    assert follow_trust(few, few, 0.7) == 0.7


@given(st.lists(st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e-9, 1.0, 1e9]), min_size=4, max_size=4))
def test_an_exponent_brings_hosts_together_and_leaves_the_unusable(predicted):
    table = np.array(predicted).reshape(2, 2)
    pulled, usable = trusted_throughput(table, 0.0), np.isfinite(table) & (table > 0)
    for column in range(2):
        kept = pulled[usable[:, column], column]
        assert len(set(kept)) <= 1
        assert (kept > 0).all()
    np.testing.assert_allclose(trusted_throughput(table, 1.0)[usable], table[usable], rtol=1e-9)


def test_a_host_that_is_predicted_to_slow_down_is_not_held_to_what_it_was():
    """It is left before it does: what was measured of it is of before."""
    guard, rng = Guard(NAMES, KINDS), np.random.default_rng(1)
    for second in range(20):
        guard.observe(outcomes(SERVICE_S, 600, rng), ["1"], SLOTS / SERVICE_S, TOLD, float(second))
    guard.correct("1", SLOTS / SERVICE_S, TOLD, 20.0)
    found = guard.correct("1", SLOTS / spoiled([0], 8.0), TOLD, 20.0)
    assert np.abs(np.log(found.cost_factor)).max() < 0.1


@pytest.mark.parametrize("known_at_s", [20.0, 23.0], ids=["foreseen", "taken in later"])
def test_a_host_that_is_predicted_to_have_recovered_is_used_again_at_once(known_at_s):
    """Nobody has tried it since: what was measured within the spell is no evidence of after it."""
    guard, rng, slow = Guard(NAMES, KINDS), np.random.default_rng(1), spoiled([0], 8.0)
    fine_rate, slow_rate = SLOTS / SERVICE_S, SLOTS / slow
    for second in range(20):
        guard.observe(outcomes(SERVICE_S, 600, rng), ["1"], fine_rate, TOLD, float(second))
    guard.correct("1", fine_rate, TOLD, 20.0)
    for second in range(20, 24):
        rate = slow_rate if second >= known_at_s else fine_rate
        guard.correct("1", rate, TOLD, float(second))
        guard.observe(outcomes(slow, 600, rng), ["1"], rate, TOLD, float(second))
    # From here on it gets nothing.
    for second in range(24, 30):
        host = rng.integers(1, HOSTS, 600)
        guard.observe(outcomes(slow, 600, rng, host=host), ["1"], slow_rate, TOLD, float(second))
        guard.correct("1", slow_rate, TOLD, float(second))
    found = guard.correct("1", fine_rate, TOLD, 30.0)
    assert found.cost_factor[0].max() < 1.3
    # Where predictions knew nothing of the spell, nothing says that it is over.
    unknowing, rng = Guard(NAMES, KINDS), np.random.default_rng(1)
    for second in range(24):
        times = slow if second >= 20 else SERVICE_S
        unknowing.observe(outcomes(times, 600, rng), ["1"], fine_rate, TOLD, float(second))
        unknowing.correct("1", fine_rate, TOLD, float(second))
    assert unknowing.correct("1", fine_rate, TOLD, 24.0).cost_factor[0].min() > 4.0


def test_a_prediction_that_says_again_and_again_that_all_is_well_does_not_outweigh_new_evidence():
    guard, rng, slow = Guard(NAMES, KINDS), np.random.default_rng(1), spoiled([0], 8.0)
    for second in range(20):
        rate = SLOTS / (SERVICE_S if second % 2 else slow)
        guard.observe(outcomes(slow, 600, rng), ["1"], rate, TOLD, float(second))
        guard.correct("1", rate, TOLD, float(second))
    for second in range(20, 24):
        guard.observe(outcomes(slow, 600, rng), ["1"], SLOTS / SERVICE_S, TOLD, float(second))
        found = guard.correct("1", SLOTS / SERVICE_S, TOLD, float(second))
    assert found.cost_factor[0].min() > 3.0


def test_a_host_that_slowed_down_unforeseen_is_tried_again_sooner_than_one_that_was_always_slow():
    """It may have recovered, and nobody would see it; how long one is slow that always was is known better."""
    rate, costs = SLOTS / SERVICE_S, {}
    for was_slow in (True, False):
        guard, rng = Guard(NAMES, KINDS), np.random.default_rng(1)
        for second in range(46):
            times = spoiled([0], 6.0) if was_slow or second >= 20 else SERVICE_S
            # From second 22 on it gets nothing.
            host = rng.integers(0 if second < 22 else 1, HOSTS, 200)
            guard.observe(outcomes(times, 200, rng, host=host), ["1"], rate, TOLD, float(second))
            costs[was_slow, second] = guard.correct("1", rate, TOLD, float(second)).cost_factor[0].mean()
    assert costs[False, 22] > 4.0
    assert costs[False, 45] < 2.0
    assert costs[True, 45] > 3.5
