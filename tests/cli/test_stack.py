"""Processes that live and die together, and ports that say who has them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fingerpost.cli.stack.logs import Bounds, Journal, move_on
from fingerpost.cli.stack.ports import PortUse, check_ports, free_ports
from fingerpost.cli.stack.processes import ProcessGroup
from fingerpost.errors import NotReadyError, PortInUseError, ProcessDiedError

pytestmark = pytest.mark.process

FOREVER = [sys.executable, "-c", "import time; time.sleep(60)"]
# Starts a child of its own that ignores SIGTERM, prints its process id, and waits.
STUBBORN = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)'], stdout=subprocess.PIPE);"
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)",
]


def lives(pid):
    """Whether a process is there and not only waits for its parent to look."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_gone(pids, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


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
    with pytest.raises(ProcessDiedError) as caught, ProcessGroup(tmp_path, {}) as stack:
        other = stack.start("other", FOREVER).process
        stack.start("engine", [sys.executable, "-c", "print('no model'); raise SystemExit(3)"])
        stack.wait_until(lambda: False, 20, "never")
    message = str(caught.value)
    assert "engine" in message
    assert "exit code 3" in message
    assert "no model" in message
    assert other.poll() is not None


def test_a_killed_process_is_told_by_its_signal(tmp_path):
    with pytest.raises(ProcessDiedError, match="ended by SIGKILL"), ProcessGroup(tmp_path, {}) as stack:
        stack.start("envoy", FOREVER).process.send_signal(signal.SIGKILL)
        stack.wait_until(lambda: False, 20, "never")


def test_what_is_never_ready_is_told(tmp_path):
    with pytest.raises(NotReadyError, match="MLflow does not answer after 0 s"), ProcessGroup(tmp_path, {}) as stack:
        stack.wait_until(lambda: False, 0.2, "MLflow does not answer")


def test_stopping_reaches_the_children_of_children(tmp_path):
    with ProcessGroup(tmp_path, {}) as stack:
        child = stack.start("stubborn", STUBBORN)
        stack.wait_until(lambda: bool(child.output().strip()), 20, "no child")
        grandchild = int(child.output())
        assert lives(grandchild)
    assert not lives(grandchild)


def test_stopping_reaches_what_outlived_its_parent(tmp_path):
    code = (
        "import subprocess, sys, time; "
        f"print(subprocess.Popen({FOREVER!r}, start_new_session=True).pid, flush=True); time.sleep(60)"
    )
    with ProcessGroup(tmp_path, {}) as stack:
        child = stack.start("server", [sys.executable, "-c", code])
        stack.wait_until(lambda: bool(child.output().strip()), 20, "no child")
        orphan = int(child.output())
        child.process.kill()
        child.process.wait()
        assert lives(orphan)
    assert not lives(orphan)


def test_a_child_that_ends_well_is_let_go(tmp_path):
    with ProcessGroup(tmp_path, {"WORD": "hello"}) as stack:
        child = stack.start("load", [sys.executable, "-c", "import os; print(os.environ['WORD'])"])
        stack.finish(child, 20)
        assert child.output() == "hello\n"
        stack.check()


ORPHAN_MAKER = [
    sys.executable,
    "-c",
    f"import subprocess, sys, time; p = subprocess.Popen({FOREVER!r}, start_new_session=True);"
    "print(p.pid, flush=True); time.sleep(60)",
]


