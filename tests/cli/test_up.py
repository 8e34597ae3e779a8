"""`fingerpost up`: parts start in order, come back when they die, and leave nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from fingerpost.cli.stack.parts import Part, answers, platform_parts
from fingerpost.cli.stack.patience import RestartPolicy
from fingerpost.cli.stack.processes import ProcessGroup
from fingerpost.cli.stack.supervisor import Supervisor
from fingerpost.home import own_prefect_credential
from fingerpost.settings import Settings
from tests.support.up_harness import RunningUp
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

PARTS = ("mlflow", "prefect", "engine", "schedule", "router", "envoy")
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
    with ProcessGroup(tmp_path, {}) as stack:
        supervisor = Supervisor(stack, parts, told.append, RestartPolicy(first_s=0.1))
        step_until(supervisor, lambda: supervisor.all_up)
        assert told == [f"server is up at http://127.0.0.1:{port}", "follower is up"]
        [pid] = [each.pid for each in psutil.Process().children() if "http.server" in each.cmdline()]
        os.kill(pid, signal.SIGKILL)
        step_until(supervisor, lambda: not supervisor.all_up)
        assert "server" in told[2]
        assert "SIGKILL" in told[2]
        assert "started again in 0.1 s" in told[2]
        step_until(supervisor, lambda: supervisor.all_up)
        assert (tmp_path / "server.log").read_text().count("server starts") == 2


def test_what_dies_again_and_again_is_tried_seldom(tmp_path):
    told = []
    parts = [Part("bad", "", DIES), Part("good", "", FOREVER)]
    with ProcessGroup(tmp_path, {}) as stack:
        supervisor = Supervisor(stack, parts, told.append, RestartPolicy(first_s=0.01, most_deaths=3))
        step_until(supervisor, lambda: any("tried again in 600 s only" in line for line in told))
        supervisor.step(time.monotonic() + 500)
        assert sum("exit code 3" in line for line in told) == 3
        assert "no luck" in told[-1]
        assert "good is up" in told


def test_pauses_grow_and_are_bounded():
    patience = RestartPolicy()
    assert [patience.pause_s(deaths) for deaths in (1, 2, 3, 7, 9, 10, 99)] == [1, 2, 4, 60, 60, 600, 600]


def test_servers_that_are_elsewhere_are_not_started(tmp_path):
    here = [part.name for part in platform_parts(Settings(home=tmp_path))]
    assert here == ["mlflow", "prefect", "engine", "schedule", "router"]
    away = Settings(mlflow_url="http://models:5000", prefect_url="http://flows:4200/api")
    assert [part.name for part in platform_parts(away)] == ["engine", "schedule", "router"]


@pytest.fixture
def start_up(tmp_path):
    """Starts `fingerpost up`, any number of times, in one home."""
    started = []

    def start(*arguments, **env):
        started.append(RunningUp(tmp_path, *arguments, **env))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGTERM)


def all_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not alive


def test_the_whole_platform_comes_up_survives_a_death_and_goes(start_up):
    up = start_up("--hosts", "hosts", "--health-path", "/healthz", FINGERPOST_TRAIN_CRON="1 2 * * *")
    up.wait_for("Ctrl-C stops everything")
    assert all(f"{name} is up" in up.told() for name in ("mlflow", "prefect", "engine", "schedule", "router", "envoy"))
    assert httpx.get(f"http://127.0.0.1:{up.ports['MLFLOW']}/health", trust_env=False).is_success
    family = up.family()
    [router] = [each for each in family if "router" in each.cmdline()]
    # The guard is on.
    assert router.cmdline()[-2:] == ["--access-log", str(up.home / "access.log")]
    router.kill()
    up.wait_for("router is up", 2)
    up.wait_for("no model yet")
    assert "`fingerpost run pipeline`" in up.told()
    assert "FINGERPOST_TRAIN_CRON='1 2 * * *'" in up.told()
    owner = tuple(own_prefect_credential(Settings(home=up.home)).split(":"))
    deployed = f"http://127.0.0.1:{up.ports['PREFECT']}/api/deployments/filter"
    deadline = time.monotonic() + 60
    wanted, names = {"ingest", "features", "train", "drift", "promote", "retention", "pipeline"}, set()
    while not wanted <= names and time.monotonic() < deadline:
        found = httpx.post(deployed, json={}, auth=owner, trust_env=False).json()
        names = {each["entrypoint"].split(".")[2] for each in found}
        time.sleep(0.5)
    assert wanted <= names
    # Without an agent there is no table.
    status = up.call("status", "--json")
    told = json.loads(status.stdout)
    assert status.returncode == 1
    assert {part["name"]: part["state"] for part in told["parts"]} == dict.fromkeys(PARTS, "up")
    assert {part["name"]: part["restarts"] for part in told["parts"]}["router"] == 1
    assert {part["supervisor"] for part in told["parts"]} == {up.process.pid}
    assert told["engine"]["answers"]
    # Nor does a host report.
    no_agent = ("there is no routing table yet", "engine: hosts: none has reported")
    checks = {each["about"]: each["level"] for each in json.loads(up.call("doctor", "--json").stdout)["checks"]}
    assert (checks["engine"], checks["clock"], checks["ports"], checks["home"]) == ("ok", "ok", "ok", "ok")
    assert [problem for problem in told["problems"] if not problem.startswith(no_agent)] == []
    family += up.family()
    assert up.end() == 0
    assert all_gone(family)
    assert "nothing runs in" in up.call("status").stdout


def test_one_home_has_one_of_each_part_but_envoy_may_have_an_up_of_its_own(start_up):
    envoy = start_up("--only", "envoy", "--hosts", "hosts")
    envoy.wait_for("envoy is up")
    rest = start_up("--without", "envoy", "--only", "router")
    rest.wait_for("Ctrl-C")
    second = start_up("--only", "envoy", "--hosts", "hosts")
    assert second.process.wait(60) == 1
    assert f"runs envoy in {envoy.home} already: pid {envoy.process.pid}" in second.told()
    assert f"Envoy on port {envoy.ports['ENVOY']}" in second.told()
    assert "FINGERPOST_HOME" in second.told()
    # Whatever comes of the rest, the clients' door stays.
    [process] = [each for each in envoy.family() if each.name() == "envoy"]
    assert rest.end() == 0
    again = start_up("--without", "envoy", "--only", "router")
    again.wait_for("Ctrl-C")
    assert process.is_running()
    assert answers(f"http://127.0.0.1:{envoy.ports['ENVOY_ADMIN']}/ready")


def test_an_up_that_is_killed_leaves_nothing_and_the_next_one_starts_at_once(start_up):
    first = start_up("--only", "envoy", "--hosts", "hosts")
    first.wait_for("envoy is up")
    family = first.family()
    first.process.kill()
    first.process.wait()
    status = first.call("status", "--json")
    assert status.returncode == 1
    assert "envoy is gone: its `fingerpost up` has died; start it again" in json.loads(status.stdout)["problems"]
    ports = {f"FINGERPOST_{name}_PORT": str(port) for name, port in first.ports.items()}
    second = start_up("--only", "envoy", "--hosts", "hosts", **ports)
    second.wait_for("envoy is up")
    assert all_gone(family)
    told = second.call("status")
    assert (told.returncode, told.stdout.splitlines()[-1]) == (0, "all is well")


def test_up_hands_its_options_to_envoy(start_up):
    options = ("--policy", "least_request", "--health-path", "/healthz")
    up = start_up("--only", "envoy", "--hosts", "hosts", *options, FINGERPOST_PANIC_PERCENT="20")
    up.wait_for("envoy is up")
    clusters = json.loads((up.home / "envoy.json").read_text())["static_resources"]["clusters"]
    [cluster] = [each for each in clusters if each["name"] == "hosts"]
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/healthz"
    assert cluster["common_lb_config"]["healthy_panic_threshold"]["value"] == 20
    assert "least_request" in json.dumps(cluster["load_balancing_policy"])
    (up.home / "hosts").write_text("h1=127.0.0.1:9\nh2=127.0.0.1:10\n")
    kept = up.home / "routing" / "shop.endpoints.json"
    wait_for(lambda: '"h2"' in kept.read_text())
    assert (up.home / "access.log").stat().st_mode & 0o027 == 0


def test_up_itself_gives_signs_of_life_to_whoever_wants_them(start_up, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(60)
        up = start_up("--only", "envoy", "--hosts", "hosts", NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert heard.recv(100) == b"READY=1\nWATCHDOG=1"
        up.wait_for("envoy is up")
        # Whose word counts is `up` alone.
        assert all("NOTIFY_SOCKET" not in each.environ() for each in up.family() if each.name() == "envoy")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a=db.internal:80", "host 'a': 'db.internal' is not an IP address: write the address it has"),
        ("a=b:c", "host 'a=b:c': 'c' is no port from 1 to 65535: write name=address:port"),
        ("a=10.0.0.1:70000", "'70000' is no port from 1 to 65535"),
    ],
)
def test_hosts_that_envoy_cannot_use_are_refused_by_name(tmp_path, line, words):
    (tmp_path / "hosts").write_text(f"{line}\n")
    done = subprocess.run(
        [sys.executable, "-m", "fingerpost", "up", "--only", "envoy", "--hosts", str(tmp_path / "hosts")],
        env={**os.environ, "FINGERPOST_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr
