"""A real engine over HTTP: two workers, a registry on SQLite, and all that may go wrong around it."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from engine_harness import RunningEngine

from bench.engine_fleet import MadeFleet, fit_model, register_model
from fingerpost.client import AsyncEngineClient, EngineError
from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.fingerprint import MEDIA_TYPE, Fingerprint, message, pack
from fingerpost.lake import parquet_files

US = 1_000_000


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("engine")
    with RunningEngine(home, port, workers=2, max_categories=50, shadow_every_s=1, fingerprint_ttl_s=900) as running:
        yield running


@pytest.fixture
def client(engine):
    with engine.client() as client:
        yield client


def post(engine, body, media_type=MEDIA_TYPE):
    return httpx.post(f"{engine.url}/v1/fingerprints", content=body, headers={"content-type": media_type}, timeout=60)


def changed(fingerprint, **changes):
    return pack(Fingerprint(**{**vars(fingerprint), **changes}))


def test_without_a_model_tables_come_from_fingerprints_alone(engine, client, made):
    assert client.send_fingerprints(made.packed(1))["accepted"] == 6
    table = json.loads(engine.wait_for(lambda: client.table("shop")).body)
    assert (table["source"], table["model_version"]) == ("baseline", "")
    assert len(table["throughput_rps"]) == 5
    assert httpx.get(f"{engine.url}/readyz").status_code == 503


def test_what_is_bad_is_counted_and_the_rest_is_kept(client, made):
    now = time.time_ns() // 1000
    good = made.fingerprint(0, 2)
    cells = good.cells.copy()
    cells[0, 5] = float("inf")
    negative = good.cells.copy()
    negative[0, 5] = -1
    sent = [
        pack(made.fingerprint(1, 1, now)),  # replayed: the sequence number is not greater
        changed(good, cells=cells),
        changed(good, cells=negative),
        changed(good, time_us=now + 7200 * US),
        changed(good, time_us=now - 7200 * US),
        changed(good, service="../x"),
        pack(good).replace(b"schema\x01", b"schema\x63"),
        b"\xc1",
        pack(good),
    ]
    receipt = client.send_fingerprints(sent)
    assert (receipt["accepted"], receipt["stale"], receipt["refused"]) == (1, 1, 7)
    assert receipt["reasons"] == {
        "latency_p99_s:not_finite": 1,
        "latency_p99_s:negative": 1,
        "time:future": 1,
        "time:too_old": 1,
        "service:bad_name": 1,
        "schema:unknown": 1,
        "fingerprint:malformed": 1,
    }


def test_a_message_of_which_nothing_is_good_is_refused_with_a_reason(engine, client, made):
    now = time.time_ns() // 1000
    good = made.fingerprint(0, 3, now)
    not_a_number = good.host_values.copy()
    not_a_number[0] = float("inf")
    impossible = good.host_values.copy()
    impossible[1] = -4.0
    before = engine.settled(lambda: client.table("shop").etag)
    for packed, status, reason in (
        (pack(good).replace(b"schema\x01", b"schema\x63"), 422, "schema:unknown"),
        (changed(good, host_values=not_a_number), 422, "cpu_util:not_finite"),
        (changed(good, host_values=impossible), 422, "cores:negative"),
        (changed(good, time_us=now + 3 * 3600 * US), 422, "time:future"),
        (changed(good, time_us=now - 3 * 3600 * US), 422, "time:too_old"),
        (changed(good, sequence=1), 409, "sequence:not_newer"),
        (changed(good, sequence=0), 409, "sequence:not_newer"),
    ):
        answer = post(engine, message([packed]))
        assert (answer.status_code, answer.json()["error"], answer.json()["accepted"]) == (status, reason, 0)
    assert client.send_fingerprints([changed(good, sequence=1)])["stale"] == 1
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
    client.send_fingerprints(made.packed(10))
    time.sleep(1.0)
    table = client.table("shop")
    again = client.table("shop", etag=table.etag)
    assert (again.body, again.etag) == (None, table.etag)
    assert again.expires_at > time.time()


def test_a_waiting_caller_gets_the_next_table_at_once(engine, made):
    async def wait_for_next():
        async with AsyncEngineClient(engine.url) as waiting:
            first = await waiting.table("shop")
            began = time.monotonic()
            pending = asyncio.create_task(waiting.table("shop", etag=first.etag, wait_s=15))
            await asyncio.sleep(0.3)
            await waiting.send_fingerprints(made.packed(11))
            second = await pending
            return first, second, time.monotonic() - began

    first, second, seconds = asyncio.run(wait_for_next())
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


def test_a_champion_is_swapped_in_and_a_bad_one_is_not(engine, client, made):
    url, name = engine.env["FINGERPOST_MLFLOW_URL"], "fingerpost-shop"
    model = fit_model(made, 20, 8)
    first = register_model(model, url, name)
    client.send_fingerprints(made.packed(20))
    engine.wait_for(lambda: json.loads(client.table("shop").body)["model_version"] == first, 90)
    assert engine.wait_for(lambda: httpx.get(f"{engine.url}/readyz").status_code == 200)
    assert client.predict("shop")["source"] == "champion"

    wild = register_model(fit_model(made, 60, 15, factor=15.0), url, name)
    problem = engine.wait_for(lambda: client.models()["models"][0]["problem"], 60)
    assert "off the present ones" in problem
    assert json.loads(client.table("shop").body)["model_version"] == first
    assert client.models()["models"][0]["points_at"] == wild
    assert client.health()["status"] == "degraded"
    assert 'fingerpost_engine_model_problem{alias="champion"} 1.0' in httpx.get(f"{engine.url}/metrics").text

    challenger = register_model(fit_model(made, 15, 8), url, name, alias="challenger")
    folder = engine.home / "lake" / "predictions" / "service=shop"

    def logged():
        client.send_fingerprints(made.packed(int(time.time())))
        return list(parquet_files(folder))

    (path, *_) = engine.wait_for(logged, 60)
    import pyarrow.parquet as pq

    rows = pq.read_table(path)
    assert rows.num_rows == 30
    assert set(rows["challenger_version"].to_pylist()) == {challenger}
    assert json.loads(client.table("shop").body)["model_version"] == first

    third = register_model(model, url, name)
    engine.wait_for(lambda: json.loads(client.table("shop").body)["model_version"] == third, 60)


def test_a_running_experiment_flips_the_table_with_its_slots(engine, client):
    import mlflow

    registry, name = mlflow.MlflowClient(engine.env["FINGERPOST_MLFLOW_URL"]), "fingerpost-shop"
    versions = {row["alias"]: row["version"] for row in client.models()["models"]}
    table = f"{engine.url}/v1/services/shop/table"

    def get(**params):
        return httpx.get(table, params=params, timeout=30).json()

    assert (get()["arm"], get()["experiment"]) == ("", "")
    assert httpx.get(table, params={"arm": "challenger"}).status_code == 404
    assert httpx.get(table, params={"arm": "other"}).status_code == 400
    begin_us = time.time_ns() // 1000
    running = Experiment("x1", "shop", versions["champion"], versions["challenger"], begin_us, 2.0, 0.0, 5000)
    registry.set_registered_model_tag(name, EXPERIMENT_TAG, running.to_json())

    def flips():  # every request a new connection: both workers
        return all(get(arm="challenger").get("arm") == "challenger" for _ in range(10))

    engine.wait_for(flips, 60)
    assert get(arm="champion")["model_version"] == versions["champion"]

    async def follow():
        async with AsyncEngineClient(engine.url) as waiting:
            seen, held = [], await waiting.table("shop")
            for _ in range(4):
                held = await waiting.table("shop", etag=held.etag, wait_s=15)
                seen.append((json.loads(held.body), time.time_ns() // 1000))
            return seen

    for body, at_us in asyncio.run(follow()):
        assert body["arm"] == running.arm_at(at_us)
        assert body["model_version"] == running.version_of(body["arm"])
        assert body["experiment"] == "x1"
    assert client.health()["services"]["shop"]["experiment"] == "x1"

    wrong = Experiment("x2", "shop", versions["champion"], "99", begin_us, 2.0, 0.0, 5000)
    registry.set_registered_model_tag(name, EXPERIMENT_TAG, wrong.to_json())
    engine.wait_for(lambda: all("experiment of shop" in client.health()["problems"] for _ in range(10)), 60)
    # Two workers look at the registry, each by itself.
    engine.wait_for(lambda: all(get()["arm"] == "" for _ in range(10)), 60)
    assert get()["model_version"] == versions["champion"]
    metrics = httpx.get(f"{engine.url}/metrics").text
    assert 'fingerpost_engine_experiment_problem{service="shop"} 1.0' in metrics
    registry.delete_registered_model_tag(name, EXPERIMENT_TAG)
    engine.wait_for(lambda: all(client.health()["status"] == "ok" for _ in range(10)), 60)


def test_a_thousand_new_categories_leave_the_others_alone(client, made):
    rogue = made.fingerprint(0, 1)
    for sequence in range(5):
        names = tuple(f"GET /{sequence}-{number}|0|none|bot|XX" for number in range(1000))
        cells = rogue.cells[:1].repeat(1000, axis=0)
        now = time.time_ns() // 1000
        body = [changed(rogue, host="rogue", sequence=sequence, time_us=now, categories=names, cells=cells)]
        assert client.send_fingerprints(body)["accepted"] == 1
    client.send_fingerprints(made.packed(int(time.time()) + 100))
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
            client.send_fingerprints(made.packed(int(time.time()) + 200))
        assert (refused.value.status, refused.value.temporary) == (503, True)
        assert client.table("shop").body
    finally:
        blocker.execute("ROLLBACK")
    assert client.send_fingerprints(made.packed(int(time.time()) + 201))["accepted"] == 6


def test_a_deleted_store_is_made_anew(engine, client, made):
    for path in engine.home.glob("fingerprints.db*"):
        path.unlink()
    assert client.table("shop").body
    sent = engine.wait_for(lambda: client.send_fingerprints(made.packed(int(time.time()) + 300)), 30)
    assert sent["accepted"] + sent["stale"] == 6
    engine.wait_for(lambda: client.health()["services"]["shop"]["table_age_s"] < 2, 30)


def test_no_request_of_the_openapi_document_makes_it_fail(engine, tmp_path):
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{engine.url}/v1/openapi.json",
    ]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    options = [
        "--checks",
        "not_a_server_error,status_code_conformance,content_type_conformance",
        "--max-examples",
        "12",
    ]
    options += ["--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--request-timeout", "30"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_a_killed_worker_loses_nothing(engine, client):
    etag = client.table("shop").etag
    pids = engine.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    engine.wait_for(lambda: len(set(engine.worker_pids()) - set(pids)) == 2, 60)
    again = engine.wait_for(lambda: client.table("shop"), 90)
    assert json.loads(again.body)["hosts"]
    assert again.etag == etag or json.loads(again.body)["source"] == "champion"


def test_off_the_loopback_a_token_is_needed(tmp_path):
    env = {**os.environ, "FINGERPOST_HOME": str(tmp_path), "FINGERPOST_BIND_HOST": "0.0.0.0"}  # noqa: S104
    command = [sys.executable, "-m", "fingerpost", "engine"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "FINGERPOST_ENGINE_TOKEN" in done.stderr
