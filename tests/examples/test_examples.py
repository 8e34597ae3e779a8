"""The examples beside the demo, run as their READMEs say, with ports of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.module import compiler
from fingerpost.routing.envoy.upstream import Upstream
from tests.support.recipes import blocks, program

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 240


def run(example, folder, **ports):
    """What a run prints; it ends well by itself, and leaves no process and no file."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "TMPDIR": str(folder), **{name: str(port) for name, port in ports.items()}}
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [EXAMPLES / example / "run.sh"], env=env, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            printed, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            left = [each for each in psutil.process_iter() if session(each.pid) == process.pid]
            for each in left:
                each.kill()
    assert process.returncode == 0, (folder / "errors").read_text()
    assert left == []
    assert [each.name for each in folder.iterdir()] == ["errors"]
    return printed.decode()


def session(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def costs(printed):
    """CPU-seconds a request, by category."""
    return {
        name: float(cost) for name, cost in re.findall(r'category_cpu_seconds\{category="([^"]+)"\} (\S+)', printed)
    }


@pytest.mark.process
@pytest.mark.timeout(300)
def test_the_example_of_fastapi(tmp_path, free_ports):
    port, metrics = free_ports(2)
    [(category, cost)] = costs(run("fastapi", tmp_path, PORT=port, METRICS_PORT=metrics)).items()
    assert category == "GET /users/*/orders|0|none|library|none"
    assert cost > 0


@pytest.mark.process
@pytest.mark.timeout(300)
def test_the_example_of_nginx(tmp_path, free_ports):
    program("nginx")
    port, service, metrics = free_ports(3)
    found = costs(run("nginx", tmp_path, PORT=port, SERVICE_PORT=service, METRICS_PORT=metrics))
    assert found["GET /report|0|none|library|none"] > 2 * found["GET /users/*|0|none|library|none"] > 0


def test_the_example_of_nginx_has_the_documented_format():
    [recipe] = blocks("agent.md", "nginx")
    assert recipe in (EXAMPLES / "nginx" / "nginx.conf").read_text()


@pytest.mark.process
@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
@pytest.mark.timeout(300)
def test_the_example_of_an_envoy_of_ones_own(tmp_path, free_ports):
    names = ("PORT", "A_PORT", "B_PORT", "ENGINE_PORT")
    printed = run("own_envoy", tmp_path, **dict(zip(names, free_ports(4), strict=True)))
    chosen = {(route, host): int(n) for route, host, n in re.findall(r"^/(\w+) on (\w): (\d+) ", printed, re.MULTILINE)}
    assert sum(chosen.values()) >= 100
    assert chosen["report", "b"] > 2 * chosen["report", "a"]
    assert chosen["search", "a"] > 2 * chosen["search", "b"]


def test_the_example_of_an_envoy_of_ones_own_adds_what_the_generated_configuration_has():
    log, table = Path("/var/log/envoy/access.log"), Path("/var/lib/fingerpost/shop.table")
    hosts = [Upstream("a", "127.0.0.1", 9001), Upstream("b", "127.0.0.1", 9002)]
    made = envoy_config(hosts, log, "127.0.0.1", 8080, 9901, "fingerpost", table=table)["static_resources"]
    own = yaml.safe_load((EXAMPLES / "own_envoy" / "envoy.yaml").read_text())["static_resources"]
    manager, own_manager = (
        each["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"] for each in (made, own)
    )
    assert own_manager["access_log"] == manager["access_log"]
    assert own_manager["http_filters"][0] == manager["http_filters"][0]
    for key in ("load_balancing_policy", "load_assignment"):
        assert own["clusters"][0][key] == made["clusters"][0][key]
