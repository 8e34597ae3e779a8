"""Finding a service's processes, also after a deploy: by pid, pid file, systemd unit or command line."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from fingerpost.agent.sampling.base import SamplingError

# Gives the pids of the service's main processes, at least one; their children count with them.
Finder = Callable[[], tuple[int, ...]]
_UNIT_TIMEOUT_S = 5.0
_AGENT = ("fingerpost.agent.main", "--match")
_MOST = 64


def by_pid(pid: int) -> Finder:
    """A process that is given: once it is gone nothing tells which one took its place.

    Raises:
        SamplingError: there is no such process.
    """
    try:
        process = psutil.Process(pid)
    except (psutil.Error, ValueError, OverflowError) as error:
        raise SamplingError(f"cannot look at process {pid}: {error}") from error

    def find() -> tuple[int, ...]:
        # Another process may have the same pid by now.
        if not lives(process):
            raise SamplingError(
                f"process {pid} (--pid) is gone: start the agent again with the new one, or give --pid-file, --unit or "
                "--match, by which the agent finds it again"
            )
        return (pid,)

    return find


def by_pid_file(path: Path) -> Finder:
    """The process whose pid is in a file, as servers write it (gunicorn's `--pid`, nginx' `pid`)."""

    def find() -> tuple[int, ...]:
        try:
            text = path.read_text()[:32].strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SamplingError(f"--pid-file {path}: {why}: has the service been started?") from error
        if not re.fullmatch(r"[1-9][0-9]{0,9}", text):
            raise SamplingError(f"--pid-file {path} holds {text!r}, which is no pid")
        if not _exists(int(text)):
            raise SamplingError(f"--pid-file {path} names process {text}, which is gone: has the service ended?")
        return (int(text),)

    return find


def by_unit(unit: str) -> Finder:
    """The main process of a systemd unit.

    Args:
        unit: such as `shop.service`; `.service` may be left out.
    """

    def find() -> tuple[int, ...]:
        command = ["systemctl", "show", "--property=LoadState,ActiveState,MainPID", "--", unit]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=_UNIT_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SamplingError(f"--unit {unit}: systemctl cannot be asked: {error}") from error
        told = dict(line.split("=", 1) for line in said.stdout.splitlines() if "=" in line)
        if said.returncode != 0 or "MainPID" not in told:
            raise SamplingError(f"--unit {unit}: systemctl says: {(said.stderr or said.stdout).strip()[:200]!r}")
        if told.get("LoadState") == "not-found":
            raise SamplingError(f"--unit {unit}: systemd knows no such unit; `systemctl list-units` shows them")
        pid = told["MainPID"]
        if not pid.isdecimal() or not int(pid) or not _exists(int(pid)):
            raise SamplingError(f"--unit {unit} is {told.get('ActiveState', 'unknown')} and has no main process")
        return (int(pid),)

    return find


def by_command(pattern: str) -> Finder:
    """The processes whose command line fits a regular expression, without those whose parents fit it too.

    Raises:
        SamplingError: it is no regular expression.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise SamplingError(f"--match {pattern!r} is no regular expression: {error}") from error

    def find() -> tuple[int, ...]:
        parents: dict[int, int] = {}
        fitting: list[int] = []
        for process in psutil.process_iter(("pid", "ppid", "cmdline")):
            pid, command = process.info["pid"], process.info["cmdline"] or []
            parents[pid] = process.info["ppid"]
            # Agents have the expression among their own arguments.
            agent = any(mark in part for part in command for mark in _AGENT)
            if command and pid != os.getpid() and not agent and wanted.search(" ".join(command)):
                fitting.append(pid)
        mains = tuple(sorted(pid for pid in fitting if not _below(pid, parents, frozenset(fitting))))
        if not mains:
            raise SamplingError(f"--match {pattern!r} fits no process: is the service running? See `ps -eo args`")
        if len(mains) > _MOST:
            raise SamplingError(f"--match {pattern!r} fits {len(mains)} processes, more than {_MOST}: make it narrower")
        return mains

    return find


def _below(pid: int, parents: dict[int, int], above: frozenset[int]) -> bool:
    """Whether a process descends from one of some others."""
    seen = {pid}
    while (pid := parents.get(pid, 0)) and pid not in seen:
        if pid in above:
            return True
        seen.add(pid)
    return False


def lives(process: psutil.Process) -> bool:
    """Whether it is still the same process, and not just what is left of one that nobody waited for."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it may not be looked at, but it is there
        return True


def _exists(pid: int) -> bool:
    try:
        return lives(psutil.Process(pid))
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
