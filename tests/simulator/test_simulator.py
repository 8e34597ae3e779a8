"""The simulator against queueing theory, its own books, and the promises of the policies and the guard."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.errors import FingerpostError
from fingerpost.lake import parquet_files
from fingerpost.routing.capacity import best_split, capacity_rps
from fingerpost.routing.cost import routing_cost
from fingerpost.simulator.basics import forget_stale
from fingerpost.simulator.choice import REPORTED, SCALED, fingerpost
from fingerpost.simulator.peers import gb_pandas, weights_category
from fingerpost.simulator.policies import POLICIES, parse_policy
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import load_scenario
from fingerpost.simulator.state import SLOTS
from fingerpost.simulator.sweep import run_sweep
from tests.support.simulated import all_chunks, erlang_c_wait_s, one_host, scenario

SCENARIOS = Path(__file__).parents[2] / "simulator" / "scenarios"
SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "requests"


@pytest.mark.parametrize(("slots", "load"), [(1, 0.7), (8, 0.85)])
def test_waits_are_those_of_erlang_c(slots, load):
    bench = Bench(one_host(slots, 0.01), 1)
    assert bench.bound_rps == pytest.approx(slots / 0.01)
    figures, _ = all_chunks(bench, "random", load, 1)
    expected = 0.01 + erlang_c_wait_s(load * slots / 0.01, 0.01, slots)
    assert figures.mean_s == pytest.approx(expected, rel=0.05)


def test_deterministic_service_waits_as_pollaczek_and_khinchine_say():
    figures, _ = all_chunks(Bench(one_host(1, 0.01, service_time={"kind": "deterministic"}), 2), "round_robin", 0.7, 1)
    assert figures.mean_s == pytest.approx(0.01 * (1 + 0.7 / (2 * 0.3)), rel=0.05)


@pytest.mark.parametrize("policy", POLICIES)
def test_books_balance_for_every_policy(policy):
    lost = [{"host": 2, "at_s": 15, "kind": "fail"}, {"host": 2, "at_s": 19, "kind": "join"}]
    bench = Bench(scenario(events=lost), 3)
    figures, chunks = all_chunks(bench, policy, 0.6, 3)
    sent = np.concatenate([chunk.records.sent_s for chunk in chunks])
    assert len(np.unique(sent)) == len(sent) == figures.requests > 1000
    records = [chunk.records for chunk in chunks]
    error = np.concatenate([each.error for each in records])
    duration, service, host = (
        np.concatenate([getattr(each, name) for each in records]) for name in ("duration_s", "service_time_s", "host")
    )
    assert (duration[~error] >= service[~error] + 0.001 - 1e-9).all()
    # Those that were on the lost host fail, nobody else: at most its slots and a short queue.
    assert 0 < error.sum() < 60
    assert set(host[error]) == {2}
    assert error.sum() <= np.concatenate([each.inflight for each in records])[host == 2].max() + 1
    assert chunks[-1].samples.inflight.sum() == 0
    # All hosts are used again after the join, whatever the policy.
    assert set(host[sent > 20]) == set(range(6))


def test_littles_law_holds():
    figures, chunks = all_chunks(Bench(one_host(4, 0.02), 5), "least_request_full", 0.8, 1)
    records = [chunk.records for chunk in chunks]
    begin, end = (np.concatenate([getattr(each, name) for each in records]) for name in ("sent_s", "time_s"))
    probes = np.linspace(50, 600, 20_000)
    in_fleet = np.searchsorted(np.sort(begin), probes) - np.searchsorted(np.sort(end), probes)
    assert in_fleet.mean() == pytest.approx(figures.rate_rps * figures.mean_s, rel=0.05)
    busy = np.mean([chunk.samples.cpu_util[0] for chunk in chunks[:-1]])
    assert busy == pytest.approx(0.8, abs=0.03)


def test_compiled_code_of_other_sources_is_not_run(tmp_path):
    source, made = tmp_path / "a.py", tmp_path / "__pycache__" / "a.uniform-9.py311.nbi"
    made.parent.mkdir()
    source.write_text("SLOTS = 1")
    made.touch()
    forget_stale(tmp_path)
    assert not made.exists()
    made.touch()
    forget_stale(tmp_path)
    assert made.exists()
    source.write_text("SLOTS = 2")
    forget_stale(tmp_path)
    assert not made.exists()


def test_service_times_and_rates_can_be_those_that_were_measured():
    slow_tail, steady = [0.5] * 9 + [5.5], [1.0] * 10
    rates = [1.0] * 3 + [2.0, 0.5, 0.5]
    made = scenario(
        fleet={"kind": "matrix", "service_time_s": [[0.01] * 6] * 2},
        slots=64,
        service_time={"kind": "empirical", "quantiles": [slow_tail, steady]},
        arrivals={"kind": "rates", "rates": rates},
    )
    _, chunks = all_chunks(Bench(made, 4), "random", 0.05, 1)
    records = [chunk.records for chunk in chunks]
    category, service, sent = (
        np.concatenate([getattr(each, name) for each in records]) for name in ("category", "service_time_s", "sent_s")
    )
    assert set(np.round(service[category == 0], 6)) == {0.005, 0.055}
    assert service[category == 0].mean() == pytest.approx(0.01, rel=0.1)
    assert set(np.round(service[category == 1], 6)) == {0.01}
    counts, _ = np.histogram(sent, bins=6, range=(0, 24))
    assert counts / counts.mean() == pytest.approx(np.array(rates), abs=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"service_time": {"kind": "empirical"}}, "need rows of quantiles"),
        ({"service_time": {"kind": "empirical", "quantiles": [[1.0, 2.0]]}}, "mean of 1"),
        ({"service_time": {"kind": "empirical", "quantiles": [[1.0], [1.0]]}}, "2 rows of quantiles for 4 categories"),
        ({"arrivals": {"kind": "rates", "rates": [0.0]}}, "a number above 0"),
    ],
)
def test_measured_times_and_rates_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        scenario(**changes)


def test_the_same_seed_gives_the_same_run_and_another_another():
    first, again, other = (Bench(scenario(), seed).run("prequal", 0.7, 2) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_policy_meets_the_same_arrivals():
    sent = []
    for policy in ("random", "orca", "fingerpost"):
        _, chunks = all_chunks(Bench(scenario(), 1), policy, 0.5, 2)
        sent.append(np.sort(np.concatenate([chunk.records.sent_s for chunk in chunks])))
    np.testing.assert_array_equal(sent[0], sent[1])
    np.testing.assert_array_equal(sent[0], sent[2])


def test_the_bound_is_that_of_the_linear_programme():
    # Each host is good at one category: split, they carry twice what they carry alike.
    times = np.array([[0.01, 0.1], [0.1, 0.01]])
    assert capacity_rps(times, np.array([1.0, 1.0]), np.array([0.5, 0.5])) == pytest.approx(200)
    assert capacity_rps(times, np.array([1.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(1 / 0.055)
    with pytest.raises(FingerpostError, match="no host is up"):
        capacity_rps(times, np.zeros(2), np.array([0.5, 0.5]))


def by_category(policy, load, **changes):
    """Figures of hosts that are each ten times as fast at one of two categories, and the share that went there."""
    times = [[0.01, 0.01, 0.1, 0.1], [0.1, 0.1, 0.01, 0.01]]
    fleet = {"kind": "matrix", "service_time_s": times}
    apart = scenario(fleet=fleet, slots=2, warmup_s=20, duration_s=30, **changes)
    figures, chunks = all_chunks(Bench(apart, 1), policy, load, 2)
    records = [chunk.records for chunk in chunks if chunk.begin_s >= 20]
    host, category = (np.concatenate([getattr(each, name) for each in records]) for name in ("host", "category"))
    return figures, ((host >= 2) == (category == 1)).mean()


@pytest.mark.parametrize("policy", ["peak_ewma_category", "peak_ewma_category_full", "weights_category", "gb_pandas"])
def test_peers_that_see_categories_send_each_to_where_it_is_fast(policy):
    figures, right = by_category(policy, 0.12)
    blind, by_chance = by_category("least_request_full", 0.12)
    assert figures.mean_s < 0.8 * blind.mean_s
    assert right > max(0.6, by_chance + 0.1)


def test_weights_by_hand_are_the_split_of_the_linear_programme():
    times = np.array([[0.01, 0.1], [0.1, 0.01]])
    rate, split = best_split(times, np.array([1.0, 1.0]), np.array([0.5, 0.5]))
    assert rate == pytest.approx(200)
    np.testing.assert_allclose(split, [[100, 0], [0, 100]], atol=1e-6)
    up, turn, chosen = np.ones(3, dtype=np.int64), np.zeros(3), []
    for _ in range(7):
        chosen.append(weights_category(up, np.array([5.0, 1.0, 1.0]), turn))
    # The order that nginx's documentation gives for 5, 1, 1.
    assert chosen == [0, 0, 1, 0, 2, 0, 0]
    up[0] = 0
    assert weights_category(up, np.array([5.0, 1.0, 0.0]), turn) == 1


def test_gb_pandas_takes_the_least_workload_over_rate():
    """Workload is requests in flight of each class times its time there; of idle hosts the fastest is taken."""
    hosts = np.zeros((3, 6), dtype=np.int64)
    hosts[:, SLOTS] = 2
    time = np.array([[0.1, 0.2], [0.2, 0.1], [0.3, 0.3]])
    up, idle = np.ones(3, dtype=np.int64), np.zeros((3, 2), dtype=np.int64)
    assert gb_pandas(up, idle, time, 0, hosts, np.array([7])) == 0
    assert gb_pandas(up, idle, time, 1, hosts, np.array([7])) == 1
    busy = np.array([[3, 0], [1, 0], [1, 1]])
    # 0.3 x 0.1, 0.2 x 0.2 and 0.6 x 0.3.
    assert gb_pandas(up, busy, time, 0, hosts, np.array([7])) == 0
    busy[0, 1] = 1
    # 0.5 x 0.1 then.
    assert gb_pandas(up, busy, time, 0, hosts, np.array([7])) == 1
    time[2, 0] = 0.0
    assert gb_pandas(up, busy, time, 0, hosts, np.array([7])) == 2


def test_a_policy_may_name_what_predicts_for_it():
    assert parse_policy("orca") == ("orca", None)
    assert parse_policy("fingerpost:ewma") == ("fingerpost", "ewma")
    named = Bench(scenario(predictions={"kind": "oracle"}), 1).run("fingerpost:ewma", 0.5, 2)
    assert named == Bench(scenario(), 1).run("fingerpost", 0.5, 2)
    for wrong in ("best", "orca:ewma", "fingerpost:best", "fingerpost:"):
        with pytest.raises(ValueError, match="is none of"):
            parse_policy(wrong)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 1e4)), min_size=1, max_size=20),
    st.sampled_from([0, SCALED, REPORTED]),
    st.integers(1, 10),
)
def test_the_kernel_chooses_by_the_routing_cost(hosts, inflight, pickers):
    own = np.array([each for each, _ in hosts])
    rate = np.array([each for _, each in hosts])
    others = own[::-1].astype(float).copy()
    cost = np.stack([1 / rate, np.zeros(len(rate))])
    up, gone = np.ones(len(own), dtype=np.int64), np.zeros(len(own))
    chosen = fingerpost(up, own, others, gone, cost, inflight, pickers, np.array([7]))
    seen = {0: own, SCALED: own * pickers, REPORTED: own + others}[inflight]
    expected = routing_cost(seen, rate)
    assert expected[chosen] == pytest.approx(expected.min(), rel=1e-12)


def test_true_predictions_beat_least_request_where_hosts_differ_and_the_guard_trusts_them():
    # Three hosts for each class.
    fleet = {"kind": "classes", "hosts": 12, "classes": 4, "categories": 6}
    settings = {"fleet": fleet, "warmup_s": 20, "telemetry": {"hosts_tell": True}}
    ours = Bench(scenario(**settings, predictions={"kind": "oracle"}), 1).run("fingerpost", 0.6, 4)
    theirs = Bench(scenario(**settings), 1).run("least_request_full", 0.6, 4)
    assert ours.trust > 0.8
    assert ours.mean_s < 0.8 * theirs.mean_s


def test_joins_slowdowns_drift_and_mixes_are_as_written():
    changes = scenario(
        fleet={"kind": "matrix", "service_time_s": [[0.1, 0.1], [0.2, 0.2]]},
        slots=[1, 3],
        mix=[{"weights": [1, 0]}, {"at_s": 10, "weights": [1, 3]}],
        drift={"kind": "step", "low": 0.5, "high": 0.5, "period_s": 5},
        antagonists=[{"host": 1, "at_s": 5, "for_s": 2, "factor": 4}],
        events=[{"host": 0, "at_s": 8, "kind": "join"}],
    )
    fleet = Bench(changes, 1).fleet
    np.testing.assert_allclose(fleet.service_s[6], [[0.2, 0.8], [0.4, 1.6]])
    np.testing.assert_allclose(fleet.service_s[7], [[0.2, 0.2], [0.4, 0.4]])
    assert fleet.mix[9].tolist() == [1, 0]
    assert fleet.mix[10].tolist() == [0.25, 0.75]
    assert fleet.present[7].tolist() == [False, True]
    assert fleet.present[8].tolist() == [True, True]
    wander = Bench(scenario(drift={"kind": "wander", "low": 0.5, "high": 1.0, "period_s": 5}), 1).fleet.service_s
    assert wander.max() / wander.min(axis=(0, 2), keepdims=True).max() > 1
    ratio = wander.max(axis=0) / wander.min(axis=0)
    assert (ratio > 1.05).all()
    assert (ratio <= 2.0 + 1e-9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slot": 3}, "slot: Extra inputs are not permitted, not 3"),
        ({"slots": 0}, "slots"),
        ({"slo_s": -1}, "slo_s: Input should be greater than 0, not -1"),
        ({"events": [{"host": 99, "at_s": 1, "kind": "fail"}]}, "host 99 of 6"),
        ({"mix": [{"weights": [1]}]}, "a mix has 1 weights for 4 categories"),
        ({"drift": {"kind": "wander", "low": 2, "high": 1}}, "low 2 is above high 1"),
        ({"arrivals": {"kind": "trace"}}, "a trace needs a path"),
        ({"predictions": {"kind": "psychic"}}, "'psychic'"),
    ],
)
def test_bad_scenarios_are_refused_in_one_line_that_names_the_value(tmp_path, change, message):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**scenario().model_dump(mode="json"), **change}))
    with pytest.raises(FingerpostError, match=r"bad\.json") as caught:
        load_scenario(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shipped_scenarios_are_good():
    for path in SCENARIOS.glob("*.json"):
        assert load_scenario(path).hosts == (10 if path.stem == "failing-host" else 40)


def test_a_trace_gives_its_bursts_to_the_run(tmp_path):
    (tmp_path / "trace.csv").write_text(
        "TIMESTAMP,X\n" + "".join(f"2023-11-16 18:17:{second:02d}.1234567,1\n" for second in [0] * 30 + [10, 20])
    )
    described = scenario(arrivals={"kind": "trace", "path": str(tmp_path / "trace.csv"), "bins": 2}, warmup_s=0)
    _, chunks = all_chunks(Bench(described, 1), "random", 0.3, 1)
    sent = np.concatenate([chunk.records.sent_s for chunk in chunks])
    assert (sent < 6).mean() == pytest.approx(30 / 32, abs=0.03)
    (tmp_path / "trace.csv").write_text("TIMESTAMP\nyesterday\n")
    with pytest.raises(FingerpostError, match="line 2: not a time: 'yesterday'"):
        Bench(described, 1)


def test_the_traffic_of_the_sample_can_be_replayed(tmp_path):
    times = sorted(time for path in parquet_files(SAMPLE) for time in pq.read_table(path)["time"].to_pylist())
    trace = tmp_path / "trace.csv"
    trace.write_text("time\n" + "".join(f"{time.isoformat()}\n" for time in times))
    described = scenario(arrivals={"kind": "trace", "path": str(trace)})
    assert Bench(described, 1).run("least_request", 0.3, 2).requests > 1000


def test_a_sweep_finds_the_highest_load_each_policy_holds():
    lines = []
    sweep = run_sweep(scenario(slo_s=0.6), ["random", "fingerpost"], [0.3, 0.6, 1.2], [2], 2, True, lines.append)
    assert 0 <= sweep.highest["random", 2] < sweep.highest["fingerpost", 2] < 1.2
    points = sweep.as_dict()["points"]
    assert len(points) == 6
    assert all(point["p50_s"] <= point["p90_s"] <= point["p99_s"] <= point["p999_s"] for point in points)
    assert points[0]["p99_s_sd"] > 0
    assert len(lines) > 6


def test_the_command_prints_json_and_draws(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**scenario().model_dump(mode="json"), "duration_s": 3, "warmup_s": 3}))
    command = ["simulate", str(path), "--loads", "0.3", "--pickers", "1", "--seeds", "1", "--json"]
    done = CliRunner().invoke(app, [*command, "--policies", "orca,c3", "--out", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.output
    assert [point["policy"] for point in json.loads(done.stdout)["points"]] == ["orca", "c3"]
    assert {each.name for each in (tmp_path / "plots").iterdir()} == {"p99-1-pickers.png", "highest-1-pickers.png"}
    for extra, named in (
        (["--policies", "best"], "'best'"),
        (["--loads", "x"], "'x'"),
        (["--pickers", "0.5"], "'0.5'"),
    ):
        refused = CliRunner().invoke(app, [*command, *extra])
        assert isinstance(refused.exception, FingerpostError)
        assert named in str(refused.exception)
