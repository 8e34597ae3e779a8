"""`fingerpost status`: what is said of parts, engine, table, model and disk, and what counts as a problem."""

import json
import os

import pytest

from fingerpost.cli.stack.state import PartState, read_states, write_state
from fingerpost.cli.stack.status import Engine, Seen, Serves, Status, told
from fingerpost.home import Disk
from fingerpost.locks import Owner

pytestmark = pytest.mark.process

NOW = 1_000_000.0
OWNER = Owner(7, "engine on port 3000")
ROOM = Disk(2**40, None)


def part(name="engine", state="up", owner=OWNER, **changes):
    values = {"pid": 8, "since": NOW - 90, "written": NOW - 1, "log": f"/logs/{name}.log", **changes}
    return Seen(PartState(name, state, **values), owner)


def status(tmp_path, *parts, **changes):
    values = {
        "home": tmp_path,
        "parts": parts or (part(),),
        "engine": Engine(True, True),
        "has_router": True,
        "table_age_s": 1.0,
        "table_ttl_s": 30.0,
        "model_version": "3",
        "disk": ROOM,
        "low_mb": 1024.0,
        **changes,
    }
    return Status(**values)


def test_all_is_well(tmp_path):
    found = status(tmp_path)
    assert found.problems(NOW) == []
    assert told(found, NOW).splitlines() == [
        "engine    up        for 90 s, pid 8",
        "table     1.0 s old",
        "model     version 3",
        "disk      1024.0 GB left",
        "all is well",
    ]
    assert json.loads(json.dumps(found.to_json(NOW)))["ok"]


@pytest.mark.parametrize(
    ("serves", "line"),
    [
        (Serves("3", 1.0, ""), "version 3"),
        (Serves("3", 0.75, "worse in some"), "version 3 in 75% of the categories (worse in some)"),
        (Serves("", 0.0, "better since noon"), "the baseline (better since noon)"),
        (Serves("", 0.0, ""), "the baseline"),
    ],
)
def test_who_predicts_is_told(tmp_path, serves, line):
    found = status(tmp_path, engine=Engine(True, True, serves={"shop": serves}))
    assert f"predicts  {line} for shop" in told(found, NOW).splitlines()
    assert found.to_json(NOW)["engine"]["serves"]["shop"]["reason"] == serves.reason
    assert found.problems(NOW) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": ()}, "nothing runs in"),
        ({"parts": (part(owner=None),)}, "engine is gone: its `fingerpost up` has died"),
        ({"parts": (part(state="silent"),)}, "engine is silent for 90 s; its log is /logs/engine.log"),
        ({"parts": (part(state="resigned"),)}, "engine is resigned"),
        ({"parts": (part(written=NOW - 300),)}, "`fingerpost up` (pid 7) hangs, or cannot write to the disk"),
        ({"engine": Engine(False)}, "the engine does not answer"),
        ({"engine": Engine(True, True, {"registry": "gone"})}, "engine: registry: gone"),
        ({"table_age_s": None}, "no routing table yet"),
        ({"table_age_s": 31.0}, "the routing table is 31 s old"),
        ({"disk": Disk(2**20, None)}, "1 MB left on the disk"),
        ({"disk": Disk(2**40, 3)}, "only 3 files can be made on the disk"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, changes, words):
    found = status(tmp_path, **changes)
    [problem] = found.problems(NOW)
    assert words in problem
    assert told(found, NOW).endswith(f"PROBLEM   {problem}")
    assert found.to_json(NOW)["problems"] == [problem]


def test_a_home_that_is_no_folder_is_named(tmp_path):
    home = tmp_path / "home"
    home.write_text("")
    (problem,) = status(home).problems(NOW)
    assert problem == f"{home} is no folder: name another as FINGERPOST_HOME"


def test_what_is_not_here_is_no_problem(tmp_path):
    found = status(tmp_path, part("envoy"), engine=None, has_router=False, table_age_s=None, model_version="")
    assert found.problems(NOW) == []
    assert "none yet: the baseline predicts" in told(found, NOW)


def test_the_last_death_is_told(tmp_path):
    dead = part(
        restarts=2, last_error="engine (pid 5) was ended by SIGKILL; its log\n  ends so", last_error_at=NOW - 600
    )
    lines = told(status(tmp_path, dead), NOW).splitlines()
    assert lines[0].endswith("2 restarts")
    assert lines[1].strip() == "10 min ago: engine (pid 5) was ended by SIGKILL; its log"


def test_states_are_read_back_and_rubbish_is_passed_over(tmp_path):
    state = PartState("engine", "up", os.getpid(), 1.0, "http://x", "/l", 2, "died", 3.0, 4)
    write_state(tmp_path, state)
    (tmp_path / "run" / "router.json").write_text('{"name": "router", "unknown": 1}')
    (tmp_path / "run" / "envoy.json").write_text("[")
    assert read_states(tmp_path) == [state]
