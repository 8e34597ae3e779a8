"""What the demo begins from, what it reads out of Envoy's log, and the page it makes of it."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from examples.demo import words
from examples.demo.classes import Job, demo_hosts
from examples.demo.host import DemoHostApp
from examples.demo.measured import (
    figures,
    job_figures,
    of_policies,
    requests_between,
    without_beginnings,
)
from examples.demo.new_story import make_room, told_before
from examples.demo.processes import Layout, demo_settings, host_command
from examples.demo.progress import Progress
from examples.demo.report import chapters, write_report
from examples.demo.stages import SHADOW, Plan, Stages, Told
from fingerpost.abtest.promotion.promote import set_hold
from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.serving.page.stage import Stage, read_stage
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


FOUND = {"requests": 700, "failed": 0, "p50_s": 0.005, "mean_s": 0.006, "p99_s": 0.024}
PLAN = Plan("a <change>", "Hosts become slower.", "The fields turn dark.", "fleet")


def made_page():
    """Numbers of a page, as far as the file looks at them itself."""
    return {"now": BEGIN, "service": "shop", "answers": {"wrong": ["<b>Nothing</b> is wrong."]}}


def test_the_file_has_every_stage_with_its_panel_and_what_it_found():
    told = Told([(PLAN, BEGIN, BEGIN + 20), (SHADOW, BEGIN + 20, BEGIN + 50)], [made_page(), None])
    told.said = {PLAN.title: words.change({**FOUND, "render": FOUND}, {**FOUND, "render": FOUND}, "render")}
    first, change, shadow, panels = chapters(told)
    assert first.answers
    assert first.page["marks"] == [
        {"at": BEGIN, "name": "1. a <change>"},
        {"at": BEGIN + 20, "name": f"2. {SHADOW.title}"},
    ]
    assert change.title == "1. a <change>"
    assert change.panels == ("fleet",)
    assert change.sentences[:2] == [PLAN.now, told.said[PLAN.title][0]]
    assert "p99 24 ms (700 requests)" in change.sentences[1]
    assert change.sentences[-1] == "It took 20 s."
    assert shadow.page is None
    assert panels.panels == ("fleet", "traffic", "predictions", "model", "worth", "pipeline")


def test_the_file_is_whole_and_nothing_in_it_becomes_markup(tmp_path):
    told = Told([(PLAN, BEGIN, BEGIN + 20)], [made_page()], said={PLAN.title: ["</script><script>alert(1)</script>"]})
    write_report(told, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<change>" not in page
    assert "<b>Nothing" not in page
    assert "</script><script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert "import {" not in page.rpartition('<script type="module">')[2]
    told = page.partition('id="chapters">')[2].partition("</script>")[0]
    assert json.loads(told)[1]["sentences"][1] == "</script><script>alert(1)</script>"


def test_a_story_that_came_to_nothing_makes_a_file_too(tmp_path):
    write_report(Told([(PLAN, 0.0, 1.0)], [None]), tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


def test_what_was_found_is_said_in_sentences():
    found = {"fingerpost": FOUND, "least_request": {**FOUND, "requests": 0}}
    assert words.side_by_side(found, "the model") == [
        "Routed by the model: median 5 ms, p99 24 ms (700 requests). By Envoy's least request, in turns with it: "
        "no requests."
    ]
    skill = {"throughput_rps": -0.014}
    trained = {"model_version": "1", "champion": False, "reason": "it is no better", "skill": skill}
    assert "does not serve, the baseline goes on: it is no better." in words.first_model(trained, 5)[0]
    effect = {"metric": "p99", "estimate": 1.0421, "unit": "ratio", "low": 0.0, "high": None}
    of = {"verdict": "no difference", "pairs": 8, "why": "no interval excludes 1.", "effects": {"p99": effect}}
    assert words.experiment(of) == [
        "The experiment: no difference after 8 pairs. No interval excludes 1.",
        "p99: 1.04 (ratio).",
    ]
    assert words.experiment({**of, "effects": {"p99": {**effect, "low": 0.27, "high": 2.79}}})[1].endswith(
        "(ratio), 0.27 to 2.79."
    )
    told = {"reasons": ["a", "b", "c", "d"], "cells": [f"h{n}" for n in range(9)], "trained": "2"}
    cells, trained = words.drift(told)[-2:]
    assert cells == "Cells that changed: h0, h1, h2, h3, h4, h5 and others."
    assert trained == "Version 2 was trained."


def test_the_page_is_told_of_each_stage_while_it_is_under_way(tmp_path):
    path = tmp_path / "stage.json"
    stages = Stages(path, 2, lambda: None, Progress(Console(quiet=True)))
    with stages.stage(PLAN):
        told = read_stage(path)
        assert (told["number"], told["of"], told["title"], told["found"]) == (1, 2, "a <change>", [])
    stages.say("It was dark.")
    with stages.stage(SHADOW):
        assert read_stage(path)["found"] == ["It was dark."]
    stages.over()
    assert read_stage(path)["number"] == 2
    assert [plan for plan, _, _ in stages.told.chapters] == [PLAN, SHADOW]
    assert stages.told.pages == [None, None]


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"number": "x"}', "\xff", "[" * 5000])
def test_what_is_no_stage_is_none(tmp_path, told):
    path = tmp_path / "stage.json"
    assert read_stage(path) is None
    path.write_text(told, encoding="latin-1")
    assert read_stage(path) is None


def test_a_stage_is_cut_to_what_can_be_shown(tmp_path):
    path = tmp_path / "stage.json"
    Stage(1, 2, "x" * 5000, "", "", "fleet", 0.0, ["y"] * 50).write(path)
    told = read_stage(path)
    assert len(told["title"]) < 1000
    assert len(told["found"]) < 10


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
    assert job_figures(job_requests().iloc[:0], "h1", JOB)["jobs"] == 0


def test_a_version_that_met_no_job_is_said_to_have_met_none():
    by = of_policies(job_requests(), "9")
    figures_of = {name: job_figures(of, "h1", JOB) for name, of in by.items()}
    text = words.job({"host": "h1", "version": "9", "every_s": 30.0, "for_s": 6.0, **figures_of})
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
