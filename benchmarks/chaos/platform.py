"""The smallest platform that is real: Envoy in an `up` of its own, the rest in another, and hosts with agents."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.chaos.relay import Relay
from fingerpost.cli.stack.parts import fingerpost, settings_environment
from fingerpost.cli.status import status_of
from fingerpost.environment import tool_environment
from fingerpost.errors import FingerpostError
from fingerpost.settings import LOOPBACK, Settings

HOST_PORT, AGENT_PORT = 9100, 9200
FRONT, REST = "up of envoy", "up of the rest"
PARTS = ("mlflow", "prefect", "engine", "schedule", "router", "envoy")
_FLOWS = ("prefect", "schedule")
_HOST_S = 0.05
_START_S, _END_S = 600.0, 60.0
_TABLE_S = 10.0


@dataclass
class _Program:
    """A program that we start, and start again as a service manager would."""

    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0


class Platform:
    """The platform in a folder; leaving the context ends all of it.

    Args:
        folder: where its home, its logs and what belongs to the machine are.
        hosts: how many.
        environment: variables that every process gets.
        flows: without them neither Prefect nor the schedules run, and nothing is ingested meanwhile.
        changes: settings by name, in place of the defaults of `chaos_settings`.

    Attributes:
        parts: of the platform, that run.
        relay: what agents reach the engine through.
    """

    def __init__(
        self, folder: Path, hosts: int, environment: dict[str, str] | None = None, flows: bool = True, **changes: Any
    ) -> None:
        self.folder, self.home = folder, folder / "home"
        self.settings = chaos_settings(self.home, **changes)
        self.relay = Relay(self.settings.engine_port)
        self._environment = {
            **os.environ,
            **settings_environment(self.settings),
            **tool_environment(self.settings),
            **(environment or {}),
        }
        self._hosts_file = folder / "hosts"
        self._programs: dict[str, _Program] = {}
        self.hosts = [f"h{number}" for number in range(1, hosts + 1)]
        for number, name in enumerate(self.hosts):
            self._programs[name] = _Program(_host_command(number))
            self._programs[agent_of(name)] = _Program(self._agent_command(number, name))
        front = ("--only", "envoy", "--hosts", str(self._hosts_file), "--health-path", "/healthz")
        self._programs[FRONT] = _Program(fingerpost("up", *front))
        absent = [] if flows else _FLOWS
        self.parts = [name for name in PARTS if name not in absent]
        without = [word for name in ("envoy", *absent) for word in ("--without", name)]
        self._programs[REST] = _Program(fingerpost("up", *without))

    def __enter__(self) -> "Platform":
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self._hosts_file.write_text(
            "".join(f"{name}={LOOPBACK}:{HOST_PORT + number}\n" for number, name in enumerate(self.hosts))
        )
        self.relay.start()
        for name in (*self.hosts, REST, FRONT):
            self.start(name)
        self.wait_for(lambda: set(self.parts) <= self._states("up"), _START_S, "all parts are up")
        for name in self.hosts:
            self.start(agent_of(name))
        return self

    def __exit__(self, *_: object) -> None:
        self.end(*self._programs)
        self.relay.stop()

    @property
    def url(self) -> str:
        """The clients' door."""
        return f"http://{LOOPBACK}:{self.settings.envoy_port}"

    @property
    def agents(self) -> list[str]:
        return [agent_of(name) for name in self.hosts]

    def start(self, name: str) -> None:
        """Starts a program; what it prints is appended to its log beside the home."""
        program = self._programs[name]
        program.starts += 1
        with (self.folder / f"{name.replace(' ', '-')}.log").open("ab") as log:
            # Apart from our own group, so that a Ctrl-C ends them in order.
            program.process = subprocess.Popen(
                program.command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    def process(self, name: str) -> psutil.Process:
        """The process of a program of ours, or of a part of the platform.

        Raises:
            FingerpostError: it does not run.
        """
        program = self._programs.get(name)
        if program is not None and program.process is not None and program.process.poll() is None:
            return psutil.Process(program.process.pid)
        found = [each.part.pid for each in status_of(self.settings).parts if each.part.name == name]
        if not found or not found[0]:
            raise FingerpostError(f"{name} does not run")
        return psutil.Process(found[0])

    def kill(self, name: str) -> float:
        """Kills a process as a lack of memory would, without a word; one of ours is started again by `revive`.

        Returns:
            The time of it, of the clock that never goes back.
        """
        process = self.process(name)
        when = time.monotonic()
        process.kill()
        return when

    def revive(self) -> None:
        """Starts what has ended of hosts, agents and `up`s, as a service manager does."""
        for name, program in self._programs.items():
            if program.process is not None and program.process.poll() is not None:
                self.start(name)

    def end(self, *names: str) -> None:
        """Ends programs in order, each politely."""
        for name in names:
            program = self._programs[name]
            if program.process is None:
                continue
            if program.process.poll() is None:
                program.process.terminate()
                try:
                    program.process.wait(_END_S)
                except subprocess.TimeoutExpired:
                    program.process.kill()
                    program.process.wait()
            program.process = None

    def run(self, *arguments: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """A command of the program in this home, to its end."""
        return subprocess.run(
            fingerpost(*arguments),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start_command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command of the program in this home, in a session of its own."""
        with (self.folder / "commands.log").open("ab") as log:
            return subprocess.Popen(
                fingerpost(*arguments),
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def problems(self) -> list[str]:
        """What is not well now, by `fingerpost status` and by the agents; empty: all is well."""
        status = status_of(self.settings)
        found = status.problems(time.time())
        absent = sorted(set(self.parts) - {each.part.name for each in status.parts})
        found += [f"{name} does not run" for name in absent]
        if status.table_age_s is not None and status.table_age_s > _TABLE_S:
            found.append(f"the table is {status.table_age_s:.0f} s old")
        for number, name in enumerate(self.hosts):
            found += [f"{agent_of(name)}: {problem}" for problem in _agent_problems(AGENT_PORT + number)]
        return found

    def wait_for(self, true: Callable[[], object], timeout_s: float, what: str) -> None:
        """Waits until something is true.

        Raises:
            FingerpostError: it is not true in time.
        """
        deadline = time.monotonic() + timeout_s
        while not true():
            for name in (FRONT, REST):
                program = self._programs[name].process
                if program is not None and program.poll() is not None:
                    raise FingerpostError(f"{name} ended with {program.poll()}; logs are in {self.folder}")
            if time.monotonic() > deadline:
                raise FingerpostError(f"not true after {timeout_s:g} s: {what}; logs are in {self.folder}")
            time.sleep(0.25)

    def families(self) -> dict[str, list[psutil.Process]]:
        """The processes that run now, by program or part: each with its children."""
        found = {}
        names = [each.part.name for each in status_of(self.settings).parts if each.part.pid]
        for name in [*self._programs, *names]:
            with contextlib.suppress(psutil.Error, FingerpostError):
                first = self.process(name)
                children = [] if name in (FRONT, REST) else first.children(recursive=True)
                found[name] = [first, *children]
        return found

    def set_hosts(self, names: Sequence[str]) -> None:
        """Gives Envoy these hosts alone."""
        ports = {name: HOST_PORT + number for number, name in enumerate(self.hosts)}
        self._hosts_file.write_text("".join(f"{name}={LOOPBACK}:{ports[name]}\n" for name in names))

    def _states(self, state: str) -> set[str]:
        return {each.part.name for each in status_of(self.settings).parts if each.part.state == state}

    def _agent_command(self, number: int, name: str) -> list[str]:
        return fingerpost(
            *("agent", "--host", name, "--access-log", str(self.home / "access.log"), "--slots", "8"),
            *("--http-port", str(AGENT_PORT + number), "--deliver", "lake"),
            *("--match", f"benchmarks.chaos.host {HOST_PORT + number} "),
            *("--engine-url", f"http://{LOOPBACK}:{self.relay.port}"),
        )


def agent_of(host: str) -> str:
    """What the agent of a host is called here."""
    return f"agent of {host}"


def chaos_settings(home: Path, **changes: Any) -> Settings:
    """Settings under which minutes show what hours would: short windows, frequent flows, few trials."""
    return Settings.model_validate(
        {
            "home": home,
            "lake": home / "lake",
            "window_s": 5.0,
            "halflife_s": 30.0,
            "agent_batch_s": 2.0,
            "ingest_every_s": 10.0,
            "features_every_s": 60.0,
            "promote_every_s": 60.0,
            "compare_every_s": 60.0,
            "tuning_trials": 2,
            "tuning_timeout_s": 20.0,
            "train_cron": "0 0 1 1 *",
            "drift_cron": "0 0 1 1 *",
            "min_category_requests": 50,
            "table_ttl_s": 30.0,
            "disk_low_mb": 16.0,
            **changes,
        }
    )


def _host_command(number: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.chaos.host", str(HOST_PORT + number), str(_HOST_S)]


def _agent_problems(port: int) -> list[str]:
    try:
        told = httpx.get(f"http://{LOOPBACK}:{port}/healthz", timeout=5, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return ["does not answer"]
    return [str(text) for text in told["problems"].values()]
