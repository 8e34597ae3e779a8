"""A supervisor on bad days: parts that hang, ports that others hold, orphans, files that cannot be written."""

import http.server
import json
import os
import signal
import sys
import threading
import time

import httpx
import psutil
import pytest

from fingerpost.cli.stack.parts import Part, answers, envoy_part
from fingerpost.cli.stack.patience import RestartPolicy, Upkeep
from fingerpost.cli.stack.processes import ProcessGroup
from fingerpost.cli.stack.state import read_states
from fingerpost.cli.stack.supervisor import Supervisor
from fingerpost.heartbeat import Heartbeats, beat

pytestmark = pytest.mark.process

FOREVER = [sys.executable, "-c", "import time; time.sleep(60)"]
BEATS = [
    sys.executable,
    "-c",
    "import time; from fingerpost.heartbeat import beat\nwhile True: beat(); time.sleep(0.02)",
]
QUICK = RestartPolicy(first_s=0.01, ask_every_s=0.05, ask_timeout_s=0.3, most_silences=3, heartbeat_s=1.0)


def server(port):
    return [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]


def step_until(supervisor, done, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, [vars(each) for each in supervisor.states()]
        supervisor.step(time.monotonic())
        time.sleep(0.02)


def state_of(supervisor, name):
    return next(each for each in supervisor.states() if each.name == name)


@pytest.fixture
def foreign_server(free_ports):
    """A server of somebody else's: in this process, which is no part of any stack."""
    (port,) = free_ports(1)
    running = []

    def start():
        made = http.server.ThreadingHTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        running.append(made)
        return made

    yield port, start
    for made in running:
        made.shutdown()
        made.server_close()


def test_a_part_that_does_not_answer_any_more_is_started_again(tmp_path, free_ports):
    (port,) = free_ports(1)
    url, told = f"http://127.0.0.1:{port}/", []
    with ProcessGroup(tmp_path, {}) as stack:
        supervisor = Supervisor(stack, [Part("server", "", server(port), url)], told.append, QUICK)
        step_until(supervisor, lambda: supervisor.all_up)
        first = state_of(supervisor, "server").pid
        os.kill(first, signal.SIGSTOP)
        step_until(supervisor, lambda: state_of(supervisor, "server").state == "silent")
        step_until(supervisor, lambda: state_of(supervisor, "server").pid not in (0, first) and supervisor.all_up)
        assert not psutil.pid_exists(first)
    state = state_of(supervisor, "server")
    assert state.restarts == 1
    assert f"server (pid {first}) did not answer 3 times in a row, and was ended" in state.last_error
    assert any(state.last_error in line for line in told)


def test_a_part_that_answers_in_time_again_is_left_alone(tmp_path, free_ports):
    (port,) = free_ports(1)
    patience = RestartPolicy(ask_every_s=0.05, ask_timeout_s=0.3, most_silences=1000)
    with ProcessGroup(tmp_path, {}) as stack:
        part = Part("server", "", server(port), f"http://127.0.0.1:{port}/")
        supervisor = Supervisor(stack, [part], lambda _: None, patience)
        step_until(supervisor, lambda: supervisor.all_up)
        pid = state_of(supervisor, "server").pid
        os.kill(pid, signal.SIGSTOP)
        step_until(supervisor, lambda: state_of(supervisor, "server").state == "silent")
        os.kill(pid, signal.SIGCONT)
        step_until(supervisor, lambda: supervisor.all_up)
        assert state_of(supervisor, "server").pid == pid


@pytest.mark.skipif(not Heartbeats.possible(), reason="heartbeats need addresses without files")
def test_a_part_without_a_port_that_gives_no_sign_of_life_is_started_again(tmp_path):
    told = []
    with ProcessGroup(tmp_path, {}) as stack:
        parts = [Part("loop", "", BEATS, beats=True), Part("mute", "", FOREVER, beats=True)]
        supervisor = Supervisor(stack, parts, told.append, QUICK)
        step_until(supervisor, lambda: state_of(supervisor, "loop").state == "up")
        first = state_of(supervisor, "loop").pid
        os.kill(first, signal.SIGSTOP)
        step_until(supervisor, lambda: state_of(supervisor, "loop").pid not in (0, first))
        step_until(supervisor, lambda: state_of(supervisor, "loop").state == "up")
        assert not psutil.pid_exists(first)
        # Who has never told that it goes on is not up, but not ended either.
        assert (state_of(supervisor, "mute").state, state_of(supervisor, "mute").restarts) == ("starting", 0)
    assert any("gave no sign of life for 1 s" in line for line in told)
    supervisor.close()


@pytest.mark.skipif(not Heartbeats.possible(), reason="heartbeats need addresses without files")
def test_heartbeats_are_heard_once_and_never_disturb(monkeypatch):
    beat()
    heartbeats = Heartbeats()
    for name, value in heartbeats.environment().items():
        monkeypatch.setenv(name, value)
    assert not heartbeats.heard()
    for _ in range(3000):
        beat()
    assert heartbeats.heard()
    while heartbeats.heard():
        pass
    heartbeats.close()
    beat()


def test_a_port_that_another_has_is_named_and_taken_once_it_is_free(tmp_path, foreign_server):
    port, start = foreign_server
    from fingerpost.cli.stack.ports import PortUse

    part = Part("server", "", server(port), f"http://127.0.0.1:{port}/", ports=(PortUse("it", "127.0.0.1", port, "X"),))
    other, told = start(), []
    with ProcessGroup(tmp_path, {}) as stack:
        supervisor = Supervisor(stack, [part], told.append, QUICK)
        step_until(supervisor, lambda: state_of(supervisor, "server").restarts > 1)
        assert f"port {port} (it) is in use" in told[0]
        assert f"pid {os.getpid()}" in told[0]
        assert not any("is up" in line for line in told)
        other.shutdown()
        other.server_close()
        step_until(supervisor, lambda: supervisor.all_up)


def test_the_answer_of_another_is_not_the_parts_own(tmp_path, foreign_server):
    port, start = foreign_server
    from fingerpost.cli.stack.ports import PortUse

    url, told = f"http://127.0.0.1:{port}/", []
    with ProcessGroup(tmp_path, {}) as stack:
        part = Part("mute", "", FOREVER, url, ports=(PortUse("it", "127.0.0.1", port, "X"),))
        supervisor = Supervisor(stack, [part], told.append, QUICK)
        supervisor.step(time.monotonic())
        assert state_of(supervisor, "mute").state == "starting"
        start()
        step_until(supervisor, lambda: bool(told))
        assert told == [f"port {port} (it): {psutil.Process().name()} (pid {os.getpid()}) answers in place of mute"]
        assert state_of(supervisor, "mute").state == "starting"


def test_an_orphan_that_holds_the_port_is_ended_before_the_restart(tmp_path, free_ports):
    (port,) = free_ports(1)
    from fingerpost.cli.stack.ports import PortUse

    # As an engine does it: the worker that has the port is in a session of its own and outlives its parent.
    code = f"import subprocess, time; subprocess.Popen({server(port)!r}, start_new_session=True); time.sleep(60)"
    url, told = f"http://127.0.0.1:{port}/", []
    ports = (PortUse("it", "127.0.0.1", port, "X"),)
    with ProcessGroup(tmp_path, {}) as stack:
        part = Part("engine", "", [sys.executable, "-c", code], url, ports=ports)
        supervisor = Supervisor(stack, [part], told.append, QUICK)
        step_until(supervisor, lambda: supervisor.all_up)
        parent = psutil.Process(state_of(supervisor, "engine").pid)
        [orphan] = parent.children()
        parent.kill()
        step_until(supervisor, lambda: not supervisor.all_up)
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        step_until(supervisor, lambda: supervisor.all_up)
        assert answers(url)
    assert state_of(supervisor, "engine").restarts == 1


def test_what_cannot_be_started_is_tried_again_and_the_others_go_on(tmp_path):
    told = []
    (tmp_path / "logless.log").mkdir()
    with ProcessGroup(tmp_path, {}) as stack:
        parts = [Part("absent", "", [str(tmp_path / "none")]), Part("logless", "", FOREVER), Part("good", "", FOREVER)]
        supervisor = Supervisor(stack, parts, told.append, QUICK)
        step_until(supervisor, lambda: state_of(supervisor, "absent").restarts > 1)
        assert state_of(supervisor, "good").state == state_of(supervisor, "logless").state == "up"
        assert state_of(supervisor, "logless").unlogged == 1
    assert any("absent cannot be started" in line for line in told)
    assert any("logless runs without a log" in line and "Is a directory" in line for line in told)


def test_a_state_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path):
    home, told = tmp_path / "home", []
    home.write_text("not a folder")
    with ProcessGroup(tmp_path / "logs", {}) as stack:
        parts = [Part("good", "", FOREVER), Part("fine", "", FOREVER)]
        supervisor = Supervisor(stack, parts, told.append, QUICK, Upkeep(home))
        step_until(supervisor, lambda: supervisor.all_up)
        for later in range(0, 100, 10):
            supervisor.step(time.monotonic() + later)
        assert [line for line in told if "trouble" in line] == [
            "trouble with the state in run/: Not a directory; all else goes on"
        ]
        home.unlink()
        home.mkdir()
        for later in (1000, 2000):
            supervisor.step(time.monotonic() + later)
    assert [(state.name, state.state) for state in read_states(home)] == [("fine", "up"), ("good", "up")]
    supervisor.close()
    assert read_states(home) == []


