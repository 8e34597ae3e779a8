"""Processes that live and die together, and ports that say who has them."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from fingerpost.errors import NotReadyError, PortInUseError, ProcessDiedError
from fingerpost.stack.ports import PortUse, check_ports
from fingerpost.stack.processes import Stack

FOREVER = [sys.executable, "-c", "import time; time.sleep(60)"]
# Starts a child of its own that ignores SIGTERM, prints its process id, and waits.
STUBBORN = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)'], stdout=subprocess.PIPE);"
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)",
]


def test_a_port_in_use_is_named_with_its_owner_and_setting():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError) as caught:
            check_ports([PortUse("Envoy", "127.0.0.1", port, "FINGERPOST_ENVOY_PORT")])
    message = str(caught.value)
    assert f"port {port} (Envoy)" in message
    assert "FINGERPOST_ENVOY_PORT" in message
    assert f"pid {os.getpid()}" in message


def test_free_ports_pass(free_ports):
    (port,) = free_ports(1)
    check_ports([PortUse("Envoy", "127.0.0.1", port, "X")])


def test_the_death_of_one_is_told_and_stops_the_rest(tmp_path):
    with pytest.raises(ProcessDiedError) as caught, Stack(tmp_path, {}) as stack:
        other = stack.start("other", FOREVER).process
        stack.start("engine", [sys.executable, "-c", "print('no model'); raise SystemExit(3)"])
        stack.wait_until(lambda: False, 20, "never")
    message = str(caught.value)
    assert "engine" in message
    assert "exit code 3" in message
    assert "no model" in message
    assert other.poll() is not None


def test_a_killed_process_is_told_by_its_signal(tmp_path):
    with pytest.raises(ProcessDiedError, match="ended by SIGKILL"), Stack(tmp_path, {}) as stack:
        stack.start("envoy", FOREVER).process.send_signal(signal.SIGKILL)
        stack.wait_until(lambda: False, 20, "never")


def test_what_is_never_ready_is_told(tmp_path):
    with pytest.raises(NotReadyError, match="MLflow does not answer after 0 s"), Stack(tmp_path, {}) as stack:
        stack.wait_until(lambda: False, 0.2, "MLflow does not answer")


def test_stopping_reaches_the_children_of_children(tmp_path):
    with Stack(tmp_path, {}) as stack:
        child = stack.start("stubborn", STUBBORN)
        stack.wait_until(lambda: bool(child.log.read_text().strip()), 20, "no child")
        grandchild = int(child.log.read_text())
        assert psutil.pid_exists(grandchild)
    assert not psutil.pid_exists(grandchild)


def test_stopping_reaches_what_outlived_its_parent(tmp_path):
    code = (
        "import subprocess, sys, time; "
        f"print(subprocess.Popen({FOREVER!r}, start_new_session=True).pid, flush=True); time.sleep(60)"
    )
    with Stack(tmp_path, {}) as stack:
        child = stack.start("server", [sys.executable, "-c", code])
        stack.wait_until(lambda: bool(child.log.read_text().strip()), 20, "no child")
        orphan = int(child.log.read_text())
        child.process.kill()
        child.process.wait()
        assert psutil.pid_exists(orphan)
    assert not psutil.pid_exists(orphan)


def test_a_child_that_ends_well_is_let_go(tmp_path):
    with Stack(tmp_path, {"WORD": "hello"}) as stack:
        child = stack.start("load", [sys.executable, "-c", "import os; print(os.environ['WORD'])"])
        stack.finish(child, 20)
        assert child.log.read_text() == "hello\n"
        stack.check()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_children_end_when_the_parent_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from fingerpost.stack.processes import Stack;"
        f"s = Stack(Path({str(tmp_path)!r}), {{}}); print(s.start('x', {FOREVER!r}).process.pid, flush=True);"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