def killed_stack(folder):
    """A stack whose holder was killed by SIGKILL: process ids of its part and of the part's own, detached, child."""
    code = (
        "import sys, time; from pathlib import Path; from fingerpost.cli.stack.processes import ProcessGroup\n"
        f"s = ProcessGroup(Path({str(folder)!r}), {{}}); c = s.start('x', {ORPHAN_MAKER!r})\n"
        "while not c.output().strip(): time.sleep(0.02)\n"
        "print(c.process.pid, c.output().strip(), flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in holder.stdout.readline().split()]
    assert len(pids) == 2
    return holder, pids


def test_nothing_is_left_when_the_holder_is_killed(tmp_path):
    holder, pids = killed_stack(tmp_path)
    assert all(lives(pid) for pid in pids)
    holder.kill()
    holder.wait()
    until_gone(pids)


def test_the_next_stack_ends_what_an_earlier_one_has_left(tmp_path):
    holder, pids = killed_stack(tmp_path)
    # The sentinel cannot do its work either.
    [sentinel] = [
        each for each in psutil.Process(holder.pid).children() if "fingerpost.cli.stack.sentinel" in each.cmdline()
    ]
    sentinel.kill()
    holder.kill()
    holder.wait()
    with ProcessGroup(tmp_path / "elsewhere", {}) as stack:
        assert stack.end_left_over(["x"]) == 0
    with ProcessGroup(tmp_path, {}) as stack:
        assert stack.end_left_over(["y"]) == 0
        assert lives(pids[1])
        assert stack.end_left_over(["x"]) > 0
        assert not any(lives(pid) for pid in pids)


def test_the_sentinel_is_started_again(tmp_path):
    with ProcessGroup(tmp_path, {}) as stack:
        stack.start("x", FOREVER)

        def sentinels():
            return [
                each
                for each in psutil.Process().children()
                if "fingerpost.cli.stack.sentinel" in " ".join(each.cmdline())
            ]

        [first] = sentinels()
        first.kill()
        first.wait(20)
        stack.keep_sentinel()
        assert sentinels()
    assert not sentinels()


def test_to_end_one_ends_all_that_it_has_started_and_no_other(tmp_path):
    with ProcessGroup(tmp_path, {}) as stack:
        other = stack.start("other", FOREVER)
        child = stack.start("server", ORPHAN_MAKER)
        stack.wait_until(lambda: bool(child.output().strip()), 20, "no child")
        orphan = int(child.output())
        assert orphan in stack.family(child)
        child.process.kill()
        child.process.wait()
        assert orphan in stack.family(child)
        stack.end(child)
        assert not lives(orphan)
        assert lives(other.process.pid)


def test_what_a_stack_gives_its_processes_is_not_taken_for_a_misspelt_setting(tmp_path):
    from fingerpost.settings import unknown_variables

    with ProcessGroup(tmp_path, {}) as stack:
        child = stack.start("x", [sys.executable, "-c", "import os; print('\\n'.join(os.environ))"])
        stack.finish(child, 20)
        given = set(child.output().split()) - set(os.environ)
    assert given
    assert unknown_variables(given) == []


def test_logs_are_appended_with_a_line_for_each_start(tmp_path):
    with ProcessGroup(tmp_path, {}) as stack:
        for word in ("one", "two"):
            child = stack.start("load", [sys.executable, "-c", f"print({word!r})"])
            stack.finish(child, 20)
            assert child.output() == f"{word}\n"
    lines = (tmp_path / "load.log").read_text().splitlines()
    assert [line.split()[-3:-1] for line in lines[::2]] == [["load", "starts"]] * 2
    assert lines[1::2] == ["one", "two"]
    assert (tmp_path / "load.log").stat().st_mode & 0o027 == 0


def test_logs_are_bounded_while_their_writer_goes_on(tmp_path):
    bounds = Bounds(1000, 3)
    with ProcessGroup(tmp_path, {}, bounds) as stack:
        child = stack.start(
            "chatty", [sys.executable, "-c", "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.001)"]
        )
        for _ in range(6):
            stack.wait_until(lambda: child.log.stat().st_size > 1000, 20, "it does not write")
            stack.bound_logs()
        stack.wait_until(lambda: "x" * 99 in child.output(), 20, "it does not write any more")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chatty.log", "chatty.log.1", "chatty.log.2"]


def test_what_cannot_have_a_log_runs_without(tmp_path):
    (tmp_path / "x.log").mkdir()
    with ProcessGroup(tmp_path, {}) as stack:
        child = stack.start("x", [sys.executable, "-c", "raise SystemExit(3)"])
        assert "Is a directory" in child.log_problem
        child.process.wait()
        assert "exit code 3" in child.failure()
        assert "no log" in child.failure()
        stack.bound_logs()


def test_a_journal_never_fails(tmp_path, capsys):
    journal = Journal(tmp_path / "up.log", Bounds(1000, 2))
    journal("all is well")
    assert capsys.readouterr().err == "all is well\n"
    assert (tmp_path / "up.log").read_text().endswith(f"pid {os.getpid()}: all is well\n")
    code = (
        "import os, sys; from pathlib import Path; from fingerpost.cli.stack.logs import Bounds, Journal\n"
        f"os.close(2); Journal(Path({str(tmp_path / 'none' / 'up.log')!r}), Bounds(1, 1))('unheard'); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n"


def test_a_log_moves_on_and_keeps_so_many(tmp_path):
    log = tmp_path / "access.log"
    for number in range(5):
        log.write_text(f"{number}" * 10)
        assert move_on(log, Bounds(10, 3))
        assert not move_on(log, Bounds(10, 3))
    assert {path.name: path.read_text()[0] for path in tmp_path.iterdir()} == {"access.log.1": "4", "access.log.2": "3"}
    log.write_text("small")
    assert not move_on(log, Bounds(10, 3))


def test_a_port_is_given_once_whoever_asks():
    """Two processes that ask at once, and one that asks twice, get other ports; none that connections are given."""
    ask = "import sys; from fingerpost.cli.stack.ports import free_ports as ask; print(*ask(40), flush=True); input()"
    askers = [
        subprocess.Popen([sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    given = [*free_ports(40), *free_ports(40)]
    for asker in askers:
        given += map(int, asker.stdout.readline().split())
    for asker in askers:
        asker.communicate("\n")
    assert len(set(given)) == len(given) == 160
    low, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert max(given) < low
