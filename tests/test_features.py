"""Windows, throughput, fingerprints: formulas, and that no feature knows the future."""

import numpy as np
import pandas as pd
import pytest
from features.dataset import Replay
from features.fingerprint import Fingerprints
from features.throughput import throughput_rps
from hypothesis import given
from hypothesis import strategies as st

from features.build import build_features, load_categories, load_training_rows
from features.definition import FEATURES, NAIVE, TARGETS, naive_column
from features.windows import build_windows, host_windows
from fingerpost.category import CategoryTable
from fingerpost.errors import NoDataError
from fingerpost.schemas import HOST_SAMPLE_SCHEMA, WINDOW_SCHEMA

START = pd.Timestamp("2026-01-01", tz="UTC").as_unit("us")


def requests_frame(rows):
    """(seconds, host, route, duration, cpu) to request records."""
    frame = pd.DataFrame(rows, columns=["at", "host", "route", "duration_s", "cpu_s"])
    frame["time"] = START + pd.to_timedelta(frame.pop("at"), unit="s").dt.as_unit("us")
    return frame.assign(
        service="shop", method="GET", status=200, bytes_in=0, auth="none", user_agent_class="bot", region="none",
        service_time_s=frame["duration_s"], inflight=1,
    )  # fmt: skip


def samples_frame(rows):
    """(seconds, host, cpu_util, cores, slots) to host samples."""
    frame = pd.DataFrame(rows, columns=["at", "host", "cpu_util", "cores", "slots"])
    frame["time"] = START + pd.to_timedelta(frame.pop("at"), unit="s").dt.as_unit("us")
    return frame.assign(mem_bytes=500, mem_limit_bytes=1000, inflight=2)


TABLE = CategoryTable((("GET /a",), ("GET /b",)))


def random_telemetry(seconds=120, seed=0):
    dice = np.random.default_rng(seed)
    times = np.sort(dice.uniform(0, seconds, seconds * 20))
    rows = [(t, dice.choice(["h1", "h2"]), dice.choice(["/a", "/b"]), dice.lognormal(-4, 0.5), 0.004) for t in times]
    samples = [(t + 0.5, host, dice.uniform(), 2.0, 4) for t in range(seconds) for host in ("h1", "h2")]
    return requests_frame(rows), samples_frame(samples)


def replay(requests, samples, window_s=5.0):
    hosts = host_windows(samples, requests, window_s)
    return Replay(build_windows(requests, hosts, TABLE, window_s), hosts, TABLE, window_s, 30.0)


def test_throughput_is_the_tightest_bound():
    assert throughput_rps(0.01, 2.0, 0.02, 8)[()] == pytest.approx(200)  # CPU: 200/s, slots: 400/s
    assert throughput_rps(0.001, 2.0, 0.02, 8)[()] == pytest.approx(400)
    assert throughput_rps(0.001, 2.0, 0.02, 8, mem_bytes=100, mem_left_bytes=200)[()] == pytest.approx(100)
    assert np.isnan(throughput_rps(np.nan, 2.0))


@given(st.floats(1e-6, 10), st.floats(0, 64), st.floats(1e-6, 10), st.integers(1, 100))
def test_throughput_never_exceeds_any_resource(cpu_s, cores, service_time_s, slots):
    rate = throughput_rps(cpu_s, cores, service_time_s, slots)[()]
    assert 0 < rate <= max(cores, 0.05) / cpu_s * 1.000001
    assert rate <= slots / service_time_s * 1.000001


def test_windows_hold_their_beginning_not_their_end():
    requests = requests_frame(
        [(0.0, "h1", "/a", 0.1, 0.02), (9.999999, "h1", "/a", 0.3, 0.04), (10.0, "h1", "/a", 0.5, 0.1)]
    )
    samples = samples_frame([(1, "h1", 0.5, 2.0, 4), (11, "h1", 0.5, 2.0, 4)])
    hosts = host_windows(samples, requests, 10)
    windows = build_windows(requests, hosts, TABLE, 10)
    assert windows["time"].tolist() == [START + pd.Timedelta(seconds=10), START + pd.Timedelta(seconds=20)]
    first = windows.iloc[0]
    assert (first["requests"], first["rate_rps"], first["latency_p50_s"]) == (2, 0.2, pytest.approx(0.2))
    assert first["cpu_s"] == pytest.approx(0.06)
    # 1 core in use, 0.006 of it by requests; 1.006 left; 0.03 CPU-s a request; 4 slots / 0.1 s allow 40/s.
    assert hosts["background_cores"].iloc[0] == pytest.approx(0.994)
    assert first["throughput_rps"] == pytest.approx(1.006 / 0.03)
    assert windows.columns.tolist() == WINDOW_SCHEMA.names


