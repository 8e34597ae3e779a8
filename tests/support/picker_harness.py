"""The native picker without Envoy: builds the harness once, and speaks to it."""

import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fingerpost.accesslog.envoy import decision_parts
from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.module import FLAGS, SOURCES, compile_sources, compiler
from fingerpost.routing.table_file import PickerTable, encode


def build_harness(path: Path, flags: Sequence[str] = (), source: str = "harness.c") -> Path:
    """Compiles the program that runs the picker without Envoy (`native/harness.c`), or another one beside it.

    Args:
        flags: such as `-fsanitize=address,undefined`.
    """
    sources = [*sorted(SOURCES.glob("*.c")), Path(__file__).parent / "native" / source]
    compile_sources([*FLAGS, f"-I{SOURCES}", "-Wno-conversion", *flags], sources, ("-lm", "-lpthread"), path)
    return path


@dataclass(frozen=True)
class Sent:
    """A request's headers; None: not sent."""

    method: bytes = b"GET"
    path: bytes = b"/"
    authorization: bytes | None = None
    user_agent: bytes | None = None
    country: bytes | None = None
    length: bytes | None = None
    api_key: bytes | None = None
    cookie: bytes | None = None

    def packed(self) -> bytes:
        texts = (
            *(self.method, self.path, self.authorization, self.user_agent),
            *(self.country, self.length, self.api_key, self.cookie),
        )
        return b"".join(struct.pack("<I", 0xFFFFFFFF if t is None else len(t)) + (t or b"") for t in texts)


@dataclass
class Harness:
    """Runs the picker over requests; every run is a process of its own.

    Args:
        hosts: name, requests in flight, whether healthy, weight and, where they are not 0 and `-`, priority and zone.
        policy: the policy's configuration, lines of `key=value`.
        cluster: that requests are routed to; the policy's own is `hosts`.
        body: whether a body follows the headers of requests.
    """

    program: Path
    folder: Path
    hosts: list[tuple[Any, ...]] = field(default_factory=lambda: [("h0", 0, 1, 1)])
    policy: str = ""
    cluster: str = "hosts"
    body: bool = False

    def run(self, table: PickerTable | bytes | None, requests: Sequence[Sent]) -> list[dict[str, str]]:
        """What was logged of each request; `table` None: there is no file."""
        return self._decided("run", self._table_file(table), data=b"".join(each.packed() for each in requests))

    def race(self, table: PickerTable, count: int) -> list[dict[str, str]]:
        """What was logged of `count` requests while another thread changes what the hosts have in flight."""
        return self._decided("race", self._table_file(table), str(count))

    def play(self, table: PickerTable, commands: Sequence[str]) -> list[str]:
        """What the commands that answer anything answered; `native/harness.c` lists them."""
        lines = "".join(f"{command}\n" for command in commands)
        return self.call("play", self._table_file(table), self.hosts_file(), data=lines.encode()).decode().splitlines()

    def hosts_file(self) -> str:
        """The path of the file that tells the program its hosts."""
        listed = self.folder / "hosts"
        usual = (0, "-")
        listed.write_text("".join(" ".join(map(str, (*host, *usual[len(host) - 4 :]))) + "\n" for host in self.hosts))
        return str(listed)

    def _table_file(self, table: PickerTable | bytes | None) -> str:
        path = self.folder / "picker.table"
        path.unlink(missing_ok=True)
        if table is not None:
            path.write_bytes(encode(table) if isinstance(table, PickerTable) else table)
        return str(path)

    def _decided(self, mode: str, table: str, *arguments: str, data: bytes = b"") -> list[dict[str, str]]:
        done = self.call(mode, table, self.hosts_file(), *arguments, data=data)
        found = (line.partition("\t") for line in done.decode().splitlines())
        return [{"host": host, **decision_parts(decision)} for host, _, decision in found]

    def call(self, *arguments: str, data: bytes = b"") -> bytes:
        environment = {**os.environ, "POLICY": self.policy, "OF_CLUSTER": self.cluster}
        if self.body:
            environment["BODY"] = "1"
        done = subprocess.run(
            [str(self.program), *arguments], input=data, capture_output=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return done.stdout


def build(folder: Path, *flags: str, source: str = "harness.c") -> Path:
    """The harness, or another program beside it, or a skipped test where it cannot be built."""
    if compiler() is None:
        pytest.skip("there is no C compiler")
    try:
        return build_harness(folder / "harness", flags, source)
    except FingerpostError as error:
        if flags:
            pytest.skip(f"sanitizers are not available: {str(error)[:200]}")
        raise


def made_table(hosts: Sequence[str], categories: Sequence[str], **changes: object) -> PickerTable:
    """A good table that expires in an hour; all costs alike unless `slope` says else."""
    shape = (1, len(categories), len(hosts) + 1)
    now = clock_us()
    values = {
        "version": "v1",
        "created_us": now,
        "expires_us": now + 3_600_000_000,
        "hosts": tuple(hosts),
        "categories": tuple(categories),
        "routes": (),
        "slope": np.full(shape, 0.01, dtype=np.float32),
        "offset": np.zeros(shape, dtype=np.float32),
        **changes,
    }
    return PickerTable(**values)  # type: ignore[arg-type]
