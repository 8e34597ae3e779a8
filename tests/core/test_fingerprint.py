"""Profiles, sketches, attribution, and how fingerprints travel."""

import gzip

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fingerpost.errors import RefusedError
from fingerpost.fingerprint import FINGERPRINT_CELL_COLUMNS, MAX_UNPACKED_BYTES, message, open_message, pack, unpack
from fingerpost.telemetry.attribution import CostAttribution
from fingerpost.telemetry.nnls import nnls_normal
from fingerpost.telemetry.processor_sharing import processor_sharing
from fingerpost.telemetry.profile import Observations, Profile
from fingerpost.telemetry.sketch import ACCURACY, LatencySketches
from tests.support.records import made_fingerprint

NOW_US = 1_700_000_000_000_000
latencies = st.lists(st.floats(1e-5, 3000), min_size=1, max_size=200)


def seen(times, category, **changes):
    times = np.asarray(times, dtype=np.float64)
    unknown = np.full(times.shape, np.nan)
    columns = {
        "status": np.full(times.shape, 200.0),
        "duration_s": unknown,
        "unloaded_s": unknown,
        "unloaded_weight": unknown,
        "cpu_s": unknown,
        "mem_bytes": unknown,
        "inflight": unknown,
        **{name: np.asarray(value) for name, value in changes.items()},
    }
    return Observations(times, np.asarray(category, dtype=np.intp), **columns)


@given(latencies, st.sampled_from([0.1, 0.5, 0.9, 0.99]))
def test_a_sketch_is_off_by_its_accuracy_at_most(values, share):
    sketch = LatencySketches(1)
    sketch.add(np.zeros(len(values), dtype=np.intp), np.array(values), np.ones(len(values)))
    exact = np.sort(values)[max(0, int(np.ceil(share * len(values) - 1e-9)) - 1)]
    assert sketch.quantiles([share])[0, 0] == pytest.approx(exact, rel=ACCURACY * 1.001)


def test_an_empty_sketch_knows_nothing():
    assert np.isnan(LatencySketches(2).quantiles([0.5])).all()


@given(
    st.lists(st.tuples(st.floats(0, 500), st.floats(0.001, 10)), min_size=1, max_size=40),
    st.randoms(),
    st.integers(1, 5),
)
def test_a_profile_depends_on_when_requests_came_not_on_their_order(requests, rng, parts):
    def profile(ordered):
        made = Profile(1, 60.0, 0.0)
        for part in np.array_split(np.array(ordered), parts):
            if len(part):
                made.add(seen(part[:, 0], np.zeros(len(part)), duration_s=part[:, 1]))
        return made.columns(600.0)

    shuffled = list(requests)
    rng.shuffle(shuffled)
    one, two = profile(requests), profile(shuffled)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-9)


def test_a_profile_weighs_by_age():
    profile = Profile(2, 60.0, 0.0)
    profile.add(seen([100.0, 160.0], [0, 0], cpu_s=[0.001, 0.004], status=[200, 200]))
    profile.add(seen([100.0], [0], status=[500]))
    columns = profile.columns(160.0)
    # One halflife old against fresh: 1/3 and 2/3.
    assert columns["cpu_s"][0] == pytest.approx(0.003)
    assert columns["error_rate"][0] == pytest.approx(1 / 4)
    assert columns["age_s"][0] == 0
    assert np.isnan(columns["cpu_s"][1])
    assert columns["rate_rps"][1] == 0


@pytest.mark.parametrize("seconds", [20, 200, 20_000])
def test_the_rate_of_steady_traffic_is_right_soon_and_stays_so(seconds):
    profile = Profile(1, 60.0, 0.0)
    times = np.arange(0, seconds, 0.1)
    profile.add(seen(times, np.zeros(len(times))))
    assert profile.columns(float(seconds))["rate_rps"][0] == pytest.approx(10.0, rel=0.02)


def test_a_profile_lasts_for_years():
    profile = Profile(1, 60.0, 0.0)
    for at in np.linspace(0, 3e8, 50):
        profile.add(seen([at], [0], duration_s=[0.5]))
    columns = profile.columns(3e8)
    assert columns["latency_p50_s"][0] == pytest.approx(0.5, rel=0.02)
    assert columns["requests"][0] == pytest.approx(1.0)


def test_folding_categories_keeps_the_sums():
    profile = Profile(3, 60.0, 0.0)
    profile.add(seen([10.0, 10.0, 10.0], [0, 1, 2], cpu_s=[1.0, 2.0, 6.0], duration_s=[0.1, 0.1, 0.3]))
    columns = profile.folded([1, 1, 0], 2).columns(10.0)
    assert columns["cpu_s"].tolist() == [6.0, 1.5]
    assert columns["requests"].tolist() == [1.0, 2.0]


