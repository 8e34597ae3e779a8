"""The judge of the chaos suite: it must see what is lost, doubled or broken, and excuse nothing else."""

import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from benchmarks.chaos.clock import Clock
from benchmarks.chaos.judge import judge_records, logged_ids, unexcused
from benchmarks.chaos.load import Failure, Id, Told, request_id
from benchmarks.chaos.platform import chaos_settings
from benchmarks.chaos.soak import _row as soak_row
from fingerpost.features.ingest import ingest, remember_hosts
from fingerpost.routing.envoy.module import compiler
from tests.support.agent_harness import agent, log_line


def log(path, *numbers, cut=b""):
    with path.open("ab") as file:
        for number in numbers:
            which = request_id(number)
            file.write(log_line(bytes_in=which.bytes_in, bytes_out=which.bytes_out) + b"\n")
        file.write(cut)


def test_ids_tell_requests_apart_by_their_sizes():
    assert len({request_id(number) for number in range(20_000)}) == 20_000
    assert request_id(0) == Id(1, 1)


def test_every_line_of_the_log_and_of_those_before_it_counts_but_not_cut_ones(tmp_path):
    log(tmp_path / "access.log.1", 0, 1)
    log(tmp_path / "access.log", 2, 2, cut=b'{"status": 200, "host": "h1", "bytes_')
    assert logged_ids(tmp_path) == Counter({request_id(0): 1, request_id(1): 1, request_id(2): 2})


@pytest.fixture
def recorded(tmp_path):
    """A home whose log has five requests, all of them in the lake."""
    log(tmp_path / "access.log", *range(5))
    each = agent(tmp_path)
    each.read()
    each.report()
    settings = chaos_settings(tmp_path)
    remember_hosts(settings.lake, settings.service, ["h1"])
    ingest(settings.lake, settings.service, settings.clock_skew_s, 86_400)
    return settings


def test_what_is_recorded_once_is_neither_lost_nor_doubled(recorded):
    told = Told(answered={request_id(number): 0.0 for number in range(6)})
    found = judge_records(recorded, told)
    assert (found.logged, found.in_lake, found.lost, found.doubled) == (5, 5, 0, 0)
    assert found.unlogged == 1


def test_what_is_lost_and_what_is_doubled_is_seen(recorded):
    log(recorded.home / "access.log", 5, 6)
    [batch] = (recorded.lake / "requests").rglob("*.parquet")
    batch.with_name(f"again-{batch.name}").write_bytes(batch.read_bytes())
    found = judge_records(recorded, Told())
    assert (found.lost, found.doubled, found.set_aside) == (2, 5, 0)
    assert f"lost {request_id(5)}" in found.examples


def test_only_what_was_in_flight_when_something_was_killed_may_fail():
    told = Told(failures=[Failure(9.0, 10.2, "cut"), Failure(3.0, 3.1, "503"), Failure(11.0, 11.1, "502")])
    assert unexcused(told, [10.0]) == ["503", "502"]
    assert unexcused(told, []) == ["cut", "503", "502"]


def test_memory_that_grows_is_told_from_memory_that_varies():
    grown = [{"MB engine": 300.0 + 4 * number} for number in range(40)]
    varied = [{"MB engine": 300.0 + 20 * (number % 2)} for number in range(40)]
    assert soak_row("MB engine", grown)["grows"]
    assert not soak_row("MB engine", varied)["grows"]


@pytest.mark.process
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_the_clock_jumps_for_what_runs_and_waits_stay_true(tmp_path):
    clock = Clock(tmp_path)
    clock.set(3600)
    code = "import json, time; begin = time.time(); time.sleep(0.01); print(json.dumps([begin, time.time()]))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=clock.environment, capture_output=True, text=True, check=True
    )
    begin, end = json.loads(done.stdout)
    assert 3500 < begin - time.time() < 3700
    assert 0 < end - begin < 60
