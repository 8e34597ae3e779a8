"""A whole engine while what it stands on is locked, full or gone: it serves the last table, says so, and recovers."""

import contextlib
import itertools
import json
import resource
import shutil
import sqlite3
import subprocess
import time

import httpx
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.engine_api import EngineError
from fingerpost.settings import Settings
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet, fit_model, register_model
from tests.support.server_harness import RunningServer

pytestmark = pytest.mark.process

SHORT_TTL_S = 3
SEQUENCE = itertools.count(1)
# The store is what is looked at: MLflow need not make its tables for that.
NO_REGISTRY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home = tmp_path_factory.mktemp("faults") / "engine"
    with RunningEngine(home, free_ports(1)[0], mlflow_url=NO_REGISTRY, fingerprint_ttl_s=SHORT_TTL_S) as running:
        yield running


def served(engine):
    with engine.client() as client:
        return json.loads(client.table("shop").body)


def send(engine, made):
    with engine.client() as client:
        return client.send_reports(made.packed(next(SEQUENCE)))


def problems(engine):
    with engine.client() as client:
        return client.health()["problems"]


def refused(engine, made):
    """Whether the engine cannot store fingerprints, and says that they should be sent again."""
    try:
        send(engine, made)
    except EngineError as error:
        assert (error.status, error.temporary) == (503, True)
        return True
    return False


def told(engine, made):
    """The table that shows what the hosts have told just now."""
    sent_s = time.time()
    engine.wait_for(lambda: not refused(engine, made))
    engine.wait_for(lambda: min(host["as_of"] for host in served(engine)["hosts"]) >= sent_s)
    return served(engine)


def recovered(engine, made):
    """Whether the store takes fingerprints again, the table shows them, and nothing is said of the store."""
    assert told(engine, made)
    with engine.client() as client:
        engine.wait_for(lambda: client.table("shop").stale is None)
    return engine.wait_for(lambda: "store" not in problems(engine) and engine.metric("store_problem") == 0)


def test_the_registry_is_killed_and_comes_back(tmp_path, made):
    registry_port, port = free_ports(2)
    registry = RunningServer("mlflow", Settings(home=tmp_path / "registry", mlflow_port=registry_port))
    registry.start()
    try:
        with RunningEngine(tmp_path / "engine", port, mlflow_url=registry.url, fingerprint_ttl_s=900) as engine:
            first = register_model(fit_model(made, 10, 8), registry.url, "fingerpost-shop")
            send(engine, made)
            engine.wait_for(lambda: served(engine)["model_version"] == first, 120)
            registry.kill()
            engine.wait_for(lambda: "registry" in problems(engine), 90)
            assert engine.metric("registry_problem") == 1
            # New fingerprints still become tables by the model there is, in another life of the engine too.
            engine.kill()
            engine.start()
            assert engine.wait_for(lambda: send(engine, made), 120)["accepted"] == 6
            engine.wait_for(lambda: served(engine)["model_version"] == first, 60)
            assert httpx.get(f"{engine.url}/readyz", trust_env=False).status_code == 200
            engine.wait_for(lambda: "registry" in problems(engine), 90)
            registry.start()
            engine.wait_for(lambda: "registry" not in problems(engine), 90)
            assert engine.metric("registry_problem") == 0
            second = register_model(fit_model(made, 12, 8), registry.url, "fingerpost-shop")
            engine.wait_for(lambda: served(engine)["model_version"] == second, 90)
    finally:
        registry.kill()


def test_a_locked_database_keeps_the_last_table_longer_than_hosts_live(engine, made):
    before = told(engine, made)
    blocker = sqlite3.connect(engine.home / "fingerprints.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    try:
        assert refused(engine, made)
        assert "locked" in problems(engine)["store"]
        assert engine.metric("store_problem") == 1
        # Agents try again and again.
        while time.monotonic() - began < SHORT_TTL_S + 2:
            assert refused(engine, made)
        assert [host["name"] for host in served(engine)["hosts"]] == [host["name"] for host in before["hosts"]]
        with engine.client() as client:
            assert "locked" in client.table("shop").stale
    finally:
        blocker.execute("ROLLBACK")
    assert recovered(engine, made)


def test_a_database_that_is_gone_keeps_the_last_table(engine, made):
    before = told(engine, made)
    home, away = engine.home, engine.home.with_name("away")
    home.rename(away)
    home.write_text("no folder can be made here")
    try:
        engine.wait_for(lambda: "store" in problems(engine))
        assert engine.metric("store_problem") == 1
        time.sleep(SHORT_TTL_S + 1)
        assert refused(engine, made)
        with engine.client() as client:
            table = client.table("shop")
        assert table.stale
        # Its time is not moved on: a table that nothing is known of any more comes to its end.
        assert table.expires_at < time.time() + Settings().table_ttl_s - SHORT_TTL_S
        assert json.loads(table.body)["hosts"] == before["hosts"]
    finally:
        home.unlink()
        away.rename(home)
    assert recovered(engine, made)


@contextlib.contextmanager
def full_by_limit(engine):
    """No file of the workers may grow or be written, as on a full disk; that needs no rights."""
    pids = engine.worker_pids()
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[pid][1]))
    yield
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before[pid])


@contextlib.contextmanager
def full_by_filling(engine):
    """The file system of the engine's home has no byte left."""
    filler = engine.home / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(2**16)):
            pass
    assert shutil.disk_usage(engine.home).free == 0
    yield
    filler.unlink()


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 24 MB in memory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "fingerpost-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here, which takes root: the disk is full by a limit only")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("full", [full_by_limit, full_by_filling])
def test_a_full_disk_keeps_the_last_table_and_every_process(tmp_path, made, full):
    home, disk = tmp_path / "engine", contextlib.ExitStack()
    with disk:
        if full is full_by_filling:
            disk.enter_context(small_disk(home))
        settings = {"mlflow_url": NO_REGISTRY, "fingerprint_ttl_s": SHORT_TTL_S}
        with RunningEngine(home, free_ports(1)[0], **settings) as engine:
            before, pids = told(engine, made), engine.worker_pids()
            with full(engine):
                while not refused(engine, made):
                    pass  # room in files that are there is used up first
                assert "store" in problems(engine)
                assert engine.metric("store_problem") == 1
                until = time.monotonic() + SHORT_TTL_S + 1
                while time.monotonic() < until:
                    assert refused(engine, made)
                    # Every kind of answer, so that every kind of metric is written.
                    httpx.get(f"{engine.url}/v1/services/nobody/table", trust_env=False)
                    time.sleep(0.1)
                assert len(served(engine)["hosts"]) == len(before["hosts"])
            assert recovered(engine, made)
            assert engine.worker_pids() == pids
