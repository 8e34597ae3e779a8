"""Attribution of CPU to categories, and fingerprints on the wire."""

import gzip

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fingerpost.errors import RefusedError
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, SCHEMA_VERSION, pack, unpack
from fingerpost.history_block import FORECASTS
from fingerpost.packed_message import MAX_UNPACKED_BYTES, message, open_message
from fingerpost.telemetry.attribution import CostAttribution, nnls_normal, processor_sharing
from fingerpost.telemetry.history import HISTORY_PLACE
from tests.support.made_fleet import MadeFleet
from tests.support.records import made_fingerprint

NOW_US = 1_700_000_000_000_000


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


def test_attribution_lasts_for_years_and_gaps():
    splitter = CostAttribution(1, 60.0, 0.0)
    one = np.ones(10)
    for at in (0.0, 1e3, 3e8):
        requests = np.arange(1.0, 11.0)[:, None]
        splitter.observe(at + np.arange(10.0), one, 0.02 * requests[:, 0], requests, requests)
    found = splitter.attribution()
    assert found.cost[0] == pytest.approx(0.02, rel=0.01)
    assert np.isfinite(found.error).all()


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
    np.testing.assert_allclose(back.host_values, one.host_values, rtol=1e-6)
    assert unpack(parts[1], 0, 2 * NOW_US).host == "h2"


def changed(**changes):
    return msgpack.packb({**msgpack.unpackb(pack(made_fingerprint())), **changes})


def host_with(column, value):
    made = made_fingerprint()
    made.host_values[FINGERPRINT_HOST_COLUMNS.index(column)] = value
    return pack(made)


def history_with(column, value):
    made = MadeFleet.make(2, 3).fingerprint(0, 1, NOW_US)
    made.history.cells[1, HISTORY_PLACE[column]] = value
    return pack(made)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"\xc1", "fingerprint:malformed"),
        (msgpack.packb([1]), "fingerprint:malformed"),
        (changed(schema=SCHEMA_VERSION - 1), "schema:older"),
        (changed(schema=SCHEMA_VERSION + 1), "schema:newer"),
        (changed(schema="2"), "schema:unknown"),
        (changed(schema=None), "schema:unknown"),
        (changed(host="../etc"), "host:bad_name"),
        (changed(sequence=-1), "sequence:type"),
        (changed(sequence=True), "sequence:type"),
        (changed(time_us=1), "time:too_old"),
        (changed(time_us=3 * NOW_US), "time:future"),
        (changed(categories=["a", "a"]), "categories:repeated"),
        (changed(categories=["a" * 600, "b"]), "categories:too_long"),
        (changed(host_values=b"123"), "host_values:size"),
        (changed(host_columns=["cores", "cores"]), "host_columns:type"),
        (host_with("cores", -1.0), "cores:negative"),
        (host_with("cores", 0.0), "cores:too_small"),
        (host_with("slots", np.inf), "slots:not_finite"),
        (host_with("cpu_util", 1.5), "cpu_util:too_large"),
        (history_with("evidence", -1.0), "history:evidence"),
        (history_with("error_share", 1.5), "history:error_share"),
        (history_with(FORECASTS["throughput_rps"], 700.0), "history:throughput_rps_ewma"),
        (history_with(FORECASTS["latency_p99_s"], np.log(7200)), "history:latency_p99_s_mixed"),
        (history_with("age_s", np.inf), "history:not_finite"),
    ],
)
def test_bad_fingerprints_are_refused_by_name(packed, reason):
    with pytest.raises(RefusedError) as refused:
        unpack(packed, 1000, 2 * NOW_US)
    assert refused.value.reason == reason


def test_a_message_of_the_first_version_is_refused_with_a_reason():
    """As agents of that version packed it: a rolling state of its own, in columns of cells."""
    cells = {"halflife_s": 60.0, "cell_columns": ["requests"], "cells": np.ones((2, 1), "<f4").tobytes()}
    with pytest.raises(RefusedError) as refused:
        unpack(changed(schema=1, **cells), 0, 2 * NOW_US)
    assert refused.value.reason == "schema:older"


def test_unknown_columns_are_left_out_and_absent_ones_unknown():
    told = changed(host_columns=["slots", "news"], host_values=np.ones(2, "<f4").tobytes(), later_field=[1])
    back = unpack(told, 0, 2 * NOW_US)
    assert back.host_values[FINGERPRINT_HOST_COLUMNS.index("slots")] == 1.0
    assert np.isnan(back.host_values[FINGERPRINT_HOST_COLUMNS.index("cores")])


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
