"""Two engines over one PostgreSQL, replicas behind one address: the same tables, and one goes on without the other."""

import json
import os
import signal
import time

import httpx
import psutil
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.engine_api import EngineError
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet, fit_model, register_model
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    with running_postgres(tmp_path_factory.mktemp("postgres"), free_ports(1)[0]) as server:
        yield server


@pytest.fixture(scope="module")
def registry(made, tmp_path_factory):
    """A registry with a model that no alias points at yet."""
    url = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"
    return url, register_model(fit_model(made, 20, 8), url, "fingerpost-shop", alias=None)


@pytest.fixture(scope="module")
def replicas(postgres, registry, tmp_path_factory):
    """Each has a home of its own; they share the store and the registry."""
    settings = {"store_url": postgres.url, "mlflow_url": registry[0], "fingerprint_ttl_s": 900}
    one, other = (
        RunningEngine(tmp_path_factory.mktemp(name), port, **settings)
        for name, port in zip(("one", "other"), free_ports(2), strict=True)
    )
    with one, other:
        yield one, other


def tables(replicas):
    """Each replica's table: its ETag, and its content without the time it may be used until."""
    found = []
    for each in replicas:
        with each.client() as client:
            table = client.table("shop")
        content = {name: value for name, value in json.loads(table.body).items() if name != "expires_at"}
        found.append((table.etag, content))
    return found


def agree(replicas, **wanted):
    """Whether both serve the same table, with some fields as wanted."""
    one, other = tables(replicas)
    return one == other and all(one[1][name] == value for name, value in wanted.items())


def send(engine, made, sequence):
    with engine.client() as client:
        return client.send_reports(made.packed(sequence))


def test_what_one_is_told_both_serve(replicas, made):
    one, other = replicas
    assert send(one, made, 1)["accepted"] == 6
    other.wait_for(lambda: agree(replicas, source="baseline"))
    # Half to one and half to the other, as an address before them would.
    packed = made.packed(2)
    for engine, part in ((one, packed[:3]), (other, packed[3:])):
        with engine.client() as client:
            assert client.send_reports(part)["accepted"] == 3
    other.wait_for(lambda: agree(replicas))
    assert len(tables(replicas)[0][1]["hosts"]) == 6
    # What one has taken the other knows to be old.
    assert send(other, made, 2) == {**send(one, made, 2), "accepted": 0, "stale": 6, "refused": 0}


def test_both_serve_the_same_predictions_of_a_model(replicas, registry, made):
    import mlflow

    (one, other), (url, version) = replicas, registry
    mlflow.MlflowClient(url).set_registered_model_alias("fingerpost-shop", "champion", version)
    send(one, made, 3)
    other.wait_for(lambda: agree(replicas, source="champion", model_version=version), 120)
    first, second = tables(replicas)
    assert first == second


def test_one_goes_on_without_the_other_and_a_restart_loses_nothing(replicas, made):
    one, other = replicas
    one.kill()
    assert send(other, made, 4)["accepted"] == 6
    with pytest.raises(EngineError):
        send(one, made, 4)
    with other.client() as client:
        assert json.loads(client.table("shop").body)["source"] == "champion"
    one.start()
    one.wait_for(lambda: agree(replicas, source="champion"), 120)
    assert len(tables(replicas)[0][1]["hosts"]) == 6
    assert send(one, made, 4)["stale"] == 6
    assert send(one, made, 5)["accepted"] == 6


def problem(engine):
    with engine.client() as client:
        return client.health()["problems"].get("store")


def test_without_the_database_both_serve_the_last_table_and_say_so(replicas, postgres, made):
    one, other = replicas
    before = one.settled(lambda: tables(replicas))
    assert agree(replicas)
    postgres.stop()
    try:
        for each in replicas:
            each.wait_for(lambda each=each: problem(each))
            assert each.metric("store_problem") == 1
            answer = httpx.get(f"{each.url}/v1/services/shop/table", trust_env=False)
            assert answer.headers["x-fingerpost-stale"].startswith("store: ")
            # Else the address before them would have nobody left to send requests to.
            assert httpx.get(f"{each.url}/readyz", trust_env=False).status_code == 200
        assert tables(replicas) == before
        with pytest.raises(EngineError) as refused:
            send(one, made, 6)
        assert (refused.value.status, refused.value.temporary) == (503, True)
    finally:
        postgres.start()
    for each in replicas:
        each.wait_for(lambda each=each: problem(each) is None)
        assert each.metric("store_problem") == 0
    assert send(other, made, 6)["accepted"] == 6
    one.wait_for(lambda: agree(replicas) and tables(replicas) != before)


def test_a_database_that_says_nothing_holds_up_no_table(replicas, made):
    one, other = replicas
    serving = [each for each in psutil.process_iter(["name"]) if each.info["name"] == "postgres"]
    connected = {port.laddr.port for port in psutil.Process(one.worker_pids()[0]).net_connections("tcp")}
    held = [each for each in serving if connected & {port.raddr.port for port in remote(each)}]
    assert held
    for each in held:
        os.kill(each.pid, signal.SIGSTOP)
    try:
        one.wait_for(lambda: "no answer" in (problem(one) or ""), 30)
        began = time.monotonic()
        assert tables([one])
        assert time.monotonic() - began < 5
        assert one.metric("store_problem") == 1
        other.wait_for(lambda: problem(other) is None)
    finally:
        for each in held:
            os.kill(each.pid, signal.SIGCONT)
    one.wait_for(lambda: problem(one) is None, 30)
    assert send(one, made, 7)["accepted"] == 6


def remote(process):
    try:
        return [each for each in process.net_connections("tcp") if each.raddr]
    except psutil.Error:
        return []
