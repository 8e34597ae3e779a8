"""A real engine over HTTP: two workers, a registry on SQLite, and all that may go wrong around it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from fingerpost.announcement import Notice
from fingerpost.cli.stack.ports import free_ports
from fingerpost.clock import US, clock_us
from fingerpost.engine_api import EngineError
from fingerpost.packed_message import message
from fingerpost.window_report import MEDIA_TYPE, WINDOW_COLUMNS, pack
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet
from tests.support.otlp_receiver import receiving

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def receiver():
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def engine(tmp_path_factory, receiver):
    home, (port,) = tmp_path_factory.mktemp("engine"), free_ports(1)
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        running = RunningEngine(home, port, workers=2, max_categories=50, fingerprint_ttl_s=900)
    with running:
        yield running


@pytest.fixture
def client(engine):
    with engine.client() as client:
        yield client


def post(engine, body, media_type=MEDIA_TYPE):
    return httpx.post(f"{engine.url}/v1/reports", content=body, headers={"content-type": media_type}, timeout=60)


def changed(report, **changes):
    return pack(replace(report, **changes))


def test_without_a_model_tables_come_from_fingerprints_alone(engine, client, made):
    assert client.send_reports(made.packed(1))["accepted"] == 6
    table = json.loads(engine.wait_for(lambda: client.table("shop")).body)
    assert (table["source"], table["model_version"]) == ("baseline", "")
    assert len(table["throughput_rps"]) == 5
    # Once the registry has said that it has no champion, the baseline is what there is to serve.
    assert engine.wait_for(lambda: httpx.get(f"{engine.url}/readyz").status_code == 200)


def test_answers_and_refreshes_are_spans(engine, receiver):
    wanted = {"POST /v1/reports", "refresh table"}
    assert engine.wait_for(lambda: wanted <= receiver.spans.keys())
    answered, refreshed = (receiver.spans[name] for name in sorted(wanted))
    attributes = {each.key: each.value for each in answered.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["http.route"].string_value == "/v1/reports"
    told = {each.key: each.value for each in refreshed.attributes}
    assert (told["fingerpost.service"].string_value, told["fingerpost.hosts"].int_value) == ("shop", 6)


def test_before_the_registry_has_answered_the_engine_is_not_ready(tmp_path, free_ports):
    [port] = free_ports(1)
    with RunningEngine(tmp_path, port, mlflow_url="http://127.0.0.1:9") as engine:
        assert httpx.get(f"{engine.url}/readyz").status_code == 503


def test_what_is_bad_is_counted_and_the_rest_is_kept(client, made):
    now = clock_us()
    good = made.report(0, 2)
    not_finite, negative = good.sample.copy(), good.sample.copy()
    not_finite[0], negative[0] = float("inf"), -1
    sent = [
        pack(made.report(1, 1, now)),  # replayed: the sequence number is not greater
        changed(good, sample=not_finite),
        changed(good, sample=negative),
        changed(good, time_us=now + 7200 * US),
        changed(good, time_us=now - 31 * 86400 * US, end_us=0, categories=(), windows=good.windows[:0]),
        changed(good, service="../x"),
        pack(good).replace(b"schema\x01", b"schema\x00"),
        b"\xc1",
        pack(good),
    ]
    receipt = client.send_reports(sent)
    assert (receipt["accepted"], receipt["stale"], receipt["refused"]) == (1, 1, 7)
    assert receipt["reasons"] == {
        "cores:not_finite": 1,
        "cores:negative": 1,
        "time:future": 1,
        "time:too_old": 1,
        "service:bad_name": 1,
        "schema:older": 1,
        "report:malformed": 1,
    }


def test_a_message_of_which_nothing_is_good_is_refused_with_a_reason(engine, client, made):
    now = clock_us()
    good = made.report(0, 3, now)
    not_a_number = good.sample.copy()
    not_a_number[0] = float("inf")
    impossible = good.windows.copy()
    impossible[0, WINDOW_COLUMNS.index("throughput_rps")] = -4.0
    before = engine.settled(lambda: client.table("shop").etag)
    for packed, status, reason in (
        (pack(good).replace(b"schema\x01", b"schema\x00"), 422, "schema:older"),
        (changed(good, sample=not_a_number), 422, "cores:not_finite"),
        (changed(good, windows=impossible), 422, "throughput_rps:negative"),
        (changed(good, time_us=now + 3 * 3600 * US), 422, "time:future"),
        (changed(good, time_us=now - 31 * 86400 * US), 422, "time:too_old"),
        (changed(good, end_us=now // (5 * US) * 5 * US, window_s=5.0), 422, "window_s:other"),
        (changed(good, sequence=1), 409, "sequence:not_newer"),
        (changed(good, sequence=0), 409, "sequence:not_newer"),
    ):
        answer = post(engine, message([packed]))
        assert (answer.status_code, answer.json()["error"], answer.json()["accepted"]) == (status, reason, 0)
    assert client.send_reports([changed(good, sequence=1)])["stale"] == 1
    assert client.table("shop").etag == before


def test_what_cannot_be_read_is_refused_with_a_reason(engine):
    assert post(engine, b"no gzip").json() == {"error": "message:malformed"}
    assert post(engine, b"no gzip").status_code == 400
    assert post(engine, message([b"x"]), "application/json").status_code == 415
    assert post(engine, message([b"x"] * 1001)).status_code == 413
    assert httpx.get(f"{engine.url}/v1/services/nobody/table").status_code == 404
    assert httpx.get(f"{engine.url}/v1/services/..x/table").status_code == 400
    accept = {"accept": "image/png"}
    assert httpx.get(f"{engine.url}/v1/services/shop/table", headers=accept).status_code == 406


def test_a_hundred_megabytes_are_refused_and_not_kept(engine):
    import psutil

    def memory():
        return sum(psutil.Process(pid).memory_info().rss for pid in engine.worker_pids())

    def chunks():
        for _ in range(100):
            yield bytes(2**20)

    before = memory()
    answer = post(engine, chunks())
    assert answer.status_code == 413
    assert "larger than" in answer.json()["error"]
    assert memory() - before < 60 * 2**20


def test_a_table_that_has_not_changed_is_not_sent_again(client, made):
    client.send_reports(made.packed(10))
    time.sleep(1.0)
    table = client.table("shop")
    again = client.table("shop", etag=table.etag)
    assert (again.body, again.etag) == (None, table.etag)
    assert again.expires_at > time.time()


def test_a_waiting_caller_gets_the_next_table_at_once(engine, made):
    with engine.client() as client, ThreadPoolExecutor(1) as threads:
        first = client.table("shop")
        began = time.monotonic()
        pending = threads.submit(client.table, "shop", etag=first.etag, wait_s=15)
        time.sleep(0.3)
        client.send_reports(made.packed(11))
        second, seconds = pending.result(), time.monotonic() - began
    assert second.body is not None
    assert second.etag != first.etag
    assert seconds < 10


def test_workers_serve_the_same_table_for_the_same_inputs(engine):
    time.sleep(1.0)
    etags = set()
    for _ in range(20):  # every request a new connection: both workers answer
        with engine.client() as each:
            etags.add(each.table("shop").etag)
    assert len(etags) == 1


def test_a_thousand_new_categories_leave_the_others_alone(client, made):
    rogue = made.report(0, 1)
    for sequence in range(5):
        names = tuple(f"GET /{sequence}-{number}|0|none|bot|XX" for number in range(1000))
        told = {"sequence": sequence, "time_us": clock_us(), "categories": names}
        body = [changed(rogue, host="rogue", reporter="rogue", windows=rogue.windows[:1].repeat(1000, axis=0), **told)]
        assert client.send_reports(body)["accepted"] == 1
    client.send_reports(made.packed(int(time.time()) + 100))
    time.sleep(1.0)
    table = json.loads(client.table("shop").body)
    assert len(table["categories"]) == 50
    assert set(made.categories) <= set(table["categories"])


def test_the_registry_may_be_away(engine, client):
    blocker = sqlite3.connect(engine.home / "mlflow.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        engine.wait_for(lambda: "registry" in client.health()["problems"], 90)
        assert client.table("shop").body
    finally:
        blocker.execute("ROLLBACK")
    engine.wait_for(lambda: "registry" not in client.health()["problems"], 60)


def test_a_locked_store_serves_the_last_table_and_says_so(engine, client, made):
    blocker = sqlite3.connect(engine.home / "fingerprints.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(EngineError) as refused:
            client.send_reports(made.packed(int(time.time()) + 200))
        assert (refused.value.status, refused.value.temporary) == (503, True)
        assert client.table("shop").body
    finally:
        blocker.execute("ROLLBACK")
    assert client.send_reports(made.packed(int(time.time()) + 201))["accepted"] == 6


def test_a_deleted_store_is_made_anew(engine, client, made):
    for path in engine.home.glob("fingerprints.db*"):
        path.unlink()
    assert client.table("shop").body
    sent = engine.wait_for(lambda: client.send_reports(made.packed(int(time.time()) + 300)), 30)
    assert sent["accepted"] + sent["stale"] == 6
    engine.wait_for(lambda: client.health()["services"]["shop"]["table_age_s"] < 2, 30)


@pytest.mark.hypothesis
def test_no_request_of_the_openapi_document_makes_it_fail(engine, tmp_path, fuzz_seed):
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{engine.url}/v1/openapi.json",
    ]
    env = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
    }
    options = ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]
    options += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "30"]
    # What is deterministic has no database of examples, and says no to an option of one.
    examples = ["--max-examples", "12", "--generation-deterministic"]
    if fuzz_seed:
        examples = ["--max-examples", "60", "--generation-database", "none", "--seed", fuzz_seed]
    done = subprocess.run(
        [*command, *options, *examples], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_a_killed_worker_loses_nothing(engine, client, made):
    def known():
        # Others may be in memory alone: the store's file was deleted.
        hosts = json.loads(client.table("shop").body)["hosts"]
        return {host["name"]: host["as_of"] for host in hosts if host["name"] in made.hosts}

    # Requests that were made up may have drained or removed hosts.
    for host in made.hosts:
        client.notice(Notice("shop", host))
    client.send_reports(made.packed(int(time.time()) + 400))
    before = engine.settled(known)
    assert sorted(before) == sorted(made.hosts)
    pids = engine.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    engine.wait_for(lambda: len(set(engine.worker_pids()) - set(pids)) == 2, 60)
    assert engine.wait_for(known, 90) == before
