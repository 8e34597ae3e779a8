"""`/v1/health` says what is wrong, and not ok while nothing is; a clock that was set back stops nobody."""

import contextlib
import itertools
import json
import logging
import sqlite3
import time
from dataclasses import replace

import httpx
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.clock import clock_us
from fingerpost.engine_api import EngineError
from fingerpost.logs import FewAlike
from fingerpost.serving.health import RefusalRate, disk_problems, table_problems
from fingerpost.serving.views import NO_ARM, Published, ServiceView
from fingerpost.window_report import MEDIA_TYPE, pack, unpack
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet

TTL_S = 6
HOUR_US = 3_600_000_000
SEQUENCE = itertools.count(1)


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(4, 3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home = tmp_path_factory.mktemp("health") / "engine"
    settings = {"mlflow_url": "http://127.0.0.1:9", "fingerprint_ttl_s": TTL_S, "disk_low_mb": 0}
    with RunningEngine(home, free_ports(1)[0], **settings) as running:
        yield running


def health(engine):
    with engine.client() as client:
        return client.health()


def served(engine):
    with engine.client() as client:
        return client.table("shop")


def silent(engine):
    """Whether the engine has no table, and says that all hosts are silent."""
    try:
        served(engine)
    except EngineError as error:
        assert error.status == 404
        return "none has reported" in health(engine)["problems"].get("hosts of shop", "")
    return False


def move_ahead(database, by_us):
    """Changes a store as if all in it had been reported, and had come, by a clock that is ahead."""
    with database:
        database.execute("begin immediate")
        database.execute(
            """update hosts set time_us = time_us + :by, end_us = end_us + :by, received_us = received_us + :by,
            first_seen_us = first_seen_us + :by, change = change + 100""",
            {"by": by_us},
        )
        for change, packed in database.execute("select change, packed from reports").fetchall():
            report = unpack(packed, 0, 2 * clock_us())
            moved = replace(report, time_us=report.time_us + by_us, end_us=report.end_us + by_us)
            database.execute(
                """update reports set time_us = time_us + :by, received_us = received_us + :by,
                first_seen_us = first_seen_us + :by, change = change + 100, packed = :packed where change = :change""",
                {"by": by_us, "packed": pack(moved), "change": change},
            )
        database.execute("update report_changes set value = value + 100")


@pytest.mark.process
def test_without_fingerprints_it_says_so_and_what_to_do(engine):
    found = health(engine)
    assert found["status"] == "degraded"
    assert "start agents" in found["problems"]["hosts"]


@pytest.mark.process
def test_when_much_is_refused_it_says_why(engine):
    for _ in range(12):
        body, headers = b"no gzip", {"content-type": MEDIA_TYPE}
        assert httpx.post(f"{engine.url}/v1/reports", content=body, headers=headers, trust_env=False).is_error
    assert "message:malformed" in health(engine)["problems"]["refused"]


@pytest.mark.process
def test_when_all_hosts_fall_silent_it_says_so(engine, made):
    with engine.client() as client:
        assert client.send_reports(made.packed(next(SEQUENCE)))["accepted"] == 4
        engine.wait_for(lambda: len(json.loads(client.table("shop").body)["hosts"]) == 4)
    assert not {"hosts", "hosts of shop"} & set(health(engine)["problems"])
    engine.wait_for(lambda: silent(engine))
    assert health(engine)["status"] == "degraded"


@pytest.mark.process
def test_after_the_clock_was_set_back_it_takes_what_comes_and_lets_silent_hosts_go(engine, made):
    """What is stored lies an hour ahead, as after a clock that was wrong and was set right."""
    with engine.client() as client:
        client.send_reports(made.packed(next(SEQUENCE)))
        engine.wait_for(lambda: client.table("shop").body)
        with contextlib.closing(sqlite3.connect(engine.home / "fingerprints.db", timeout=20)) as database:
            move_ahead(database, HOUR_US)
        ages = [host["age_s"] for host in httpx.get(f"{engine.url}/v1/hosts", trust_env=False).json()["hosts"]]
        assert max(ages) < -3000
        # Two of the four report on, by a clock that is right; the others are never heard of again.
        sent_s = time.time()

        def told():
            assert client.send_reports(made.packed(next(SEQUENCE))[:2])["accepted"] == 2
            hosts = json.loads(client.table("shop").body)["hosts"]
            return len(hosts) == 2 and min(host["as_of"] for host in hosts) >= sent_s

        engine.wait_for(told)
        assert client.table("shop").stale is None
    engine.wait_for(lambda: silent(engine))
    hosts = httpx.get(f"{engine.url}/v1/hosts", trust_env=False).json()["hosts"]
    assert not any(host["live"] for host in hosts)


def test_refusals_are_told_by_their_share_of_the_last_minutes():
    now = [0.0]
    rate = RefusalRate(lambda: now[0])
    rate.note(1000, {"time:future": 40})
    assert rate.problems() == {}
    rate.note(0, {"time:future": 100, "401": 9})
    assert rate.problems() == {"refused": "149 of 1149 in the last minutes, 140 of them for time:future"}
    now[0] = 61.0
    assert rate.problems() != {}
    now[0] = 122.0
    assert rate.problems() == {}
    rate.note(0, {"401": 9})
    assert rate.problems() == {}
    rate.note(0, {"401": 1})
    now[0] = 1000.0
    assert rate.problems() == {}


def test_full_disks_are_told_once_each(tmp_path):
    folders = {"home": tmp_path, "lake": tmp_path / "not" / "made" / "yet"}
    assert disk_problems(folders, 0) == {}
    found = disk_problems(folders, 1e12)
    assert list(found) == ["disk of home"]
    assert str(tmp_path) in found["disk of home"]


def test_expired_tables_are_told():
    fresh, old, empty = ServiceView("fresh"), ServiceView("old"), ServiceView("empty")
    now_s = time.monotonic()
    fresh._tables = {NO_ARM: Published(None, now_s)}
    old._tables = {NO_ARM: Published(None, now_s - 50.0)}
    empty.publish({}, None, now_s)
    found = table_problems([fresh, old, empty, ServiceView("new")], 30.0, 60.0)
    assert set(found) == {"table of old", "hosts of empty"}
    assert "expired 20 s ago" in found["table of old"]


def test_of_many_alike_lines_a_few_pass_and_the_rest_are_counted():
    now = [0.0]
    few = FewAlike(lambda: now[0])

    def said(text, *arguments, level=logging.WARNING):
        record = logging.LogRecord("engine", level, "", 0, text, arguments, None)
        return record.getMessage() if few.filter(record) else None

    assert [said("no answer for %d s", number) for number in range(5)] == [
        *(f"no answer for {number} s" for number in range(3)),
        None,
        None,
    ]
    assert said("model %s refused", "a") == "model a refused"
    assert said("no answer for %d s", 1, level=logging.INFO) == "no answer for 1 s"
    now[0] = 61.0
    assert said("no answer for %d s", 9) == "no answer for 9 s (2 like it were left out)"
    assert [said("kind %s", "x" * number) for number in range(3000)][-1]
    assert len(few._said) <= 1000
