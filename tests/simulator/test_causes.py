"""What slows hosts down: its schedule persists from day to day, what a day draws does not, and the kernel obeys."""

from pathlib import Path

import numpy as np
import pytest

from fingerpost.routing.cost import cost_at
from fingerpost.simulator.causes import Churn, Cold, Jobs, Restarts, churned, cold_factors, job_factors, restart_times
from fingerpost.simulator.choice import OWN, fingerpost
from fingerpost.simulator.control import Control
from fingerpost.simulator.fleet import build_fleet
from fingerpost.simulator.predictions import Average, Clairvoyant, Ewma
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import load_scenario
from fingerpost.simulator.simulation import Chunk, HostSamples, Records
from tests.support.simulated import all_chunks, one_host, scenario

JOBS = Jobs(share=0.5, period_s=(100, 200), for_s=(10, 20), jitter_s=0, factor=(3, 5))
ANTICIPATION = Path(__file__).parents[2] / "simulator" / "scenarios" / "anticipation"
STEADY = {"service_time": {"kind": "deterministic"}, "picker": {"exploration": 0}}


def begins(factors):
    """Seconds between the beginnings of a host's jobs."""
    slow = factors > 1
    return np.diff(np.flatnonzero(slow[1:] & ~slow[:-1]))


def test_a_hosts_jobs_keep_their_period_and_length_on_another_day_but_not_their_time():
    one, other = (job_factors(JOBS, 8, 3000, 1.0, seed=1, day=day) for day in (1, 2))
    affected = (one > 1).any(axis=0)
    assert affected.sum() == 4
    np.testing.assert_array_equal(affected, (other > 1).any(axis=0))
    np.testing.assert_array_equal(one.max(axis=0), other.max(axis=0))
    assert not np.array_equal(one, other)
    for host in np.flatnonzero(affected):
        every = begins(one[:, host])
        assert np.ptp(every) <= 1  # seconds: jobs begin at whole ticks
        assert every.mean() == pytest.approx(begins(other[:, host]).mean(), abs=0.5)
        assert 100 <= every.mean() <= 200


def test_jitter_moves_single_jobs_by_no_more_than_it_says():
    steady = job_factors(JOBS, 8, 3000, 1.0, seed=1, day=1)
    moved = job_factors(JOBS.model_copy(update={"jitter_s": 5.0}), 8, 3000, 1.0, seed=1, day=1)
    for host in np.flatnonzero((steady > 1).any(axis=0)):
        every = begins(moved[:, host])
        assert np.ptp(every) > 1
        assert np.abs(every - begins(steady[:, host]).mean()).max() <= 2 * 5 + 1


def test_the_fleet_of_another_day_has_the_same_hosts():
    described = scenario(jobs=[JOBS.model_dump()], duration_s=900)
    one, other = build_fleet(described, 1), build_fleet(described, 1, drift_seed=77)
    np.testing.assert_allclose(one.service_s[0] / one.slowed[0], other.service_s[0] / other.slowed[0])
    assert not np.array_equal(one.slowed, other.slowed)


def test_a_host_that_joins_is_cold_and_recovers_by_1_over_e():
    factors = cold_factors(Cold(factor=5, recovers_s=10), 60, 1.0, [(20.0, 1)], 3)
    assert (factors[:, [0, 2]] == 1).all()
    assert (factors[:20, 1] == 1).all()
    assert factors[20, 1] == 5
    assert factors[30, 1] == pytest.approx(1 + 4 / np.e)


def test_hosts_restart_within_the_range_and_others_on_another_day():
    restarts = Restarts(every_s=(50, 100), down_s=10)
    times = restart_times(restarts, 3, 1000, day=1)
    for host in range(3):
        apart = np.diff([at_s for at_s, of in times if of == host])
        assert len(apart) > 5
        assert (apart >= 60).all() and (apart <= 110).all()
    assert times != restart_times(restarts, 3, 1000, day=2)


def test_each_host_of_a_churn_joins_once_and_the_oldest_leaves():
    first, moves = churned(Churn(every_s=10, share=0.5), 8, 1000, day=1)
    joins, leaves = [each[1] for each in moves], [each[2] for each in moves]
    assert [each[0] for each in moves] == [10, 20, 30, 40]
    assert sorted([*first, *joins]) == list(range(8))
    assert leaves == list(first)


