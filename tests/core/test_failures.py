"""A failed request counts in errors and in nothing else; one that was refused or given up measures nothing either."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.accesslog import envoy as envoy_log
from fingerpost.accesslog import haproxy as haproxy_log
from fingerpost.agent.attribution import attribute
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.request_status import CLIENT_GONE, failed, measures, told_status
from fingerpost.telemetry.history import HISTORY_COLUMNS, History
from fingerpost.telemetry.host_attribution import HostAttribution
from fingerpost.telemetry.windows import aggregate, aggregate_loads, with_background, with_throughput
from tests.support.records import record

BEGIN_US = 1_795_678_000 * US
WINDOW_S = 10.0
COUNTS = ("requests", "errors", "measured", "cpu_s", "end_us", "host", "category")
unmeasured = st.lists(
    st.tuples(st.sampled_from([0, 400, 401, 404, 429, CLIENT_GONE, 500, 503]), st.floats(0, 100), st.floats(0, 9)),
    min_size=1,
    max_size=30,
)


def requests_of(rows):
    """(status, seconds it took, host) to the arrays that windows are made of, all in one window."""
    status, seconds, host = (np.array(each) for each in zip(*rows, strict=True))
    return {
        "time_us": BEGIN_US + 1 + np.arange(len(rows)),
        "host": host.astype(np.int64),
        "category": np.zeros(len(rows), dtype=np.int64),
        "status": status,
        "duration_s": seconds,
        **dict.fromkeys(("service_time_s", "cpu_s", "mem_bytes", "inflight", "bytes_in"), seconds),
    }


def windows_of(rows, slots=4.0):
    windows = aggregate(requests_of(rows), WINDOW_S)
    hosts = np.unique(windows["host"])
    each = np.ones(len(hosts))
    samples = {"time_us": np.full(len(hosts), BEGIN_US + 5 * US), "host": hosts, "slots": each * slots}
    samples |= {"cpu_util": 0 * each, "cores": 2 * each, "mem_share": 0.1 * each}
    loads = with_background(aggregate_loads(samples, WINDOW_S), windows, WINDOW_S)
    return with_throughput(windows, loads), loads


@given(st.lists(st.integers(-1, 599), min_size=1))
def test_a_status_says_the_same_of_one_and_of_many(statuses):
    array = np.array(statuses, dtype=np.float64)
    assert failed(array).tolist() == [failed(each) for each in statuses]
    assert measures(array).tolist() == [measures(each) for each in statuses]
    assert not (failed(array) & measures(array)).any()


def test_what_a_status_says():
    assert [failed(each) for each in (0, 200, 304, 404, 499, 500, 504)] == [True, *[False] * 4, True, True]
    assert [measures(each) for each in (0, 101, 200, 304, 400, 404, 499, 500)] == [False, *[True] * 3, *[False] * 4]
    assert failed(np.array([np.nan])).all()
    assert not measures(np.array([np.nan])).any()


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ((200,), 200),
        ((0, "DC"), 499),
        ((200, "DC"), 499),
        ((0, "UF,URX"), 503),
        ((503, "UF,URX"), 503),
        ((504, "UT,DC"), 504),
        ((200, "UC"), 502),
        ((200, "", 0), 200),
        ((200, "", 14), 503),
        ((200, "", 1), 499),
        ((200, "", 5), 404),
        ((404, "", 5), 404),
        ((200, "", 99), 200),
    ],
)
def test_what_a_proxy_tells_becomes_a_status(told, status):
    assert told_status(*told) == status


def test_envoy_and_haproxy_tell_who_left():
    line = {"host": "h1", "start": "1795678424.871118", "method": "GET", "path": "/", "bytes_in": 0, "bytes_out": 0}

    def status(**told):
        return envoy_log.parse_line(json.dumps({**line, **told}).encode(), "shop")["status"]

    assert status(status=0, response_flags="DC") == CLIENT_GONE
    assert status(status=200, response_flags="-") == status(status=200, response_flags=None, grpc_status=None) == 200
    assert status(status=200, response_flags="-", grpc_status=13) == 500
    for wrong in ({"response_flags": 7}, {"grpc_status": "13"}):
        with pytest.raises(RefusedError, match="type"):
            status(status=0, **wrong)
    haproxy = (
        "10.0.1.2:33317 [06/Feb/2026:12:14:14.655] http-in static/h1 10/0/30/{}/109 {} 27 - - {} 1/1/1/1/0 0/0 "
        '"GET /users/42 HTTP/1.1"'
    )
    for response_ms, said, ended, status_ in (
        (69, 200, "----", 200),
        (-1, -1, "CH--", CLIENT_GONE),
        (69, 200, "CD--", CLIENT_GONE),
        (-1, -1, "SH--", 503),
        (69, 200, "SD--", 503),
        (-1, 504, "sH--", 504),
    ):
        row = haproxy_log.parse_line(haproxy.format(response_ms, said, ended).encode(), "shop")
        assert row["status"] == status_


@given(unmeasured)
def test_what_measures_nothing_changes_the_counts_of_a_window_alone(others):
    good = [(200, 0.02, 0), (204, 0.03, 0), (302, 0.05, 0)]
    clean, mixed = (
        aggregate(requests_of(rows), WINDOW_S) for rows in (good, good + [(*each[:2], 0) for each in others])
    )
    for name in clean.keys() - set(COUNTS):
        np.testing.assert_array_equal(clean[name], mixed[name], err_msg=name)
    assert mixed["requests"][0] == 3 + len(others)
    assert mixed["errors"][0] == sum(failed(status) for status, _, _ in others)
    assert mixed["measured"][0] == 3
    assert mixed["cpu_s"][0] == pytest.approx(0.1 + sum(seconds for _, seconds, _ in others))


@given(st.integers(0, 50), st.sampled_from([404, CLIENT_GONE, 500]), st.floats(1e-6, 0.001))
def test_a_host_that_fails_fast_never_looks_faster_than_its_neighbour(good, status, seconds):
    rows = [(200, 0.02, 1)] * 50 + [(200, 0.02, 0)] * good + [(status, seconds, 0)] * 50
    windows, loads = windows_of(rows)
    mine, neighbour = windows["throughput_rps"]
    assert neighbour == pytest.approx(2 / 0.02)
    assert np.isnan(mine) if not good else mine == pytest.approx(neighbour)
    history = History(2, 1, WINDOW_S, 60.0)
    history.observe(int(windows["end_us"][0]), windows, loads)
    rates = history.columns()[:, 0, HISTORY_COLUMNS.index("throughput_rps_ewma")]
    assert np.isnan(rates[0]) if not good else rates[0] <= rates[1] + 1e-9


def test_a_history_remembers_what_was_measured_while_all_fails():
    windows, loads = windows_of([(200, 0.02, 0)] * 20)
    failing, _ = windows_of([(500, 0.001, 0)] * 20)
    history = History(1, 1, WINDOW_S, 60.0)
    end_us = int(windows["end_us"][0])
    history.observe(end_us, windows, loads)
    before = history.columns()[0, 0]
    for number in range(1, 21):
        history.observe(end_us + number * 10 * US, failing, loads)
    after = history.columns()[0, 0]
    for name in HISTORY_COLUMNS:
        if name.startswith(("throughput_rps", "latency", "cpu_request_s")):
            place = HISTORY_COLUMNS.index(name)
            np.testing.assert_allclose(after[place], before[place], err_msg=name)
    assert after[HISTORY_COLUMNS.index("seen_windows")] == 1
    assert after[HISTORY_COLUMNS.index("error_share")] > 0.9
    assert after[HISTORY_COLUMNS.index("age_s")] == 0


@pytest.mark.parametrize("status", [404, CLIENT_GONE, 500])
def test_what_fails_cheaply_makes_nothing_else_look_cheap(status):
    """Half of a category's requests end at once, for nearly nothing: the rest costs what it costs without them."""
    rng = np.random.default_rng(5)
    attribution = HostAttribution(3, 60.0, 300.0, 0.0)
    used_s = attributed_s = 0.0
    costs = (0.05, 0.02)
    for second in range(300):
        rows, categories, used = [], [], 0.01
        for _ in range(rng.poisson(6)):
            category = int(rng.random() < 0.5)
            bad = category == 0 and rng.random() < 0.5
            cost = 0.001 if bad else costs[category]
            used += cost
            rows.append(
                record(
                    time=int((second + 0.5) * US),
                    status=status if bad else 200,
                    cpu_s=None,
                    duration_s=cost,
                    service_time_s=cost,
                )
            )
            categories.append(category)
        attribute(attribution, rows, np.array(categories, dtype=np.int64), second + 1.0)
        used_s += used
        attribution.add_sample(np.array([second, second + 1.0]), np.array([used]), 1e8, 2.0, slots=4)
        attributed_s += sum(row.get("cpu_s") or 0.0 for row in rows)
    np.testing.assert_allclose(attribution.costs(301.0).cpu_s[:2], costs, rtol=0.1)
    # What failed used the host's CPU all the same: it is not taken for other programs'.
    assert used_s - attributed_s < 0.05 * 300
