"""Locks between processes: one owner, named to whoever comes second, and gone with it."""

import subprocess
import sys

import pytest

from fingerpost.errors import AlreadyRunningError, FingerpostError
from fingerpost.locks import Owner, holder, locked, sole


def another_owner(path, about):
    """A process that holds the lock until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from fingerpost.locks import sole\n"
        f"with sole(Path({str(path)!r}), 'x', {about!r}): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.process
def test_the_second_is_refused_and_told_who_is_first(tmp_path):
    path = tmp_path / "run" / "engine.lock"
    first = another_owner(path, "engine 3000")
    try:
        with pytest.raises(AlreadyRunningError) as caught, sole(path, "an engine runs", cure="set another port"):
            pass
        assert str(caught.value) == f"an engine runs already: pid {first.pid} (engine 3000); set another port"
        assert holder(path) == Owner(first.pid, "engine 3000")
    finally:
        first.kill()
        first.wait()
    assert holder(path) is None
    with sole(path, "an engine runs", "engine 3001"):
        pass


@pytest.mark.process
def test_a_lock_ends_with_its_context_and_is_not_handed_to_subprocesses(tmp_path):
    path = tmp_path / "lock"
    with sole(path, "x", "a longer word about itself"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with sole(path, "x", "short"):
            assert holder(path).about == "short"
    finally:
        child.communicate(b"\n")
    assert holder(path) is None


def test_who_looks_does_not_take(tmp_path):
    path = tmp_path / "lock"
    assert holder(path) is None
    assert not path.exists()
    with sole(path, "x"):
        assert holder(path).about == ""
        assert holder(path).about == ""
    path.write_text("no owner")
    with locked(path):
        assert str(holder(path)) == "a process that left no name"


def test_waiting_for_a_lock_has_an_end(tmp_path):
    path = tmp_path / "lock"
    with (
        locked(path, shared=True),
        locked(path, shared=True),
        pytest.raises(FingerpostError, match="for more than 0 s"),
        locked(path, timeout_s=0),
    ):
        pass
    with locked(path, timeout_s=0):
        pass
