"""Killed at any point and started again, the loop ends in the same state: same lake, same versions, same champion."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import httpx
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.environment import tool_environment
from fingerpost.features.maintenance import lake_lock
from fingerpost.home import prefect_credential
from fingerpost.settings import Settings
from fingerpost.training.registry import DIGEST_TAG
from tests.support.databases import empty_registry
from tests.support.demo_telemetry import write_demo_inbox
from tests.support.server_harness import PATIENCE_S, RunningServer, kill_family
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


class Home:
    """A home with telemetry in its inbox, and the loop over it as a user runs it."""

    def __init__(self, folder, inbox, **settings):
        self.folder, self.lake = folder, folder / "lake"
        self.settings = Settings(home=folder, **settings)
        self.env = {
            **os.environ,
            **tool_environment(self.settings),
            "FINGERPOST_HOME": str(folder),
            "FINGERPOST_TUNING_TRIALS": "2",
            **{f"FINGERPOST_{name.upper()}": str(value) for name, value in settings.items()},
        }
        shutil.copytree(inbox, self.lake)

    def begin(self):
        """Starts the whole loop once: ingest, features, tuning, training."""
        return self.start("pipeline", [sys.executable, "-m", "fingerpost", "run", "pipeline"])

    def start(self, name, command):
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, env=self.env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def finish(self, process):
        assert process.wait(PATIENCE_S) == 0, self.told()[-3000:]

    def until(self, process, happened):
        """Waits until something has happened in a run that has not ended yet."""
        wait_until(lambda: happened(self) or process.poll() is not None, "the run never came so far", 0.002)
        assert process.poll() is None, self.told()[-3000:]

    def told(self):
        return (self.folder / "pipeline.log").read_text(errors="replace")

    def state(self):
        """What must be the same: every table of the lake, every version by what it is, and where the aliases point."""
        import mlflow

        tables = {str(path.relative_to(self.lake)): content(path) for path in self.lake.rglob("*.parquet")}
        client, name = mlflow.MlflowClient(self.settings.mlflow), self.settings.model_name
        versions = {
            str(each.version): (client.get_run(each.run_id).data.tags[DIGEST_TAG], each.description)
            for each in client.search_model_versions(f"name = '{name}'")
        }
        runs = client.search_runs([client.get_experiment_by_name(f"{name}-training").experiment_id])
        going_on = sum(run.info.status == "RUNNING" for run in runs)
        aliases = {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
        return tables, versions, aliases, going_on


def content(path):
    """A table's columns and a hash of its rows, in their order."""
    frame = pq.ParquetFile(path).read().to_pandas()
    return list(frame.columns), hashlib.sha256(pd.util.hash_pandas_object(frame).to_numpy().tobytes()).hexdigest()


def wait_until(ready, what, pause_s=0.1):
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(pause_s)


def files_in(folder):
    return lambda home: any((home.lake / folder).rglob("*.parquet"))


def told(text):
    return lambda home: text in home.told()


POINTS = {
    "ingest": files_in("samples"),
    "features": files_in("windows"),
    "tuning": told("training: trial 1 of"),
    "registering": told("training: registering"),
}


@pytest.fixture(scope="module")
def inbox(tmp_path_factory):
    """A lake with nothing but telemetry that waits in the inbox."""
    lake = tmp_path_factory.mktemp("inbox") / "lake"
    write_demo_inbox(lake, hosts=2, seconds=120, rate_rps=20)
    return lake


@pytest.fixture(scope="module")
def servers(tmp_path_factory, inbox):
    """A home whose MLflow and Prefect are on ports of their own, and those two by name."""
    ports = dict(zip(("mlflow_port", "prefect_port"), free_ports(2), strict=True))
    home = Home(tmp_path_factory.mktemp("servers"), inbox, **ports)
    running = {name: RunningServer(name, home.settings) for name in ("mlflow", "prefect")}
    for each in running.values():
        each.start()
    yield home, running
    for each in running.values():
        each.kill()