def test_no_feature_depends_on_the_future():
    requests, samples = random_telemetry()
    rows = replay(requests, samples).run()[0]
    cut = START + pd.Timedelta(seconds=60)
    late = requests["time"] >= cut
    changed = requests.assign(
        duration_s=requests["duration_s"].where(~late, requests["duration_s"] * 50),
        cpu_s=requests["cpu_s"].where(~late, 0.9),
    )
    changed_samples = samples.assign(cpu_util=samples["cpu_util"].where(samples["time"] < cut, 1.0))
    perturbed = replay(changed, changed_samples).run()[0]
    known = [*FEATURES, *(naive_column(view, target) for view in NAIVE for target in TARGETS)]
    before, after = rows[rows["time"] <= cut], perturbed[perturbed["time"] <= cut]
    assert len(before) > 30
    pd.testing.assert_frame_equal(before[known], after[known])
    assert not rows[rows["time"] > cut][known].equals(perturbed[perturbed["time"] > cut][known])


def test_served_features_equal_those_of_training():
    requests, samples = random_telemetry()
    rows = replay(requests, samples).run()[0]
    for at in sorted(rows["time"].unique())[::5]:
        served = replay(requests[requests["time"] < at], samples[samples["time"] < at]).run()[1]
        assert (served["time"] == at).all()
        trained = rows[rows["time"] == at]
        both = trained[["host", "category"]].merge(served, on=["host", "category"], how="left")
        pd.testing.assert_frame_equal(both[list(FEATURES)], trained[list(FEATURES)].reset_index(drop=True))


def test_every_host_is_served_for_every_category_seen():
    requests = requests_frame([(t * 1.0, "h1", "/a" if t % 2 else "/b", 0.01, 0.005) for t in range(40)])
    samples = samples_frame([(t, host, 0.1, 1.0, 4) for t in range(40) for host in ("h1", "h2")])
    latest = replay(requests, samples).run()[1]
    assert len(latest) == 4
    unseen = latest[latest["host"] == "h2"]
    assert unseen["latency_p50_s_ewma"].isna().all()
    assert np.isfinite(unseen[naive_column("ewma", "latency_p50_s")]).all()


def one_cell(prints, end_s, value, requests=1.0):
    cell, nothing = np.array([0]), np.zeros(0, dtype=np.int64)
    values = np.full((4, 1), value)
    traffic = np.array([[requests], [0.0], [0.0], [np.nan]])
    prints.observe(int(end_s * 1e6), cell, cell, values, traffic, nothing, np.zeros((6, 0)))


def test_ewma_halves_by_time_and_counts_by_requests():
    prints = Fingerprints(1, 1, window_s=10, halflife_s=20)
    one_cell(prints, 10, 1.0, requests=3)
    one_cell(prints, 30, 5.0, requests=1)
    at = np.array([0])
    assert prints.naive(at, at)["ewma"][0, 0] == pytest.approx((3 * 0.5 * 1.0 + 5.0) / (3 * 0.5 + 1))
    assert prints.naive(at, at)["last"][0, 0] == 5.0
    assert prints.naive(at, at)["median"][0, 0] == 3.0


def test_windows_must_come_in_order():
    prints = Fingerprints(1, 1, 10, 20)
    one_cell(prints, 20, 1.0)
    with pytest.raises(ValueError, match="comes after"):
        one_cell(prints, 20, 1.0)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_averages_stay_within_what_was_seen(values):
    prints, at = Fingerprints(1, 1, 10, 20), np.array([0])
    for number, value in enumerate(values, start=1):
        one_cell(prints, number * 10, value)
    for forecast in prints.naive(at, at).values():
        assert min(values) - 1e-6 <= forecast[0, 0] <= max(values) + 1e-6


def test_features_of_a_lake(featured_lake):
    rows = load_training_rows(featured_lake, "shop", 10**6)
    assert set(FEATURES) <= set(rows.columns)
    assert len(load_training_rows(featured_lake, "shop", 10)) == 10
    assert rows["category"].isin(load_categories(featured_lake, "shop").names).all()


def test_no_records_is_said_plainly(tmp_path):
    with pytest.raises(NoDataError, match="no request records of service 'shop'"):
        build_features(tmp_path, "shop", 5, 30, 16, 30)
    with pytest.raises(NoDataError, match="fingerpost run features"):
        load_training_rows(tmp_path, "shop", 10)


def test_records_without_host_samples_still_make_windows():
    requests, _ = random_telemetry(30)
    hosts = host_windows(HOST_SAMPLE_SCHEMA.empty_table().to_pandas(), requests, 5)
    windows = build_windows(requests, hosts, TABLE, 5)
    assert len(windows) > 10
    assert windows["throughput_rps"].isna().all()
