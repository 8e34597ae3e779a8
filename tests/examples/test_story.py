"""What the demo begins from, what it reads out of Envoy's log, and the page it makes of it."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from examples.demo.classes import DemoHost, Job, demo_hosts
from examples.demo.host import DemoHostApp
from examples.demo.measured import (
    by_second_of_job,
    figures,
    job_figures,
    of_policies,
    requests_between,
    without_beginnings,
)
from examples.demo.new_story import make_room, told_before
from examples.demo.processes import Layout, demo_settings, host_command
from examples.demo.report import job_in_words, write_report
from examples.demo.story import Told
from fingerpost.abtest.promotion.promote import set_hold
from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.settings import Settings
from fingerpost.training.registry import FORMER_TAG, HOLD_TAG, WATCH_TAG
from tests.support.registry_harness import registry_settings

BEGIN = 1_790_000_000.0


def log_line(at_s, duration_s, arm):
    decision = ";".join([arm, "", "", arm, "1", "t1", "0.95", "0.01", "POST /work/hash"])
    entry = {
        **{"start": f"{BEGIN + at_s:.6f}", "host": "h1", "method": "POST", "path": "/work/hash", "status": 200},
        **{"bytes_in": 0, "bytes_out": 1, "duration_us": duration_s * 1e6, "user_agent": "curl/8"},
        **{"api_key": "false", "cookie": "false", "decision": decision},
    }
    return json.dumps(entry).encode()


@pytest.fixture
def access_log(tmp_path):
    """Forty seconds in turns of ten, a request a tenth of a second; least request takes twice as long."""
    arms = ["fingerpost", "least_request"]
    lines = [log_line(place / 10, 0.02 * (1 + place // 100 % 2), arms[place // 100 % 2]) for place in range(400)]
    path = tmp_path / "access.log"
    path.write_bytes(b"\n".join([lines[0], b"broken", *lines[1:], b""]))
    return path


def test_requests_are_read_by_their_ends(access_log):
    found = requests_between(access_log, "shop", BEGIN + 10, BEGIN + 20)
    assert len(found) == 100
    assert found["at_s"].is_monotonic_increasing
    assert requests_between(access_log, "shop", BEGIN + 100, BEGIN + 200).empty
    assert figures(found.iloc[:0])["requests"] == 0


def test_the_beginnings_of_turns_are_left_out(access_log):
    found = without_beginnings(requests_between(access_log, "shop", 0, 2 * BEGIN), "arm", 2.0)
    told = {arm: figures(found[found["arm"] == arm]) for arm in ("fingerpost", "least_request")}
    assert told["fingerpost"]["p50_s"] == pytest.approx(0.02)
    assert told["least_request"]["p50_s"] == pytest.approx(0.04)
    assert told["fingerpost"]["requests"] == pytest.approx(160, abs=2)
    turn = (found["at_s"] - BEGIN) % 10
    assert turn.min() >= 2.0 - 0.05


def test_the_page_shows_what_happened(access_log, tmp_path):
    told = Told([("by turns", BEGIN, BEGIN + 20), ("a <change>", BEGIN + 20, BEGIN + 40)], {"drift": {"cells": ["x"]}})
    write_report(told, access_log, "shop", [tmp_path / "none.png"], tmp_path / "report.html", [])
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "a &lt;change&gt;" in page
    assert "drift" in page


def test_nothing_measured_makes_a_page_too(tmp_path):
    log = tmp_path / "access.log"
    log.touch()
    assert isinstance(requests_between(log, "shop", 0, 1), pd.DataFrame)
    write_report(Told([("by turns", 0.0, 1.0)], {}), log, "shop", [], tmp_path / "report.html", [])
    assert (tmp_path / "report.html").exists()


JOB = Job(every_s=30, for_s=6, times=4, after_s=2)
# A job begins here: a multiple of the period, and two seconds.
JOB_BEGIN = BEGIN - BEGIN % 30 + 2


def job_requests():
    """Ten requests a second over three jobs by each of three: one who leaves h1 in time, one who does not, another."""
    rows = []
    for tenth in range(900):
        since = tenth / 10 - 15
        sent = JOB_BEGIN + since
        slow = (since % 30) < 6
        ahead = (since % 30) >= 27
        for policy, version, leaves in (
            ("fingerpost", "2", True),
            ("least_request", "", False),
            ("fingerpost", "1", False),
        ):
            host = "h2" if leaves and (slow or ahead) else ("h1" if tenth % 2 else "h2")
            duration = 0.4 if slow and host == "h1" else 0.1
            row = (sent + duration + 0.05, duration, 200.0, host, "/work/hash", policy, policy, version)
            rows.append((row[0] - 0.05, *row[1:]))
    names = ["at_s", "duration_s", "status", "host", "route", "policy", "arm", "model_version"]
    return pd.DataFrame(rows, columns=names)


def test_a_job_runs_at_regular_times_known_from_the_clock_alone():
    assert [JOB.runs(JOB_BEGIN + at) for at in (-0.1, 0.0, 5.9, 6.1, 30.1)] == [False, True, True, False, True]
    assert JOB.since(np.array([JOB_BEGIN - 3, JOB_BEGIN + 4, JOB_BEGIN + 44])).tolist() == [-3, 4, 14]


@pytest.mark.parametrize("wrong", [{"for_s": 30}, {"for_s": 0}, {"times": 0.5}, {"times": 1000}])
def test_a_job_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="for_s must be"):
        Job(**{"every_s": 30, "for_s": 6, "times": 4, **wrong})


def test_one_host_of_every_fleet_has_a_job_and_its_process_is_told():
    for count in (3, 6, 24):
        hosts = demo_hosts(count, 9100)
        (with_job,) = [each for each in hosts if each.job]
        assert with_job.name == "storage-1"
        command = host_command(with_job)
        assert command[command.index("--job") + 1 :] == ["30.0", "6.0", "12.0"]
        assert "--job" not in host_command(hosts[0])


def test_a_host_is_slow_while_its_job_runs_and_only_then(monkeypatch):
    slept = []
    now = [JOB_BEGIN]
    app = DemoHostApp("storage", "shop", "storage-1", None, JOB)
    monkeypatch.setattr("examples.demo.host.time.time", lambda: now[0])
    monkeypatch.setattr("examples.demo.host.time.perf_counter", iter([1.0, 1.5, 2.0, 2.5]).__next__)
    monkeypatch.setattr("examples.demo.host.time.sleep", slept.append)
    for now[0] in (JOB_BEGIN + 1, JOB_BEGIN + 7):
        app._do("hash", b"")
    # Four times as long as the half second that the work took.
    assert slept == [1.5]


def test_where_requests_go_around_a_job_is_told_by_who_routed_them():
    by = of_policies(job_requests(), "2")
    ours, peer = (job_figures(by[name], "h1", JOB) for name in ("fingerpost", "least_request"))
    assert (ours["ahead_share"], ours["job_share"], ours["usual_share"]) == (0, 0, 0.5)
    assert (peer["ahead_share"], peer["job_share"], peer["usual_share"]) == (0.5, 0.5, 0.5)
    assert (ours["jobs"], peer["jobs"]) == (3, 3)
    assert (ours["job_p90_s"], peer["job_p90_s"]) == (0.1, 0.4)
    course = by_second_of_job(by["least_request"], "h1", JOB)
    assert course.index.tolist() == list(range(-15, 15))
    assert course.loc[0, "host_p50_s"] == 0.4
    assert course.loc[-1, "host_p50_s"] == 0.1
    assert np.isnan(by_second_of_job(by["fingerpost"], "h1", JOB).loc[0, "host_p50_s"])
    assert job_figures(job_requests().iloc[:0], "h1", JOB)["jobs"] == 0


def test_the_page_shows_the_job_and_says_what_became_of_the_traffic(tmp_path):
    log = tmp_path / "access.log"
    begun = JOB_BEGIN - BEGIN
    lines = [log_line(begun - 15 + at / 10, 0.02, ("fingerpost", "least_request")[at % 2]) for at in range(600)]
    log.write_bytes(b"\n".join(lines))
    hosts = [DemoHost("h1", "storage", 9100, JOB)]
    requests = requests_between(log, "shop", 0, 2 * BEGIN)
    by = {name: job_figures(of, "h1", JOB) for name, of in of_policies(requests, "1").items()}
    found = {"host": "h1", "version": "1", "every_s": 30.0, "for_s": 6.0, **by}
    told = Told([("by turns", BEGIN - 100, BEGIN + 100)], {"job": found})
    write_report(told, log, "shop", [], tmp_path / "report.html", hosts)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert job_in_words(found) in page
    assert (
        "Every 30 s a job makes h1 slow for 6 s. By version 1 it gets 100.0% of the requests in the 3 s before" in page
    )


def test_a_version_that_met_no_job_is_said_to_have_met_none():
    by = of_policies(job_requests(), "9")
    figures_of = {name: job_figures(of, "h1", JOB) for name, of in by.items()}
    text = job_in_words({"host": "h1", "version": "9", "every_s": 30.0, "for_s": 6.0, **figures_of})
    assert "Version 9 met 0 jobs, and least request 3 jobs." in text


@pytest.mark.process
def test_a_story_begins_without_what_the_one_before_ended_with(made):
    registry, settings = made.registry, made.settings
    experiment = Experiment("e1", "shop", "1", "2", 1_790_000_000_000_000, 60, 5, 100)
    registry.set_note(EXPERIMENT_TAG, asdict(experiment))
    set_hold(settings, True, "somebody", "a story that was broken off", None)
    registry.set_note(WATCH_TAG, {"version": "1"})
    registry.set_former_champions(["1"])
    for _ in range(2):
        make_room(settings)
        assert (made.champion, made.challenger) == (None, None)
        assert not {EXPERIMENT_TAG, HOLD_TAG, WATCH_TAG, FORMER_TAG} & registry.tags().keys()
    assert registry.version("1") is not None
    assert registry.version("2") is not None


@pytest.mark.process
def test_a_registry_without_a_model_has_room(tmp_path):
    make_room(registry_settings(tmp_path))


def test_room_is_made_only_in_a_registry_of_its_own(tmp_path):
    own = Settings(home=tmp_path)
    assert not told_before(own)
    (tmp_path / "mlflow.db").touch()
    assert told_before(own)
    assert not told_before(Settings(home=tmp_path, mlflow_url="http://registry.example:5000"))


def test_the_demo_has_a_lake_of_its_own(tmp_path):
    """It is removed at the start of every run: a user's lake must not be."""
    made = demo_settings(Settings(home=tmp_path, lake=tmp_path / "precious"))
    assert made.lake == Layout(made.home).lake == tmp_path / "demo" / "lake"
