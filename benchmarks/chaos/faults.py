"""What is done to a platform: each fault strikes, lasts for some seconds, and is undone."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from benchmarks.chaos.clock import Clock
from benchmarks.chaos.platform import FRONT, REST, Platform, agent_of
from fingerpost.errors import FingerpostError
from fingerpost.lake import INBOX, partition

_LASTS_S = 8.0
_GARBAGE_BYTES = 5000
_BALLAST_BLOCK = 2**20


@dataclass
class Struck:
    """What a fault did.

    Attributes:
        killed: times when a proxy or a host was killed, of the clock that never goes back: what was in flight there
            may fail.
        complaint: what was wrong about how the platform took it; empty: nothing.
    """

    killed: list[float] = field(default_factory=list)
    complaint: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault by its name.

    Args:
        strike: does it, and undoes it.
        why_not: why it cannot be done here; empty: it can.
    """

    name: str
    strike: Callable[[Platform, random.Random], Struck]
    why_not: str = ""


def all_faults(platform: Platform, clock: Clock) -> list[Fault]:
    """Every fault, with why it cannot be done where it cannot."""
    home_is_mount = os.path.ismount(platform.home)
    killed = [Fault(f"kill {name}", partial(_kill, name)) for name in platform.parts]
    return [
        *killed,
        Fault("kill an engine's worker", _kill_worker),
        Fault("kill an agent", _kill_agent),
        Fault("kill a host", _kill_host),
        Fault("kill the up of Envoy", partial(_kill, FRONT)),
        Fault("kill the up of the rest", partial(_kill, REST)),
        Fault("the engine hangs", _hang_engine),
        Fault("kill a pipeline's run", _kill_pipeline),
        Fault("two up at once", _second_up),
        Fault("full disk", _fill_disk, "" if home_is_mount else "the home is no file system of its own"),
        Fault("read-only home", _read_only, "" if home_is_mount else "the home is no file system of its own"),
        Fault("partition, refused", partial(_partition, "refused")),
        Fault("partition, silent", partial(_partition, "silent")),
        Fault("damaged table", _damage_table),
        Fault("damaged store", _damage_store),
        Fault("damaged batches", _damage_batches),
        Fault("damaged checkpoint", _damage_checkpoint),
        Fault("clock ahead and back", partial(_jump, clock, 90), clock.problem),
        Fault("clock back and ahead", partial(_jump, clock, -90), clock.problem),
    ]


def _kill(name: str, platform: Platform, rng: random.Random) -> Struck:
    when = platform.kill(name)
    time.sleep(rng.uniform(0.5, 2.0))
    platform.revive()
    return Struck([when] if name in ("envoy", FRONT) else [])


def _kill_worker(platform: Platform, _rng: random.Random) -> Struck:
    family = platform.process("engine").children(recursive=True)
    workers = [each for each in family if "_bentoml_impl.worker.service" in " ".join(each.cmdline())]
    if not workers:
        raise FingerpostError("the engine has no worker")
    workers[0].kill()
    return Struck()


def _kill_agent(platform: Platform, rng: random.Random) -> Struck:
    return _kill(rng.choice(platform.agents), platform, rng)


def _kill_host(platform: Platform, rng: random.Random) -> Struck:
    when = platform.kill(rng.choice(platform.hosts))
    time.sleep(rng.uniform(1.0, 4.0))
    platform.revive()
    return Struck([when])


def _hang_engine(platform: Platform, _rng: random.Random) -> Struck:
    """Stops it; its supervisor must end it and start another."""
    process = platform.process("engine")
    family = [process, *process.children(recursive=True)]
    for each in family:
        each.send_signal(signal.SIGSTOP)
    platform.wait_for(lambda: not process.is_running(), 120, "the engine that hangs is ended")
    return Struck()


def _kill_pipeline(platform: Platform, rng: random.Random) -> Struck:
    run = platform.start_command("run", "pipeline")
    deadline = time.monotonic() + rng.uniform(8.0, 30.0)
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(run.pid)
        for each in [first, *first.children(recursive=True)]:
            each.kill()
    run.wait()
    return Struck()


def _second_up(platform: Platform, _rng: random.Random) -> Struck:
    supervisor = platform.process(REST).pid
    done = platform.run("up", "--without", "envoy", timeout_s=180)
    refused = done.returncode == 1 and f"pid {supervisor}" in done.stdout + done.stderr
    return Struck(complaint="" if refused else f"the second up ended with {done.returncode}: {done.stderr[-300:]}")


def _fill_disk(platform: Platform, rng: random.Random) -> Struck:
    ballast = platform.home / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(_BALLAST_BLOCK))
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
        time.sleep(_LASTS_S + rng.uniform(0, 4))
    finally:
        ballast.unlink(missing_ok=True)
    return Struck()


def _read_only(platform: Platform, rng: random.Random) -> Struck:
    """Whatever is opened anew cannot be written; what is open goes on."""
    home = str(platform.home)
    _mount("--bind", home, home)
    try:
        _mount("-o", "remount,bind,ro", home)
        time.sleep(_LASTS_S + rng.uniform(0, 4))
    finally:
        subprocess.run(["umount", "--lazy", home], check=True, capture_output=True)
    return Struck()


def _partition(way: str, platform: Platform, rng: random.Random) -> Struck:
    with platform.relay.cut(way):
        time.sleep(_LASTS_S + rng.uniform(0, 8))
    return Struck()


def _damage_table(platform: Platform, rng: random.Random) -> Struck:
    """The picker's table, and the list of endpoints is left alone: it is Envoy's own."""
    (platform.home / "routing" / f"{platform.settings.service}.table").write_bytes(rng.randbytes(_GARBAGE_BYTES))
    return Struck()


def _damage_store(platform: Platform, rng: random.Random) -> Struck:
    with (platform.home / "fingerprints.db").open("r+b") as file:
        file.write(rng.randbytes(_GARBAGE_BYTES))
    return Struck()


def _damage_batches(platform: Platform, rng: random.Random) -> Struck:
    """Garbage among what waits for ingest, and in an agent's spool."""
    settings = platform.settings
    for kind in ("requests", "samples", "reported_windows"):
        folder = partition(settings.lake / INBOX, kind, settings.service, "2026-01-01")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"h1-{rng.getrandbits(50):016d}.parquet").write_bytes(
            b"PAR1" + rng.randbytes(_GARBAGE_BYTES) + b"PAR1"
        )
    spool = settings.lake / "agents" / f"service={settings.service}" / f"{platform.hosts[0]}.spool"
    (spool / "000000000000.packed").write_bytes(b"\x1f\x8b" + rng.randbytes(100))
    return _kill(agent_of(platform.hosts[0]), platform, rng)


def _damage_checkpoint(platform: Platform, rng: random.Random) -> Struck:
    """How far an agent has read, while the agent is away."""
    name = rng.choice(platform.hosts)
    platform.end(agent_of(name))
    settings = platform.settings
    path = settings.lake / "agents" / f"service={settings.service}" / f"{name}.json"
    path.write_bytes(rng.randbytes(40))
    platform.start(agent_of(name))
    return Struck()


def _jump(clock: Clock, by_s: int, _platform: Platform, rng: random.Random) -> Struck:
    clock.set(by_s)
    try:
        time.sleep(_LASTS_S + rng.uniform(0, 4))
    finally:
        clock.set(0)
    return Struck()


@contextlib.contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[None]:
    """A file system of a folder's own, in memory; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size_mb}m", "none", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run([shutil.which("mount") or "mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FingerpostError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")
