"""`fingerpost up`: parts start in order, come back when they die, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from fingerpost.settings import Settings
from fingerpost.stack.parts import Part, platform_parts
from fingerpost.stack.processes import Stack
from fingerpost.stack.supervisor import Patience, Supervisor

FOREVER = [sys.executable, "-c", "import time; time.sleep(60)"]
DIES = [sys.executable, "-c", "print('no luck'); raise SystemExit(3)"]


def server(port):
    return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]


def step_until(supervisor, done, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        supervisor.step(time.monotonic())
        time.sleep(0.05)


def test_parts_start_when_what_they_need_is_up_and_come_back(tmp_path, free_ports):
    (port,) = free_ports(1)
    told = []
    parts = [
        Part("follower", "", FOREVER, needs=("server", "elsewhere")),
        Part("server", "", server(port), f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}"),
    ]
    with Stack(tmp_path, {}) as stack:
        supervisor = Supervisor(stack, parts, told.append, Patience(first_s=0.1))
        step_until(supervisor, lambda: supervisor.all_up)
        assert told == [f"server is up at http://127.0.0.1:{port}", "follower is up"]
        [pid] = [each.pid for each in psutil.Process().children() if "http.server" in each.cmdline()]
        os.kill(pid, signal.SIGKILL)
        step_until(supervisor, lambda: not supervisor.all_up)
        assert "server" in told[2]
        assert "SIGKILL" in told[2]
        assert "started again in 0.1 s" in told[2]
        step_until(supervisor, lambda: supervisor.all_up)
        assert (tmp_path / "server.before.log").exists()


def test_what_dies_again_and_again_is_given_up_alone(tmp_path):
    told = []
    parts = [Part("bad", "", DIES), Part("good", "", FOREVER)]
    with Stack(tmp_path, {}) as stack:
        supervisor = Supervisor(stack, parts, told.append, Patience(first_s=0.01, most_deaths=3))
        step_until(supervisor, lambda: any("stays down" in line for line in told))
        supervisor.step(time.monotonic() + 1000)
        assert sum("exit code 3" in line for line in told) == 3
        assert "no luck" in told[-1]
        assert "good is up" in told


def test_pauses_grow_and_are_bounded():
    patience = Patience()
    assert [patience.pause_s(deaths) for deaths in (1, 2, 3, 7, 9)] == [1, 2, 4, 60, 60]


def test_servers_that_are_elsewhere_are_not_started():
    here = [part.name for part in platform_parts(Settings())]
    assert here == ["mlflow", "prefect", "engine", "schedule", "router"]
    away = Settings(mlflow_url="http://models:5000", prefect_url="http://flows:4200/api")
    assert [part.name for part in platform_parts(away)] == ["engine", "schedule", "router"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The platform with Envoy, as a user starts it."""
    from fingerpost.stack.ports import free_ports

    home = tmp_path_factory.mktemp("up")
    ports = dict(zip(("MLFLOW", "PREFECT", "ENGINE", "ENVOY", "ENVOY_ADMIN"), free_ports(5), strict=True))
    (home / "hosts").write_text("h1=127.0.0.1:9\n# a remark\n")
    env = {**os.environ, "FINGERPOST_HOME": str(home), **{f"FINGERPOST_{k}_PORT": str(v) for k, v in ports.items()}}
    with (home / "told").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fingerpost", "up", "--hosts", str(home / "hosts")],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    yield process, home, ports
    if process.poll() is None:
        process.kill()


def wait_for(running, text, count=1, timeout_s=180):
    process, home, _ = running
    deadline = time.monotonic() + timeout_s
    while (home / "told").read_text().count(text) < count:
        assert process.poll() is None, (home / "told").read_text()
        assert time.monotonic() < deadline, (home / "told").read_text()
        time.sleep(0.3)


def test_the_whole_platform_comes_up_survives_a_death_and_goes(running):
    process, home, ports = running
    wait_for(running, "Ctrl-C stops everything")
    told = (home / "told").read_text()
    assert all(f"{name} is up" in told for name in ("mlflow", "prefect", "engine", "schedule", "router", "envoy"))
    assert httpx.get(f"http://127.0.0.1:{ports['MLFLOW']}/health", trust_env=False).is_success
    family = psutil.Process(process.pid).children(recursive=True)
    [router] = [each for each in family if each.cmdline()[-1:] == ["router"]]
    router.kill()
    wait_for(running, "router is up", 2)
    deployed = f"http://127.0.0.1:{ports['PREFECT']}/api/deployments/filter"
    deadline = time.monotonic() + 60
    wanted, names = {"ingest", "features", "train", "drift", "promote", "retention", "pipeline"}, set()
    while not wanted <= names and time.monotonic() < deadline:
        found = httpx.post(deployed, json={}, trust_env=False).json()
        names = {each["entrypoint"].split(".")[1].split(":")[0] for each in found}
        time.sleep(0.5)
    assert wanted <= names
    family += psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