def test_too_little_room_is_told_and_that_it_is_over(tmp_path):
    told = []
    with ProcessGroup(tmp_path / "logs", {}) as stack:
        supervisor = Supervisor(stack, [], told.append, QUICK, Upkeep(tmp_path, low_mb=1e12))
        supervisor.step(0.0)
        supervisor.step(1000.0)
    assert len(told) == 1
    assert "left on the disk, less than FINGERPOST_DISK_LOW_MB=1e+12" in told[0]


@pytest.fixture
def logging_envoy(tmp_path, free_ports):
    """Envoy as `up` starts it, with hosts that answer, and its settings."""
    from fingerpost.cli.stack.parts import access_log_path
    from fingerpost.routing.envoy.config import envoy_config
    from fingerpost.routing.envoy.upstream import Upstream
    from fingerpost.settings import Settings

    class Host(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=host.serve_forever, args=(0.02,), daemon=True).start()
    port, admin = free_ports(2)
    settings = Settings(home=tmp_path, envoy_port=port, envoy_admin_port=admin)
    made = envoy_config(
        [Upstream("h1", "127.0.0.1", host.server_port)], access_log_path(settings), "127.0.0.1", port, admin
    )
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(made))
    yield envoy_part(settings, config, tmp_path / "module"), access_log_path(settings)
    host.shutdown()
    host.server_close()