def test_a_host_that_leaves_ends_its_requests_and_gets_no_more_until_it_joins():
    events = [{"host": 0, "at_s": 10, "kind": "leave"}, {"host": 0, "at_s": 20, "kind": "join"}]
    bench = Bench(scenario(events=events, warmup_s=0, duration_s=30, retries=0), 1)
    figures, chunks = all_chunks(bench, "least_request", 0.5, 2)
    sent, host = (np.concatenate([getattr(chunk.records, name) for chunk in chunks]) for name in ("sent_s", "host"))
    assert figures.errors == 0
    of = sent[host == 0]
    assert not ((of > 10.1) & (of < 20.9)).any()
    assert (of > 21.1).any()


def test_a_reservoir_slows_a_host_at_its_limit_until_it_has_drained():
    """A host that is always busy fills 1 a second less 0.5; once it is slow, 0.25 less 1."""
    drained = {"share": 1, "limit_s": [20, 20], "resume": 0.4, "drain": 0.5, "slow_drain": 1.0, "factor": 4}
    full = one_host(1, 0.01, reservoir=drained, duration_s=300, warmup_s=0, **STEADY)
    bench = Bench(full, 1)
    _, chunks = all_chunks(bench, "least_request", 1.5, 1)
    slow = np.array([chunk.samples.slowed[0] > 1 for chunk in chunks[:-1]])
    edges = np.diff(np.flatnonzero(np.diff(slow.astype(int))))[1:] * 0.25
    assert edges[:3] == pytest.approx([(20 - 8) / 0.5, (20 - 8) / 0.75, (20 - 8) / 0.5], abs=0.5)
    took = np.concatenate([chunk.records.service_time_s for chunk in chunks])
    assert set(took.round(6)) == {0.01, 0.04}
    levels = np.array([chunk.samples.level[0] for chunk in chunks])
    assert levels.min() >= 0 and levels.max() <= 1.02


def test_a_host_that_nobody_sends_to_recovers_too():
    """Between two requests, hours apart, time fills and empties it again and again."""
    filled = {"share": 1, "limit_s": [20, 20], "resume": 0.5, "by_work": 0, "by_time": 1, "slow_drain": 2, "factor": 4}
    idle = one_host(1, 1e-6, reservoir=filled, duration_s=100, warmup_s=0)
    _, chunks = all_chunks(Bench(idle, 1), "least_request", 1e-9, 1)
    slow = np.array([chunk.samples.slowed[0] > 1 for chunk in chunks[:-1]])
    edges = np.diff(np.flatnonzero(np.diff(slow.astype(int)))) * 0.25
    assert len(edges) > 8
    # Spans of 0.25 s later at most.
    assert edges[:8:2] == pytest.approx(np.full(4, 5.0), abs=0.6)
    assert edges[1:8:2] == pytest.approx(np.full(4, 10.0), abs=0.6)


def test_requests_are_lengthened_by_the_categories_beside_them_as_the_scenario_says():
    harm = [[0.0, 1.0], [0.0, 0.0]]
    described = scenario(
        fleet={"kind": "matrix", "service_time_s": [[0.01], [0.01]]}, slots=2, harm=harm, duration_s=60, **STEADY
    )
    _, chunks = all_chunks(Bench(described, 1), "least_request", 0.7, 1)
    category, took = (
        np.concatenate([getattr(chunk.records, name) for chunk in chunks]) for name in ("category", "service_time_s")
    )
    assert set(took[category == 0].round(6)) == {0.01, 0.02}
    assert set(took[category == 1].round(6)) == {0.01}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"harm": [[0.0]]}, "harm needs 4 rows of 4 numbers"),
        ({"jobs": [{"period_s": [20, 10]}]}, "period_s: 20 is above 10"),
        ({"jobs": [{"period_s": [20, 30], "for_s": [18, 19]}]}, "do not fit into a period of 20 s"),
        (
            {"sharing": "processor", "reservoir": {"limit_s": [1, 2], "slow_drain": 1, "factor": 2}},
            "a reservoir needs sharing `slots`",
        ),
    ],
)
def test_causes_that_make_no_sense_are_refused(changes, problem):
    with pytest.raises(ValueError, match=problem):
        scenario(**changes)


def chunk_of(begin_s, end_s, took_s, hosts=2, level=None, slowed=1.0):
    """A span in which a request of the first category ended on every host."""
    host, none = np.arange(hosts), np.zeros(hosts, dtype=np.int64)
    end = np.full(hosts, end_s - 0.01)
    records = Records(end - took_s, end, np.full(hosts, took_s), host, none, none, none, none > 0, none > 0)
    levels = np.full(hosts, np.nan if level is None else level)
    beside = np.zeros((hosts, 4), dtype=np.int64)
    ones = np.ones(hosts)
    return Chunk(
        begin_s,
        end_s,
        records,
        HostSamples(ones, none, none + 4, ones, ones > 0, ones * slowed, levels, none > 0, beside),
    )


