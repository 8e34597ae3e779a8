"""What the demo begins from, what it reads out of Envoy's log, and the page it makes of it."""

import json
from dataclasses import asdict

import pandas as pd
import pytest

from examples.demo.measured import figures, requests_between, without_beginnings
from examples.demo.new_story import make_room, told_before
from examples.demo.processes import Layout, demo_settings
from examples.demo.report import write_report
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
    write_report(told, access_log, "shop", [tmp_path / "none.png"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "a &lt;change&gt;" in page
    assert "drift" in page


def test_nothing_measured_makes_a_page_too(tmp_path):
    log = tmp_path / "access.log"
    log.touch()
    assert isinstance(requests_between(log, "shop", 0, 1), pd.DataFrame)
    write_report(Told([("by turns", 0.0, 1.0)], {}), log, "shop", [], tmp_path / "report.html")
    assert (tmp_path / "report.html").exists()


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