def test_envoys_log_is_bounded_and_loses_no_line(tmp_path, logging_envoy):
    from fingerpost.accesslog.tail import LogTail
    from fingerpost.cli.stack.logs import Bounds

    part, log = logging_envoy
    tail, found, sent = LogTail(log), [], []

    def all_read():
        found.extend(json.loads(line)["path"] for line in tail.lines())
        return len(found) >= len(sent)

    with ProcessGroup(tmp_path / "logs", {}) as stack, httpx.Client(trust_env=False) as client:
        upkeep = Upkeep(written_logs=Bounds(20_000, 3))
        supervisor = Supervisor(stack, [part], lambda _: None, QUICK, upkeep)
        step_until(supervisor, lambda: supervisor.all_up)
        for turn in range(5):
            for _ in range(60):
                sent.append(f"/{len(sent)}")
                assert client.get(part.address + sent[-1]).status_code == 200
            step_until(supervisor, all_read)
            # A minute later, by the supervisor's clock.
            supervisor.step(time.monotonic() + 60 * (turn + 1))
    assert found == sent
    logs = sorted(path.name for path in tmp_path.glob("access.log*"))
    assert logs[-2:] == ["access.log.1", "access.log.2"]
    assert not (tmp_path / "access.log.3").exists()
    tail.close()