def test_the_average_learns_of_a_window_when_agents_have_told_of_it():
    described = scenario(predictions={"kind": "average"}, telemetry={"window_s": 10})
    fleet = build_fleet(described, 1)
    average, at_once = Average(described, fleet), Ewma(described, fleet)
    for predictor in (average, at_once):
        predictor.observe(chunk_of(0.0, 10.0, 0.5, hosts=6))
    unknown = average.table(11.0).throughput_rps
    assert (unknown == 1).all()
    np.testing.assert_array_equal(average.table(11.6).throughput_rps, at_once.table(11.6).throughput_rps)
    assert average.table(12.0) is average.table(20.0)


def test_the_clairvoyant_knows_jobs_before_they_begin_and_when_credits_end():
    described = scenario(antagonists=[{"host": 0, "at_s": 10, "for_s": 5, "factor": 5}], predictions={"horizon_s": 2.0})
    fleet = build_fleet(described, 1)
    known = Clairvoyant(described, fleet)
    before, soon, within = (known.table(at_s).latency_s[0, 0] for at_s in (7.0, 9.0, 11.0))
    assert (soon / before, within / before) == pytest.approx((3.0, 5.0))
    credits_ = {"share": 1, "limit_s": [100, 100], "drain": 0.5, "slow_drain": 1.0, "factor": 3}
    described = scenario(reservoir=credits_, predictions={"horizon_s": 2.0})
    known = Clairvoyant(described, build_fleet(described, 1))
    nothing = known.table(0.0).latency_s[0, 0]
    for second in range(1, 11):
        known.observe(chunk_of(second - 1.0, float(second), 0.1, hosts=6, level=0.895 + second / 100))
    # One of a hundred a second, and half of one left: slow for three quarters of the horizon.
    assert known.table(10.0).latency_s[0, 0] / nothing == pytest.approx(1 + 2 * 0.75, rel=0.02)


@pytest.mark.parametrize("path", sorted(ANTICIPATION.glob("*.json")), ids=lambda path: path.stem)
def test_every_scenario_of_foresight_can_be_read(path):
    assert load_scenario(path).past_s == 2400


def test_the_clairvoyant_lets_pickers_see_the_speed_at_the_load_they_add_to():
    crowded = scenario(crowding=[[0.5, 0.0, 0.0, 0.0, 0.0, 0.0]] * 4, slots=3)
    bench = Bench(crowded, 1)
    known = Clairvoyant(crowded, bench.fleet)
    table = known.table(5.0)
    assert table.slowdown[:, 0].tolist() == [0.5, 0, 0, 0, 0, 0]
    assert table.reach.tolist() == [2] * 6
    np.testing.assert_array_equal(table.latency_s, bench.fleet.service_s[5].T)
    control = Control(crowded, known, pickers=1)
    bend, reach = control.costs(0.0)[0, 3:]
    np.testing.assert_array_equal(bend, 1.5 * table.slowdown.T)
    np.testing.assert_array_equal(reach, np.broadcast_to(table.reach, reach.shape))
    # What a host's requests do to each other is not taken for an error of the predictions.
    chunks = []
    assert bench.run("fingerpost", 0.7, 1, chunks.append, known).trust == 1.0
    host, found = (np.concatenate([getattr(each.records, name) for each in chunks]) for name in ("host", "inflight"))
    assert found[host == 0].mean() < found[host == 3].mean()  # of the same class
    flat = Control(scenario(), Average(scenario(), build_fleet(scenario(), 1)), pickers=1)
    assert not flat.costs(0.0)[0, 3:].any()


@pytest.mark.parametrize("seed", range(3))
def test_a_bent_cost_grows_up_to_its_reach(seed):
    rng = np.random.default_rng(seed)
    up, gone, rows = np.ones(6, dtype=np.int64), np.zeros(6), rng.random((5, 6))
    rows[4] = rng.integers(0, 4, 6)
    for _ in range(50):
        own = rng.integers(0, 8, 6)
        cost = cost_at(rows[0], rows[1], own)
        bent = cost * (1 + rows[3] * np.minimum(own, rows[4]))
        assert fingerpost(up, own, gone, gone, rows, OWN, 1, np.array([7])) == bent.argmin()
        assert fingerpost(up, own, gone, gone, rows[:3], OWN, 1, np.array([7])) == cost.argmin()
