"""What `fingerpost doctor` finds, and what it says to do."""

import json
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.cli.stack.checkup import (
    ERROR,
    OK,
    WARNING,
    Check,
    check_clock,
    check_engine,
    check_home,
    check_log,
    check_names,
    check_picker,
    check_proxy_agent,
    check_roles,
    check_table,
    names_of_endpoints,
    worst,
)
from fingerpost.clock import clock_us
from fingerpost.locks import sole
from fingerpost.routing.envoy.clusters import discovery_response
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.settings import get_settings

NOW = 1_790_000_000.0
TABLE = Path("/var/lib/fingerpost/shop.table")


def date(seconds):
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


@given(st.floats(-1e6, 1e6), st.floats(0, 4.9))
def test_a_clock_is_judged_by_the_step_of_the_header_and_the_time_of_the_answer(ahead_s, took_s):
    """However late within its call the engine looked at its clock, a skew within the bound is never an error."""
    found = check_clock(date(int(NOW)), NOW + ahead_s, NOW + ahead_s + took_s, 5.0)
    if abs(ahead_s) <= 4.9 - took_s:
        assert found.level == OK
    if abs(ahead_s) > 5.0 + 1.0 + took_s:
        assert found.level == ERROR
        assert ("ahead" if ahead_s > 0 else "behind") in found.found


def test_an_answer_without_a_date_tells_no_time():
    assert check_clock(None, NOW, NOW, 5.0).level == WARNING
    assert check_clock("yesterday", NOW, NOW, 5.0).level == WARNING


@pytest.mark.parametrize(
    ("status", "token", "level", "told"),
    [
        (200, False, OK, "answers"),
        (None, False, ERROR, "does not answer"),
        (401, False, ERROR, "refuses"),
        (401, True, ERROR, "refuses"),
        (503, True, ERROR, "answers 503"),
    ],
)
def test_an_engine_answers_or_it_is_said_why_not(status, token, level, told):
    found = check_engine("http://10.0.0.9:3000", status, "because", token)
    assert (found.level, told in found.found) == (level, True)
    assert bool(found.cure) == (level != OK)


def test_names_that_differ_are_named():
    assert check_names(["a", "b"], ["b", "a"], "the log") == [
        Check(OK, "names", "2 hosts are called the same in table and the log")
    ]
    [strange, absent] = check_names(["a", "b"], ["b", "web-3"], "the log")
    assert (strange.level, absent.level) == (WARNING, WARNING)
    assert "web-3" in strange.found
    assert "a in the engine's table" in absent.found
    # Not one in common: nothing is predicted at all.
    assert check_names(["a"], ["b"], "the log")[0].level == ERROR
    assert check_names(["a"], [], "the log") == []


def test_a_table_is_valid_expired_broken_or_not_there():
    levels = [
        check_table(TABLE, round((NOW + 20) * 1e6), "7", "", round(NOW * 1e6)).level,
        check_table(TABLE, round((NOW - 20) * 1e6), "7", "", round(NOW * 1e6)).level,
        check_table(TABLE, None, "", "table:checksum", round(NOW * 1e6)).level,
        check_table(TABLE, None, "", "", round(NOW * 1e6)).level,
    ]
    assert levels == [OK, ERROR, ERROR, WARNING]


def test_a_log_in_another_format_is_an_error():
    log = Path("access.log")
    assert check_log(log, 100, 100, "", 1.0).level == OK
    assert check_log(log, 0, 0, "", 1.0).level == WARNING
    assert "line:malformed" in check_log(log, 100, 50, "line:malformed", 1.0).found
    assert check_log(log, None, 0, "Permission denied", 0.0).level == ERROR


