"""`make fleet --short` as a user runs it: machines that share a network and nothing else."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from examples.fleet.network import why_not
from fingerpost.routing.envoy.module import compiler
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process
PATIENCE_S = 400


needs_namespaces = pytest.mark.skipif(bool(why_not()), reason=why_not())
needs_picker = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


def start(folder, *arguments):
    """The command with a home of its own; what it says is in `told`."""
    env = {**os.environ, "FINGERPOST_HOME": str(folder)}
    with (folder / "told").open("wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "examples.fleet", *arguments], env=env, stdout=subprocess.PIPE, stderr=told
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """What a short run found."""
    folder = tmp_path_factory.mktemp("fleet")
    before = interfaces()
    process = start(folder, "--short", "--json")
    try:
        printed, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, (folder / "told").read_text()[-3000:]
    assert interfaces() == before
    assert not left(folder)
    return json.loads(printed)


def interfaces():
    """Network interfaces of this machine."""
    return sorted(psutil.net_if_addrs())


def left(folder):
    """Processes of a run that still live; a machine's processes are seen from here too."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(each.cmdline()):
                found.append(each)
    return found


@needs_namespaces
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda each: each.name)
def test_nothing_is_left_when_it_is_ended(tmp_path, how):
    before = interfaces()
    process = start(tmp_path)
    try:
        wait_for(lambda: (tmp_path / "fleet" / "logs").exists() and left(tmp_path), 60)
    finally:
        process.send_signal(how)
        process.communicate(timeout=60)
    wait_for(lambda: not left(tmp_path), 60)
    assert interfaces() == before


@pytest.mark.timeout(PATIENCE_S + 20)
@needs_namespaces
@needs_picker
def test_no_request_fails_but_on_the_host_that_died(fleet):
    steps = {name: step for name, step in fleet.items() if isinstance(step, dict) and "failed_by_host" in step}
    assert list(steps) == ["learned", "joined", "drained", "died", "cut_off", "replaced"]
    assert all(set(step["failed_by_host"]) <= {fleet["dead"]} for step in steps.values())
    assert all(step["requests"] for step in steps.values())
    assert fleet["problems"] == []


@needs_namespaces
@needs_picker
def test_no_window_is_lost(fleet):
    telemetry = fleet["telemetry"]
    assert telemetry["answered"] > 1000
    assert telemetry["lost"] == {}


@needs_namespaces
@needs_picker
def test_it_is_routed_by_what_came_over_the_network(fleet):
    # Arms are drawn by time, so that a single short step may have all its spans of the other one.
    policies = [step["policies"] for step in fleet.values() if isinstance(step, dict) and "policies" in step]
    assert sum(step.get("fingerpost", 0) for step in policies) > 100
    assert fleet["joined"]["in_table_s"] <= 15
