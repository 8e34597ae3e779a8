"""Windows, decisions and arrivals of a sample of the lines are unbiased: what is drawn stands for what is not."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fingerpost.agent.decision_reservoir import DecisionReservoir
from fingerpost.agent.line_sample import LinePace, LineSample
from fingerpost.clock import US
from fingerpost.telemetry.arrivals import Arrivals
from fingerpost.telemetry.windows import aggregate

BEGIN_S = 1_700_000_000


def made_requests(seed, count, unknown=True):
    rng = np.random.default_rng(seed)
    durations = rng.lognormal(-4, 1, count)
    return {
        "time_us": BEGIN_S * US + rng.integers(0, 30 * US, count),
        "host": rng.integers(0, 3, count),
        "category": rng.integers(0, 2, count),
        "status": rng.choice([200, 404, 503], count, p=[0.8, 0.1, 0.1]),
        "duration_s": np.where(rng.random(count) < 0.1 * unknown, np.nan, durations),
        "service_time_s": durations / 2,
        "bytes_in": rng.integers(0, 9000, count).astype(float),
        "inflight": np.where(rng.random(count) < 0.5, np.nan, rng.integers(0, 9, count)),
    }


@given(st.integers(0, 10**6), st.integers(1, 200))
def test_weighted_rows_make_the_windows_of_rows_repeated(seed, count):
    requests = made_requests(seed, count)
    weight = np.random.default_rng(seed).integers(1, 6, count)
    weighted = aggregate({**requests, "weight": weight}, 10.0)
    repeated = aggregate({name: np.repeat(values, weight) for name, values in requests.items()}, 10.0)
    assert weighted.keys() == repeated.keys()
    for name, values in weighted.items():
        np.testing.assert_allclose(values, repeated[name], rtol=1e-9, err_msg=name)
        assert values.dtype == repeated[name].dtype


@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=20))
def test_one_line_of_each_so_many_is_picked_wherever_blocks_end(seed, blocks):
    sample, at, told = LineSample(seed), 0, Counter()
    for count, every in blocks:
        picked = sample.pick(count, every)
        assert (np.diff(picked) > 0).all()
        assert set(picked.tolist()) <= set(range(count))
        told[every] += len(picked) * every
        at += count
    if len({every for _, every in blocks}) == 1:
        assert abs(told[blocks[0][1]] - at) < blocks[0][1]


def test_a_proxy_that_takes_its_hosts_in_turn_shows_all_of_them():
    hosts = np.arange(8000) % 8
    found = Counter(hosts[LineSample(1).pick(8000, 8)].tolist())
    assert sorted(found) == list(range(8))
    assert all(count == pytest.approx(125, abs=60) for count in found.values())


def cells(windows):
    return list(zip(*(windows[name].tolist() for name in ("end_us", "host", "category")), strict=True))


def test_windows_of_picked_lines_are_unbiased():
    """The mean over many choices is what the whole log says, in each cell; the share may change meanwhile."""
    requests, rounds = made_requests(7, 3000, unknown=False), 300
    truth = aggregate(requests, 10.0)
    sums = {name: np.zeros(len(truth["host"])) for name in ("requests", "errors", "measured", "time", "bytes")}
    for seed in range(rounds):
        sample, places, weights = LineSample(seed), [], []
        for begin, every in ((0, 1), (1000, 5), (2000, 9)):
            picked = begin + sample.pick(1000, every)
            places.append(picked)
            weights.append(np.full(len(picked), every))
        place = np.concatenate(places)
        found = aggregate({name: v[place] for name, v in requests.items()} | {"weight": np.concatenate(weights)}, 10.0)
        at = [cells(truth).index(cell) for cell in cells(found)]
        for name in ("requests", "errors", "measured"):
            sums[name][at] += found[name]
        sums["time"][at] += np.nan_to_num(found["latency_mean_s"]) * found["measured"]
        sums["bytes"][at] += np.nan_to_num(found["bytes_in_mean"]) * found["measured"]
    expected = {
        **{name: truth[name] for name in ("requests", "errors", "measured")},
        "time": truth["latency_mean_s"] * truth["measured"],
        "bytes": truth["bytes_in_mean"] * truth["measured"],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(sums[name] / rounds, values, rtol=0.15, err_msg=name)
        assert (sums[name] / rounds).sum() == pytest.approx(values.sum(), rel=0.02), name


def decided(number, propensity):
    return {"time": BEGIN_S * US + number, "policy": "fingerpost", "propensity": propensity, "duration_s": number / 1e3}


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(0, 300), st.sampled_from([1.0, 7.0]))
def test_the_weights_of_decisions_add_up_to_the_requests(seed, explored, others, weight):
    reservoir = DecisionReservoir(20, seed)
    rows = [decided(number, 0.01 if number < explored else 0.97) for number in range(explored + others)]
    rows += [{**decided(0, None), "policy": None}] * 5
    reservoir.add([10] * len(rows), rows, weight)
    assert reservoir.close(9) == []
    kept = reservoir.close(10)
    assert reservoir.close(10) == []
    assert [row["time"] for row in kept] == sorted(row["time"] for row in kept)
    for kind, seen in ((0.01, explored), (0.97, others)):
        weights = [row["weight"] for row in kept if row["propensity"] == kind]
        assert len(weights) == min(20, seen)
        assert sum(weights) == pytest.approx(seen * weight)
        if seen <= 20:
            assert set(weights) <= {weight}, "whatever fits is kept as it is"


def test_sums_over_kept_decisions_are_unbiased():
    rows, rounds = [decided(number, 0.97) for number in range(200)], 400
    total = 0.0
    for seed in range(rounds):
        reservoir = DecisionReservoir(20, seed)
        reservoir.add([10] * 100, rows[:100], 1.0)
        reservoir.add([10] * 10, rows[100::10], 10.0)
        total += sum(row["duration_s"] * row["weight"] for row in reservoir.close(10)) / rounds
    expected = sum(row["duration_s"] for row in rows[:100]) + 10 * sum(row["duration_s"] for row in rows[100::10])
    assert total == pytest.approx(expected, rel=0.03)


def test_a_slow_log_is_read_in_full_and_of_a_fast_one_as_much_as_may_be():
    pace = LinePace(2000)
    pace.saw(1000, 300_000)
    for number in range(60):  # bursts of half a second
        assert pace.grew((2 * 1900 if number % 2 else 0) * 300, 1.0) in (1, 2)
    for _ in range(30):
        assert pace.grew(1900 * 300, 1.0) == 1 or pace.lines_per_s > 1900
    assert pace.grew(100_000 * 300, 1.0) > 10, "a surge is met at once"
    for _ in range(60):
        every = pace.grew(100_000 * 300, 1.0)
    assert every == 64, "the next step"
    assert {pace.grew(size * 300, 1.0) for size in (80_000, 125_000) * 9} == {64}, "not to and fro"
    for _ in range(60):
        every = pace.grew(1000 * 300, 1.0)
    assert every == 1


def test_arrivals_are_counted_by_second_and_category():
    arrivals = Arrivals(2)
    assert arrivals.rates(BEGIN_S * US).rate_rps.tolist() == [0, 0]
    for second in range(40):
        arrivals.add(np.full(second, (BEGIN_S + second) * US + 5), np.zeros(second, dtype=np.int64))
        arrivals.add([(BEGIN_S + second) * US], np.array([1]), weight=7.0)
    found = arrivals.rates((BEGIN_S + 41) * US)
    assert found.rate_rps == pytest.approx([np.arange(30, 40).mean(), 7.0])
    assert found.trend_rps_per_s == pytest.approx([1.0, 0.0])
    assert found.peak_rps.tolist() == [39, 7]
    arrivals.use_categories([1, 1], 3)
    assert arrivals.rates((BEGIN_S + 41) * US).peak_rps.tolist() == [0, 46, 0]
    assert arrivals.rates((BEGIN_S + 200) * US).rate_rps.tolist() == [0, 0, 0], "and forgotten"
    assert arrivals.add([(BEGIN_S + 5) * US], np.array([0])) == 1, "what began long ago is left out"
    assert arrivals.rates((BEGIN_S - 3600) * US).peak_rps.tolist() == [0, 0, 0], "after a clock that went back too"
    arrivals.add([(BEGIN_S - 3600) * US], np.array([2]))
    assert arrivals.rates((BEGIN_S - 3590) * US).peak_rps.tolist() == [0, 0, 1]