def test_the_agent_of_a_proxy_runs_and_reports_or_it_is_said_why_not():
    assert "start `fingerpost agent --proxy edge" in check_proxy_agent("edge", None, None, 1.0, 10.0).cure
    assert check_proxy_agent("edge", 7, 12.0, 1.0, 10.0).level == OK
    assert check_proxy_agent("edge", 7, None, 3600.0, 10.0).level == OK, "no request has come"
    for silent_s, told in ((None, "no window yet"), (100.0, "no window for 100 s")):
        found = check_proxy_agent("edge", 7, silent_s, 1.0, 10.0)
        assert found.level == ERROR
        assert told in found.found


def test_a_home_that_moves_with_the_working_directory_is_told():
    [_, moving] = check_home(Path(".fingerpost"), True, None, "")
    assert moving.level == WARNING
    assert [each.level for each in check_home(Path("/srv"), False, None, "")] == [ERROR]
    levels = [each.level for each in check_home(Path("/srv"), True, "others can read /srv: chmod 700 /srv", "full")]
    assert levels == [OK, WARNING, ERROR]


def test_an_envoy_that_the_picker_was_not_tested_with_is_told():
    assert [each.level for each in check_picker(True, False, "1.40.2", "1.40")] == [OK, OK]
    assert [each.level for each in check_picker(False, False, "1.41.0", "1.40")] == [WARNING, ERROR]
    assert [each.level for each in check_picker(False, True, None, "1.40")] == [OK]


def test_the_roles_installed_are_named():
    assert check_roles({"agent": [], "engine": ["bentoml"]}).found == "installed: agent"
    assert check_roles({"agent": ["psutil"]}).level == WARNING


def test_endpoints_are_known_by_their_names():
    hosts = [Upstream("a", "10.0.0.1", 80), Upstream("b", "10.0.0.2", 80, "east", True)]
    assert names_of_endpoints(discovery_response(hosts, "hosts", "1")) == {"a", "b"}
    assert names_of_endpoints({"resources": [1]}) == set()


def test_the_worst_level_counts():
    checks = [Check(OK, "a", ""), Check(WARNING, "b", ""), Check(ERROR, "c", "")]
    assert [worst(checks[:number]) for number in (1, 2, 3)] == [OK, WARNING, ERROR]


@pytest.mark.process
def test_the_command_says_what_to_do_where_nothing_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("FINGERPOST_HOME", str(tmp_path))
    (tmp_path / "access.log").write_text("nonsense\n" * 3)
    get_settings.cache_clear()
    done = CliRunner().invoke(app, ["doctor", "--engine-url", "http://127.0.0.1:9", "--proxy", "edge", "--json"])
    get_settings.cache_clear()
    assert done.exit_code == 1
    found = {each["about"]: each for each in json.loads(done.stdout)["checks"]}
    assert found["engine"]["level"] == ERROR
    assert found["engine"]["cure"] == "start it, or set FINGERPOST_ENGINE_URL"
    assert "3 of the last 3 lines" in found["access log"]["found"]
    assert "no agent of proxy edge runs" in found["proxy agent"]["found"]


@pytest.mark.process
def test_the_agent_of_a_proxy_is_found_by_its_lock_and_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("FINGERPOST_HOME", str(tmp_path))
    (tmp_path / "nginx.log").write_text("nonsense\n" * 3)
    state = tmp_path / "lake" / "agents" / "service=shop"
    get_settings.cache_clear()
    with sole(state / "proxy=edge.lock", "it runs"):
        (state / "proxy=edge.json").write_text(json.dumps({"closed_us": clock_us() - 300_000_000}))
        log = str(tmp_path / "nginx.log")
        arguments = ["--engine-url", "http://127.0.0.1:9", "--proxy", "edge", "--access-log", log]
        done = CliRunner().invoke(app, ["doctor", *arguments, "--log-format", "combined", "--json"])
    get_settings.cache_clear()
    found = {each["about"]: each for each in json.loads(done.stdout)["checks"]}
    assert re.search(r"has reported no window for 3\d\d s, though the log is written", found["proxy agent"]["found"])
    assert "line:malformed" in found["access log"]["found"]