@pytest.fixture(scope="module")
def undisturbed(servers, inbox, tmp_path_factory):
    """The state that a run ends in which nobody disturbs."""
    home = Home(tmp_path_factory.mktemp("undisturbed"), inbox, **away(servers, tmp_path_factory))
    home.finish(home.begin())
    return home.state()


def away(servers, folders):
    """Settings for a registry in a file of its own, and Prefect where it runs, which is another home."""
    settings = servers[0].settings
    registry = shutil.copy(empty_registry(), folders.mktemp("registry"))
    return {
        "mlflow_url": f"sqlite:///{registry}",
        "prefect_url": settings.prefect,
        "prefect_auth": prefect_credential(settings),
    }


def test_a_run_that_is_killed_at_every_step_in_turn_ends_the_same(servers, undisturbed, inbox, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("killed"), inbox, **away(servers, tmp_path_factory))
    for happened in POINTS.values():
        process = home.begin()
        home.until(process, happened)
        kill_family(process)
    home.finish(home.begin())
    assert home.state() == undisturbed
    home.finish(home.begin())
    assert home.state() == undisturbed


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_a_server_that_is_killed_under_a_run_changes_nothing(servers, undisturbed, name):
    home, running = servers
    process = home.begin()
    # Of the second run the tuning is done already.
    home.until(process, POINTS["tuning"] if name == "mlflow" else told("training: fitting"))
    running[name].kill()
    running[name].start()
    if process.wait(PATIENCE_S) != 0:
        home.finish(home.begin())
    assert home.state() == undisturbed


# Only ingest is due while the test runs.
SCHEDULE = {
    "features_every_s": 86_400,
    "promote_every_s": 86_400,
    "compare_every_s": 86_400,
    "ingest_every_s": 2,
    "drift_cron": "0 0 1 1 *",
}


def ingests(settings, service, state):
    """How many runs of the service's ingest flow are in a state."""
    user, _, password = prefect_credential(settings).partition(":")
    wanted = {
        "flows": {"name": {"any_": ["ingest"]}},
        "flow_runs": {"state": {"name": {"any_": [state]}}, "tags": {"all_": [service]}},
    }
    url = f"{settings.prefect}/flow_runs/count"
    answer = httpx.post(url, json=wanted, auth=(user, password), trust_env=False, timeout=30)
    return answer.raise_for_status().json()


def test_a_service_whose_run_hangs_and_is_killed_leaves_the_others_alone(servers, inbox, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("schedule"), inbox, **away(servers, tmp_path_factory), **SCHEDULE)
    home.env["FINGERPOST_SERVICES"] = json.dumps(["shop", "stuck"])
    with lake_lock(home.lake, "stuck", alone=True):
        schedule = home.start("schedule", [sys.executable, "-m", "fingerpost", "schedule"])
        wait_for(lambda: ingests(home.settings, "stuck", "Running"), PATIENCE_S)
        before = ingests(home.settings, "shop", "Completed")
        wait_for(lambda: ingests(home.settings, "shop", "Completed") > before + 1, PATIENCE_S)
        assert ingests(home.settings, "stuck", "Completed") == 0
        family = psutil.Process(schedule.pid).children(recursive=True)
        # Runs are forks of one process, and not interpreters of their own; the oldest waits for the lock.
        assert not [each for each in family if "prefect.engine" in each.cmdline()]
        forks = [each for each in family if "forkserver" in " ".join(psutil.Process(each.ppid()).cmdline())]
        min(forks, key=lambda each: each.create_time()).send_signal(signal.SIGKILL)
        wait_for(lambda: ingests(home.settings, "stuck", "Crashed"), PATIENCE_S)
    wait_for(lambda: ingests(home.settings, "stuck", "Completed"), PATIENCE_S)
    family = psutil.Process(schedule.pid).children(recursive=True)
    schedule.terminate()
    assert schedule.wait(PATIENCE_S) == 0
    assert psutil.wait_procs(family, PATIENCE_S)[1] == []
