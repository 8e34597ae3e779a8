"""What several reporters saw of one host in one window becomes one report: nothing counts twice, nothing is lost."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.window_merge import merge_reports
from fingerpost.window_report import MAX_ROWS, SAMPLE_COLUMNS, WINDOW_COLUMNS, WindowReport, pack, unpack

NOW_US = 1_700_000_000_000_000
END_US = 1_699_999_990_000_000
PLACE = {name: place for place, name in enumerate(WINDOW_COLUMNS)}


def report(source, reporter, cells, **changes):
    """`cells`: category to columns; what is not given is not known."""
    windows = np.full((len(cells), len(WINDOW_COLUMNS)), np.nan, dtype=np.float32)
    for row, columns in zip(windows, cells.values(), strict=True):
        for name, value in {"errors": 0, "measured": columns["requests"], **columns}.items():
            row[PLACE[name]] = value
    made = WindowReport(
        *("shop", "h1", source, reporter, f"boot-{reporter}", 7, NOW_US, END_US, 10.0, "v1", tuple(cells), windows),
        load=None,
        sample=np.full(len(SAMPLE_COLUMNS), np.nan),
    )
    return replace(made, **changes)


def cells(merged):
    """The known columns of each category."""
    return {
        name: {column: float(row[place]) for column, place in PLACE.items() if np.isfinite(row[place])}
        for name, row in zip(merged.categories, merged.windows, strict=True)
    }


OWN = {
    "a": {
        "requests": 100,
        "errors": 5,
        "measured": 90,
        "latency_p50_s": 0.01,
        "latency_p99_s": 0.02,
        "service_time_mean_s": 0.01,
        "cpu_mean_s": 0.004,
        "throughput_rps": 300,
    },
    "b": {"requests": 10, "cpu_mean_s": 0.1},
}


def test_where_only_one_reporter_tells_its_report_is_all_there_is():
    for source in ("host", "proxy"):
        told = report(source, "h1", OWN)
        assert merge_reports([told]) is told


def test_proxies_of_a_host_add_up():
    one = {"requests": 30, "errors": 2, "measured": 20, "latency_p99_s": 0.3, "throughput_rps": 100, "cpu_s": 1.0}
    two = {"requests": 10, "errors": 1, "measured": 5, "latency_p99_s": 0.8, "throughput_rps": 50}
    both = [report("proxy", "p1", {"a": one}), report("proxy", "p2", {"b": two, "a": two})]
    merged = merge_reports(both)
    assert merged.source == "proxy"
    found = cells(merged)
    assert found["b"] == pytest.approx(two)
    assert found["a"] == pytest.approx(
        {
            "requests": 40,
            "errors": 3,
            "measured": 25,
            "latency_p99_s": (20 * 0.3 + 5 * 0.8) / 25,
            "throughput_rps": 25 / (20 / 100 + 5 / 50),
            "cpu_s": 1.0,
        }
    )


def test_the_hosts_own_agent_gives_counts_and_costs_and_the_proxies_what_clients_waited():
    seen = {"a": {"requests": 60, "errors": 2, "measured": 50, "latency_p99_s": 0.5, "service_time_mean_s": 0.2}}
    load, sample = np.ones(7, dtype=np.float32), np.arange(5.0)
    own = report("host", "h1", OWN, load=load, sample=sample)
    merged = merge_reports([own, report("proxy", "p1", seen)])
    assert (merged.source, merged.reporter, merged.sequence) == ("host", "h1", 7)
    assert merged.load is load
    assert merged.sample is sample
    found = cells(merged)
    assert found["b"] == pytest.approx({"errors": 0, "measured": 10, **OWN["b"]})
    assert found["a"] == pytest.approx({**OWN["a"], "latency_p99_s": 0.5})


def test_a_failure_that_only_a_proxy_saw_is_an_error_and_nothing_else():
    seen = {
        "a": {"requests": 90, "errors": 40, "measured": 50},
        "c": {"requests": 7, "errors": 3, "measured": 4, "latency_p99_s": 0.2},
        "d": {"requests": 7},
    }
    found = cells(merge_reports([report("host", "h1", OWN), report("proxy", "p1", seen)]))
    assert found["a"] == pytest.approx({**OWN["a"], "errors": 40, "requests": 130})
    assert found["c"] == {"requests": 3, "errors": 3, "measured": 0}
    assert "d" not in found


def test_of_one_reporter_the_newest_report_counts():
    old = report("proxy", "p1", {"a": {"requests": 5}}, boot_id="earlier", time_us=NOW_US - 1)
    new = report("proxy", "p1", {"a": {"requests": 8}})
    assert merge_reports([new, old]) is new


def test_reports_of_different_windows_are_not_merged():
    one = report("proxy", "p1", OWN)
    for other in (replace(one, host="h2"), replace(one, end_us=END_US + 10), replace(one, window_s=5.0)):
        with pytest.raises(ValueError, match="2 reports are not of one host and window"):
            merge_reports([one, other])
    with pytest.raises(ValueError, match="0 reports"):
        merge_reports([])


def test_keys_add_up_and_are_the_own_agents_where_it_has_some():
    key, other = ("GET /a", "0", "none", "bot", "DE"), ("GET /b", "0", "none", "bot", "DE")
    proxies = [report("proxy", name, OWN, keys=((key, 3), (other, count))) for name, count in (("p1", 1), ("p2", 7))]
    assert merge_reports(proxies).keys == ((other, 8), (key, 6))
    own = report("host", "h1", OWN, keys=((key, 50),))
    assert merge_reports([*proxies, own]).keys == ((key, 50),)
    assert merge_reports([*proxies, replace(own, keys=())]).keys == ((other, 8), (key, 6))


def test_a_merged_report_has_no_more_categories_than_one_may_have():
    names = [f"c{number}" for number in range(MAX_ROWS)]
    one = report("proxy", "p1", {name: {"requests": 2} for name in names})
    two = report("proxy", "p2", {name.upper(): {"requests": 3 if name == "c7" else 1} for name in names})
    merged = merge_reports([one, two])
    assert merged.categories == (*names[:-1], "C7")
    assert unpack(pack(merged), NOW_US - 10**9, NOW_US + 10**6).categories == merged.categories


counts = st.integers(1, 1000).flatmap(
    lambda requests: st.integers(0, requests).flatmap(
        lambda errors: st.fixed_dictionaries(
            {
                "requests": st.just(requests),
                "errors": st.just(errors),
                "measured": st.integers(0, requests - errors),
                "latency_p50_s": st.floats(0.001, 9),
                "throughput_rps": st.floats(0.1, 900),
            }
        )
    )
)
told = st.dictionaries(st.sampled_from("abcd"), counts, min_size=1)


@given(st.lists(told, min_size=1, max_size=3), st.none() | told)
def test_the_order_does_not_matter_and_nothing_counts_twice(seen, own):
    reports = [report("proxy", f"p{number}", each) for number, each in enumerate(seen)]
    if own:
        reports.append(report("host", "h1", own))
    merged = [merge_reports(list(order)) for order in permutations(reports)]
    back = unpack(pack(merged[0]), NOW_US - 10**9, NOW_US + 10**6)
    total = {name: back.column(name).sum() for name in ("requests", "errors", "measured")}
    for other in merged[1:]:
        one, two = cells(merged[0]), cells(other)
        assert one.keys() == two.keys()
        assert all(one[name] == pytest.approx(two[name]) for name in one)
    added = {name: sum(cell[name] for each in seen for cell in each.values()) for name in total}
    if own:
        sent = {name: sum(cell[name] for cell in own.values()) for name in total}
        assert total["measured"] == sent["measured"]
        assert sent["requests"] <= total["requests"] <= sent["requests"] + added["errors"]
        assert sent["errors"] <= total["errors"] <= sent["errors"] + added["errors"]
    else:
        assert total == added
