"""Machines as namespaces: each has its own address, host name and files, and nothing in common but a network.

All of it lives in namespaces of our own (network, mounts, processes). The kernel removes them with everything in them
when our first process ends, however that happens: no name, interface or mount is left on the machine that runs it.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import psutil

from fingerpost.errors import FingerpostError

_INSIDE = "EXAMPLES_FLEET_INSIDE"
_TOOLS = ("unshare", "nsenter", "ip", "mount", "env")
_NETWORK = "10.77.0"
_OBSERVER = 254
_PR_SET_PDEATHSIG = 1


def why_not() -> str:
    """Why no machines can be made here; empty: they can."""
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"there is no {', '.join(absent)} (Debian: apt-get install util-linux iproute2)"
    trial = "ip link add trial type bridge && mount -t tmpfs none /mnt"
    done = subprocess.run([*_unshare(), "sh", "-c", trial], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    told = (done.stderr.strip().splitlines() or ["unknown reason"])[-1]
    return f"network namespaces cannot be made here ({told}): run it as root, or allow unprivileged user namespaces"


def inside() -> bool:
    """Whether this process is in the fleet's namespaces."""
    return bool(os.environ.get(_INSIDE))


def enter(arguments: Sequence[str], module: str = "examples.fleet") -> int:
    """Runs `python -m MODULE` with these arguments in namespaces of its own; returns its exit code.

    Raises:
        FingerpostError: there can be none here.
    """
    if reason := why_not():
        raise FingerpostError(reason)
    # Not by `-P`: the examples are installed nowhere, and are found where we run.
    command = [*_unshare(), sys.executable, "-m", module, *arguments]
    environment = {**os.environ, _INSIDE: "1"}
    outer = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 (we have no threads)
    )

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for child in psutil.Process(outer.pid).children():
            child.send_signal(number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, pass_on)
    try:
        return outer.wait()
    finally:
        # With `unshare` ends the first process inside, and with that all others.
        outer.kill()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _unshare() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    kinds = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    return ["unshare", *user, *kinds, "--"]


class Machine:
    """One machine.

    Attributes:
        address: in the network.
        home: a folder that every machine has under the same path, each with its own files in it.
    """

    def __init__(self, name: str, address: str, home: Path, holder: subprocess.Popen[bytes]) -> None:
        self.name, self.address, self.home, self._holder = name, address, home, holder

    def command(self, words: Sequence[str], folder: Path) -> list[str]:
        """A command that runs `words` on this machine, in a folder that it has."""
        return ["nsenter", "-t", str(self._holder.pid), "-n", "-m", "-u", "--", "env", f"--chdir={folder}", *words]

    def file(self, path: Path) -> Path:
        """A file of this machine, as we see it from outside."""
        return Path(f"/proc/{self._holder.pid}/root", *path.parts[1:])

    def run(self, *words: str) -> None:
        """Runs a command on it that must succeed.

        Raises:
            FingerpostError: it did not.
        """
        _run(*self.command(words, Path("/")))

    def remove(self) -> None:
        """Ends what keeps it; what runs on it must have been ended before."""
        self._holder.kill()
        self._holder.wait()


class Network:
    """Machines on one bridge; a machine can be cut off and joined again.

    Args:
        home: see `Machine`; it exists, and is empty for whoever looks at it from elsewhere.
        size_mb: of each machine's own files, in memory.
    """

    def __init__(self, home: Path, size_mb: int = 2048) -> None:
        self._home, self._size_mb = home, size_mb
        self._machines: dict[str, Machine] = {}
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "bridge0", "type", "bridge")
        _run("ip", "address", "add", f"{_NETWORK}.{_OBSERVER}/24", "dev", "bridge0")
        _run("ip", "link", "set", "bridge0", "up")

    def add(self, name: str) -> Machine:
        """Makes a machine and joins it to the network."""
        number = len(self._machines) + 1
        # Once it has written, it has its namespaces; it ends with us.
        command = ["unshare", "--net", "--mount", "--uts", "--propagation", "private"]
        holder = subprocess.Popen([*command, "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
        if not holder.stdout or not holder.stdout.readline():
            raise FingerpostError(f"machine {name} cannot be made")
        machine = Machine(name, f"{_NETWORK}.{number}", self._home, holder)
        _run("ip", "link", "add", f"m{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        machine.run("hostname", name)
        machine.run("mount", "-t", "tmpfs", "-o", f"size={self._size_mb}m,mode=700", "none", str(self._home))
        # Nothing else can be written there: the program is installed, and that is all that machines have in common.
        machine.run("mount", "-o", "remount,bind,ro", "/")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{machine.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            machine.run("ip", *words)
        self._machines[name] = machine
        _run("ip", "link", "set", f"m{number}", "up")
        self.join(machine)
        return machine

    def cut(self, machine: Machine) -> None:
        """Cuts a machine off: what it sends, and what is sent to it, is lost without a word."""
        _run("ip", "link", "set", self._link(machine), "nomaster")

    def join(self, machine: Machine) -> None:
        """Joins a machine to the others."""
        _run("ip", "link", "set", self._link(machine), "master", "bridge0")

    def _link(self, machine: Machine) -> str:
        return f"m{machine.address.rpartition('.')[2]}"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FingerpostError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
