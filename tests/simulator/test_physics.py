"""The physics of simulated hosts, each held against a formula or a case whose answer is known."""

import numpy as np
import pytest

from fingerpost.errors import FingerpostError
from fingerpost.simulator.bound import fleet_capacity_rps
from fingerpost.simulator.fleet import host_classes
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario
from tests.support.simulated import all_chunks, erlang_c_wait_s, one_host


def records_of(bench, policy, load, pickers):
    """The columns of all records of a run, as one dictionary, and its figures."""
    figures, chunks = all_chunks(bench, policy, load, pickers)
    names = ("sent_s", "time_s", "service_time_s", "host", "category", "inflight", "error", "duration_s")
    return {name: np.concatenate([getattr(chunk.records, name) for chunk in chunks]) for name in names}, figures


def two_hosts(**changes):
    given = {"name": "two", "fleet": {"kind": "matrix", "service_time_s": [[0.01, 0.01]]}, "slots": 4}
    return Scenario.model_validate({**given, "warmup_s": 0, "duration_s": 20, "network_rtt_s": 0, **changes})


@pytest.mark.parametrize("kind", ["exponential", "deterministic", "hyperexponential"])
def test_one_shared_core_serves_all_as_the_formula_says_whatever_they_take(kind):
    """M/G/1 with processor sharing: the mean is E[S] / (1 - rho), of any distribution with that mean."""
    shared = one_host(4000, 0.01, cores=1, sharing="processor", service_time={"kind": kind, "cv": 2})
    bench = Bench(shared, 1)
    assert bench.bound_rps == pytest.approx(100)
    figures, chunks = all_chunks(bench, "random", 0.7, 1)
    assert figures.mean_s == pytest.approx(0.01 / 0.3, rel=0.08)
    busy = np.mean([chunk.samples.cpu_util[0] for chunk in chunks[:-1]])
    assert busy == pytest.approx(0.7, abs=0.03)


def test_shared_cores_are_as_many_servers_as_there_are_cores():
    """As many requests are there as in M/M/c, so by Little's law they take as long on average."""
    figures, _ = all_chunks(Bench(one_host(4000, 0.01, cores=4, sharing="processor"), 1), "random", 0.8, 1)
    assert figures.mean_s == pytest.approx(0.01 + erlang_c_wait_s(0.8 * 400, 0.01, 4), rel=0.06)


def test_as_many_cores_as_slots_are_slots():
    slots, cores = (
        Bench(one_host(4, 0.01, duration_s=50, sharing=sharing), 1).run("random", 0.8, 1)
        for sharing in ("slots", "processor")
    )
    assert cores.mean_s == pytest.approx(slots.mean_s, rel=1e-6)


def test_requests_beside_others_are_lengthened_as_the_scenario_says():
    """Alone a request takes 10 ms; as the third of four it takes 1 + 0.5 x 2 times that."""
    bench = Bench(two_hosts(crowding=0.5, service_time={"kind": "deterministic"}, slots=4), 1)
    records, _ = records_of(bench, "random", 0.6, 1)
    free = records["inflight"] < 4
    assert free.sum() > 100
    np.testing.assert_allclose(records["service_time_s"][free], 0.01 * (1 + 0.5 * records["inflight"][free]))
    assert bench.bound_rps == pytest.approx(2 * 4 / (0.01 * 2.5))
    by_cell = Bench(two_hosts(crowding=[[0.0, 1.0]], service_time={"kind": "deterministic"}), 1)
    records, _ = records_of(by_cell, "random", 0.3, 1)
    assert set(records["service_time_s"][records["host"] == 0].round(9)) == {0.01}
    assert records["service_time_s"][records["host"] == 1].max() > 0.0199


@pytest.mark.parametrize("after_s", [0.001, 0.3])
def test_hosts_fail_the_share_of_requests_that_they_are_told_to_and_as_fast(after_s):
    failing = {"host": 1, "share": 0.5, "after_s": after_s, "at_s": 5, "for_s": 10}
    bench = Bench(two_hosts(failures=[failing]), 1)
    records, figures = records_of(bench, "random", 0.4, 2)
    arrived = (records["sent_s"] >= 5) & (records["sent_s"] < 15) & (records["host"] == 1)
    assert records["error"][arrived].mean() == pytest.approx(0.5, abs=0.05)
    assert not records["error"][~arrived].any()
    np.testing.assert_allclose(records["duration_s"][records["error"]], after_s)
    assert figures.errors == pytest.approx(0.5 * 0.5 * 0.5, abs=0.02)


def test_failures_of_one_category_are_of_no_other_and_take_no_slot():
    failing = {"host": [0, 1], "category": 1, "after_s": 0.5}
    fleet = {"kind": "matrix", "service_time_s": [[0.01, 0.01], [0.01, 0.01]]}
    records, _ = records_of(Bench(two_hosts(fleet=fleet, failures=[failing], slots=1), 1), "random", 0.2, 1)
    assert (records["error"] == (records["category"] == 1)).all()
    # One in a hundred would find the slot free if failing requests held it.
    assert np.median(records["duration_s"][~records["error"]]) < 0.02


def test_failing_fast_attracts_policies_that_count_requests_in_flight_and_not_ours():
    many = {"kind": "classes", "hosts": 10, "classes": 1, "categories": 4}
    plain = {"fleet": many, "slots": 2, "duration_s": 60, "failures": [{"host": 0, "share": 0.9, "after_s": 0.001}]}
    bench = Bench(two_hosts(**plain), 1)
    theirs = bench.run("least_request_full", 0.3, 1).errors
    ours = bench.run("fingerpost", 0.3, 1).errors
    assert theirs > 0.1
    assert ours < theirs / 4


