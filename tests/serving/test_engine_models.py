"""Models of a real engine: champions swapped in, bad ones refused, challengers in the shadow, experiments."""

import json
import os
import signal
import time

import httpx
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.clock import clock_us
from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.lake import parquet_files
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet, fit_model, register_model
from tests.support.registry_harness import Changed, cut_in_half

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home, (port,) = tmp_path_factory.mktemp("models"), free_ports(1)
    with RunningEngine(home, port, workers=2, shadow_every_s=1, fingerprint_ttl_s=900) as running:
        yield running


@pytest.fixture
def client(engine):
    with engine.client() as client:
        yield client


def test_a_champion_is_swapped_in_and_a_bad_one_is_not(engine, client, made):
    url, name = engine.env["FINGERPOST_MLFLOW_URL"], "fingerpost-shop"
    model = fit_model(made, 20, 8)
    first = register_model(model, url, name)
    client.send_reports(made.packed(20))
    table = f"{engine.url}/v1/services/shop/table"
    # Every request a new connection: a worker without a table has nothing to compare a new model with.
    engine.wait_for(lambda: all(httpx.get(table).json().get("model_version") == first for _ in range(20)), 90)
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
        client.send_reports(made.packed(int(time.time())))
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
    # Not from the engine: one of its workers may still have the champion before.
    said = {alias: registry.get_model_version_by_alias(name, alias) for alias in ("champion", "challenger")}
    versions = {alias: str(each.version) for alias, each in said.items()}
    table = f"{engine.url}/v1/services/shop/table"

    def get(**params):
        return httpx.get(table, params=params, timeout=30).json()

    assert (get()["arm"], get()["experiment"]) == ("", "")
    assert httpx.get(table, params={"arm": "challenger"}).status_code == 404
    assert httpx.get(table, params={"arm": "other"}).status_code == 400
    begin_us = clock_us()
    running = Experiment("x1", "shop", versions["champion"], versions["challenger"], begin_us, 2.0, 0.0, 5000)
    registry.set_registered_model_tag(name, EXPERIMENT_TAG, running.to_json())

    def flips():  # every request a new connection: both workers
        return all(get(arm="challenger").get("arm") == "challenger" for _ in range(10))

    engine.wait_for(flips, 60)
    assert get(arm="champion")["model_version"] == versions["champion"]

    seen, held = [], client.table("shop")
    for _ in range(4):
        held = client.table("shop", etag=held.etag, wait_s=15)
        seen.append((json.loads(held.body), clock_us()))
    for body, at_us in seen:
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


def watch_pids(engine):
    """The processes that look at the registry."""
    return engine.pids_of("fingerpost.serving.registry_watch")


def test_damaged_models_end_no_worker_and_are_told_of(engine, client, made):
    import mlflow

    url, name = engine.env["FINGERPOST_MLFLOW_URL"], "fingerpost-shop"
    folder = engine.home / "models" / "shop"

    def served():
        return json.loads(client.table("shop").body)["model_version"]

    before, workers = served(), sorted(engine.worker_pids())
    register_model(Changed(fit_model(made, 20, 8), cut_in_half), url, name)
    told = engine.wait_for(lambda: client.health()["problems"].get("registry"), 90)
    assert "the process that read it was ended by SIGABRT" in told
    assert served() == before
    assert sorted(engine.worker_pids()) == workers
    mlflow.MlflowClient(url).set_registered_model_alias(name, "champion", before)
    engine.wait_for(lambda: client.health()["status"] == "ok", 90)
    assert not list(folder.glob(".fetch-*"))

    # A disk that lost half of a file, and a fetch that was killed.
    engine.kill()
    [champion] = folder.glob(f"{before}-*")
    cut_in_half(champion)
    (folder / ".fetch-killed").mkdir()
    engine.start()
    engine.wait_for(lambda: client.send_reports(made.packed(int(time.time()))), 120)
    engine.wait_for(lambda: served() == before, 120)
    engine.wait_for(lambda: client.health()["status"] == "ok", 90)
    assert not list(folder.glob(".fetch-*"))


def test_a_watch_that_dies_is_told_of_and_started_again(engine, client, made):
    client.send_reports(made.packed(int(time.time())))
    # It has looked at the registry once: before, that is what is told.
    engine.wait_for(lambda: "registry" not in client.health()["problems"], 60)
    (watch,) = engine.wait_for(lambda: watch_pids(engine), 30)
    os.kill(watch, signal.SIGKILL)
    told = engine.wait_for(lambda: client.health()["problems"].get("registry"), 30)
    assert "the process that follows it was ended by SIGKILL" in told
    engine.wait_for(lambda: client.health()["status"] == "ok", 90)
    assert watch_pids(engine) != [watch]


def test_an_engine_whose_only_champion_is_refused_is_ready_with_the_baseline(tmp_path, free_ports, made):
    [port] = free_ports(1)
    with RunningEngine(tmp_path, port) as engine, engine.client() as client:
        url = engine.env["FINGERPOST_MLFLOW_URL"]
        register_model(Changed(fit_model(made, 20, 8), cut_in_half), url, "fingerpost-shop")
        assert engine.wait_for(lambda: client.models()["models"][0]["problem"], 90)
        client.send_reports(made.packed(int(time.time())))
        table = json.loads(engine.wait_for(lambda: client.table("shop"), 60).body)
        assert (table["source"], table["model_version"]) == ("baseline", "")
        assert httpx.get(f"{engine.url}/readyz").status_code == 200
        assert client.health()["status"] == "degraded"
