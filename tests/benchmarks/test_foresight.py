"""Hosts slow down by rules that are known from outside, and what became of requests around it is told right."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.foresight import CAUSES, Options, Spell, figures, job_spells, made_causes, told_spells
from benchmarks.learning_fleet import learning_settings
from examples.demo.classes import Job
from fingerpost.errors import FingerpostError
from tests.support.sleeping_hosts import Credits, SleepingFleet, SleepingHost, Throttle

BEGIN = 1_790_000_000.0
HOSTS = ["h00", "h01"]


def test_jobs_of_a_span_are_those_that_begin_in_it():
    jobs = [Job(60, 15, 6, 0), None]
    first = BEGIN - BEGIN % 60 + 60
    spells = job_spells(jobs, HOSTS, first - 1, first + 61)
    assert spells == [Spell("h00", first, first + 15), Spell("h00", first + 60, first + 75)]
    assert all(jobs[0].runs(each.begin_s) and jobs[0].runs(each.end_s - 0.1) for each in spells)
    assert not any(jobs[0].runs(each.begin_s - 0.1) or jobs[0].runs(each.end_s + 0.1) for each in spells)


def test_spells_that_hosts_told_are_paired_and_an_open_one_lasts():
    lines = "1 100.000 1\n0 110.000 1\n1 120.000 0\n0 130.000 0\n1 150.000 1\n"
    spells = told_spells(lines, HOSTS, 105.0, 200.0)
    assert spells == [Spell("h00", 110.0, 130.0), Spell("h01", 150.0, 200.0)]


@pytest.mark.parametrize("cause", CAUSES)
def test_causes_are_the_same_for_a_seed_and_of_some_hosts_alone(cause):
    (name, made), (_, again) = (next(iter(made_causes(cause, 1).items())) for _ in range(2))
    assert made == again != made_causes(cause, 2)[name]
    assert len(made) == 10
    assert 0 < sum(each is None for each in made) < 10


def test_an_unknown_cause_is_refused():
    with pytest.raises(FingerpostError, match="'weather' is none of jobs, credits"):
        Options("weather")


def test_credits_are_used_up_by_work_and_come_back():
    throttle, slow = Throttle(Credits(10.0, resume=0.2, drain=0.5, slow_drain=1.0), 0.0), []
    for second in range(1, 41):
        throttle.advance(float(second), 1.0)
        slow.append(throttle.slow)
    # Half a second is used up each second until 10 are, and given back at one a second until 2 are left.
    assert slow == [False] * 19 + [True] * 8 + [False] * 13
    idle = Throttle(Credits(10.0), 0.0)
    idle.advance(1000.0, 0.0)
    assert not idle.slow


def test_what_a_fleet_is_goes_to_its_process_unchanged():
    fleet = SleepingFleet([1, 2], 4, [[0.1, 0.2]], True, [Job(), None], [None, Credits(3.0)], "spells")
    assert SleepingFleet.of_json(fleet.to_json()) == fleet


def test_a_sleeping_host_tells_its_processor_as_an_exporter_does():
    from fingerpost.agent.sampling.exposition import parse_exposition

    reading = parse_exposition(SleepingHost(SleepingFleet([1], 4, [[0.1]]), 0).metrics().splitlines(), {})
    assert reading.busy_s == 0
    assert reading.mem_limit_bytes == 1e9


def test_figures_are_of_requests_by_when_they_were_sent():
    sent = np.arange(0, 100, 0.1)
    # The host leaves the traffic alone in the ten seconds before its spell, and is slow within it.
    ahead, within = (sent >= 40) & (sent < 50), (sent >= 50) & (sent < 60)
    host = np.where(~ahead & (np.arange(len(sent)) % 2 == 0), "h00", "h01")
    took = np.where(within, 1.0, 0.1)
    status = np.full(len(sent), 200.0)
    requests = pd.DataFrame({"at_s": sent + took, "duration_s": took, "status": status, "host": host})
    found = figures(requests, [Spell("h00", 50.0, 60.0)])
    assert (found["requests"], found["failed"], found["spells"], found["spell_requests"]) == (1000, 0, 1, 150)
    assert (found["p50_ms"], found["spell_p99_ms"]) == (100.0, 1000.0)
    assert (found["ahead_share"], found["usual_share"]) == (0.0, pytest.approx(0.5, abs=0.01))
    nothing = figures(requests.iloc[:0], [])
    assert nothing["requests"] == 0
    assert np.isnan(nothing["p99_ms"])


@pytest.mark.process
def test_a_fleet_that_learns_has_a_lake_of_its_own(tmp_path, monkeypatch):
    """What an earlier run reported of other hosts is no telemetry of this fleet."""
    monkeypatch.setenv("FINGERPOST_LAKE", str(tmp_path / "of-the-user"))
    assert learning_settings(tmp_path / "run").lake == tmp_path / "run" / "lake"
