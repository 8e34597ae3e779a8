"""Finding a service's processes and finding them again after a deploy, on a real prefork server."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from fingerpost.agent.sampling import NotYetError, SamplingError, Subject, process
from fingerpost.agent.sampling.find import by_command, by_pid, by_pid_file, by_unit
from fingerpost.agent.sampling.process import ProcessSampler
from tests.support.agent_harness import agent
from tests.support.records import good_sample
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

SUBJECT = Subject("shop", "h1", cores=1.0, mem_limit_bytes=2**40)
BURN_S = 0.15
APP = f"""
import time
def app(environ, start_response):
    end = time.thread_time() + {BURN_S}
    while time.thread_time() < end:
        pass
    start_response("200 OK", [])
    return [str(__import__("os").getpid()).encode()]
"""


class Gunicorn:
    """A server with a main process and two workers, as services run."""

    def __init__(self, folder, port):
        self.folder, self.port, self.pid_file = folder, port, folder / "shop.pid"
        (folder / "served.py").write_text(APP)
        self.main = None

    def start(self):
        arguments = ("--workers", "2", "--bind", f"127.0.0.1:{self.port}", "--pid", str(self.pid_file), "served:app")
        command = [sys.executable, "-m", "gunicorn", *arguments]
        self.main = subprocess.Popen(command, cwd=self.folder, stderr=subprocess.DEVNULL)
        wait_for(lambda: len(self.workers()) == 2 and self.answers() and self.pid_file.exists())

    def workers(self):
        return psutil.Process(self.main.pid).children()

    def answers(self):
        with contextlib.suppress(httpx.HTTPError):
            return int(httpx.get(f"http://127.0.0.1:{self.port}/", trust_env=False).text)
        return 0

    def reload(self):
        old = {each.pid for each in self.workers()}
        self.main.send_signal(signal.SIGHUP)
        wait_for(lambda: len(self.workers()) == 2 and not old & {each.pid for each in self.workers()})

    def kill(self):
        workers = self.workers()
        self.main.kill()  # first, or it would start others in their place
        self.main.wait()
        for each in workers:
            each.kill()


@pytest.fixture
def gunicorn(tmp_path, free_ports):
    made = Gunicorn(tmp_path, *free_ports(1))
    made.start()
    yield made
    if made.main.poll() is None:
        made.kill()


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch):
    monkeypatch.setattr(process, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(process, "_LOOK_AGAIN_S", 0.0)


def used_by_requests(sampler, server, requests):
    sampler.sample()
    for _ in range(requests):
        wait_for(server.answers)
    row = sampler.sample()
    used_s = row.pop("used_cpu_s")
    good_sample(row)
    return used_s


@pytest.mark.parametrize("how", ["pid file", "command"])
def test_workers_count_through_reload_and_deploy(gunicorn, how):
    find = by_pid_file(gunicorn.pid_file) if how == "pid file" else by_command(rf"gunicorn .*:{gunicorn.port} ")
    assert find() == (gunicorn.main.pid,)
    sampler = ProcessSampler(SUBJECT, find)
    assert used_by_requests(sampler, gunicorn, 6) >= 6 * BURN_S
    gunicorn.reload()
    assert used_by_requests(sampler, gunicorn, 6) >= 6 * BURN_S
    gunicorn.kill()
    with pytest.raises(SamplingError, match=r"gone|fits no process"):
        sampler.sample()
    with pytest.raises(SamplingError):
        sampler.busy_s()
    gunicorn.start()
    with pytest.raises(NotYetError, match=f"measured from now on: process {gunicorn.main.pid}"):
        sampler.sample()
    assert used_by_requests(sampler, gunicorn, 6) >= 6 * BURN_S
    assert sampler.busy_s() > 0


def test_a_graceful_change_of_the_main_process_is_followed(gunicorn, tmp_path, free_ports):
    sampler = ProcessSampler(SUBJECT, by_pid_file(gunicorn.pid_file))
    sampler.sample()
    (tmp_path / "new").mkdir()
    new = Gunicorn(tmp_path / "new", *free_ports(1))
    new.start()
    gunicorn.pid_file.write_text(new.pid_file.read_text())
    with pytest.raises(NotYetError, match=str(new.main.pid)):
        sampler.sample()
    sampler.sample()
    new.kill()


def test_an_agent_starts_before_its_service_and_finds_it(tmp_path, free_ports, caplog):
    server = Gunicorn(tmp_path, *free_ports(1))
    each = agent(tmp_path, pid_file=server.pid_file)
    for _ in range(5):
        each.sample_host()
    assert each.problems.now()["host"].endswith("No such file or directory: has the service been started?")
    assert caplog.text.count("cannot sample the host") == 1
    server.start()
    each.sample_host()
    assert each.problems.now() == {}
    each.sample_host()
    assert each.all_counts()["samples_failed"] == 5
    server.kill()


def test_a_process_that_is_given_and_gone_is_told_of_with_what_to_do():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    sampler = ProcessSampler(SUBJECT, by_pid(child.pid))
    sampler.sample()
    child.kill()  # not waited for: what is left of it does not count
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    for _ in range(2):
        with pytest.raises(SamplingError, match=r"is gone.* --pid-file, --unit or --match"):
            sampler.sample()
        child.communicate()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "holds ''"),
        (b"0", "holds '0'"),
        (b"-1", "no pid"),
        (b"\xc2\xb2", "no pid"),
        (b"\xff", "no text"),
        (b"12 13", "no pid"),
        (b"4194304000", "is gone"),
        (b"9" * 4000, "no pid"),
    ],
)
def test_a_pid_file_that_tells_no_process_is_one_error(tmp_path, content, why):
    path = tmp_path / "shop.pid"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SamplingError, match=re.escape(why)):
        by_pid_file(path)()


def test_a_command_line_is_matched_without_agents_and_what_descends_from_a_match():
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()', sys.argv[1]])"
    started = [
        subprocess.Popen([sys.executable, "-c", code, mark], stdin=subprocess.PIPE),
        subprocess.Popen([sys.executable, "-c", "input()", "--match", mark], stdin=subprocess.PIPE),
        subprocess.Popen([sys.executable, "-c", "input()", f"{mark}-2"], stdin=subprocess.PIPE),
    ]
    try:
        wait_for(lambda: psutil.Process(started[0].pid).children())
        assert by_command(mark)() == tuple(sorted((started[0].pid, started[2].pid)))
        assert by_command(f"{mark}$")() == (started[0].pid,)
        with pytest.raises(SamplingError, match="fits no process"):
            by_command(f"{mark}-3")()
    finally:
        for each in started:
            each.communicate(b"\n")
    with pytest.raises(SamplingError, match="no regular expression"):
        by_command("(")


# What `systemctl show` prints; there is no systemd where tests run.
UNITS = {
    "shop": ("LoadState=loaded\nActiveState=active\nMainPID={pid}\n", ""),
    "ended.service": ("LoadState=loaded\nActiveState=inactive\nMainPID=0\n", "is inactive and has no main process"),
    "unknown": ("LoadState=not-found\nActiveState=inactive\nMainPID=0\n", "knows no such unit"),
    "odd": ("nonsense", "systemctl says"),
}


@pytest.mark.parametrize("unit", UNITS)
def test_the_main_process_of_a_unit(tmp_path, monkeypatch, unit):
    said, why = UNITS[unit]
    command = tmp_path / "systemctl"
    command.write_text(f'#!/bin/sh\ntest "$1 $3 $4" = "show -- {unit}" && cat {tmp_path}/said\n')
    command.chmod(0o755)
    (tmp_path / "said").write_text(said.format(pid=os.getpid()))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if why:
        with pytest.raises(SamplingError, match=why):
            by_unit(unit)()
    else:
        assert by_unit(unit)() == (os.getpid(),)
    monkeypatch.setenv("PATH", str(Path(tmp_path) / "nowhere"))
    with pytest.raises(SamplingError, match="systemctl cannot be asked"):
        by_unit(unit)()
