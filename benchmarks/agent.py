"""What an agent costs: a real agent process on a log that grows at a steady rate."""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from fingerpost.accesslog.envoy import parse_line
from fingerpost.agent.sampling.cpu_clock import process_cpu_s
from fingerpost.categoriser import Categoriser
from fingerpost.category import category_key, fit_categories, size_bucket
from fingerpost.cli.stack.parts import answers
from fingerpost.cli.stack.ports import free_ports
from fingerpost.clock import clock_us
from fingerpost.packed_message import open_message
from fingerpost.records import REQUEST_RECORD, refusal
from fingerpost.settings import LOOPBACK

TICK_S = 0.1
_SETTLE_S, _PATIENCE_S = 2.0, 60.0
_CATEGORISED = 200_000


def measure_agent(rate_rps: float, seconds: float, real_log: Path | None = None) -> dict[str, Any]:
    """CPU and memory of an agent that reads `rate_rps` lines a second, beside the rates of its inner steps.

    The agent does all it does beside a host: follows the log, samples the machine, makes fingerprints, writes both into
    the lake, and sends fingerprints to an engine (here a door that takes everything).

    Args:
        real_log: a log in the combined format to parse, or None.

    Returns:
        `cpu_share` (of one core, after start), `rss_mb`, `records` reported of `lines` written, `fingerprints` that
        arrived, `parse_lines_per_s` (parsing and checking one line after another), `categorise_records_per_s` (whole
        columns), and of the real log `lines`, `parsed`, `refused` and `seconds`, the loading of the parsers included.
    """
    with tempfile.TemporaryDirectory(prefix="fingerpost-bench-") as folder, reports_taken() as (url, received):
        log, (port,) = Path(folder) / "access.log", free_ports(1)
        log.touch()
        command = ["agent", "--host", "h1", "--access-log", str(log), "--engine-url", url, "--http-port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-m", "fingerpost", *command],
            env={**os.environ, "FINGERPOST_HOME": folder, "FINGERPOST_LOG_LEVEL": "WARNING"},
        )
        try:
            agent = psutil.Process(process.pid)
            # What stands in a log before an agent begins is not its to report.
            deadline = time.monotonic() + _PATIENCE_S
            while not answers(f"http://{LOOPBACK}:{port}/healthz") and time.monotonic() < deadline:
                time.sleep(TICK_S)
            # The first line has the user-agent parser built, once in an agent's life.
            time.sleep(_SETTLE_S)
            written = _write_lines(log, rate_rps, 1)
            time.sleep(_SETTLE_S)
            before, began = process_cpu_s(process.pid), time.monotonic()
            written += _write_lines(log, rate_rps, seconds)
            share = (process_cpu_s(process.pid) - before) / (time.monotonic() - began)
            rss_mb = agent.memory_info().rss / 2**20
        finally:
            process.terminate()
            process.wait(30)
        return {
            "rate_rps": rate_rps,
            "seconds": seconds,
            "cpu_share": round(share, 5),
            "rss_mb": round(rss_mb, 1),
            "lines": written,
            "records": _reported(Path(folder) / "lake"),
            "fingerprints": len(received),
            "parse_lines_per_s": round(_parse_rate(log.read_bytes().splitlines())),
            "categorise_records_per_s": round(_categorise_rate(_CATEGORISED)),
            **({"real_log": _parse_real(real_log)} if real_log else {}),
        }


@contextmanager
def reports_taken() -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes every report that is sent, and keeps it."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/reports":
                received.extend(open_message(body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()


def _write_lines(log: Path, rate_rps: float, seconds: float) -> int:
    began, written = time.monotonic(), 0
    with log.open("ab", buffering=0) as handle:
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * rate_rps) - written
            handle.write(b"".join(_line(written + number) for number in range(due)))
            written += due
            time.sleep(TICK_S)
    return written


def _line(number: int) -> bytes:
    entry = {
        "start": f"{time.time() - 0.05:.6f}",
        "host": "h1",
        "method": "POST",
        "path": f"/users/{number % 1000}/orders",
        "status": 200,
        "bytes_in": number % 20_000,
        "bytes_out": 512,
        "duration_us": 12_500,
        "service_time_us": 12_000,
        "auth_scheme": "Bearer",
        "api_key": "false",
        "cookie": "false",
        "user_agent": f"Mozilla/5.0 (X11; Linux x86_64) Chrome/{100 + number % 40}.0.0.0 Safari/537.36",
        "region": "DE",
        "inflight": 3,
        "cpu_s": 0.004,
        "policy": "random",
        "propensity": 0.5,
    }
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _reported(lake: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.ParquetFile(path).metadata.num_rows for path in (lake / "inbox" / "requests").rglob("*.parquet"))


def _parse_rate(lines: list[bytes]) -> float:
    now_us = clock_us()
    parse_line(lines[0], "shop")
    began = time.perf_counter()
    for line in lines:
        refusal(parse_line(line, "shop"), REQUEST_RECORD, 0, now_us)
    return len(lines) / (time.perf_counter() - began)


def _categorise_rate(count: int) -> float:
    """Records a second through a full table of 256 categories, whole columns at a time."""
    rng = random.Random(7)
    columns: dict[str, Any] = {
        "method": rng.choices(["GET", "POST"], k=count),
        "route": rng.choices([f"/{name}/*/orders" for name in "abcdefghijkl"], k=count),
        "bytes_in": [int(rng.lognormvariate(7, 2)) for _ in range(count)],
        "auth": rng.choices(["none", "bearer", "basic"], k=count),
        "user_agent_class": rng.choices(["browser", "mobile", "bot"], k=count),
        "region": rng.choices(["DE", "US", "IN"], k=count),
    }
    keys = Counter(
        category_key(method, route, size_bucket(size), auth, agent, region)
        for method, route, size, auth, agent, region in zip(*columns.values(), strict=True)
    )
    categoriser = Categoriser(fit_categories(keys.items(), 256, 30))
    began = time.perf_counter()
    categoriser.assign(**columns)
    return count / (time.perf_counter() - began)


def _parse_real(log: Path) -> dict[str, Any]:
    """A combined log, parsed line by line in a fresh process."""
    program = (
        "import json, sys, time; began = time.perf_counter()\n"
        "from fingerpost.errors import RefusedError\n"
        "from fingerpost.accesslog.formats import LOG_FORMATS\n"
        "from fingerpost.accesslog.tail import LogTail\n"
        "from pathlib import Path\n"
        "parse, lines, refused = LOG_FORMATS['combined'].parse, 0, 0\n"
        "for line in LogTail(Path(sys.argv[1])).lines():\n"
        "    lines += 1\n"
        "    try: parse(line, 'shop', 'h1')\n"
        "    except RefusedError: refused += 1\n"
        "seconds = round(time.perf_counter() - began, 3)\n"
        "print(json.dumps({'lines': lines, 'parsed': lines - refused, 'refused': refused, 'seconds': seconds}))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(log)], capture_output=True, check=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
