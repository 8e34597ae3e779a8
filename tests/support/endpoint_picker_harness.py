"""The endpoint picker as a process, and what it says of itself."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from fingerpost.routing.endpoint_picker.endpoints import endpoint_of
from fingerpost.routing.envoy.upstream import Upstream


@dataclass(frozen=True)
class Picker:
    """A running endpoint picker."""

    process: subprocess.Popen[str]
    address: tuple[str, int]
    metrics_port: int

    def inflight(self) -> int:
        """Requests that it counts as under way, at all endpoints."""
        return sum(
            int(float(value)) for value in re.findall(r"^fingerpost_endpoint_inflight\{.*\} (\S+)$", self._text(), re.M)
        )

    def picks(self) -> dict[tuple[str, str], int]:
        """Decisions by policy and reason of the fallback."""
        found = re.findall(
            r'^fingerpost_endpoint_picks_total\{fallback="(\w*)",policy="(\w*)"\} (\S+)$', self._text(), re.M
        )
        return {(policy, fallback): int(float(count)) for fallback, policy, count in found}

    def _text(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False).text


@contextmanager
def running_picker(upstreams: Sequence[Upstream], table: Path, port: int, metrics_port: int) -> Iterator[Picker]:
    """`fingerpost endpoint-picker`, ready."""
    command = [sys.executable, "-m", "fingerpost", "endpoint-picker", "--listen", f"127.0.0.1:{port}"]
    command += ["--table", str(table), "--metrics-port", str(metrics_port)]
    for upstream in upstreams:
        command += ["--host", f"{upstream.name}={endpoint_of(upstream)}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            while "endpoint picker on port" not in (line := process.stderr.readline()):
                assert line, "the endpoint picker does not start"
            yield Picker(process, ("127.0.0.1", port), metrics_port)
        finally:
            process.kill()
