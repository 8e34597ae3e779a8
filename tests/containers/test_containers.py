"""`make containers`: the Containerfile's steps, each followed in a bare root, and each role at work in its own."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from fingerpost.engine_api import EngineClient, EngineError
from tests.support.bare_root import Builder, stop

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("debootstrap"), reason="needs root and debootstrap"),
]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roots")
    yield Builder(ROOT / "deploy/containers/Containerfile", ROOT, folder)
    shutil.rmtree(folder)


@pytest.fixture
def started(builder, tmp_path):
    """Starts a stage by its entry point; what was started ends with the test."""
    running = []

    def start(stage, *arguments, **environment):
        log = tmp_path / f"{stage}.log"
        command = [*builder.stages[stage].command("ENTRYPOINT"), *arguments]
        running.append(builder.start(stage, command, log, **environment))
        return running[-1], log

    yield start
    for process in running:
        if process.poll() is None:
            stop(process)


def wait_for(ready, process, log):
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_an_agent_sends_to_an_engine(builder, started):
    port = free_port()
    url, token = f"http://127.0.0.1:{port}", {"FINGERPOST_ENGINE_TOKEN": "secret", "FINGERPOST_SERVICE": "shop"}
    builder.root("engine")
    builder.environment("engine")["HEALTH_URL"] = f"{url}/livez"
    engine, log = started("engine", FINGERPOST_ENGINE_PORT=port, FINGERPOST_READY_WITHOUT_MODEL="true", **token)
    wait_for(lambda: builder.healthy("engine"), engine, log)
    builder.root("agent")
    health = free_port()
    builder.environment("agent")["HEALTH_URL"] = f"http://127.0.0.1:{health}/healthz"
    agent, its_log = started(
        "agent", "--host=web-1", "--slots=4", "--deliver=engine", f"--http-port={health}",
        FINGERPOST_ENGINE_URL=url, FINGERPOST_WINDOW_S="1", **token,
    )  # fmt: skip
    wait_for(lambda: builder.healthy("agent"), agent, its_log)
    with EngineClient(url, "secret") as client:

        def heard():
            try:
                return "web-1" in str(client.predict("shop"))
            except EngineError:
                return False

        wait_for(heard, agent, its_log)
    assert stop(agent) in (0, -15)
    assert stop(engine) in (0, -15)


def test_envoy_and_the_router_share_the_picker(builder, started, tmp_path):
    root = builder.root("router")
    home = root / "var/lib/fingerpost"
    (home / "hosts.txt").write_text("web-1=127.0.0.1:9\n")
    ports = {"FINGERPOST_ENVOY_PORT": free_port(), "FINGERPOST_ENVOY_ADMIN_PORT": free_port()}
    log = tmp_path / "envoy.log"
    config = ["fingerpost", "envoy", "config", "--hosts=/var/lib/fingerpost/hosts.txt", "--output=envoy.json"]
    made = builder.start("router", config, log, **ports)
    assert made.wait(60) == 0, log.read_text()
    envoy = builder.start("router", ["envoy", "-c", "envoy.json", "--base-id", "77", "-l", "warn"], log)
    health = free_port()
    builder.environment("router")["HEALTH_URL"] = f"http://127.0.0.1:{ports['FINGERPOST_ENVOY_ADMIN_PORT']}/ready"
    try:
        wait_for(lambda: builder.healthy("router"), envoy, log)
        builder.environment("router")["HEALTH_URL"] = f"http://127.0.0.1:{health}/metrics"
        router, its_log = started("router", f"--metrics-port={health}", "--access-log=access.log")
        wait_for(lambda: builder.healthy("router"), router, its_log)
    finally:
        stop(envoy)


def test_the_endpoint_picker_listens(builder, started):
    builder.root("endpoint-picker")
    health = free_port()
    builder.environment("endpoint-picker")["HEALTH_URL"] = f"http://127.0.0.1:{health}/metrics"
    picker, log = started(
        "endpoint-picker", "--listen=127.0.0.1:0", "--host=web-1=127.0.0.1:9", f"--metrics-port={health}"
    )
    wait_for(lambda: builder.healthy("endpoint-picker"), picker, log)


def test_the_platform_knows_its_commands(builder, tmp_path):
    builder.root("platform")
    for command in (["fingerpost", "up", "--help"], ["python", "-P", "-m", "mlflow", "server", "--help"]):
        log = tmp_path / "help.log"
        assert builder.start("platform", command, log).wait(PATIENCE_S) == 0, log.read_text()[-2000:]


def test_nothing_stays_mounted(builder):
    assert str(builder.root("python")) not in Path("/proc/mounts").read_text()