@given(
    hnp.arrays(np.float64, (12, 5), elements=st.floats(-5, 5)), hnp.arrays(np.float64, 12, elements=st.floats(-5, 5))
)
def test_least_squares_agree_with_the_reference(matrix, wanted):
    from scipy.optimize import nnls

    gram = matrix.T @ matrix + 1e-3 * np.eye(5)
    found = nnls_normal(gram, matrix.T @ wanted)
    stacked = np.vstack([matrix, np.sqrt(1e-3) * np.eye(5)])
    reference, _ = nnls(stacked, np.append(wanted, np.zeros(5)))
    np.testing.assert_allclose(found, reference, atol=1e-6)


intervals = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5)), min_size=1, max_size=30)


@given(intervals)
def test_shares_of_time_add_up_over_spans(requests):
    begin = np.array([each[0] for each in requests])
    end = begin + np.array([each[1] for each in requests])
    edges = np.linspace(-1, 30, 12)
    shared = processor_sharing(begin, end, edges)
    np.testing.assert_allclose(np.bincount(shared.request, shared.part), 1.0, atol=1e-6)
    whole = processor_sharing(begin, end, edges[[0, -1]])
    np.testing.assert_array_equal(whole.request, np.arange(len(begin)))
    np.testing.assert_allclose(np.bincount(shared.request, shared.seconds), whole.seconds, atol=1e-6)
    assert whole.seconds.sum() <= 25.0 + 1e-6
    inside = processor_sharing(begin, end, edges[3:7])
    there = (shared.span >= 3) & (shared.span < 6)
    np.testing.assert_array_equal(inside.request, shared.request[there])
    np.testing.assert_allclose(inside.part, shared.part[there], atol=1e-6)
    np.testing.assert_allclose(inside.seconds, shared.seconds[there], atol=1e-6)


def test_requests_share_the_host_and_those_that_wait_use_nothing():
    begin, end = np.array([0.0, 0.0, 0.0]), np.array([2.0, 2.0, 3.0])
    seconds = processor_sharing(begin, end, np.array([0.0, 4.0])).seconds
    assert seconds == pytest.approx([2 / 3, 2 / 3, 5 / 3])
    seconds = processor_sharing(begin, end, np.array([0.0, 4.0]), slots=2).seconds
    assert seconds == pytest.approx([1.0, 1.0, 1.0])


def synthetic_host(categories, spans, seed=1):
    """Requests of known cost on one host: (true costs, counts by span, use by span)."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0.001, 0.02, categories)
    counts = rng.poisson(rng.uniform(0.5, 2.0, categories) * (1 + np.sin(np.arange(spans) / 9))[:, None])
    noise = rng.normal(0, 0.002, spans)
    return cost, counts.astype(np.float64), counts @ cost + 0.05 + noise


def test_attribution_finds_the_costs_and_how_sure_it_is():
    cost, counts, use = synthetic_host(12, 300)
    splitter = CostAttribution(12, 1e6, 0.0)
    for at in range(0, 300, 10):
        ten = slice(at, at + 10)
        splitter.observe(np.arange(at + 1.0, at + 11.0), np.ones(10), use[ten], counts[ten], counts[ten])
    found = splitter.attribution()
    assert found.background == pytest.approx(0.05, abs=0.01)
    assert np.abs(found.cost / cost - 1).max() < 0.15
    within = np.abs(found.cost - cost) < 3 * found.error
    assert within.all()
    assert (found.error < 0.2 * cost.mean()).all()


def test_idle_spans_tell_the_background_and_the_rest_adds_up():
    rng = np.random.default_rng(3)
    cost = np.array([0.01, 0.03])
    counts = rng.poisson(0.5, (600, 2)).astype(np.float64)
    counts[::3] = 0
    use = counts @ cost + 0.05 * 0.1
    told = counts * rng.uniform(0.5, 1.5, counts.shape)  # what is not told exactly pulls slopes down
    told *= counts.sum(axis=0) / told.sum(axis=0)
    splitter = CostAttribution(2, 1e6, 0.0)
    for at in range(0, 600, 50):
        part = slice(at, at + 50)
        splitter.observe(np.arange(at + 1, at + 51) / 10, np.full(50, 0.1), use[part], told[part], told[part])
    found = splitter.attribution()
    assert found.background == pytest.approx(0.05, rel=0.01)
    assert found.cost == pytest.approx(cost, rel=0.08)
    assert float(found.cost @ counts.sum(axis=0)) == pytest.approx(use.sum() - 0.05 * 60, rel=0.01)


def test_dear_requests_do_not_hide_what_cheap_ones_cost():
    rng = np.random.default_rng(5)
    cost, errors = np.array([0.001, 0.03]), []
    for _ in range(20):
        counts = rng.poisson(0.6, (400, 2))
        of_each = [
            [rng.gamma(4, mean / 4, number).sum() for number, mean in zip(row, cost, strict=True)] for row in counts
        ]
        use, hints = np.sum(of_each, axis=1), counts * cost * [1.5, 1.0]
        splitter = CostAttribution(2, 1e6, 0.0)
        splitter.observe(np.arange(400) / 10, np.full(400, 0.1), use, counts.astype(np.float64), hints)
        errors.append(splitter.attribution().cost[0] / cost[0] - 1)
    assert np.sqrt(np.mean(np.square(errors))) < 0.15


def test_attribution_forgets():
    splitter = CostAttribution(1, 10.0, 0.0)
    at = np.arange(400.0)
    use = np.where(at < 200, 0.01, 0.03) * (at % 5)
    for half in (slice(0, 200), slice(200, 400)):
        requests = (at % 5)[half, None]
        splitter.observe(at[half] + 1, np.ones(200), use[half], requests, 0 * requests)
    assert splitter.attribution().cost[0] == pytest.approx(0.03, rel=0.01)


def test_a_category_never_seen_has_no_cost():
    splitter = CostAttribution(2, 60.0, 0.0)
    assert np.isnan(splitter.attribution().cost).all()
    one = np.ones(1)
    splitter.observe(one, one, 0.1 * one, np.array([[3.0, 0.0]]), np.array([[0.1, 0.0]]))
    found = splitter.attribution()
    assert np.isfinite(found.cost[0])
    assert np.isnan(found.cost[1])


def test_fingerprints_survive_the_wire():
    one, two = made_fingerprint(sequence=1), made_fingerprint(sequence=2, host="h2")
    parts = open_message(message([pack(one), pack(two)]))
    back = unpack(parts[0], 0, 2 * NOW_US)
    assert (back.host, back.sequence, back.categories) == (one.host, 1, one.categories)
    np.testing.assert_allclose(back.cells, one.cells, rtol=1e-6)
    assert unpack(parts[1], 0, 2 * NOW_US).host == "h2"


def changed(**changes):
    return msgpack.packb({**msgpack.unpackb(pack(made_fingerprint())), **changes})


def cells_with(column, value):
    made = made_fingerprint()
    made.cells[0, FINGERPRINT_CELL_COLUMNS.index(column)] = value
    return pack(made)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"\xc1", "fingerprint:malformed"),
        (msgpack.packb([1]), "fingerprint:malformed"),
        (changed(schema=99), "schema:unknown"),
        (changed(host="../etc"), "host:bad_name"),
        (changed(sequence=-1), "sequence:type"),
        (changed(sequence=True), "sequence:type"),
        (changed(time_us=1), "time:too_old"),
        (changed(time_us=3 * NOW_US), "time:future"),
        (changed(halflife_s=float("nan")), "halflife_s:type"),
        (changed(categories=["a", "a"]), "categories:repeated"),
        (changed(categories=["a" * 600, "b"]), "categories:too_long"),
        (changed(cells=b"123"), "cells:size"),
        (changed(cell_columns=["cpu_s", "cpu_s"]), "cell_columns:type"),
        (cells_with("cpu_s", -1.0), "cpu_s:negative"),
        (cells_with("cpu_s", np.inf), "cpu_s:not_finite"),
        (cells_with("error_rate", 1.5), "error_rate:too_large"),
    ],
)
def test_bad_fingerprints_are_refused_by_name(packed, reason):
    with pytest.raises(RefusedError) as refused:
        unpack(packed, 1000, 2 * NOW_US)
    assert refused.value.reason == reason


def test_unknown_columns_are_left_out_and_absent_ones_unknown():
    back = unpack(changed(cell_columns=["age_s", "news"], cells=np.ones((2, 2), "<f4").tobytes()), 0, 2 * NOW_US)
    assert back.cells[0, FINGERPRINT_CELL_COLUMNS.index("age_s")] == 1.0
    assert np.isnan(back.cells[0, FINGERPRINT_CELL_COLUMNS.index("cpu_s")])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(body):
    for each in (body, gzip.compress(body)):
        try:
            for part in open_message(each):
                unpack(part, 0, 2 * NOW_US)
        except RefusedError as error:
            assert ":" in error.reason


def test_a_message_that_unpacks_to_too_much_is_refused():
    with pytest.raises(RefusedError, match="message:too_large"):
        open_message(gzip.compress(b"\0" * (MAX_UNPACKED_BYTES + 2)))


def test_of_less_than_nothing_no_cost_is_below_0():
    splitter = CostAttribution(1, 10.0, 0.0)
    requests = np.full((20, 1), 5.0)
    splitter.observe(np.arange(1.0, 21.0), np.ones(20), np.linspace(-0.5, -0.1, 20), requests, requests)
    found = splitter.attribution()
    assert found.cost[0] == 0.0
    assert found.error[0] >= 0.0