@pytest.mark.parametrize("sharing", ["slots", "processor"])
@pytest.mark.parametrize("works_on", [True, False])
def test_clients_give_up_after_the_timeout(sharing, works_on):
    """What takes longer fails then; a host that works on has as much to do, one that does not has less."""
    timed = {"timeout_s": 0.03, "works_on": works_on, "sharing": sharing, "slots": 2}
    bench = Bench(two_hosts(**timed), 1)
    records, figures = records_of(bench, "random", 0.7, 2)
    assert records["duration_s"].max() <= 0.03 + 1e-9
    np.testing.assert_allclose(records["duration_s"][records["error"]], 0.03)
    assert 0.05 < records["error"].mean() < 0.4
    assert len(records["error"]) == figures.requests
    _, chunks = all_chunks(bench, "random", 0.7, 2)
    busy = np.mean([chunk.samples.cpu_util.mean() for chunk in chunks[:-1]])
    assert busy == pytest.approx(0.7, abs=0.03) if works_on else busy < 0.66
    assert chunks[-1].samples.inflight.sum() == 0


def test_what_waits_when_it_is_given_up_is_not_served():
    slow = {"fleet": {"kind": "matrix", "service_time_s": [[1.0]]}, "service_time": {"kind": "deterministic"}}
    bench = Bench(two_hosts(**slow, slots=1, timeout_s=0.5, works_on=False), 1)
    records, _ = records_of(bench, "random", 0.9, 1)
    assert records["error"].all()
    np.testing.assert_allclose(records["duration_s"], 0.5)


def test_failed_tries_are_repeated_as_often_as_the_scenario_says():
    failing = {"host": 0, "share": 1.0, "after_s": 0.001}
    once, twice = (
        records_of(Bench(two_hosts(failures=[failing], retry_failures=tries), 1), "round_robin", 0.4, 1)
        for tries in (0, 1)
    )
    assert once[0]["error"].mean() == pytest.approx(0.5, abs=0.01)
    assert twice[0]["error"].mean() < 0.01
    assert len(twice[0]["error"]) == len(once[0]["error"])
    timed = two_hosts(timeout_s=0.02, retry_failures=2, works_on=True)
    records, _ = records_of(Bench(timed, 1), "random", 0.3, 1)
    assert records["duration_s"].max() <= 0.06 + 1e-9
    assert records["duration_s"][~records["error"]].max() > 0.02


def test_hosts_drift_as_one_and_classes_of_hosts_do():
    fleet = {"kind": "classes", "hosts": 6, "classes": 3, "categories": 4}
    drifts = [
        {"kind": "wander", "of": "host", "period_s": 5},
        {"kind": "spells", "of": "class", "low": 0.2, "period_s": 8},
    ]
    for drift in drifts:
        given = two_hosts(fleet=fleet, drift=drift)
        service = Bench(given, 1).fleet.service_s
        relative = service / service[:1]
        assert np.ptp(relative, axis=0).max() > 0.05
        np.testing.assert_allclose(relative, np.broadcast_to(relative[:, :1], relative.shape))
        if drift["of"] == "class":
            classes = host_classes(given)
            for number in range(3):
                of_class = relative[:, 0, classes == number]
                np.testing.assert_allclose(of_class, np.broadcast_to(of_class[:, :1], of_class.shape))
            assert set((relative / relative.max()).round(3).ravel()) <= {1.0, 0.2, 0.04}
            slow = (service > 2 * service.min(axis=0)).mean()
            assert slow == pytest.approx(0.25, abs=0.1)
    both = two_hosts(fleet=fleet, drift=drifts)
    assert fleet_capacity_rps(Bench(both, 1).fleet, 0) > 0


def test_several_hosts_slow_down_at_once():
    slow = two_hosts(antagonists=[{"host": [0, 1], "at_s": 5, "for_s": 5, "factor": 5}])
    service = Bench(slow, 1).fleet.service_s
    np.testing.assert_allclose(service[5:10], 0.05)
    np.testing.assert_allclose(service[10:], 0.01)


@pytest.mark.parametrize("sharing", ["slots", "processor"])
def test_a_lost_host_with_everything_at_once_loses_no_request(sharing):
    """Losses, failures, timeouts, retries and giving up together: every request is told of once."""
    mixed = two_hosts(
        sharing=sharing,
        slots=2,
        events=[{"host": 1, "at_s": 5, "kind": "fail"}, {"host": 1, "at_s": 9, "kind": "join"}],
        failures=[{"host": 0, "share": 0.3, "after_s": 0.02}],
        timeout_s=0.05,
        works_on=False,
        retry_failures=1,
    )
    records, figures = records_of(Bench(mixed, 1), "least_request_full", 0.6, 2)
    assert len(np.unique(records["sent_s"])) == len(records["sent_s"]) == figures.requests
    _, chunks = all_chunks(Bench(mixed, 1), "least_request_full", 0.6, 2)
    assert chunks[-1].samples.inflight.sum() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"failures": [{"host": 7}]}, "host 7 of 2"),
        ({"failures": [{"host": 0, "category": 3}]}, "category 3 of 1"),
        ({"crowding": [[0.1]]}, "crowding needs 2 numbers"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_bad_physics_is_refused(change, message):
    with pytest.raises((FingerpostError, ValueError), match=message):
        two_hosts(**change)
